"""Evidence that was edited, swapped or lost between two stages: no such release is accepted, and none is bundled.

Each fault is put in as somebody could put it in who has the folder: the file is edited, the stages named are run again,
as Snakemake does after an edit, and then the bundle is asked for. The release is one that lost accuracy, so that every
bundle of it would be a wrong ACCEPT.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from accepted_release import SAMPLES, bundle, compare_again, decide_on, make_accepted_release, run

from day0.base.artefacts import digest_of_file, read_json, write_json
from day0.base.cli import UnusableInput

COMPARISON, VERDICT = "m/fp8/comparison.json", "m/fp8/verdict.json"
BASELINE, CANDIDATE = "m/baseline/s/run.json", "m/fp8/s/run.json"
PASSES = {"pass": True, "decision": "ACCEPT", "failure_class": None, "failure_classes": []}
SAYS = {"criteria.point.decision": "ACCEPT"}
SHA = "0" * 64


@dataclass(frozen=True)
class Fault:
    """An edit, the stages that run after it, and what must be said.

    Attributes:
        edits: file to the keys that are replaced; a key with dots is of a mapping within.
        then: "compare" and "decide": the stages that run after the edit; the others keep what they made.
        said: part of what the verdict or the bundle says.
    """

    name: str
    edits: dict[str, dict]
    said: str
    then: tuple[str, ...] = field(default=("decide",))


def task(**changes):
    return {f"tasks.addition.{key}": value for key, value in changes.items()}


FAULTS = [
    # comparison.json by hand, then decided on
    Fault("pass alone", {COMPARISON: {"pass": True}}, "the decision is REGRESSION"),
    Fault("decision alone", {COMPARISON: {"decision": "ACCEPT"}}, "the decision is ACCEPT"),
    Fault("pass with a class", {COMPARISON: {**PASSES, "failure_class": "UNKNOWN"}}, "failure_class is UNKNOWN"),
    Fault("pass and decision", {COMPARISON: PASSES}, "its criterion 'point' says 'REGRESSION'"),
    Fault(
        "classes left", {COMPARISON: {**PASSES, **SAYS, "failure_classes": ["UNKNOWN"]}}, "passed and that it failed"
    ),
    Fault("whole decision", {COMPARISON: {**PASSES, **SAYS}}, "is not what its evidence gives"),
    Fault("candidate's score", {COMPARISON: {**PASSES, **SAYS, **task(candidate=1.0)}}, "candidate's score is 1.0"),
    Fault("baseline's score", {COMPARISON: {**PASSES, **SAYS, **task(baseline=0.95)}}, "baseline's score is 0.95"),
    Fault("drop", {COMPARISON: {**PASSES, **SAYS, **task(drop=0.0)}}, "its drop is 0.0"),
    Fault("drop's fraction", {COMPARISON: {**PASSES, **SAYS, **task(drop_fraction=0.0)}}, "drop_fraction is 0.0"),
    Fault("within", {COMPARISON: {**PASSES, **SAYS, **task(within=True)}}, "addition.within is True"),
    Fault("limit", {COMPARISON: {**PASSES, **SAYS, **task(within=True, limit=1.0)}}, "addition.limit is 1.0"),
    Fault("tier", {COMPARISON: {**PASSES, **SAYS, **task(tier="advisory")}}, "tier is 'advisory'"),
    Fault("scale", {COMPARISON: {**PASSES, **SAYS, "tasks.addition.scale.max": 100.0}}, "scale.max is 100"),
    Fault(
        "lower is better", {COMPARISON: {**PASSES, **SAYS, "tasks.addition.scale.direction": "lower"}}, "drop is 0.05"
    ),
    Fault("threshold", {COMPARISON: {**PASSES, **SAYS, "threshold": 0.9}}, "made with threshold 0.9"),
    Fault("relative", {COMPARISON: {**PASSES, **SAYS, "relative": True}}, "made with relative True"),
    Fault("criterion", {COMPARISON: {**PASSES, **SAYS, "criterion": "confident"}}, "by the criterion 'confident'"),
    Fault("no task", {COMPARISON: {**PASSES, **SAYS, "tasks": {}}}, "run has scores of addition"),
    Fault(
        "paired samples", {COMPARISON: {**PASSES, **SAYS, "tasks.addition.paired.samples": 4}}, "4 samples are paired"
    ),
    Fault("interval", {COMPARISON: {**PASSES, **SAYS, "tasks.addition.paired.interval": [0, 0]}}, "interval[0] is 0"),
    Fault("wins", {COMPARISON: {**PASSES, **SAYS, "tasks.addition.paired.losses": 0}}, "paired.losses is 0"),
    Fault("metric", {COMPARISON: {**PASSES, **SAYS, **task(metric="other")}}, "metric is 'other'"),
    Fault("comparability", {COMPARISON: {**PASSES, **SAYS, "comparability.fields": []}}, "comparability"),
    Fault(
        "baseline's digest", {COMPARISON: {**PASSES, **SAYS, "baseline_sha256": SHA}}, "the baseline's run has digest"
    ),
    Fault(
        "candidate's digest", {COMPARISON: {**PASSES, **SAYS, "candidate_sha256": SHA}}, "candidate's run has digest"
    ),
    Fault("no digest", {COMPARISON: {**PASSES, **SAYS, "candidate_sha256": None}}, "candidate's run has digest"),
    Fault("unknown key", {COMPARISON: {**PASSES, "approved": "by hand"}}, "approved"),
    Fault("other version", {COMPARISON: {"schema_version": 2}}, "schema_version"),
    Fault("not a number", {COMPARISON: {**PASSES, **task(candidate="1.0e")}}, "tasks.addition.candidate"),
    # run.json by hand, then compared and decided on
    Fault(
        "score of the run",
        {CANDIDATE: {"scores.addition.score": 1.0}},
        "scores.addition.score is 1",
        ("compare", "decide"),
    ),
    Fault("score of the baseline", {BASELINE: {"scores.addition.score": 0.95}}, "score is 0.95", ("compare", "decide")),
    Fault("score, compared before", {CANDIDATE: {"scores.addition.score": 1.0}}, "in its run"),
    Fault(
        "count of the run",
        {CANDIDATE: {"scores.addition.samples": 7}},
        "the candidate's run has 7",
        ("compare", "decide"),
    ),
    Fault(
        "scale of the run", {CANDIDATE: {"scores.addition.scale.max": 50.0}}, "not comparable", ("compare", "decide")
    ),
    Fault(
        "tier of the run",
        {CANDIDATE: {"scores.addition.tier": "advisory"}},
        "only an accepted release",
        ("compare", "decide"),
    ),
    Fault("model of the run", {CANDIDATE: {"model": "other"}}, "model", ("compare", "decide")),
    Fault(
        "model of both",
        {CANDIDATE: {"model": "o"}, BASELINE: {"model": "o"}},
        "baseline_run is of model 'o'",
        ("compare", "decide"),
    ),
    Fault(
        "suite of both",
        {CANDIDATE: {"suite": "o"}, BASELINE: {"suite": "o"}},
        "baseline_run is of suite 'o'",
        ("compare", "decide"),
    ),
    Fault(
        "candidate of the run",
        {CANDIDATE: {"candidate": "nvfp4"}},
        "candidate_run is of candidate 'nvfp4'",
        ("compare", "decide"),
    ),
    Fault(
        "candidate's run is a baseline's",
        {CANDIDATE: {"candidate": "baseline"}},
        "of candidate 'baseline'",
        ("compare", "decide"),
    ),
    Fault(
        "baseline's run is a candidate's",
        {BASELINE: {"candidate": "fp8"}},
        "baseline_run is of candidate 'fp8'",
        ("compare", "decide"),
    ),
    Fault("no model", {CANDIDATE: {"model": None}}, "candidate_run is of model None", ("compare", "decide")),
    Fault(
        "checkpoint of the run",
        {CANDIDATE: {"checkpoint_digest": SHA}},
        "the checkpoint that was validated",
        ("compare", "decide"),
    ),
    Fault("source of the baseline", {BASELINE: {"checkpoint_digest": SHA}}, "the source that", ("compare", "decide")),
    Fault("results of the run", {CANDIDATE: {"results_digest": SHA}}, "which changed since", ("compare", "decide")),
    Fault(
        "pass of a failed run",
        {CANDIDATE: {"failure_class": "UNKNOWN"}},
        "failure_class is UNKNOWN",
        ("compare", "decide"),
    ),
    Fault("failed run", {CANDIDATE: {"pass": False, "failure_class": "UNKNOWN"}}, "UNKNOWN", ("compare", "decide")),
    # other assessments by hand
    Fault("validation failed", {"m/fp8/validation.json": {"pass": False}}, "only an accepted release"),
    Fault(
        "validation of another checkpoint",
        {"m/fp8/validation.json": {"checkpoint_digest": SHA}},
        "checkpoint that was validated",
    ),
    Fault(
        "validation of another source", {"m/fp8/validation.json": {"source_digest": SHA}}, "source that the checkpoint"
    ),
    Fault(
        "validation of none", {"m/fp8/validation.json": {"checkpoint_digest": None}}, "checkpoint that was validated"
    ),
    Fault(
        "preflight of another model",
        {"m/preflight.json": {"request": {"model": "o"}}},
        "preflight_model is of model 'o'",
    ),
    Fault(
        "preflight of another recipe's model",
        {"m/fp8/preflight.json": {"request.model": "o"}},
        "preflight_recipe is of model",
    ),
    Fault(
        "preflight of another suite",
        {"m/baseline/s/preflight.json": {"request.suite": "o"}},
        "preflight_suite is of suite 'o'",
    ),
    Fault(
        "preflight failed",
        {"m/preflight.json": {"pass": False, "failure_class": "SYSTEMIC"}},
        "only an accepted release",
    ),
    Fault(
        "preflight passed and failed", {"m/preflight.json": {"failure_class": "SYSTEMIC"}}, "failure_class is SYSTEMIC"
    ),
    # verdict.json by hand, after which nothing runs but the bundle
    Fault("verdict's decision", {VERDICT: {"decision": "ACCEPT"}}, "the decision is ACCEPT", ()),
    Fault("verdict's pass", {VERDICT: {"pass": True}}, "only an accepted release", ()),
    Fault("verdict accepted", {VERDICT: PASSES}, "is not what its evidence gives", ()),
    Fault("verdict with a class", {VERDICT: {**PASSES, "failure_class": "UNKNOWN"}}, "failure_class is UNKNOWN", ()),
    Fault("verdict of another recipe", {VERDICT: {**PASSES, "recipe": "o"}}, "recipe is 'o'", ()),
    Fault("verdict of another policy", {VERDICT: {**PASSES, "policy.threshold": 0.9}}, "policy.threshold is 0.9", ()),
    Fault("verdict without a run", {VERDICT: {**PASSES, "evidence.candidate_run": None}}, "candidate_run", ()),
    Fault(
        "verdict names another file", {VERDICT: {**PASSES, "evidence.comparison.sha256": SHA}}, "has changed since", ()
    ),
    Fault("verdict's checkpoint", {VERDICT: {**PASSES, "digests.checkpoint_digest": SHA}}, "of another checkpoint", ()),
    Fault("verdict and comparison", {VERDICT: PASSES, COMPARISON: {**PASSES, **SAYS}}, "has changed since", ()),
    Fault("a mistyped decision", {VERDICT: {"decision": "accept"}}, "only an accepted release", ()),
]


def edit(path, changes):
    """Replace keys of a JSON file; None for a key with dots removes it."""
    content = read_json(path)
    for place, value in changes.items():
        *outer, last = place.split(".") if not place.startswith("evidence.") else place.split(".", 2)
        inner = content
        for key in outer:
            inner = inner[key]
        if value is None and outer:
            inner.pop(last)
        else:
            inner[last] = value
    write_json(path, content)


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """A release that lost 5 of 100 answers, and one with another sound run, as the graph leaves them."""
    folder = tmp_path_factory.mktemp("lossy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_accepted_release(folder)
        shutil.copytree("m/fp8/s", "sound_run")
        shutil.copy(COMPARISON, "sound_comparison.json")
        run("fp8", read_json("m/fp8/quantization.json")["checkpoint_digest"], SAMPLES * 95 // 100)
        assert compare_again().returncode == 0
        assert decide_on()["decision"] == "REGRESSION"
    return folder


@pytest.fixture
def release(lossy, tmp_path, monkeypatch):
    """A copy of it in the working directory."""
    folder = shutil.copytree(lossy, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def go_on(then=("compare", "decide")):
    """Run the stages, then ask for the bundle; what they say, of which nothing may be an acceptance."""
    said = ""
    for stage in then:
        if stage == "compare":
            done = compare_again()
            said += done.stdout + done.stderr
            if done.returncode == 2:  # the graph ends here, with a verdict that says why
                return said
        else:
            try:
                verdict = decide_on()
            except AssertionError as refused:
                return said + str(refused)
            said += verdict["detail"]
    done = bundle()
    assert done.returncode != 0 and not Path("m/fp8/release").exists(), "wrong ACCEPT"
    return said + done.stdout + done.stderr


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_edited_evidence_never_reaches_a_bundle(release, fault):
    for path, changes in fault.edits.items():
        edit(path, changes)
    said = go_on(fault.then)
    assert fault.said in said, said
    assert "Traceback" not in said


def swap_run(release):
    """The sound run of an earlier checkpoint in the place of the candidate's."""
    shutil.rmtree("m/fp8/s")
    shutil.copytree("sound_run", "m/fp8/s")


