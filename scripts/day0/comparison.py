"""The decision: is the candidate no worse than the baseline, task by task, by more than the limit?

``evaluate_comparison`` judges two plain ``{task: score}`` mappings; ``compare_runs`` judges two assessed runs, checks
first that they were made alike, and adds the paired evidence of their samples. Both are pure and total: whatever is
wrong with the input becomes an ANOMALOUS result that says what, never an exception and never a pass.

A task is within its limit if its drop (positive = worse, whatever the scale's direction) is at most ``threshold`` times
the width of its scale or, with ``relative``, at most ``threshold`` times the baseline's score. Tiers "critical" and
"supporting" block; "advisory" is reported.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from day0.statistics import CONCLUSIVE, INCONCLUSIVE, paired_evidence
from day0.triage import ACCEPT, ANOMALOUS, BASELINE_STAGE, COMPARISON_STAGE, REGRESSION, decide

DEFAULT_THRESHOLD = 0.01
ANOMALOUS_GAIN = 0.05  # of the scale: quantization does not teach a model anything
TOLERANCE = 1e-9  # of the scale: a drop of 0.90 to 0.89 is 0.01, not 0.010000000000000009
HIGHER, LOWER = "higher", "lower"
BLOCKING_TIERS = ("critical", "supporting")
TIERS = (*BLOCKING_TIERS, "advisory")
POLICY_KEYS = ("threshold", "relative", "scales", "tiers", "require_fingerprints")

# What quantization changes by its nature; every other field of a fingerprint must be the same on both sides.
CHANGED_BY_QUANTIZATION = frozenset(
    {
        "candidate",
        "checkpoint",
        "checkpoint_digest",
        "dtype",
        "emulated",
        "emulation",
        "kv_cache_dtype",
        "quantization",
    }
)
NOT_TOLD = "not told by an imported run"
FLIPS_SHOWN = 20
TEXT_SHOWN = 200

Problem = tuple[str, str]  # failure class and the sentence that says what is wrong


@dataclass(frozen=True)
class Scale:
    """Range of a task's scores and the direction that is better."""

    minimum: float
    maximum: float
    direction: str = HIGHER

    @property
    def width(self) -> float:
        return self.maximum - self.minimum

    def as_dict(self) -> dict[str, Any]:
        return {"min": self.minimum, "max": self.maximum, "direction": self.direction}


