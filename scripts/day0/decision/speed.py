"""What the servers of two runs show of speed: their ratio with its spread, and what ``min_speedup`` makes of it.

``compare_speed`` is pure: it holds two speed.json against each other. A ratio is made only where both sides were
measured whole, under one load, by the same client, engine, device and settings; else the sentence says what differs.
The ratio of output tokens per second is that of the means of the logarithms over the repeats, its interval Welch's
(day0/statistics/ratio.py). It holds for these two servers on their machines: another start of a server, or another
node of the same kind, is not in it.

A ratio is called a speedup only where no kernel was emulated or quantized the weights only, on either side, by the
engine's log (day0/serving/engine_log.py): else it is the emulation's, not the format's.

``min_speedup`` is a guard like ``max_token_growth``. The lower end of the ratio (one-sided 95 %) must reach it. Where
the upper end does not, the candidate is REGRESSION with TOO_SLOW; where the repeats do not decide, or there is no ratio
that may be called a speedup, the release is ANOMALOUS with INSUFFICIENT_EVIDENCE, never an ACCEPT. What the scores
decide leads over it, and nothing else of speed decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from day0.decision.comparability import Run
from day0.decision.failures import COMPARISON_STAGE, decide
from day0.decision.policy import Problem
from day0.decision.quoting import printable
from day0.records.comparison import Comparison
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import Policy
from day0.records.results import ServerFacts
from day0.records.speed import Load, Speed, SpeedComparison, SpeedMeasure
from day0.statistics.ratio import ratio_of_repeats

# Of the servers, what must be alike; the rest is what quantization changes by its nature.
SERVED_ALIKE = ("engine", "engine_version", "image", "device", "device_name", "max_model_len", "options_digest")
MEASURED_ALIKE = ("client", "seed", "gpus", "nodes")
CONFIDENCE = 0.95
REPEAT_MORE = (
    "Raise repeats or requests under the model's speed, so that the interval of the ratio narrows, then rerun."
)
MEASURE = (
    "Correct what the detail names, so that both sides are measured whole, under one load and on one kind of machine, "
    "then rerun; or leave min_speedup out."
)
MEASURE_NATIVELY = (
    "Measure on hardware that has the format's own arithmetic, where the engine needs no emulation, then rerun; or "
    "leave min_speedup out."
)
SET_A_LOAD = "Set models.{model}.speed, so that both sides are measured, then rerun; or leave min_speedup out."


def compare_speed(baseline: Run, candidate: Run) -> SpeedComparison | None:
    """Hold the speed of two runs against each other; None where neither was put under load."""
    sides = {"baseline": baseline.speed, "candidate": candidate.speed}
    if not any(sides.values()):
        return None
    old, new = baseline.speed, candidate.speed
    found: dict[str, Any] = {
        "baseline_sha256": baseline.assessment.get("speed_digest"),
        "candidate_sha256": candidate.assessment.get("speed_digest"),
        "emulation": _emulation(sides),
    }
    for name, speed in sides.items():
        if speed is not None:
            found |= {"load": found.get("load") or speed.load, f"{name}_memory": speed.memory}
    lacking = [_lacking(name, speed) for name, speed in sides.items() if speed is None or speed.status != "MEASURED"]
    differences = lacking or (_differences(old, new) if old and new else [])
    if differences or old is None or new is None:
        sentence = f"No ratio of speed: {'; '.join(differences)}."
        return SpeedComparison(sentence=sentence, is_native=False, differences=differences, **found)
    throughput = _measure(*([repeat.output_tokens_per_second for repeat in side.repeats] for side in (old, new)))
    waits: dict[str, Any] = {
        name: _measure(*([getattr(repeat, name).mean for repeat in side.repeats] for side in (old, new)))
        for name in ("time_to_first_token_ms", "time_per_output_token_ms")
    }
    # The ends of a two-sided interval of 90 % are the one-sided bounds of 95 %.
    least, largest = ratio_of_repeats(throughput.baseline, throughput.candidate, 2 * CONFIDENCE - 1).interval
    is_native = found["emulation"] is None
    return SpeedComparison(
        sentence=_sentence(throughput, waits, old.load, found["emulation"]),
        is_native=is_native,
        output_tokens_per_second=throughput,
        **waits,
        least_ratio=least,
        largest_ratio=largest,
        **found,
    )


def hold_speed(comparison: Comparison, rules: Policy, model: object) -> Comparison:
    """A comparison with ``min_speedup`` held against its ratio; what was wrong before, or a loss of score, leads."""
    required = rules.min_speedup
    if required is None:
        return comparison
    found = _guard_problem(comparison.speed, required, printable(model))
    if found is None:
        return comparison
    (failure_class, sentence), next_action = found
    if comparison.failure_class is not None:
        classes = list(dict.fromkeys([*comparison.failure_classes, failure_class]))
        return comparison.model_copy(update={"failure_classes": classes, "detail": f"{comparison.detail} {sentence}."})
    if comparison.decision is Decision.REGRESSION:
        return comparison.model_copy(update={"detail": f"{comparison.detail} {sentence}."})
    triage = decide(failure_class, COMPARISON_STAGE)
    return comparison.model_copy(
        update={
            "passed": False,
            "decision": triage.decision,
            "failure_class": failure_class,
            "failure_classes": [failure_class],
            "detail": f"{sentence}. {comparison.detail}",
            "next_action": next_action or triage.next_action,
        }
    )


def _guard_problem(speed: SpeedComparison | None, required: float, model: str) -> tuple[Problem, str | None] | None:
    """What ``min_speedup`` has against the candidate, and the next action where it is not the class's own."""
    undecided = FailureClass.INSUFFICIENT_EVIDENCE
    cannot = f"min_speedup {required:g} cannot be held"
    if speed is None:
        return (undecided, f"{cannot}: neither side's speed was measured"), SET_A_LOAD.format(model=model)
    if speed.least_ratio is None or speed.largest_ratio is None:
        return (undecided, f"{cannot}: {'; '.join(speed.differences)}"), MEASURE
    if not speed.is_native:
        return (undecided, f"{cannot}: the ratio is no speedup of the format. {speed.emulation}".rstrip(".")), (
            MEASURE_NATIVELY
        )
    if speed.least_ratio >= required:
        return None
    if speed.largest_ratio < required:
        return (
            FailureClass.TOO_SLOW,
            f"The candidate is not as fast as min_speedup asks: its throughput is at most {speed.largest_ratio:.3g} "
            f"times the baseline's (one-sided 95 %), expected {required:g}",
        ), None
    return (
        undecided,
        f"{cannot}: the candidate's throughput is between {speed.least_ratio:.3g} and {speed.largest_ratio:.3g} times "
        "the baseline's (each one-sided 95 %), and the repeats do not tell on which side of it",
    ), REPEAT_MORE