def of_the_sound_comparison(release):
    shutil.copy("sound_comparison.json", COMPARISON)


def sealed_sound_comparison(release):
    """The same with the digests of the runs that lie there, and of its own in the verdict."""
    content = read_json("sound_comparison.json")
    write_json(COMPARISON, content | {"candidate_sha256": digest_of_file(CANDIDATE)})


def samples_edited(release):
    """Every answer right in the samples, whose score stays."""
    path = Path("m/fp8/s/samples/addition.jsonl")
    path.write_text(path.read_text().replace('"score": 0.0', '"score": 1.0'))


def samples_cut(release):
    path = Path("m/fp8/s/samples/addition.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[: SAMPLES // 2]))


def samples_gone(release):
    shutil.rmtree("m/fp8/s/samples")


def results_edited(release):
    path = Path("m/fp8/s/results.yml")
    path.write_text(path.read_text().replace("0.95", "1.0"))


def key_twice(release):
    path = Path(COMPARISON)
    path.write_text(
        path.read_text().replace('"decision": "REGRESSION"', '"decision": "REGRESSION", "decision": "ACCEPT"', 1)
    )


def half_written(release):
    path = Path(COMPARISON)
    path.write_text(path.read_text()[:-300])


def is_empty(release):
    Path(COMPARISON).write_text("")


def is_binary(release):
    Path(COMPARISON).write_bytes(bytes(range(256)))


def weights_replaced(release):
    Path("m/fp8/checkpoint/model.safetensors").write_bytes(b"another" * 300)


def accepted_by_hand(release):
    edit(VERDICT, PASSES)


SWAPS = [
    ("the comparison of another run", of_the_sound_comparison, ("decide",), "the candidate's run has digest"),
    ("that comparison with its digests mended", sealed_sound_comparison, ("decide",), "candidate's score"),
    ("samples edited, all again", samples_edited, ("compare", "decide"), "addition"),
    ("samples cut, all again", samples_cut, ("compare", "decide"), "samples of the baseline are not"),
    ("samples gone, all again", samples_gone, ("compare", "decide"), "addition"),
    ("results edited, compared again", results_edited, ("compare",), "which changed since it was assessed"),
    ("a key twice", key_twice, ("decide",), "stands twice"),
    ("half a file", half_written, ("decide",), "does not parse"),
    ("an empty file", is_empty, ("decide",), "does not parse"),
    ("no text", is_binary, ("decide",), "UTF-8"),
    (
        "weights replaced, verdict by hand",
        lambda r: (weights_replaced(r), accepted_by_hand(r)),
        (),
        "since it was quantized",
    ),
    (
        "samples edited, verdict by hand",
        lambda r: (samples_edited(r), accepted_by_hand(r)),
        (),
        "is not what its evidence",
    ),
    (
        "results edited, verdict by hand",
        lambda r: (results_edited(r), accepted_by_hand(r)),
        (),
        "which changed since it was",
    ),
]


@pytest.mark.parametrize(("name", "change", "then", "said"), SWAPS, ids=[row[0] for row in SWAPS])
def test_swapped_evidence_never_reaches_a_bundle(release, name, change, then, said):
    change(release)
    told = go_on(then)
    assert said in told, told
    assert "Traceback" not in told


def test_the_release_itself_is_bundled_where_nothing_was_touched(release):
    """The faults are refused for what they are: the sound run, compared and decided on by the stages, is bundled."""
    swap_run(release)
    assert compare_again().returncode == 0
    assert decide_on()["decision"] == "ACCEPT"
    done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(Path("m/fp8/release/evidence/verdict.json").read_text())["decision"] == "ACCEPT"


def test_what_is_edited_can_be_read(release):
    """The faults above are no slips of this file: each edited key is one that the file has, or adds."""
    with pytest.raises(UnusableInput):
        read_json("nowhere.json")
    for fault in FAULTS:
        for path in fault.edits:
            assert Path(path).is_file(), fault.name
