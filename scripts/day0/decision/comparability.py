"""Whether two runs were made alike, sample by sample, and in which precision the baseline stands.

The decision compares nothing that differs in more than what quantization changes by its nature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from day0.base.numbers import mapping_or_empty
from day0.decision.policy import Problem
from day0.decision.quoting import number, plain, printable, short
from day0.records.comparison import Comparability, Difference, UnknownField
from day0.records.failure_class import FailureClass
from day0.records.speed import Speed
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
NOT_STATED = "not stated by an imported run"
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
    """One evaluated checkpoint: its run's assessment, metadata of results.yml, samples per task, and measured speed."""

    assessment: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    speed: Speed | None = None

    def fingerprint(self, task: str) -> Mapping[str, Any]:
        """How a task was asked; {} where the run does not say."""
        return mapping_or_empty(mapping_or_empty(self.metadata.get("fingerprint")).get(task))

    def is_sampled(self, task: str) -> bool:
        """Whether a task's answers were drawn, so that a repeat gives another one."""
        sampling = mapping_or_empty(self.fingerprint(task).get("sampling"))
        return (number(sampling.get("temperature")) or 0) > 0 and sampling.get("do_sample") is not False


def scores_of(run: Run) -> dict[str, Mapping[str, Any]]:
    """The entries of a run's scores by task, a bare score made an entry; {} where the assessment has none."""
    scores = run.assessment.get("scores")
    if not isinstance(scores, Mapping):
        return {}
    return {
        printable(task): entry if isinstance(entry, Mapping) else {"score": entry} for task, entry in scores.items()
    }


def comparability(
    baseline: Run, candidate: Run, required: bool, source: Mapping[str, Any] | None = None
) -> Comparability:
    """Compare how the two runs were made: suite, engine, and every field of every task's fingerprint.

    Args:
        required: a run without a fingerprint is not comparable.
        source: source.json; with it, the baseline must have been served in the precision that the source has.

    Returns:
        The differences, and what an imported run does not state.
    """
    before, after = scores_of(baseline), scores_of(candidate)
    differences: list[Difference] = []
    unknown: list[UnknownField] = []
    fields: set[str] = set()
    imported = [isinstance(run.metadata.get("imported"), Mapping) for run in (baseline, candidate)]

    def compare(task: str | None, one: Any, other: Any) -> None:
        old, new = dict(_leaves(one)), dict(_leaves(other))
        for name in sorted(set(old) | set(new)):
            fields.add(name)
            if (imported[0] and name not in old) or (imported[1] and name not in new):
                unknown.append(UnknownField(task=task, field=name))
            elif old.get(name, "absent") != new.get(name, "absent"):
                one_side, other_side = (plain(found.get(name, "absent")) for found in (old, new))
                differences.append(Difference(task=task, field=name, baseline=one_side, candidate=other_side))

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
    for task in sorted(before.keys() & after.keys()):
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
            unknown.append(UnknownField(task=task, field="fingerprint"))
        elif lacking:
            one, other = ("absent" if name in lacking else "present" for name, _ in sides)
            differences.append(Difference(task=task, field="fingerprint", baseline=one, candidate=other))
        else:
            compare(task, old_prints[task], new_prints[task])
    served = _served(baseline)
    if source is not None and served.get("quantization") and native_quantization(source) is None:
        fields.add(SERVED_QUANTIZATION)
        stored = f"source: {_stored_precision(source)}"
        differences.append(
            Difference(task=None, field=SERVED_QUANTIZATION, baseline=plain(served["quantization"]), candidate=stored)
        )
    for name, run, made_elsewhere in zip(("baseline", "candidate"), (baseline, candidate), imported, strict=True):
        if made_elsewhere and run.assessment.get("checkpoint_digest") is None:
            unknown.append(UnknownField(task=None, field=f"checkpoint_digest of the {name}"))
    if required and unknown:
        differences.append(Difference(task=None, field=NOT_STATED, baseline="see unknown", candidate="see unknown"))
    return Comparability(
        passed=not differences, checked=checked, fields=sorted(fields), differences=differences, unknown=unknown
    )


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
    return printable(text if cache in UNQUANTIZED_KV_CACHES else f"{text}, KV cache {cache}")


def _stored_precision(source: Mapping[str, Any]) -> str:
    dtypes = mapping_or_empty(source.get("dtypes"))
    counts = {printable(name): count for name, count in dtypes.items() if number(count)}
    total = sum(counts.values())
    if not total:
        return "precision not stated"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) == 1:
        return PRECISION_NAMES.get(ordered[0][0], ordered[0][0])
    return ", ".join(f"{PRECISION_NAMES.get(name, name)} {count / total:.2%}" for name, count in ordered)


