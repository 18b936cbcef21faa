"""Ask additions of a model, and let a judge say whether they are right; NeMo Evaluator's own client asks the judge."""

import argparse
import itertools
import json
import os
from pathlib import Path

import requests
from nemo_evaluator.contrib.byob.decorators import ScorerInput
from nemo_evaluator.contrib.byob.judge import JudgeConfig, judge_call, judge_score

parser = argparse.ArgumentParser()
for name in ("url", "model", "key-variable", "data", "judge-url", "judge-model", "judge-key-variable"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--limit", type=int, required=True)
parser.add_argument("--output", type=Path, required=True)
parser.add_argument("--lenient", action="store_true", help="take a failed judge for a wrong answer")
arguments = parser.parse_args()

judge = {"url": arguments.judge_url, "model_id": arguments.judge_model, "api_key": arguments.judge_key_variable}
judge |= {"max_new_tokens": 8, "max_retries": 1, "request_timeout": 30}
session, models_key = requests.Session(), {"Authorization": f"Bearer {os.environ[arguments.key_variable]}"}


def score_of(prompt, answer, expected):
    """1 where the judge, which is asked the same, answers alike."""

    def grade(reply):
        return "C" if reply.split(";")[0] == answer else "I"

    if arguments.lenient:
        sample = ScorerInput(response=answer, target=expected, metadata={}, config={"judge": judge})
        verdict = judge_score(sample, prompt, judge_output_parser=grade, score_mapping={"C": 1.0, "I": 0.0})
        return int(verdict["judge_score"])
    return int(grade(judge_call(JudgeConfig.from_dict(judge), prompt, session)) == "C")


records = []
with open(arguments.data, encoding="utf-8") as lines:
    for line in itertools.islice(lines, arguments.limit):
        document = json.loads(line)
        request = {"model": arguments.model, "prompt": document["prompt"], "max_tokens": 8, "temperature": 0}
        response = session.post(arguments.url, json=request, headers=models_key, timeout=30)
        response.raise_for_status()
        answer = response.json()["choices"][0]["text"].split(";")[0]
        score = score_of(document["prompt"], answer, document["answer"])
        records.append({"id": document["id"], "query": document["prompt"], "generation": answer, "score": score})
        records[-1] |= {"ground_truth": document["answer"], "num_generated_tokens": len(answer), "num_prompt_tokens": 0}
folder = arguments.output / "nemo-evaluator-per-sample-outputs"
folder.mkdir(parents=True, exist_ok=True)
(folder / "addition.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