def _lacking(name: str, speed: Speed | None) -> str:
    if speed is None:
        return f"the {name}'s server was not put under load"
    word = "failed" if speed.status == "FAILED" else "was not made"
    return f"the measurement of the {name} {word}: {printable(speed.detail).rstrip('.')}"


def _differences(old: Speed, new: Speed) -> list[str]:
    """In what the two sides were measured differently, besides what quantization changes by its nature."""
    pairs = [(f"load.{name}", getattr(old.load, name), getattr(new.load, name)) for name in Load.model_fields]
    pairs += [(name, getattr(old, name), getattr(new, name)) for name in MEASURED_ALIKE]
    pairs += [(f"server.{name}", getattr(old.server, name), getattr(new.server, name)) for name in SERVED_ALIKE]
    return [
        f"not comparable, {name} is {printable(one)} in the baseline and {printable(other)} in the candidate"
        for name, one, other in pairs
        if one != other
    ]


def _emulation(sides: dict[str, Speed | None]) -> str | None:
    found = {name: _not_native(speed.server) for name, speed in sides.items() if speed and speed.server}
    return " ".join(f"Of the {name}: {sentence}" for name, sentence in found.items() if sentence) or None


def _not_native(server: ServerFacts) -> str | None:
    if server.emulation:
        return printable(server.emulation)
    if server.device == "cpu" and server.quantization:
        return f"{printable(server.quantization)} on a CPU, where the engine's kernels say nothing of a GPU's speed."
    return None


def _measure(old: Sequence[float], new: Sequence[float]) -> SpeedMeasure:
    found = ratio_of_repeats(old, new, CONFIDENCE)
    return SpeedMeasure(baseline=list(old), candidate=list(new), ratio=found.ratio, interval=list(found.interval))


def _sentence(throughput: SpeedMeasure, waits: dict[str, SpeedMeasure], load: Load, emulation: str | None) -> str:
    old, new = (sum(values) / len(values) for values in (throughput.baseline, throughput.candidate))
    first, each = waits["time_to_first_token_ms"], waits["time_per_output_token_ms"]
    text = (
        f"{throughput.ratio:.3g} times the baseline's output tokens per second (95 % interval "
        f"{throughput.interval[0]:.3g} to {throughput.interval[1]:.3g}): {old:,.1f} to {new:,.1f}, time to first token "
        f"{first.ratio:.3g} times, time per output token {each.ratio:.3g} times, over {load.repeats} repeats of "
        f"{load.requests:,} requests, {load.concurrency} at a time, {load.input_tokens:,} tokens in and "
        f"{load.output_tokens:,} out"
    )
    if emulation is not None:
        return f"No speedup of the format, for it was not served natively: {text}. {emulation}"
    return f"Speed: {text}."
