"""Speed evidence that was edited, swapped or lost: no release is accepted by it, and none is bundled with it."""

import json
from pathlib import Path

import pytest
from accepted_release import bundle, by_hand, compare_again, decide_on, make_accepted_release

import gate_run
from day0.base.artefacts import digest_of_file, read_json, write_json
from verify_release import verify

COMPARISON, VERDICT = Path("m/fp8/comparison.json"), Path("m/fp8/verdict.json")
SPEED, RUN = Path("m/fp8/s/speed.json"), Path("m/fp8/s/run.json")
BASELINE_SPEED = Path("m/baseline/s/speed.json")
POLICY = {"threshold": 0.01, "criterion": "point", "tiers": {"addition": "critical"}, "min_speedup": 1.2}
RATES = ([1000, 1010, 990], [1500, 1520, 1480])
SLOW = ([1000, 1010, 990], [1100, 1110, 1090])


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A release that is as fast as its guard asks."""
    monkeypatch.chdir(tmp_path)
    return make_accepted_release(tmp_path, rates=RATES, policy={"min_speedup": 1.2})


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A release whose scores hold, but that is not as fast as its guard asks."""
    monkeypatch.chdir(tmp_path)
    return make_accepted_release(tmp_path, rates=SLOW, policy={"min_speedup": 1.2})


def edit(path, **changes):
    content = read_json(path)
    for key, value in changes.items():
        place = content
        *outer, last = key.split("__")
        for name in outer:
            place = place[int(name) if isinstance(place, list) else name]
        place[last] = value
    write_json(path, content)


def assessed_again():
    return by_hand(gate_run, "--run", "m/fp8/s", "--suite", "config/suites/s.yaml", "--output", RUN, "--assess")


def bundled():
    return bundle(policy=POLICY)


def test_the_sound_release_is_accepted_by_its_speed_and_bundled_with_it(release):
    verdict = read_json(VERDICT)
    assert verdict["decision"] == "ACCEPT" and verdict["speed"]["is_native"], verdict["detail"]
    assert verdict["speed"]["least_ratio"] > 1.2
    done = bundled()
    assert done.returncode == 0, done.stdout + done.stderr
    evidence = release / "release" / "evidence"
    assert json.loads((evidence / "candidate_run_speed.json").read_text()) == read_json(SPEED)
    assert verify(release / "release")[0] == []
    (evidence / "candidate_run_speed.json").write_text("{}")
    assert any("candidate_run_speed.json" in problem for problem in verify(release / "release")[0])


def test_the_slow_release_is_a_regression_whatever_is_edited_afterwards(slow):
    verdict = read_json(VERDICT)
    assert (verdict["decision"], verdict["failure_class"]) == ("REGRESSION", "TOO_SLOW"), verdict["detail"]


FASTER = {f"repeats__{number}__output_tokens_per_second": 1500.0 for number in range(3)}
ACCEPTED = {"pass": True, "decision": "ACCEPT", "failure_class": None, "failure_classes": []}


def test_a_faster_repeat_written_by_hand_is_refused_by_each_stage(slow):
    edit(SPEED, **FASTER)
    done = assessed_again()
    assert done.returncode == 0 and read_json(RUN)["pass"] is False
    assert "speed.json: its sha256 is not the one that the run recorded" in read_json(RUN)["detail"]
    done = compare_again(POLICY)
    assert done.returncode != 0 and "speed.json: sha256: found" in done.stderr and "Traceback" not in done.stderr


def test_a_lost_speed_is_named_with_the_way_to_measure_it_again(slow):
    SPEED.unlink()
    assessed_again()
    said = read_json(RUN)["detail"]
    assert read_json(RUN)["pass"] is False and "found no such file" in said
    assert "measure again by `snakemake --force m/fp8/s/results.yml`" in said
    done = compare_again(POLICY)
    assert done.returncode != 0 and "speed.json: sha256: found no such file" in done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (ACCEPTED, "is_native True, least_ratio 1.0"),
        (ACCEPTED | {"speed__least_ratio": 1.5}, "is not what its evidence gives"),
        (ACCEPTED | {"speed": None}, "speed has digest"),
        (ACCEPTED | {"speed__candidate_sha256": "0" * 64}, "the candidate's speed has digest"),
        (ACCEPTED | {"speed__baseline_sha256": None}, "the baseline's speed has digest"),
    ],
)
def test_a_speed_edited_in_the_comparison_never_makes_a_bundle(slow, changes, said):
    edit(COMPARISON, **changes)
    verdict = decide_on(policy=POLICY)
    done = bundled()
    assert done.returncode != 0 and not (slow / "release").exists()
    assert said in verdict["detail"] + done.stdout + done.stderr, verdict["detail"] + done.stdout + done.stderr


def test_the_speed_of_the_other_side_is_no_speed_of_this_one(release):
    SPEED.write_bytes(BASELINE_SPEED.read_bytes())
    metadata = Path("m/fp8/s/results.yml")
    old = read_json(RUN)["speed_digest"]
    metadata.write_text(metadata.read_text().replace(old, digest_of_file(SPEED)))
    assessed_again()
    assert read_json(RUN)["pass"] is False
    assert "speed.json: identity.candidate: found baseline, its run has fp8" in read_json(RUN)["detail"]


@pytest.mark.parametrize("name", ["baseline_run_speed.json", "candidate_run_speed.json"])
def test_a_speed_that_changes_after_the_verdict_is_not_bundled(release, name):
    path = BASELINE_SPEED if name.startswith("baseline") else SPEED
    edit(path, detail="mended")
    done = bundled()
    assert done.returncode != 0 and f"{path} has changed since the verdict" in done.stdout
    path.unlink()
    assert bundled().returncode != 0
