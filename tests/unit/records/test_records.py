"""comparison.json and verdict.json hold to their schemas, whatever they say; broken ones do not."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from decision_input import RELEASE, compare_runs, evidence, make_crash_verdict, make_verdict, published, run

from day0.decision.comparability import Run
from day0.records.comparison import Comparison
from day0.records.verdict import Verdict

ROOT = Path(__file__).parents[3]
SHA256 = "0" * 64


def schema(name):
    return json.loads((ROOT / "config" / "schemas" / f"{name}.schema.json").read_text())


def check(name, content):
    content = json.loads(json.dumps(content, allow_nan=False))
    jsonschema.validate(content, schema(name))
    {"comparison": Comparison, "verdict": Verdict}[name].model_validate(content)
    return content


def comparison(*arguments, **settings):
    result = compare_runs(*arguments, **settings)
    return {**result, "baseline_sha256": SHA256, "candidate_sha256": SHA256}


BARE = Run(run().assessment, run().metadata)
FAILED = {"pass": False, "failure_class": "DEPLOYMENT_HEALTH_FAILED", "detail": "no answer"}


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ((run(), run()), {}),
        ((run(), run(300)), {"policy": {"max_relative_drop": 0.1, "criterion": "confident"}}),
        ((run(), run(**FAILED)), {"external": published(50.0)}),
        ((run(), Run({"pass": True, "scores": {"b": {"score": None, "metric": 3}}})), {}),
        ((BARE, BARE), {"source": {"dtypes": {"BF16": 1}}}),
        ((run(), run(suite="other")), {"policy": {"treshold": 1}}),
        ((run(), run(fingerprint={"task_hash": None, "sampling": {"until": [";"]}})), {}),
    ],
)
def test_every_comparison_holds_to_its_schema(arguments, settings):
    check("comparison", comparison(*arguments, **settings))


def test_every_verdict_holds_to_its_schema():
    stamped = {"schema_version": 1}
    for verdict in (
        make_verdict(RELEASE, evidence()),
        make_verdict(RELEASE, evidence(validation=FAILED, comparison=None)),
        make_verdict(RELEASE | {"warnings": [{"task": "a", "sentence": "few."}]}, {}),
        make_crash_verdict(RELEASE, "quantize_candidate", 2, None),
    ):
        found = stamped | verdict
        for entry in found["evidence"].values():
            entry["sha256"] = SHA256
        check("verdict", found)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("decision",), "MAYBE"),
        (("pass",), None),
        (("tasks", "a", "tier"), "minor"),
        (("tasks", "a", "paired", "interval"), [0.1]),
        (("tasks", "a", "paired", "mcnemar_p"), 2),
        (("evidence",), "weak"),
        (("external", "status"), "unknown"),
        (("baseline_sha256",), "abc"),
        (("surprise",), 1),
    ],
)
def test_a_broken_comparison_does_not(place, value):
    content = copy.deepcopy(comparison(run(), run()))
    container = content
    for key in place[:-1]:
        container = container[key]
    container[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check("comparison", content)
