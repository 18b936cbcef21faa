"""Every way in which the requests of a run have gone wrong: the class that the gate gives, and the counts."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from evaluate_stage import Stage

pytestmark = pytest.mark.e2e

DOCUMENTS = 48
PROMPTS_PER_REQUEST = 16
POISON: list[int] = []  # the tokens of one prompt, once a sound run has told them


@dataclass
class Case:
    """A fault, and what must come of it.

    ``counts`` are those of the accounting, ``attempts`` of the requests; ``words`` stand in the finding or note.
    """

    fault: dict
    failure_class: str | None = None
    counts: dict = field(default_factory=dict)
    attempts: dict = field(default_factory=dict)
    words: str = ""
    task: str = "addition"
    suite: dict = field(default_factory=dict)
    status: int = 0
    baseline: dict | None = None


ALL = {"expected": DOCUMENTS, "asked": DOCUMENTS, "answered": DOCUMENTS, "scored": DOCUMENTS, "failed": 0}
NONE = {"expected": DOCUMENTS, "scored": 0}
QUICK = {"max_attempts": 2}
IMPATIENT = {"request_timeout_seconds": 10}
DEPLOYMENT, ACCOUNTING, JUDGE = "DEPLOYMENT_HEALTH_FAILED", "SAMPLE_ACCOUNTING_FAILED", "EVAL_JUDGE_FAILED"

CASES = {
    "nothing": Case({}, None, ALL | {"http_failures": 0, "retried": 0}, {"200": 3}),
    "three requests dropped": Case(
        {"kind": "drop", "count": 3}, None, ALL | {"http_failures": 3, "retried": 3}, {"disconnected": 3}, "repeated"
    ),
    "three answers cut": Case({"kind": "cut", "count": 3}, None, ALL | {"http_failures": 3}, {"disconnected": 3}),
    "three answers garbled": Case({"kind": "garble", "count": 3}, None, ALL | {"http_failures": 3}, {"garbled": 3}),
    "an answer that never comes": Case(
        {"kind": "delay", "count": 1}, None, ALL | {"retried": 1}, {"timeout": 1}, suite=IMPATIENT
    ),
    "an answer that trickles": Case(
        {"kind": "trickle", "count": 1}, None, ALL | {"retried": 1}, {"timeout": 1}, suite=IMPATIENT
    ),
    "a connection reset": Case({"kind": "reset", "count": 1}, None, ALL | {"retried": 1}, {"disconnected": 1}),
    "a page of HTML with status 200": Case({"kind": "page", "count": 3}, None, ALL, {"garbled": 3}),
    "pages of HTML without end": Case({"kind": "page"}, ACCOUNTING, NONE | {"answered": 0}, suite=QUICK),
    "an answer that is no gzip": Case({"kind": "bad gzip", "count": 1}, None, ALL | {"retried": 1}),
    "a length below the answer's": Case({"kind": "short length", "count": 1}, None, ALL | {"retried": 1}),
    "half of the log probabilities": Case(
        {"kind": "half of the numbers"}, ACCOUNTING, {"scored": 0}, task="sorting", suite=QUICK
    ),
    "half of the log probabilities of one answer": Case(
        {"kind": "half of the numbers", "count": 1}, None, ALL, {"garbled": 1}, task="sorting"
    ),
    "rate limit for a while": Case({"kind": "rate limit", "count": 4}, None, ALL | {"http_failures": 4}, {"429": 4}),
    "errors for a while": Case({"kind": "error 500", "count": 3}, None, ALL | {"http_failures": 3}, {"500": 3}),
    "a choice swallowed": Case({"kind": "swallow", "count": 1}, None, ALL | {"http_failures": 1}, {"garbled": 1}),
    "a null answer": Case({"kind": "null", "count": 1}, None, ALL | {"http_failures": 1}, {"garbled": 1}),
    "an unfinished answer": Case({"kind": "unfinished", "count": 1}, None, ALL | {"retried": 1}, {"garbled": 1}),
    "an answer of another model": Case({"kind": "of another", "count": 1}, None, ALL | {"retried": 1}, {"garbled": 1}),
    "answers of another model": Case(
        {"kind": "of another"}, ACCOUNTING, NONE | {"answered": 0}, words="it is of model 'huge-llama'", suite=QUICK
    ),
    "answers of earlier prompts": Case(
        {"kind": "repeat"}, ACCOUNTING, {"answered": 16, "scored": 0}, words="was given before", suite=QUICK
    ),
    "answers in another order": Case({"kind": "reorder", "count": 1}, None, ALL | {"retried": 1}, {"garbled": 1}),
    "half a character": Case({"kind": "half a character", "count": 1}, None, ALL | {"retried": 1}, {"garbled": 1}),
    "half a character without end": Case(
        {"kind": "half a character"}, ACCOUNTING, NONE | {"answered": 0}, words="surrogates not allowed", suite=QUICK
    ),
    "an exception that costs no answer": Case({"kind": "trace", "count": 1}, None, ALL, words="no answer was lost"),
    "health fails for a while": Case({"kind": "sick"}, None, ALL, words="/health did not answer"),
    "errors without end": Case(
        {"kind": "error 500"}, ACCOUNTING, NONE | {"answered": 0}, words="requests in a row", suite=QUICK
    ),
    "errors for one prompt": Case(
        {"kind": "error 500", "match": POISON},
        ACCOUNTING,
        {"asked": DOCUMENTS, "answered": DOCUMENTS - 1, "scored": DOCUMENTS - 1, "failed": 1},
        words="1 prompts were given up",
        suite=QUICK,
    ),
    "one prompt rejected": Case(
        {"kind": "error 400", "match": POISON},
        ACCOUNTING,
        {"answered": DOCUMENTS - 1, "scored": DOCUMENTS - 1, "failed": 1, "retried": 0},
        {"400": 2},
        words="status 400",
    ),
    "null answers for one prompt": Case(
        {"kind": "null", "match": POISON},
        ACCOUNTING,
        {"answered": DOCUMENTS - 1, "scored": DOCUMENTS - 1, "failed": 1},
        suite=QUICK,
    ),
    "garbled without end": Case({"kind": "garble"}, ACCOUNTING, NONE | {"answered": 0}, suite=QUICK),
    "dropped without end": Case({"kind": "drop"}, ACCOUNTING, NONE | {"answered": 0}, suite=QUICK),
    "rate limit without end": Case({"kind": "rate limit"}, JUDGE, NONE, words="rate limit", suite=QUICK),
    "key refused after the canary": Case({"kind": "refuse the key"}, JUDGE, NONE, words="unauthorized"),
    "log probabilities that are no numbers": Case(
        {"kind": "no numbers"}, ACCOUNTING, {"scored": 0}, task="sorting", suite=QUICK
    ),
    "empty answers": Case({"kind": "empty"}, DEPLOYMENT, ALL | {"empty": DOCUMENTS}, words="answers are empty"),
    "some empty answers": Case({"kind": "empty", "count": 1}, ACCOUNTING, ALL | {"empty": 16}, words="are empty"),
    "answers cut at the length": Case({"kind": "length"}, ACCOUNTING, ALL | {"cut": DOCUMENTS}, words="were cut"),
    "the same answer to all": Case({"kind": "constant"}, "UNKNOWN", ALL, words="answers are the same"),
    "the engine complains": Case({"kind": "complain", "count": 1}, DEPLOYMENT, ALL, words="CUDA out of memory"),
    "the server crashes": Case({"kind": "crash", "first": 1}, DEPLOYMENT, NONE, words="the kernel met its end"),
    "a wrong key from the start": Case({"kind": "wrong key from the start"}, DEPLOYMENT, NONE, words="/v1/models"),
    "another model": Case({"kind": "another model"}, DEPLOYMENT, NONE | {"asked": 0}, words="huge-llama"),
    "another checkpoint": Case(
        {"kind": "another checkpoint"}, DEPLOYMENT, NONE | {"asked": 0}, words="/models/another"
    ),
    "an empty canary": Case({"kind": "empty canary"}, DEPLOYMENT, NONE | {"asked": 0}, words="empty"),
    "a stuttering canary": Case({"kind": "stuttering canary"}, DEPLOYMENT, NONE | {"asked": 0}, words="repeated"),
    "a canary without numbers": Case({"kind": "canary without numbers"}, DEPLOYMENT, NONE, words="log probability"),
    "unlikely passages": Case(
        {"kind": "unlikely passages"}, DEPLOYMENT, NONE | {"asked": 0}, words="times the baseline"
    ),
}


@pytest.fixture(scope="module")
def stages(backend, tmp_path_factory):
    """Every case, run; two at a time, since a run mostly waits."""
    folder = tmp_path_factory.mktemp("faults")
    sound = Stage(folder / "sound", backend).run()
    assert sound.status == 0, sound.said
    POISON[:] = json.loads(sound.asked()[1])[0]

    def run(item):
        name, case = item
        stage = Stage(folder / name.replace(" ", "-"), backend, case.fault, dict(case.suite), (case.task,), DOCUMENTS)
        return name, stage.run("--baseline-results", str(sound.output / "results.yml"))

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(pool.map(run, CASES.items()))


@pytest.mark.parametrize("name", CASES)
def test_fault(stages, name):
    case, stage = CASES[name], stages[name]
    assert stage.status == case.status, stage.said
    metadata, assessment = stage.metadata, stage.assessment()
    told = f"{stage.said}\n{assessment}\n{metadata['requests']}"
    assert assessment["failure_class"] == case.failure_class, told
    assert assessment["pass"] is (case.failure_class is None), told
    counts = metadata["accounting"][case.task]
    assert {key: counts[key] for key in case.counts} == case.counts, told
    attempts = (metadata["requests"][case.task] or {}).get("attempts", {})
    assert {key: attempts.get(key) for key in case.attempts} == case.attempts, told
    assert case.words in f"{assessment['findings']} {assessment['notes']}", told
    # A score is told only where every sample has a whole answer of its own.
    is_counted = case.failure_class is None or (counts["scored"] == DOCUMENTS and case.failure_class != ACCOUNTING)
    assert (case.task in assessment["scores"]) is (is_counted and counts["empty"] == 0), told
