"""Every suite file is sound, and what a suite needs is refused before anything starts where it is not given."""

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from day0.base.cli import UnusableInput
from day0.plan.check import make_plan
from day0.suite.harness import HARNESSES
from day0.suite.needs import context_limit, context_problems, missing_endpoints
from day0.suite.score_names import canonical_score
from day0.suite.suites import load_suite

ROOT = Path(__file__).parents[3]
SUITES = sorted(path.stem for path in (ROOT / "config" / "suites").glob("*.yaml"))
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
DEFAULT |= {
    "defaults": {"suite": "demo", "expected_disagreement_rate": 0.01},
    "releases": [{"model": "tiny-llama", "recipe": "fp8"}],
}
DEMO = yaml.safe_load((ROOT / "config" / "suites" / "demo.yaml").read_text())


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_file_is_sound(name):
    suite = load_suite(name, ROOT / "config" / "suites")
    assert any(task.tier != "advisory" for task in suite.tasks.values()), "nothing would block"
    assert max(suite.context_needs().values()) == suite.context_length, "no task needs the suite's length"
    assert suite.judges.keys() == suite.judges_in_use().keys(), "a judge that no task names"
    prompt_words = suite.canary.prompt.split()
    assert len(suite.canary.prompt) >= 16 and (name.startswith("demo") or len(prompt_words) >= 16)
    for task in suite.tasks.values():
        assert all(canonical_score(task.metric))
        assert not (task.judge and task.harness == "lm-eval")
        average = [part for part in (task.metric.split("avg-of-")[1:], task.metric.split("avg_of_")[1:]) if part]
        for (text,) in average:
            assert int(text.split("]")[0]) == task.repeats, "the score is of another number of repeats"
        if task.harness == "nemo-evaluator":
            assert "." in task.task, "FRAMEWORK.TASK keeps a task's meaning when another framework is installed"


