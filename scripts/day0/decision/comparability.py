"""Whether two runs were made alike, sample by sample, and in which precision the baseline stands.

The decision compares nothing that differs in more than what quantization changes by its nature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from day0.decision.policy import Problem, number, short
from day0.records.failure_class import FailureClass
from day0.source.declared_quantization import native_quantization

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
SERVED_QUANTIZATION = "server.quantization"
NOT_TOLD = "not told by an imported run"
UNQUANTIZED_KV_CACHES = frozenset({"auto", "bfloat16", "float16", "float32"})
PRECISION_NAMES = {
    "F64": "FP64",
    "F32": "FP32",
    "F16": "FP16",
    "bfloat16": "BF16",
    "float16": "FP16",
    "float32": "FP32",
}


@dataclass(frozen=True)
class Run:
    """One evaluated checkpoint: the assessment of its run, the metadata of its results.yml and its samples per task."""

    assessment: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def scores_of(run: Run) -> dict[str, Mapping[str, Any]]:
    """The entries of a run's scores by task, a bare score made an entry; {} where the assessment has none."""
    scores = run.assessment.get("scores")
    if not isinstance(scores, Mapping):
        return {}
    return {task: entry if isinstance(entry, Mapping) else {"score": entry} for task, entry in scores.items()}


def comparability(
    baseline: Run, candidate: Run, required: bool, source: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Compare how the two runs were made: suite, engine, and every field of every task's fingerprint.

    Args:
        required: a run without a fingerprint is not comparable.
        source: source.json; with it, the baseline must have been served in the precision that the source has.

    Returns:
        {pass, checked, fields, differences: [{task, field, baseline, candidate}], unknown: [{task, field}] (what an
        imported run does not tell)}.
    """
    before, after = scores_of(baseline), scores_of(candidate)
    differences: list[dict[str, Any]] = []
    unknown: list[dict[str, Any]] = []
    fields: set[str] = set()
    imported = [isinstance(run.metadata.get("imported"), Mapping) for run in (baseline, candidate)]

    def compare(task: str | None, one: Any, other: Any) -> None:
        old, new = dict(_leaves(one)), dict(_leaves(other))
        for name in sorted(set(old) | set(new)):
            fields.add(name)
            if (imported[0] and name not in old) or (imported[1] and name not in new):
                unknown.append({"task": task, "field": name})
            elif old.get(name, "absent") != new.get(name, "absent"):
                pair = {
                    side: plain(found.get(name, "absent")) for side, found in (("baseline", old), ("candidate", new))
                }
                differences.append({"task": task, "field": name, **pair})

    def whole(run: Run) -> dict[str, Any]:
        server = _served(run)
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
            unknown.append({"task": task, "field": "fingerprint"})
        elif lacking:
            pair = {name: "absent" if name in lacking else "present" for name, _ in sides}
            differences.append({"task": task, "field": "fingerprint", **pair})
        else:
            compare(task, old_prints[task], new_prints[task])
    served = _served(baseline)
    if source is not None and served.get("quantization") and native_quantization(source) is None:
        fields.add(SERVED_QUANTIZATION)
        differences.append(
            {
                "task": None,
                "field": SERVED_QUANTIZATION,
                "baseline": plain(served["quantization"]),
                "candidate": f"source: {_stored_precision(source)}",
            }
        )
    for name, run, made_elsewhere in zip(("baseline", "candidate"), (baseline, candidate), imported, strict=True):
        if made_elsewhere and run.assessment.get("checkpoint_digest") is None:
            unknown.append({"task": None, "field": f"checkpoint_digest of the {name}"})
    if required and unknown:
        differences.append({"task": None, "field": NOT_TOLD, "baseline": "see unknown", "candidate": "see unknown"})
    return {
        "pass": not differences,
        "checked": checked,
        "fields": sorted(fields),
        "differences": differences,
        "unknown": unknown,
    }


def baseline_precision(source: Mapping[str, Any] | None, run: Run) -> str:
    """The precision that the baseline stands in, in words: "BF16", or that it is natively quantized and how.

    Args:
        source: source.json, or None where only the server's own words are known.
        run: the baseline's run.
    """
    served = _served(run)
    if source is not None:
        method = native_quantization(source)
        stored = _stored_precision(source)
        text = stored if method is None else f"natively quantized ({method}): {stored}"
    elif served.get("dtype") or served.get("quantization"):
        dtype = PRECISION_NAMES.get(str(served.get("dtype")), str(served.get("dtype") or "unknown precision"))
        text = f"{dtype}, as served" if not served.get("quantization") else f"{served['quantization']}, as served"
    else:
        return "not stated"
    cache = str(served.get("kv_cache_dtype") or "auto")
    return text if cache in UNQUANTIZED_KV_CACHES else f"{text}, KV cache {cache}"


def _stored_precision(source: Mapping[str, Any]) -> str:
    counts = source.get("dtypes") if isinstance(source.get("dtypes"), Mapping) else {}
    counts = {str(name): count for name, count in counts.items() if number(count)}
    total = sum(counts.values())
    if not total:
        return "precision not stated"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) == 1:
        return PRECISION_NAMES.get(ordered[0][0], ordered[0][0])
    return ", ".join(f"{PRECISION_NAMES.get(name, name)} {count / total:.2%}" for name, count in ordered)


def _served(run: Run) -> Mapping[str, Any]:
    server = run.metadata.get("server")
    return server if isinstance(server, Mapping) else {}


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Flatten nested mappings to dotted paths, leaving out what quantization changes by its nature."""
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            if key not in CHANGED_BY_QUANTIZATION:
                yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def difference_sentence(entry: Mapping[str, Any], unknown: Sequence[Mapping[str, Any]] = ()) -> str:
    """What a difference means, in a sentence.

    Args:
        unknown: what imported runs do not tell, as ``comparability`` lists it.
    """
    if entry["field"] == NOT_TOLD:
        by_task: dict[str, list[str]] = {}
        for told in unknown:
            by_task.setdefault(f"{told['task']}: " if told["task"] is not None else "", []).append(told["field"])
        lists = "; ".join(f"{task}{', '.join(names)}" for task, names in by_task.items())
        return (
            f"the imported run does not tell, so that it could not be compared: {lists}; evaluate it here, or set "
            "require_fingerprints: false to decide without"
        )
    if entry["field"] == SERVED_QUANTIZATION:
        return (
            f"the baseline was served with quantization {short(entry['baseline'])}, which its source does not have: "
            "its scores are not those of the source model"
        )
    place = f"{entry['task']}: " if entry["task"] is not None else ""
    if entry["field"] == "fingerprint":
        lacking = " and the ".join(name for name in ("baseline", "candidate") if entry[name] == "absent")
        return f"{place}the {lacking} has no fingerprint, so nothing shows that both runs were made alike"
    return (
        f"{place}not comparable, {entry['field']} is {short(entry['baseline'])} in the baseline "
        f"and {short(entry['candidate'])} in the candidate"
    )


Row = Mapping[str, Any]
Pairs = list[tuple[str, Row, Row]]


def pair_samples(task: str, before: Any, after: Any) -> tuple[Pairs | None, Problem | None]:
    """Pair the two runs' samples by id and repeat; None where a side has no samples or they do not match."""
    if not before or not after:
        return None, None
    indexed = []
    for name, rows in (("baseline", before), ("candidate", after)):
        index: dict[tuple[str, str], Row] = {}
        for place, row in enumerate(rows if isinstance(rows, list | tuple) else [rows], start=1):
            if not isinstance(row, Mapping) or "id" not in row or number(row.get("score")) is None:
                found = short(row.get("score") if isinstance(row, Mapping) and "id" in row else row)
                return None, (
                    FailureClass.SAMPLE_ACCOUNTING_FAILED,
                    f"{task}: sample {place} of the {name} has no id with a finite score, found {found}",
                )
            key = (str(row["id"]), str(row.get("repeat", 0)))
            if key in index:
                return None, (
                    FailureClass.SAMPLE_ACCOUNTING_FAILED,
                    f"{task}: the {name} scored sample {' repeat '.join(key)} twice",
                )
            index[key] = row
        indexed.append(index)
    old, new = indexed
    if set(old) != set(new):
        missing, extra = sorted(set(old) - set(new)), sorted(set(new) - set(old))
        example = (missing or extra)[0]
        return None, (
            FailureClass.SAMPLE_ACCOUNTING_FAILED,
            f"{task}: {len(missing)} samples of the baseline are not among the candidate's, {len(extra)} the other way "
            f"round (such as id {example[0]}, repeat {example[1]})",
        )
    for name in ("prompt_digest", "target_digest", "group"):
        differing = [key for key in old if old[key].get(name) != new[key].get(name)]
        if differing:
            return None, (
                FailureClass.NOT_COMPARABLE,
                f"{task}: {name} differs in {len(differing)} of {len(old)} samples (such as id {min(differing)[0]}: "
                f"{short(old[min(differing)].get(name))} in the baseline, "
                f"{short(new[min(differing)].get(name))} in the candidate)",
            )
    groups: dict[str, Any] = {}
    for key, row in old.items():
        if groups.setdefault(key[0], row.get("group")) != row.get("group"):
            return None, (
                FailureClass.SAMPLE_ACCOUNTING_FAILED,
                f"{task}: the repeats of sample {key[0]} stand in two groups, {short(groups[key[0]])} and "
                f"{short(row.get('group'))}",
            )
    in_order = sorted(old, key=lambda key: tuple((len(part), part) for part in key))  # 2 before 10
    return [(key[0], old[key], new[key]) for key in in_order], None


def cluster_of(identity: str, row: Row) -> tuple[str, str]:
    """What a sample belongs to: its group where it has one (questions on one passage), else its question."""
    group = row.get("group")
    return ("sample", identity) if group is None else ("group", str(group))


def plain(value: Any) -> Any:
    """The value as a JSON artefact can hold it: a text, whole number, bool or finite number, else its text."""
    as_it_is = value is None or isinstance(value, str | bool | int) or number(value) is not None
    return value if as_it_is else repr(value)