@dataclass(frozen=True)
class Run:
    """One evaluated checkpoint: the assessment of its run, the metadata of its results.yml and its samples per task."""

    assessment: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def evaluate_comparison(
    baseline: Mapping[str, Any],
    candidate: Mapping[str, Any],
    threshold: float = DEFAULT_THRESHOLD,
    relative: bool = False,
    scales: Mapping[str, Any] | None = None,
    tiers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Decide over two mappings of task to score.

    Args:
        baseline, candidate: score per task, native units; anything but a finite number makes the result ANOMALOUS.
        threshold: allowed drop, 0 <= threshold < 1: a fraction of the scale's width, or of the baseline's score.
        relative: the threshold is a fraction of the baseline's score.
        scales: per task a number (the maximum, from 0, higher is better) or {min, max, direction}; an undeclared
            scale ends at 1 where both scores lie in [0, 1], else at 100.
        tiers: per task critical, supporting or advisory; critical where not named.

    Returns:
        {pass, decision, failure_class, detail, threshold, relative, tasks: {task: {baseline, candidate, drop,
        drop_fraction, limit, within, tier, scale, note}}}. Tasks are sorted by name, the detail puts the worst first.
    """
    return _evaluate(baseline, candidate, threshold, relative, scales, tiers, [])


def compare_runs(baseline: Run, candidate: Run, policy: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Decide over two assessed runs, with comparability and paired evidence.

    Args:
        baseline, candidate: the runs; an assessment's ``scores`` hold {task: {score, metric, scale, tier, ...}}.
        policy: threshold, relative, scales and tiers as in ``evaluate_comparison`` (scales and tiers override those of
            the runs), require_fingerprints (default True: runs that do not say how they were made are NOT_COMPARABLE).

    Returns:
        As ``evaluate_comparison``, with metric and ``paired`` per task, ``comparability`` {pass, checked, fields,
        differences: [{task, field, baseline, candidate}]}, ``evidence`` and ``evidence_sentence``, ``next_action``.
    """
    policy = {} if policy is None else policy
    wrong_policy = _policy_problems(policy)
    settings = policy if isinstance(policy, Mapping) else {}
    problems = [*wrong_policy]
    for name, run in (("baseline", baseline), ("candidate", candidate)):
        problems += _run_problems(name, run)
    before, after = _scores_of(baseline), _scores_of(candidate)
    comparability = _comparability(baseline, candidate, settings.get("require_fingerprints", True) is not False)
    problems += [
        ("NOT_COMPARABLE", _difference_sentence(entry, comparability["unknown"]))
        for entry in comparability["differences"]
    ]

    declared_scales = {task: entry["scale"] for task, entry in {**before, **after}.items() if entry.get("scale")}
    declared_tiers = _stricter_tiers(before, after)
    scales, tiers = settings.get("scales") or {}, settings.get("tiers") or {}
    paired, pair_problems = {}, []
    for task in sorted(set(before) & set(after), key=str):
        pairs, problem = _pair(task, baseline.samples.get(task), candidate.samples.get(task))
        paired[task] = pairs
        pair_problems += [(task, problem)] if problem else []
    merged_tiers = {**declared_tiers, **tiers} if isinstance(tiers, Mapping) else tiers
    problems += [
        problem
        for task, problem in pair_problems
        if not isinstance(merged_tiers, Mapping) or merged_tiers.get(task, TIERS[0]) != "advisory"
    ]
    result = _evaluate(
        {task: entry.get("score") for task, entry in before.items()},
        {task: entry.get("score") for task, entry in after.items()},
        settings.get("threshold", DEFAULT_THRESHOLD),
        settings.get("relative", False),
        {**declared_scales, **scales} if isinstance(scales, Mapping) else scales,
        merged_tiers,
        problems,
    )
    for task, (_, sentence) in pair_problems:
        if task in result["tasks"]:
            result["tasks"][task]["note"] = result["tasks"][task]["note"] or sentence
    for task, entry in result["tasks"].items():
        entry["metric"] = _plain(after.get(task, before.get(task, {})).get("metric"))
        entry["paired"] = _paired_of_task(entry, paired.get(task))
    result["evidence"], result["evidence_sentence"] = _overall_evidence(result)
    result["comparability"] = comparability
    stage = COMPARISON_STAGE
    if result["failure_class"] and baseline.assessment.get("pass") is not True:
        stage = BASELINE_STAGE
    result["decision"], result["next_action"] = decide(result["failure_class"], stage, result["pass"])
    return result


# --- the decision over scores ---------------------------------------------------------------------------------------


def _evaluate(
    baseline: Any,
    candidate: Any,
    threshold: Any,
    relative: Any,
    scales: Any,
    tiers: Any,
    problems: list[Problem],
) -> dict[str, Any]:
    config, tasks, wrong, notes = [], {}, [], []
    config += _threshold_problems(threshold, relative)
    before, after = _mapping("baseline", baseline, config), _mapping("candidate", candidate, config)
    declared_scales = _parse_scales(scales, config)
    declared_tiers = _parse_tiers(tiers, config)
    if not config and not before and not after:
        config.append(("USER_CONFIG_ERROR", "neither side has a score; give at least one task with a score on each"))
    names = sorted(set(before) | set(after), key=str)
    for task in sorted(set(declared_scales) - set(names), key=str):
        config.append(
            ("USER_CONFIG_ERROR", f"scales: {task!r} has a scale but no score on either side; the tasks are {names}")
        )
    if not config:
        names = sorted({*names, *declared_tiers}, key=str)
        for task in names:
            tier = declared_tiers.get(task, TIERS[0])
            entry, problem = _judge(task, before, after, declared_scales.get(task), threshold, relative)
            tasks[task] = {**entry, "tier": tier, "note": problem[1] if problem else None}
            if problem:
                (wrong if tier in BLOCKING_TIERS else notes).append(problem)
        if not any(entry["tier"] in BLOCKING_TIERS for entry in tasks.values()):
            config.append(("USER_CONFIG_ERROR", "every task is advisory, so nothing would block; name one as critical"))
    found = [*config, *problems, *wrong]
    blocking = {task: entry for task, entry in tasks.items() if entry["tier"] in BLOCKING_TIERS}
    within = bool(blocking) and all(entry["within"] is True for entry in blocking.values())
    failure_class = found[0][0] if found else None
    decision = ANOMALOUS if found else decide(None, COMPARISON_STAGE, within).decision
    return {
        "pass": decision == ACCEPT,
        "decision": decision,
        "failure_class": failure_class,
        "detail": _detail(found, notes, tasks, decision),
        "threshold": threshold if _number(threshold) is not None else None,
        "relative": relative is True,
        "tasks": tasks,
    }


def _judge(
    task: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    declared: Scale | None,
    threshold: float,
    relative: bool,
) -> tuple[dict[str, Any], Problem | None]:
    entry: dict[str, Any] = {
        "baseline": _number(before.get(task)),
        "candidate": _number(after.get(task)),
        "drop": None,
        "drop_fraction": None,
        "limit": None,
        "within": None,
        "scale": declared.as_dict() if declared else None,
    }
    sides = (("baseline", before), ("candidate", after))
    missing = [name for name, scores in sides if task not in scores]
    if missing:
        return entry, ("SAMPLE_ACCOUNTING_FAILED", f"{task}: no score from the {' and the '.join(missing)}")
    for name, scores in sides:
        if _number(scores[task]) is None:
            return entry, (
                "SAMPLE_ACCOUNTING_FAILED",
                f"{task}: the {name}'s score is {_short(scores[task])}, expected a finite number",
            )
    old, new = entry["baseline"], entry["candidate"]
    scale = declared or Scale(0.0, 1.0 if 0 <= old <= 1 and 0 <= new <= 1 else 100.0)
    entry["scale"] = scale.as_dict()
    for name, score in (("baseline", old), ("candidate", new)):
        slack = TOLERANCE * scale.width
        if not scale.minimum - slack <= score <= scale.maximum + slack:
            origin = "declared" if declared else "assumed"
            return entry, (
                "UNKNOWN",
                f"{task}: the {name}'s score {score:.6g} is outside its {origin} scale "
                f"{scale.minimum:g} to {scale.maximum:g}; correct the scale or the run",
            )
    drop = old - new if scale.direction == HIGHER else new - old
    limit = threshold * (abs(old) if relative else scale.width)
    entry["drop"], entry["drop_fraction"], entry["limit"] = drop, drop / scale.width, limit
    entry["within"] = bool(drop <= limit + TOLERANCE * scale.width)
    if -drop > (ANOMALOUS_GAIN + TOLERANCE) * scale.width:
        return entry, (
            "UNKNOWN",
            f"{task}: the candidate gains {-drop:.6g} over the baseline ({old:.6g} to {new:.6g}), more than "
            f"{ANOMALOUS_GAIN * 100:g} % of the scale; suspect the baseline's run before the gain",
        )
    return entry, None


def _detail(found: list[Problem], notes: list[Problem], tasks: Mapping[str, Any], decision: str) -> str:
    sentences = list(dict.fromkeys(text for _, text in found))
    measured = [(task, entry) for task, entry in tasks.items() if entry["drop"] is not None]
    worst_first = sorted(
        measured, key=lambda item: (item[1]["tier"] not in BLOCKING_TIERS, -item[1]["drop_fraction"], str(item[0]))
    )
    blocking = [item for item in worst_first if item[1]["tier"] in BLOCKING_TIERS]
    if decision == ACCEPT:
        count = (
            "The only blocking task is within its limit"
            if len(blocking) == 1
            else (f"All {len(blocking)} blocking tasks are within their limits")
        )
        sentences.append(count)
    elif decision == REGRESSION:
        failed = sum(entry["within"] is False for _, entry in blocking)
        sentences.append(f"{failed} of {len(blocking)} blocking tasks dropped by more than the limit")
    sentences += [_task_sentence(task, entry) for task, entry in worst_first if entry["note"] is None]
    sentences += [f"{text} (advisory, does not block)" for _, text in notes]
    return " ".join(f"{text}." for text in sentences)


def _task_sentence(task: str, entry: Mapping[str, Any]) -> str:
    drop, limit = entry["drop"], entry["limit"]
    width = entry["scale"]["max"] - entry["scale"]["min"]
    move = f"{task}: {entry['baseline']:.6g} to {entry['candidate']:.6g}"
    if abs(drop) <= TOLERANCE * width:
        text = f"{move}, no drop (limit {limit:.6g})"
    elif drop < 0:
        text = f"{move}, a gain of {-drop:.6g} (limit for a drop {limit:.6g})"
    else:
        verdict = "within" if entry["within"] else "beyond"
        text = f"{move}, a drop of {drop:.6g}, {verdict} the limit of {limit:.6g}"
    return text if entry["tier"] in BLOCKING_TIERS else f"{text} (advisory, does not block)"


# --- reading what a user gave ---------------------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    """The value as a float, or None where it is no finite number (a bool and a text are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any) -> Any:
    """The value as a JSON artefact can hold it: a text, whole number, bool or finite number, else its text."""
    plain = value is None or isinstance(value, str | bool | int) or _number(value) is not None
    return value if plain else repr(value)


def _mapping(name: str, value: Any, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    problems.append(("USER_CONFIG_ERROR", f"{name}: expected a mapping of task to score, found {_short(value)}"))
    return {}


def _threshold_problems(threshold: Any, relative: Any) -> list[Problem]:
    problems = []
    number = _number(threshold)
    if number is None or not 0 <= number < 1:
        problems.append(
            (
                "USER_CONFIG_ERROR",
                f"threshold: found {_short(threshold)}, expected a number of at least 0 and below 1 "
                "(0.01 allows a drop of 1 % of the scale)",
            )
        )
    if not isinstance(relative, bool):
        problems.append(("USER_CONFIG_ERROR", f"relative: found {_short(relative)}, expected true or false"))
    return problems


def _parse_scales(scales: Any, problems: list[Problem]) -> dict[str, Scale]:
    if scales is None:
        return {}
    parsed = {}
    for task, value in _mapping("scales", scales, problems).items():
        content = value if isinstance(value, Mapping) else {"max": value}
        low, high = _number(content.get("min", 0)), _number(content.get("max"))
        direction = content.get("direction", HIGHER)
        known = set(content) <= {"min", "max", "direction"}
        usable = low is not None and high is not None and low < high and math.isfinite(high - low)
        if known and usable and direction in (HIGHER, LOWER):
            parsed[task] = Scale(low, high, direction)
        else:
            problems.append(
                (
                    "USER_CONFIG_ERROR",
                    f"scales: {task!r}: found {_short(value)}, expected the maximum as a number above 0, or "
                    "{min, max, direction} with min below max and direction higher or lower",
                )
            )
    return parsed


def _parse_tiers(tiers: Any, problems: list[Problem]) -> dict[str, str]:
    if tiers is None:
        return {}
    parsed = _mapping("tiers", tiers, problems)
    for task, tier in parsed.items():
        if not isinstance(tier, str) or tier not in TIERS:
            problems.append(
                ("USER_CONFIG_ERROR", f"tiers: {task!r}: found {_short(tier)}, expected one of {', '.join(TIERS)}")
            )
    return parsed


def _policy_problems(policy: Any) -> list[Problem]:
    if not isinstance(policy, Mapping):
        return [("USER_CONFIG_ERROR", f"policy: expected a mapping, found {_short(policy)}")]
    problems = [
        ("USER_CONFIG_ERROR", f"policy: unknown key {key!r}; the keys are {', '.join(POLICY_KEYS)}")
        for key in policy
        if key not in POLICY_KEYS
    ]
    required = policy.get("require_fingerprints", True)
    if not isinstance(required, bool):
        problems.append(
            ("USER_CONFIG_ERROR", f"policy: require_fingerprints: found {_short(required)}, expected true or false")
        )
    return problems


# --- two runs -------------------------------------------------------------------------------------------------------


def _scores_of(run: Run) -> dict[str, Mapping[str, Any]]:
    scores = run.assessment.get("scores")
    if not isinstance(scores, Mapping):
        return {}
    return {task: entry if isinstance(entry, Mapping) else {"score": entry} for task, entry in scores.items()}


def _run_problems(name: str, run: Run) -> list[Problem]:
    if run.assessment.get("pass") is True:
        return []
    failure_class = run.assessment.get("failure_class") or "UNKNOWN"
    detail = str(run.assessment.get("detail") or "its assessment gives no detail").rstrip(".")
    return [(str(failure_class), f"the {name}'s run did not pass its assessment: {detail}")]


def _stricter_tiers(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    tiers = {}
    for task in {**before, **after}:
        found = [scores[task].get("tier") for scores in (before, after) if task in scores and scores[task].get("tier")]
        if found:  # a tier that is none sorts first, so that it is refused
            tiers[task] = min(found, key=lambda tier: TIERS.index(tier) if tier in TIERS else -1)
    return tiers


def _comparability(baseline: Run, candidate: Run, required: bool) -> dict[str, Any]:
    """Compare how the two runs were made: suite, engine, and every field of every task's fingerprint."""
    before, after = _scores_of(baseline), _scores_of(candidate)
    differences: list[dict[str, Any]] = []
    unknown: list[dict[str, Any]] = []
    fields: set[str] = set()
    imported = [isinstance(run.metadata.get("imported"), Mapping) for run in (baseline, candidate)]

    def not_told(task: str | None, name: str) -> None:
        """An imported run does not tell a field that the other one has."""
        unknown.append({"task": task, "field": name})

    def compare(task: str | None, one: Any, other: Any) -> None:
        old, new = dict(_leaves(one)), dict(_leaves(other))
        for name in sorted(set(old) | set(new)):
            fields.add(name)
            if (imported[0] and name not in old) or (imported[1] and name not in new):
                not_told(task, name)
            elif old.get(name, "absent") != new.get(name, "absent"):
                pair = {
                    side: _plain(found.get(name, "absent")) for side, found in (("baseline", old), ("candidate", new))
                }
                differences.append({"task": task, "field": name, **pair})

    def whole(run: Run) -> dict[str, Any]:
        server = run.metadata.get("server")
        server = server if isinstance(server, Mapping) else {}
        values = {
            "model": run.assessment.get("model"),
            "suite": run.assessment.get("suite"),
            "suite_digest": run.metadata.get("suite_digest"),
            "server.engine": server.get("engine"),
            "server.engine_version": server.get("engine_version"),
        }
        return {name: value for name, value in values.items() if value is not None}

    prints = [run.metadata.get("fingerprint") for run in (baseline, candidate)]
    old_prints, new_prints = ({} if not isinstance(entry, Mapping) else entry for entry in prints)
    checked = bool(old_prints or new_prints or required)
    if checked:
        compare(None, whole(baseline), whole(candidate))
    for task in sorted(set(before) & set(after), key=str):
        described = {
            name: {key: scores[task].get(key) for key in ("metric", "scale") if scores[task].get(key)}
            for name, scores in (("baseline", before), ("candidate", after))
        }
        compare(task, described["baseline"], described["candidate"])
        if not checked:
            continue
        sides = (("baseline", old_prints.get(task)), ("candidate", new_prints.get(task)))
        lacking = [name for name, entry in sides if not isinstance(entry, Mapping) or not entry]
        if lacking and all(imported[("baseline", "candidate").index(name)] for name in lacking):
            not_told(task, "fingerprint")
        elif lacking:
            pair = {name: "absent" if name in lacking else "present" for name, _ in sides}
            differences.append({"task": task, "field": "fingerprint", **pair})
        else:
            compare(task, old_prints[task], new_prints[task])
    for name, run, made_elsewhere in zip(("baseline", "candidate"), (baseline, candidate), imported, strict=True):
        if made_elsewhere and run.assessment.get("checkpoint_digest") is None:
            not_told(None, f"checkpoint_digest of the {name}")
    if required and unknown:
        pair = dict.fromkeys(("baseline", "candidate"), "see unknown")
        differences.append({"task": None, "field": NOT_TOLD, **pair})
    return {
        "pass": not differences,
        "checked": checked,
        "fields": sorted(fields),
        "differences": differences,
        "unknown": unknown,
    }


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Flatten nested mappings to dotted paths, leaving out what quantization changes by its nature."""
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            if key not in CHANGED_BY_QUANTIZATION:
                yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _difference_sentence(entry: Mapping[str, Any], unknown: Sequence[Mapping[str, Any]] = ()) -> str:
    if entry["field"] == NOT_TOLD:
        by_task: dict[str, list[str]] = {}
        for told in unknown:
            by_task.setdefault(f"{told['task']}: " if told["task"] is not None else "", []).append(told["field"])
        fields = "; ".join(f"{task}{', '.join(names)}" for task, names in by_task.items())
        return (
            f"the imported run does not tell, so that it could not be compared: {fields}; evaluate it here, or set "
            "require_fingerprints: false to decide without"
        )
    place = f"{entry['task']}: " if entry["task"] is not None else ""
    if entry["field"] == "fingerprint":
        lacking = " and the ".join(name for name in ("baseline", "candidate") if entry[name] == "absent")
        return f"{place}the {lacking} has no fingerprint, so nothing shows that both runs were made alike"
    return (
        f"{place}not comparable, {entry['field']} is {_short(entry['baseline'])} in the baseline "
        f"and {_short(entry['candidate'])} in the candidate"
    )


Row = Mapping[str, Any]
Pairs = list[tuple[Hashable, Row, Row]]


def _pair(task: str, before: Any, after: Any) -> tuple[Pairs | None, Problem | None]:
    """Pair the two runs' samples by id and repeat; None where a side has no samples or they do not match."""
    if not before or not after:
        return None, None
    indexed = []
    for name, rows in (("baseline", before), ("candidate", after)):
        index: dict[tuple[str, str], Row] = {}
        for number, row in enumerate(rows if isinstance(rows, list | tuple) else [rows], start=1):
            if not isinstance(row, Mapping) or "id" not in row or _number(row.get("score")) is None:
                found = _short(row.get("score") if isinstance(row, Mapping) and "id" in row else row)
                return None, (
                    "SAMPLE_ACCOUNTING_FAILED",
                    f"{task}: sample {number} of the {name} has no id with a finite score, found {found}",
                )
            key = (str(row["id"]), str(row.get("repeat", 0)))
            if key in index:
                return None, (
                    "SAMPLE_ACCOUNTING_FAILED",
                    f"{task}: the {name} scored sample {' repeat '.join(key)} twice",
                )
            index[key] = row
        indexed.append(index)
    old, new = indexed
    if set(old) != set(new):
        missing, extra = sorted(set(old) - set(new)), sorted(set(new) - set(old))
        example = (missing or extra)[0]
        return None, (
            "SAMPLE_ACCOUNTING_FAILED",
            f"{task}: {len(missing)} samples of the baseline are not among the candidate's, {len(extra)} the other way "
            f"round (such as id {example[0]}, repeat {example[1]})",
        )
    for name in ("prompt_digest", "target_digest"):
        differing = [key for key in old if old[key].get(name) != new[key].get(name)]
        if differing:
            return None, (
                "NOT_COMPARABLE",
                f"{task}: {name} differs in {len(differing)} of {len(old)} samples (such as id {min(differing)[0]}: "
                f"{_short(old[min(differing)].get(name))} in the baseline, "
                f"{_short(new[min(differing)].get(name))} in the candidate)",
            )
    in_order = sorted(old, key=lambda key: tuple((len(part), part) for part in key))  # 2 before 10
    return [(key[0], old[key], new[key]) for key in in_order], None


def _paired_of_task(entry: Mapping[str, Any], pairs: Pairs | None) -> dict[str, Any]:
    """Paired evidence of one task in its native units, or why there is none."""
    if entry["drop"] is None:
        return {"evidence": INCONCLUSIVE, "sentence": entry["note"] or "There is no drop to support."}
    if not pairs:
        sentence = entry["note"] or "There are no paired samples; only the two scores were compared."
        return {"evidence": INCONCLUSIVE, "sentence": sentence}
    scale = entry["scale"]
    low, width = scale["min"], scale["max"] - scale["min"]
    for factor, offset in ((1.0, 0.0), (width, low)):
        old = [offset + factor * _number(row["score"]) for _, row, _ in pairs]
        new = [offset + factor * _number(row["score"]) for _, _, row in pairs]
        sides = ((old, entry["baseline"]), (new, entry["candidate"]))
        if all(abs(math.fsum(values) / len(values) - score) <= 1e-4 * width for values, score in sides):
            break
    else:
        sentence = (
            f"The task's scores ({entry['baseline']:.6g}, {entry['candidate']:.6g}) are not the means of its samples, "
            "so the samples do not support them; only the two scores were compared."
        )
        return {"evidence": INCONCLUSIVE, "sentence": sentence}
    groups = [identity for identity, _, _ in pairs]
    evidence = paired_evidence(
        old, new, entry["limit"], groups=groups, width=width, higher_is_better=scale["direction"] == HIGHER
    )
    sign = 1 if scale["direction"] == HIGHER else -1
    flips: dict[str, list[dict[str, Any]]] = {"lost": [], "won": []}
    for identity, before, after in pairs:
        change = sign * (_number(after["score"]) - _number(before["score"]))
        kind = "lost" if change < 0 else "won"
        if change and len(flips[kind]) < FLIPS_SHOWN:
            answers = {name: _text(row.get("answer")) for name, row in (("baseline", before), ("candidate", after))}
            flips[kind].append({"id": identity, "repeat": _plain(before.get("repeat", 0)), **answers})
    return {**evidence, "flips": flips}


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= TEXT_SHOWN else f"{text[: TEXT_SHOWN - 1]}…"


def _overall_evidence(result: Mapping[str, Any]) -> tuple[str, str]:
    """Conclusive if the samples support the decision: all blocking tasks inside, or one of them beyond its limit."""
    blocking = {task: entry for task, entry in result["tasks"].items() if entry["tier"] in BLOCKING_TIERS}
    if result["decision"] == ACCEPT:
        open_tasks = [task for task, entry in blocking.items() if entry["paired"]["evidence"] != CONCLUSIVE]
        if not open_tasks:
            return (
                CONCLUSIVE,
                "Conclusive: on every blocking task the whole interval of the drop lies within the limit.",
            )
        return INCONCLUSIVE, (
            f"Inconclusive: the scores are within their limits, but on {_listed(open_tasks)} the interval of the drop "
            "reaches beyond the limit or cannot be told."
        )
    if result["decision"] == REGRESSION:
        beyond = [task for task, entry in blocking.items() if entry["within"] is False]
        proven = [task for task in beyond if blocking[task]["paired"]["evidence"] == CONCLUSIVE]
        if proven:
            return CONCLUSIVE, f"Conclusive: on {_listed(proven)} the whole interval of the drop lies beyond the limit."
        return INCONCLUSIVE, (
            f"Inconclusive: the drop on {_listed(beyond)} is beyond the limit, but its interval holds the limit or "
            "cannot be told."
        )
    return INCONCLUSIVE, "Inconclusive: the runs cannot be compared as they are."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:-1])) + (" and " if len(names) > 1 else "") + str(names[-1])
