"""Runs, evidence and published scores, small, as the decision takes them."""

import hashlib

from day0.decision import assess_run, comparison, verdict
from day0.decision.chain import Evidence
from day0.decision.comparability import Run
from day0.decision.verdict import STAGES, ReleaseRequest
from day0.statistics.paired import NOTHING


def sha(name):
    """A digest that stands for something of this name."""
    return hashlib.sha256(name.encode()).hexdigest()


def described_source(**changes):
    """The content of a source.json."""
    return {
        "model": "m",
        "location": {"path": "m"},
        "path": "m",
        "files": {},
        "digest": "0" * 64,
        "payload_bytes": 1,
        "parameters": 1,
        "dtypes": {},
        "config": {},
        "trust_remote_code": False,
    } | changes


def evaluate_run(summary):
    """The assessment of a run as JSON holds it."""
    return assess_run.evaluate_run(summary).as_plain()


def make_verdict(release, held):
    """The verdict as JSON holds it."""
    return verdict.make_verdict(ReleaseRequest.model_validate(release), held).as_plain()


def make_crash_verdict(release, *arguments, **options):
    """The verdict on a crash as JSON holds it."""
    return verdict.make_crash_verdict(ReleaseRequest.model_validate(release), *arguments, **options).as_plain()


def compare_runs(*arguments, **options):
    """The comparison as JSON holds it."""
    return comparison.compare_runs(*arguments, **options).as_plain()


def evaluate_comparison(*arguments, **options):
    """The comparison of plain scores as JSON holds it."""
    return comparison.evaluate_comparison(*arguments, **options).as_plain()


def rows(correct, samples=400, **changes):
    return [
        {"id": i, "repeat": 0, "prompt_digest": f"p{i}", "target_digest": f"t{i}", "answer": str(i), **changes}
        | {"score": float(i < correct)}
        for i in range(samples)
    ]


def run(correct=390, samples=400, fingerprint=None, unit=1, **changes):
    score = {"metric": "exact_match", "score": unit * correct / samples, "tier": "critical"}
    score |= {"stderr": None, "samples": samples}
    score["scale"] = {"min": 0, "max": unit, "direction": "higher"}
    assessment = {"pass": True, "failure_class": None, "detail": "", "model": "m", "suite": "s", "scores": {"a": score}}
    metadata = {
        "suite_digest": "1",
        "server": {"engine": "vllm", "engine_version": "1", "quantization": "fp8"},
        "fingerprint": {"a": fingerprint or {"task_hash": "1", "sampling": {"seed": 1, "temperature": 0.0}}},
    }
    return Run({**assessment, **changes}, metadata, {"a": rows(correct, samples)})


def tasks_run(correct, samples=400, **changes):
    """A run of several tasks: {task: correct answers}."""
    made = {task: run(count, samples) for task, count in correct.items()}
    assessment = {**run().assessment, "scores": {t: m.assessment["scores"]["a"] for t, m in made.items()}, **changes}
    fingerprint = {task: m.metadata["fingerprint"]["a"] for task, m in made.items()}
    metadata = {**run().metadata, "fingerprint": fingerprint}
    return Run(assessment, metadata, {task: m.samples["a"] for task, m in made.items()})


def published(score, scale=100, **changes):
    entry = {"model": "m", "task": "a", "metric": "exact_match", "score": score, "scale": {"min": 0, "max": scale}}
    return [{**entry, "source": "https://example.org/card", "notes": "5-shot", **changes}]


RELEASE = {
    "name": "fp8",
    "model": "m",
    "recipe": "fp8",
    "candidate": "fp8",
    "suite": "demo",
    "policy": {"threshold": 0.01, "relative": False},
}
PASSED = {"pass": True, "failure_class": None, "detail": "fine"}


SUITE_REQUEST = {
    "model": "m",
    "location": {"path": "m"},
    "suite": "demo",
    "settings": {},
    "asked": True,
    "accelerator": "cpu",
}
COUNTS = {"source_bytes": 2, "output_bytes": 1, "bits_per_weight": 8.0, "layer_precision_counts": {}}
VALIDATED = {"recipe": "fp8", "checks": [], "metadata_diffs": [], "offenders": [], **COUNTS}
SCORED = {
    "metric": "acc",
    "score": 0.9,
    "stderr": None,
    "samples": 10,
    "scale": {"min": 0, "max": 1, "direction": "higher"},
    "tier": "critical",
}
COMPARED_TASK = {
    "baseline": 0.9,
    "candidate": 0.9,
    "drop": 0.0,
    "drop_fraction": 0.0,
    "limit": 0.01,
    "within": True,
    "relative_guard": None,
    "scale": SCORED["scale"],
    "tier": "critical",
    "note": None,
    "paired": {**dict.fromkeys(NOTHING), "evidence": "inconclusive", "sentence": "Inconclusive.", "flips": None},
}
COMPARED = {
    "decision": "ACCEPT",
    "failure_classes": [],
    "criterion": "point",
    "threshold": 0.01,
    "relative": False,
    "warnings": [],
    "criteria": {"point": {"decision": "ACCEPT", "sentence": "Within the limits."}},
    "tasks": {"a": COMPARED_TASK},
    "evidence": "inconclusive",
    "evidence_sentence": "Inconclusive.",
    "comparability": {"pass": True, "checked": True, "fields": [], "differences": [], "unknown": []},
    "baseline_precision": "BF16",
    "external": {"status": "unverified", "entries": []},
    "next_action": "Publish the release bundle.",
}


def evidence(**changes):
    """Evidence of an accepted release; ``changes`` replace keys of its contents, None removes an assessment."""
    contents = {stage: dict(PASSED) for stage in STAGES}
    for stage in STAGES[:3]:
        contents[stage] |= {"checks": [], "request": {"model": "m"}}
    contents["preflight_suite"]["request"] = SUITE_REQUEST
    contents["validation"] |= {**VALIDATED, "checkpoint_digest": sha("c"), "source_digest": sha("s")}
    contents["validation"] |= {"recipe_digest": sha("r"), "size_ratio": 0.5}
    of_release = {"model": "m", "suite": "demo", "scores": {"a": SCORED}}
    contents["baseline_run"] |= {"checkpoint_digest": sha("s"), "candidate": "baseline", **of_release}
    contents["candidate_run"] |= {"checkpoint_digest": sha("c"), "candidate": "fp8", **of_release}
    sides = {f"{side}_sha256": sha(f"{side}_run") for side in ("baseline", "candidate")}
    contents["comparison"] |= {**COMPARED, **sides}
    for stage, change in changes.items():
        contents[stage] = None if change is None else contents[stage] | change
        if stage == "comparison" and change and "pass" in change and "decision" not in change:
            contents[stage]["decision"] = "ACCEPT" if change["pass"] is True else "REGRESSION"
    return {
        stage: Evidence(f"{stage}.json", sha(stage), content)
        for stage, content in contents.items()
        if content is not None
    }


def failed(failure_class):
    return {"pass": False, "failure_class": failure_class, "detail": "because"}
