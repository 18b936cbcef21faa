"""Runs, evidence and published scores, small, as the decision takes them."""

from day0.decision.comparability import Run
from day0.decision.verdict import STAGES, Evidence


def rows(correct, samples=400, **changes):
    return [
        {"id": i, "repeat": 0, "prompt_digest": f"p{i}", "target_digest": f"t{i}", "answer": str(i), **changes}
        | {"score": float(i < correct)}
        for i in range(samples)
    ]


def run(correct=390, samples=400, fingerprint=None, unit=1, **changes):
    score = {"metric": "exact_match", "score": unit * correct / samples, "tier": "critical"}
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


def evidence(**changes):
    """Evidence of an accepted release; ``changes`` are laid over the contents, None removes an assessment."""
    contents = {stage: dict(PASSED) for stage in STAGES}
    contents["validation"] |= {"checkpoint_digest": "c", "source_digest": "s", "recipe_digest": "r", "size_ratio": 0.5}
    contents["baseline_run"]["checkpoint_digest"] = "s"
    contents["candidate_run"]["checkpoint_digest"] = "c"
    contents["comparison"] |= {"baseline_sha256": "sha-baseline_run", "candidate_sha256": "sha-candidate_run"}
    for stage, change in changes.items():
        contents[stage] = None if change is None else contents[stage] | change
    return {
        stage: Evidence(f"{stage}.json", f"sha-{stage}", content)
        for stage, content in contents.items()
        if content is not None
    }


def failed(failure_class):
    return {"pass": False, "failure_class": failure_class, "detail": "because"}