def test_every_suite_of_real_models_is_there():
    ours = {
        "quick",
        "standard",
        "standard-screening",
        "artificial-analysis",
        "artificial-analysis-former",
        "code",
        "reasoning",
    }
    assert {"demo", *ours} <= set(SUITES)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plan with a changed demo suite: the mistakes, or none."""
    for name in ("config/suites/demo", "envs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)

    def plan(suite, **changes):
        (tmp_path / "config" / "suites" / "demo.yaml").write_text(yaml.safe_dump(suite))
        try:
            make_plan(
                copy.deepcopy(DEFAULT) | changes,
                is_produced=lambda path: path.startswith("results/demo"),
                root=tmp_path,
            )
        except UnusableInput as error:
            return str(error).splitlines()[1:]
        return []

    plan.root = tmp_path
    return plan


def changed(task=None, **changes):
    suite = copy.deepcopy(DEMO) | changes
    suite["tasks"]["addition"] |= task or {}
    return suite


JUDGED = {
    "harness": "nemo-evaluator",
    "task": "nemo_skills.ns_hle",
    "metric": "pass@1.judge_correct",
    "judge": "expert",
}
JUDGES = {"expert": {"model": "a-judge", "url_variable": "JUDGE_URL_OF_TEST", "key_variable": "JUDGE_KEY_OF_TEST"}}


def test_a_sound_suite_plans(planned):
    assert planned(DEMO) == []


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        (changed({"harness": "lm-evl"}), "unknown harness; there are lm-eval, nemo-evaluator; did you mean lm-eval"),
        (changed({"metric": "exact_match"}), "lm-eval's scores are named 'metric,filter'"),
        (changed({"metric": "exact_mach,none"}), "it has exact_match,none; did you mean exact_match,none?"),
        (changed({"judge": "expert"}), "judge: lm-eval asks none"),
        (changed({"parameters": {"args": "x"}}), "parameters: only nemo-evaluator's frameworks take them"),
        (changed({"context_length": 65}), "65 is above the suite's 64"),
        (changed(JUDGED), "unknown judge 'expert'; 'judges' has none"),
        (
            changed(judges={"expert": {"model": "m", "url_variable": "http://judge"}}),
            "no name of an environment variable",
        ),
        (changed(JUDGED, judges=JUDGES), "variables JUDGE_URL_OF_TEST and JUDGE_KEY_OF_TEST; set and export"),
        (changed({"runs_generated_code": True}), "set allow_generated_code: true"),
        (changed({"harness": "nemo-evaluator", "task": "a.b.c"}), "expected TASK or FRAMEWORK.TASK"),
        (changed({"offset": 1000}), "offset: 1000 leaves none of its 1000 samples"),
        (changed({"offset": -1}), "offset: found -1"),
        (changed({"harness": "nemo-evaluator", "offset": 1}), "NeMo Evaluator asks the first documents of a task"),
    ],
)
def test_what_cannot_work_is_refused_at_planning(planned, suite, words):
    found = planned(suite)
    assert len(found) == 1 and words in found[0], found


@pytest.mark.parametrize(
    ("others", "changes", "words"),
    [
        (["whole"], {}, "documents 0 to 999 of demo_addition are asked by suite whole too"),
        (["whole"], {"task": "demo_sorting", "metric": "acc,none"}, None),
        (["wohle"], {}, "disjoint_from: unknown suite 'wohle'"),
        (["demo"], {}, "disjoint_from: names the suite itself"),
    ],
)
def test_suites_that_are_not_disjoint_are_refused_at_planning(planned, others, changes, words):
    content = copy.deepcopy(DEMO)
    content["tasks"] = {"addition": content["tasks"]["addition"] | changes}
    whole = copy.deepcopy(DEMO)
    whole["tasks"] = {"addition": whole["tasks"]["addition"]}
    planned(content)  # makes the folder
    (planned.root / "config" / "suites" / "whole.yaml").write_text(yaml.safe_dump(whole))
    found = planned(content | {"disjoint_from": others})
    assert len(found) == (words is not None), found
    assert words is None or words in found[0]


def test_all_mistakes_of_a_suites_needs_are_told_at_once(planned):
    suite = changed(JUDGED, judges=JUDGES)
    suite["tasks"]["reversal"]["metric"] = "bleu,none"
    suite["tasks"]["sorting"]["runs_generated_code"] = True
    found = planned(suite)
    assert len(found) == 3, found
    for words in ("JUDGE_URL_OF_TEST", "bleu,none", "sorting: scoring runs code"):
        assert any(words in line for line in found)


def test_consent_and_endpoints_are_enough(planned, monkeypatch):
    monkeypatch.setenv("JUDGE_URL_OF_TEST", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("JUDGE_KEY_OF_TEST", "secret")
    assert planned(changed(JUDGED | {"runs_generated_code": True}, judges=JUDGES), allow_generated_code=True) == []


@pytest.mark.parametrize(("length", "refused"), [(63, True), (64, False)])
def test_a_task_that_needs_more_context_than_the_model_has_is_refused(planned, length, refused):
    folder = planned.root / "model"
    folder.mkdir()
    (folder / "config.json").write_text(f'{{"max_position_embeddings": {length}}}')
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    found = planned(DEMO, models={"tiny-llama": {"path": "model"}})
    assert len(found) == (3 if refused else 0), found
    assert all(f"needs 64 tokens of context, the model has {length}" in line for line in found)


PLAN = """
import sys, yaml
from pathlib import Path
from day0.base.cli import UnusableInput
from day0.plan.check import make_plan
try:
    make_plan(yaml.safe_load(sys.stdin), lambda path: path.startswith("results/demo"), Path(sys.argv[1]))
except UnusableInput as error:
    print(error)