def _served(run: Run) -> Mapping[str, Any]:
    return mapping_or_empty(run.metadata.get("server"))


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Flatten nested mappings to dotted paths, leaving out what quantization changes by its nature."""
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            if key not in CHANGED_BY_QUANTIZATION:
                yield from _leaves(inner, f"{path}.{printable(key)}" if path else printable(key))
    else:
        yield path, value


def difference_sentence(difference: Difference, unknown: Sequence[UnknownField] = ()) -> str:
    """What a difference means, in a sentence.

    Args:
        unknown: what imported runs do not state, as ``comparability`` lists it.
    """
    task, field = difference.task, difference.field
    if field == NOT_STATED:
        by_task: dict[str, list[str]] = {}
        for entry in unknown:
            by_task.setdefault(f"{entry.task}: " if entry.task is not None else "", []).append(entry.field)
        lists = "; ".join(f"{place}{', '.join(names)}" for place, names in by_task.items())
        return (
            f"the imported run does not state, so that it could not be compared: {lists}; evaluate it here, or set "
            "require_fingerprints: false to decide without"
        )
    if field == SERVED_QUANTIZATION:
        return (
            f"the baseline was served with quantization {short(difference.baseline)}, which its source does not have: "
            "its scores are not those of the source model"
        )
    place = f"{task}: " if task is not None else ""
    if field == "fingerprint":
        sides = (("baseline", difference.baseline), ("candidate", difference.candidate))
        lacking = " and the ".join(name for name, found in sides if found == "absent")
        return f"{place}the {lacking} has no fingerprint, so nothing shows that both runs were made alike"
    return (
        f"{place}not comparable, {field} is {short(difference.baseline)} in the baseline "
        f"and {short(difference.candidate)} in the candidate"
    )


Row = Mapping[str, Any]


class Pair(NamedTuple):
    """A sample that both runs scored: its id, the two lines and the two scores."""

    id: str
    baseline: Row
    candidate: Row
    old: float
    new: float


Pairs = list[Pair]


def pair_samples(task: str, before: Any, after: Any) -> tuple[Pairs | None, Problem | None]:
    """Pair the two runs' samples by id and repeat; None where a side has no samples or they do not match."""
    if not before or not after:
        return None, None
    indexed: list[dict[tuple[str, str], tuple[Row, float]]] = []
    for name, rows in (("baseline", before), ("candidate", after)):
        index: dict[tuple[str, str], tuple[Row, float]] = {}
        for place, row in enumerate(rows if isinstance(rows, list | tuple) else [rows], start=1):
            score = number(row.get("score")) if isinstance(row, Mapping) and "id" in row else None
            if score is None:
                found = short(row.get("score") if isinstance(row, Mapping) and "id" in row else row)
                return None, _uncounted(
                    f"{task}: sample {place} of the {name} has no id with a finite score, found {found}"
                )
            key = (str(row["id"]), str(row.get("repeat", 0)))
            if key in index:
                return None, _uncounted(f"{task}: the {name} scored sample {' repeat '.join(key)} twice")
            index[key] = row, score
        indexed.append(index)
    old, new = indexed
    if old.keys() != new.keys():
        missing, extra = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
        example = (missing or extra)[0]
        return None, _uncounted(
            f"{task}: {len(missing)} samples of the baseline are not among the candidate's, {len(extra)} the other way "
            f"round (such as id {example[0]}, repeat {example[1]})"
        )
    for name in ("prompt_digest", "target_digest", "group"):
        differing = [key for key in old if old[key][0].get(name) != new[key][0].get(name)]
        if differing:
            first = min(differing)
            sentence = (
                f"{task}: {name} differs in {len(differing)} of {len(old)} samples (such as id {first[0]}: "
                f"{short(old[first][0].get(name))} in the baseline, {short(new[first][0].get(name))} in the candidate)"
            )
            return None, (FailureClass.NOT_COMPARABLE, printable(sentence))
    groups: dict[str, Any] = {}
    for key, (row, _) in old.items():
        if groups.setdefault(key[0], row.get("group")) != row.get("group"):
            return None, _uncounted(
                f"{task}: the repeats of sample {key[0]} are in two groups, {short(groups[key[0]])} and "
                f"{short(row.get('group'))}"
            )
    in_order = sorted(old, key=lambda key: tuple((len(part), part) for part in key))  # 2 before 10
    return [Pair(key[0], old[key][0], new[key][0], old[key][1], new[key][1]) for key in in_order], None


def _uncounted(sentence: str) -> Problem:
    return FailureClass.SAMPLE_ACCOUNTING_FAILED, printable(sentence)


def is_generated(row: Row) -> bool:
    """Whether the model wrote the answer of a sample; else it is a choice by its likelihood."""
    return row.get("tokens") is not None or row.get("finish_reason") is not None


def cluster_of(identity: str, row: Row) -> tuple[str, str]:
    """What a sample belongs to: its group where it has one (questions on one passage), else its question."""
    group = row.get("group")
    return ("sample", identity) if group is None else ("group", str(group))
