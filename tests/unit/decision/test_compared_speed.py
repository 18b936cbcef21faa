"""The speed of both sides: its ratio, what may be called a speedup, and the guard ``min_speedup``."""

import dataclasses

import pytest
from decision_input import compare_runs, run, sha
from measured_speed import LOAD, repeat_of, speed_of, unmeasured
from pydantic import ValidationError

from day0.decision.failures import CONSEQUENCES
from day0.records.failure_class import FailureClass
from day0.records.speed import Load, Speed

EMULATED = "The quantized format was emulated: values are rounded as the format does."
BASELINE = speed_of(1000, 1010, 990)
FASTER = speed_of(1500, 1520, 1480)


def with_speed(speed, **changes):
    """A run whose server showed this; None: it was not put under load."""
    digest = None if speed is None else sha(speed.detail)
    return dataclasses.replace(run(speed_digest=digest, **changes), speed=speed)


def decided(candidate, baseline=BASELINE, correct=390, **policy):
    """(decision, class, comparison) of two runs with this speed."""
    result = compare_runs(
        with_speed(baseline), with_speed(candidate, correct=correct), {"criterion": "point", **policy}
    )
    return result["decision"], result["failure_class"], result


def test_the_ratio_of_a_native_format_is_a_speedup_with_its_interval():
    decision, _, result = decided(FASTER)
    speed = result["speed"]
    assert decision == "ACCEPT" and speed["is_native"] and speed["emulation"] is None
    throughput = speed["output_tokens_per_second"]
    assert throughput["baseline"] == [1000, 1010, 990] and throughput["ratio"] == pytest.approx(1.5, rel=1e-3)
    low, high = throughput["interval"]
    assert 1.4 < low < speed["least_ratio"] < 1.5 < speed["largest_ratio"] < high < 1.6
    assert speed["time_per_output_token_ms"]["ratio"] == pytest.approx(1 / 1.5, rel=1e-3)
    assert speed["sentence"].startswith("Speed: 1.5 times the baseline's output tokens per second (95 % interval 1.4")
    assert "3 repeats of 16 requests, 4 at a time, 24 tokens in and 16 out" in speed["sentence"]
    assert speed["baseline_memory"]["gpu_bytes"] == 150 * 10**9
    assert speed["baseline_sha256"] == speed["candidate_sha256"] == sha("measured")


def test_without_a_load_there_is_no_speed_and_it_decides_nothing():
    assert decided(None, None)[2]["speed"] is None


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_an_emulated_or_weight_only_kernel_is_said_and_never_called_a_speedup(side):
    sides = {"baseline": BASELINE, "candidate": FASTER}
    sides[side] = speed_of(1500, 1520, 1480, server={"emulation": EMULATED})
    speed = decided(**sides)[2]["speed"]
    assert not speed["is_native"] and speed["emulation"] == f"Of the {side}: {EMULATED}"
    assert speed["sentence"].startswith("No speedup of the format") and EMULATED in speed["sentence"]
    assert "Speed:" not in speed["sentence"] and speed["output_tokens_per_second"] is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load": {"concurrency": 8}}, "load.concurrency is 4 in the baseline and 8 in the candidate"),
        ({"load": {"input_tokens": 32}}, "load.input_tokens is 24"),
        ({"server": {"device_name": "NVIDIA H200"}}, "server.device_name is NVIDIA B200"),
        ({"server": {"engine_version": "0.33.0"}}, "server.engine_version is 0.32.0"),
        ({"server": {"options_digest": sha("other")}}, "server.options_digest"),
        ({"server": {"max_model_len": 128}}, "server.max_model_len is 64"),
        ({"gpus": 2}, "gpus is 1"),
        ({"nodes": 2}, "nodes is 1"),
        ({"client": "vllm bench serve 0.33.0"}, "client is vllm bench serve 0.32.0"),
        ({"seed": 1}, "seed is 1234"),
    ],
)
def test_sides_that_were_measured_differently_have_no_ratio(changes, said):
    decision, _, result = decided(speed_of(1500, 1520, 1480, **changes))
    speed = result["speed"]
    assert decision == "ACCEPT" and said in speed["sentence"]  # of speed alone; the scores are compared all the same
    assert speed["output_tokens_per_second"] is None and not speed["is_native"]
    decision, failure_class, result = decided(speed_of(1500, 1520, 1480, **changes), min_speedup=1.1)
    assert (decision, failure_class) == ("ANOMALOUS", "INSUFFICIENT_EVIDENCE") and said in result["detail"]


