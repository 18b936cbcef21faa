"""The suites of the Artificial Analysis index ask what NVIDIA's task files ask.

Source of every row: github.com/NVIDIA/Model-Optimizer, commit a2fbac7bad8ab446d3f8783dadb0c3366eb0ad73, folder
plugins/modelopt/skills/evaluation: recipes/tasks/FILE for the task; SKILL.md (step 3, `max_new_tokens`) and
recipes/examples/example_eval.yaml for the tokens, attempts and timeout that all of them share.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from day0.suite.suites import load_suite

ROOT = Path(__file__).parents[3]
INDEX, FORMER = (
    load_suite(name, ROOT / "config" / "suites") for name in ("artificial-analysis", "artificial-analysis-former")
)
QWEN, GPT_4O = "qwen3-235b", "gpt-4o"


class Fact(NamedTuple):
    """What a task file says; names of models without their provider, which is the endpoint's."""

    file: str
    name: str
    repeats: int
    score: str
    top: int
    extra: dict[str, Any] | None = None
    judge: str | None = None
    simulator: str | None = None
    context: int = 0
    concurrency: int | None = None  # most prompts in flight
    bottom: int = 0


FACTS = {
    "gpqa": Fact(
        *("aa/gpqa_diamond.md", "ns_gpqa", 16, "pass@1[avg-of-16].symbolic_correct", 100),
        extra={"args": "++prompt_config=eval/aai/mcq-4choices"},
    ),
    "hle": Fact(
        *("aa/hle.md", "ns_hle_aa", 1, "pass@1.judge_correct", 100),
        extra={"judge": {"hle_strict_judge": True}},
        judge=GPT_4O,
    ),
    "aalcr": Fact(
        *("aa/lcr.md", "ns_aa_lcr", 16, "pass@1[avg-of-16].judge_correct", 100),
        judge=QWEN,
        context=196608,
        concurrency=32,
    ),
    "scicode": Fact(
        *("aa/scicode.md", "ns_scicode", 1, "pass@1[avg-of-1].subtask_accuracy", 100),
        extra={"args": "++prompt_config=eval/scicode/default ++with_background=true"},
        context=65536,
        concurrency=8,
    ),
    "ifbench": Fact("aa/ifbench.md", "ns_ifbench", 5, "pass@1[avg-of-5].prompt_loose_accuracy", 100),
    "tau2-bench-telecom": Fact(
        *("aa/tau2_bench_telecom.md", "tau2_bench_telecom", 8, "pass@1", 1),
        extra={"skip_failed_samples": True},
        judge="gpt-oss-120b",
        simulator=QWEN,
        concurrency=128,
    ),
    "omniscience": Fact(
        *("aa/omniscience.md", "ns_omniscience", 10, "pass@1[avg-of-10].judge_omni_index", 100),
        extra={"args": "++parse_reasoning=False"},
        judge="gemini-3-flash-preview",
        bottom=-100,
    ),
    "aime-2025": Fact("aime_2025.md", "AIME_2025_aa_v2", 64, "score.micro_avg_of_64", 1, judge=GPT_4O),
    "livecodebench": Fact(
        *("livecodebench.md", "ns_livecodebench", 8, "pass@1[avg-of-8].accuracy", 100),
        extra={"dataset_split": "test_v6_2408_2505"},
    ),
    "mmlu-pro": Fact(
        *("mmlu_pro.md", "ns_mmlu_pro", 1, "pass@1.symbolic_correct", 100),
        extra={"args": "++prompt_config=eval/aai/mcq-10choices-boxed"},
    ),
}


def test_the_index_and_what_left_it_are_two_suites_with_every_task_once():
    assert {**INDEX.tasks, **FORMER.tasks}.keys() == FACTS.keys()
    assert FORMER.tasks.keys() == {"aime-2025", "livecodebench", "mmlu-pro"}
    assert not INDEX.tasks.keys() & FORMER.tasks.keys()


@pytest.mark.parametrize("name", FACTS)
def test_a_task_is_asked_as_its_file_says(name):
    fact = FACTS[name]
    suite = INDEX if name in INDEX.tasks else FORMER
    task = suite.tasks[name]
    assert (task.task.rpartition(".")[2], task.repeats, task.metric) == (fact.name, fact.repeats, fact.score)
    assert (task.scale.min, task.scale.max) == (fact.bottom, fact.top)
    assert task.parameters == (fact.extra or {})
    for named, model in ((task.judge, fact.judge), (task.simulator, fact.simulator)):
        assert (named is None) == (model is None)
        assert named is None or model in suite.judges[named].model.lower()
    assert (task.context_length or suite.context_length) >= fact.context
    assert fact.concurrency is None or (task.concurrency or suite.concurrency) <= fact.concurrency
    tokens = {**suite.generation, **task.generation}["max_new_tokens"]
    assert tokens == 65536 < (task.context_length or suite.context_length)
    assert task.calls_tools == (name == "tau2-bench-telecom")


@pytest.mark.parametrize("suite", [INDEX, FORMER])
def test_what_all_tasks_share_is_upstreams(suite):
    assert (suite.max_attempts, suite.request_timeout_seconds) == (10, 3600)
    assert suite.apply_chat_template and suite.reasoning and suite.reasoning.strip