"""


@pytest.fixture
def plan_of_hub(planned, tmp_path):
    """What a process of its own, as huggingface_hub reads its settings once, says of a model of a hub."""
    state, address, stop = hub_server.serve("token")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "token"}
    environment |= {"PYTHONPATH": str(ROOT / "scripts"), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def plan(length, **changes):
        files = {
            "config.json": json.dumps({"max_position_embeddings": length}).encode(),
            "model.safetensors": b"w" * 99,
        }
        revision = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        state.repositories["org/name"] = {"main": files}
        planned(DEMO)  # writes the suite
        model = {"tiny-llama": {"hub": "org/name", "revision": revision}}
        done = subprocess.run(
            [sys.executable, "-c", PLAN, str(planned.root)],
            input=yaml.safe_dump({**DEFAULT, "models": model}),
            capture_output=True,
            text=True,
            env=environment | changes,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield plan, tmp_path / "home", stop
    stop()


def test_a_model_of_the_hub_is_refused_before_it_is_fetched(plan_of_hub):
    plan, home, stop = plan_of_hub
    assert plan(64) == ""
    found = plan(63)
    assert found.count("needs 64 tokens of context, the model has 63") == 3, found
    assert not list(home.rglob("*.safetensors"))
    stop()  # what was read once needs no hub
    assert plan(63) == found and plan(63, HF_HUB_OFFLINE="1") == found
    assert plan(62) == "" and plan(62, HF_HUB_OFFLINE="1") == ""


def test_a_server_that_is_given_less_than_a_task_needs_is_refused(planned):
    found = planned(DEMO, models={"tiny-llama": {"path": "results/demo/model", "serving": {"max_model_len": 32}}})
    assert len(found) == 3 and all("serving.max_model_len is 32; raise it" in line for line in found)


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        ([], "--enable-auto-tool-choice and --tool-call-parser"),
        (["--enable-auto-tool-choice"], "lacks --tool-call-parser"),
        (["--tool-call-parser=hermes"], "lacks --enable-auto-tool-choice"),
        (["--enable-auto-tool-choice", "--tool-call-parser", "hermes"], None),
    ],
)
def test_a_task_that_calls_tools_needs_a_server_that_parses_them(planned, arguments, lacking):
    model = {"path": "results/demo/model", "serving": {"extra_arguments": arguments}}
    found = planned(changed({"calls_tools": True}), models={"tiny-llama": model})
    assert len(found) == (lacking is not None), found
    assert lacking is None or (lacking in found[0] and "addition: the model is offered tools" in found[0])
    assert planned(DEMO, models={"tiny-llama": model}) == []


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 40960}, 40960),
        ({"text_config": {"max_position_embeddings": 131072}, "max_position_embeddings": 77}, 131072),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "rope_parameters": {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 4},
                "n_positions": 4,
            },
            8,
        ),
        ({"model_type": "mamba"}, None),
        ({"max_position_embeddings": "many"}, None),
    ],
)
def test_the_context_of_a_model_is_read_from_its_config(config, limit):
    assert context_limit(config) == limit


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 10**6)), st.none() | st.integers(1, 10**6))
def test_just_the_tasks_that_do_not_fit_are_named(needs, limit):
    found = context_problems(needs, limit, None)
    assert len(found) == sum(limit is not None and needed > limit for needed in needs.values())


def test_a_set_but_empty_variable_is_missing():
    suite = {"judges": JUDGES, "tasks": {"t": {"judge": "expert", "simulator": None}}}
    given_both = {"JUDGE_URL_OF_TEST": "http://judge", "JUDGE_KEY_OF_TEST": "k"}
    assert missing_endpoints(suite, given_both) == []
    (problem,) = missing_endpoints(suite, given_both | {"JUDGE_KEY_OF_TEST": ""})
    assert "JUDGE_KEY_OF_TEST" in problem and "JUDGE_URL_OF_TEST" not in problem


def test_every_harness_has_its_script_and_environment():
    for harness in HARNESSES.values():
        assert (ROOT / "scripts" / harness.script).is_file()
        assert (ROOT / "envs" / f"{harness.environment}.lock").is_file()