def test_a_quantized_format_on_a_cpu_shows_no_speedup():
    baseline = speed_of(1000, 1010, 990, server={"device": "cpu"})
    candidate = speed_of(1500, 1520, 1480, server={"device": "cpu", "quantization": "modelopt"})
    speed = decided(candidate, baseline)[2]["speed"]
    assert not speed["is_native"] and "modelopt on a CPU" in speed["sentence"]
    assert decided(candidate, baseline, min_speedup=1.1)[:2] == ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")


def test_what_quantization_changes_by_its_nature_is_no_difference():
    served = {"quantization": "modelopt_fp4", "kv_cache_dtype": "fp8", "kernels": ["CutlassNvFp4LinearKernel"]}
    assert decided(speed_of(1500, 1520, 1480, server=served))[2]["speed"]["is_native"]


GUARDED = {
    "reached": (FASTER, 1.2, ("ACCEPT", None), None),
    "reached by its lower end": (speed_of(1400, 1500, 1600), 1.2, ("ACCEPT", None), None),
    "not by its lower end": (
        speed_of(1100, 1500, 1900),
        1.2,
        ("ANOMALOUS", "INSUFFICIENT_EVIDENCE"),
        "Raise repeats",
    ),
    "too slow": (FASTER, 2.0, ("REGRESSION", "TOO_SLOW"), "not as fast as the policy asks"),
    "slower than its baseline": (speed_of(800, 810, 790), 1.0, ("REGRESSION", "TOO_SLOW"), "lower min_speedup"),
    "emulated": (
        speed_of(9000, 9010, 9020, server={"emulation": EMULATED}),
        1.2,
        ("ANOMALOUS", "INSUFFICIENT_EVIDENCE"),
        "hardware that has the format's own arithmetic",
    ),
    "failed": (unmeasured(), 1.2, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE"), "both sides are measured whole"),
    "not made": (
        unmeasured("NOT_MEASURED", "the run was stopped early"),
        1.2,
        ("ANOMALOUS", "INSUFFICIENT_EVIDENCE"),
        "both sides are measured whole",
    ),
    "of one side alone": (None, 1.2, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE"), "both sides are measured whole"),
}


@pytest.mark.parametrize("case", GUARDED)
def test_the_guard_of_speed_is_proven_or_it_is_no_accept(case):
    candidate, required, expected, action = GUARDED[case]
    decision, failure_class, result = decided(candidate, min_speedup=required)
    assert (decision, failure_class) == expected, result["detail"]
    assert result["pass"] is (decision == "ACCEPT")
    if action:
        assert action in result["next_action"] and f"{required:g}" in result["detail"]
    assert decided(candidate)[0] == "ACCEPT", "without the guard, speed decides nothing"


def test_a_guard_without_any_measurement_is_not_decided_and_says_what_to_set():
    decision, failure_class, result = decided(None, None, min_speedup=1.2)
    assert (decision, failure_class) == ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")
    assert "Set models.m.speed" in result["next_action"]


def test_a_loss_of_score_leads_over_speed():
    decision, failure_class, result = decided(speed_of(800, 810, 790), correct=300, min_speedup=1.2)
    assert (decision, failure_class) == ("REGRESSION", None) and "not as fast as min_speedup" in result["detail"]


def test_a_measurement_that_failed_is_no_loss_of_the_candidate():
    decision, _, result = decided(unmeasured())
    assert decision == "ACCEPT" and "the measurement of the candidate failed: repeat 2" in result["speed"]["sentence"]


def test_a_slower_candidate_is_told_what_to_do():
    assert CONSEQUENCES[FailureClass.TOO_SLOW].decision == "REGRESSION"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repeats": [repeat_of(1000)] * 2}, "repeats"),
        ({"repeats": [repeat_of(1000)] * 2 + [repeat_of(1000) | {"requests": 15}]}, "repeats[2]"),
        ({"repeats": [repeat_of(1000)] * 2 + [repeat_of(1000) | {"output_tokens": 255}]}, "255 tokens"),
        ({"status": "FAILED"}, "a status of FAILED has 0"),
        ({"server": None}, "server"),
        ({"client": None}, "client"),
    ],
)
def test_a_partial_measurement_is_no_record(changes, said):
    content = speed_of(1000, 1000, 1000).as_plain()
    Speed.model_validate(content)
    with pytest.raises(ValidationError, match=said.replace("[", r"\[").replace("]", r"\]")):
        Speed.model_validate(content | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"requests": 2}, "more than the 2 requests"),
        ({"repeats": 2}, "repeats"),
        ({"output_tokens": 1}, "output_tokens"),
        ({"warmup": -1}, "warmup"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"rate": 3}, "rate"),
    ],
)
def test_a_load_that_cannot_be_measured_is_refused(changes, said):
    Load.model_validate(LOAD)
    with pytest.raises(ValidationError, match=said):
        Load.model_validate(LOAD | changes)
