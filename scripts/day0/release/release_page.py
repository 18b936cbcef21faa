"""What the report page shows, from the verdict and the evidence beside it: rows of text, and the figures.

Nothing is decided here. Evidence that is absent leaves its part of the page out; evidence that changed since the
verdict is named as such.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from day0.base.numbers import float_or_none, mapping_or_empty
from day0.records.failure_class import Decision
from day0.records.search import Search
from day0.release.effort import Effort, Total, asked_of, total_of
from day0.release.figures import Stage, drop_chart, layer_map_chart, search_chart, timeline_chart
from day0.release.search_page import search_section
from day0.release.speed_section import speed_section

MEANINGS: dict[str, str] = {
    Decision.ACCEPT: "The candidate keeps to the limits by the criterion below. It may be published.",
    Decision.REGRESSION: "The candidate is worse than the baseline by more than the limit. It must not be published.",
    Decision.ANOMALOUS: "The evidence cannot be trusted or is not complete, so nothing is said about the candidate.",
    Decision.INFEASIBLE: "This recipe gives no checkpoint of this model that is quantized as asked and can be served.",
}
STAGE_NAMES = {
    "validation": "the validation of the checkpoint",
    "baseline_run": "the assessment of the baseline's run",
    "candidate_run": "the assessment of the candidate's run",
    "comparison": "the comparison of the two runs",
    "evidence": "the check of the chain of evidence",
    "external_check": "the check of the baseline against published scores",
    "preflight_model": "the preflight of the model",
    "preflight_recipe": "the preflight of the recipe",
    "preflight_suite": "the preflight of the suite",
}


class Question(NamedTuple):
    """A sample's texts; None where they are not recorded."""

    prompt: str | None
    target: str | None
    baseline: str | None
    candidate: str | None


NO_QUESTION = Question(None, None, None, None)
NOT_KNOWN = "not known"
NONE = "–"  # noqa: RUF001 (a dash on the page, where a number is absent)


EXTERNAL = {
    "verified": ("good", "The baseline meets its published scores."),
    "failed": ("bad", "The baseline does not meet its published scores, so its set-up is in doubt."),
    "unverified": ("odd", "Externally unverified: no published score of this model on these tasks is on record."),
}
FIGURE_CAPTIONS = {
    "drops": "Drop of the candidate against the baseline, in percent of each task's scale. Dot: the drop; bar: its "
    "interval; dashed line: the limit.",
    "precisions": "Each row is a kind of module, each column a layer; the experts of a layer are one cell.",
    "search": "Cost of each candidate against its change of the mean score, with its interval. Numbers: the rungs that "
    "asked it; dotted line: their order.",
    "timeline": "When each stage ran, from Snakemake's benchmark files. Dotted lines: idle time was cut.",
}

NORMAL_95 = 1.96  # standard deviations on either side that hold 95 % of a normal distribution


def page_content(
    verdict: Mapping[str, Any],
    comparison: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
    runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
    efforts: Sequence[Effort] = (),
    states: Mapping[str, str] | None = None,
    search: Search | None = None,
    questions: Mapping[str, Question] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    verdict_sha256: str | None = None,
) -> dict[str, Any]:
    """Variables of the template.

    Args:
        verdict: verdict.json.
        comparison, validation, quantization: their artefacts, where there are any.
        runs: "baseline" and "candidate" to (run.json, metadata of results.yml).
        efforts: of the finished stages.
        states: name of an evidence to "unchanged", "changed" or "missing".
        search: that found the release's recipe, where one did.
        questions: "TASK ID REPEAT" of samples that flipped to their texts.
        history: earlier decisions and this one, the last one last (day0/records/history.py).
        verdict_sha256: of verdict.json, which a sign-off names.
    """
    stages = [Stage(one.name, one.start, one.seconds, one.group) for one in efforts]
    comparison, validation, quantization = comparison or {}, validation or {}, quantization or {}
    runs, tasks = runs or {}, comparison.get("tasks") or verdict.get("tasks") or {}
    decision, ordered = verdict.get("decision"), order_of_tasks(tasks)
    rate = mapping_or_empty(verdict.get("policy")).get("expected_disagreement_rate")
    return {
        "verdict": verdict,
        "decided": _time(verdict.get("created")),
        "tone": str(decision) if decision in MEANINGS else Decision.ANOMALOUS,
        "meaning": MEANINGS.get(str(decision), MEANINGS[Decision.ANOMALOUS]),
        "stage_name": STAGE_NAMES.get(str(verdict.get("stage")), f"the stage {verdict.get('stage')}"),
        "criterion": _criterion(verdict, comparison),
        "criteria": _criteria(verdict, comparison),
        "suite_evidence": _suite_rows(comparison),
        "evidence_sentence": comparison.get("evidence_sentence") or verdict.get("evidence_sentence"),
        "warnings": _warnings(verdict, comparison),
        "key_figures": _key_figures(verdict, comparison, tasks, validation),
        "tasks": [_task_row(name, tasks[name]) for name in ordered],
        "confidence": _confidence(tasks),
        "figures": page_figures(tasks, validation, stages, search),
        "search": search_section(search) if search is not None else None,
        "captions": FIGURE_CAPTIONS,
        "paired": [_paired_row(name, tasks[name], rate) for name in ordered if tasks[name].get("paired")],
        "rerun_rate": _percent(rate) if rate else None,
        "answers": _answer_rows(tasks, ordered),
        "tokens": mapping_or_empty(comparison.get("tokens") or verdict.get("tokens")).get("sentence"),
        "speed": speed_section(comparison.get("speed") or verdict.get("speed")),
        "flip_tables": _flip_tables(tasks, questions or {}),
        "comparability": comparison.get("comparability"),
        "baseline_precision": comparison.get("baseline_precision") or verdict.get("baseline_precision"),
        "external": _external(comparison.get("external") or verdict.get("external")),
        "sizes": _sizes(validation),
        "checkpoint_rows": _checkpoint_rows(verdict, validation, quantization),
        "precisions": _bars(validation.get("layer_precision_counts") or {}),
        "families": _families(validation),
        "checks": [
            {"name": check.get("name", NONE), "pass": check.get("pass") is True, "detail": check.get("detail", "")}
            for check in validation.get("checks") or []
        ],
        "offenders": [str(offender) for offender in validation.get("offenders") or []],
        "runs": [_run_part(name, *runs[name]) for name in ("baseline", "candidate") if name in runs],
        "timings": _timings(efforts),
        "cost": cost_sentence(total_of(efforts)),
        "asked": {side: asked_rows(runs[side][1]) for side in ("baseline", "candidate") if side in runs},
        "history": history_rows(history, verdict, verdict_sha256),
        "verdict_sha256": verdict_sha256,
        "environment": _environment(verdict, quantization, runs),
        "evidence": [
            {
                "name": name.replace("_", " "),
                "path": entry.get("path"),
                "sha256": entry.get("sha256"),
                "state": (states or {}).get(name),
                "tone": "good" if (states or {}).get(name) == "unchanged" else "bad",
            }
            for name, entry in (verdict.get("evidence") or {}).items()
        ],
        "digests": [(key.replace("_", " "), value) for key, value in (verdict.get("digests") or {}).items()],
        "tracking": _tracking(verdict.get("mlflow")),
        "commands": _commands(verdict, mapping_or_empty(comparison.get("external") or verdict.get("external"))),
    }


def page_figures(
    tasks: Mapping[str, Mapping[str, Any]],
    validation: Mapping[str, Any],
    stages: Sequence[Stage],
    search: Search | None = None,
) -> dict[str, str]:
    """The figures of a release as SVG, by name; those that have nothing to show are left out."""
    drawn = {
        "drops": drop_chart(tasks, order_of_tasks(tasks)),
        "precisions": layer_map_chart(validation.get("layer_map") or []),
        "timeline": timeline_chart(stages),
        "search": search_chart(search) if search is not None else None,
    }
    return {name: svg for name, svg in drawn.items() if svg}


def order_of_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the tasks, the worst first."""
    return sorted(tasks, key=lambda name: _worst_first(name, tasks))


def _worst_first(name: str, tasks: Mapping[str, Mapping[str, Any]]) -> tuple[bool, bool, float, str]:
    """Tasks that block before those that do not; in each, those without a result, then by their drop."""
    fraction = tasks[name].get("drop_fraction")
    return (tasks[name].get("tier") == "advisory", fraction is not None, -(fraction or 0.0), name)


def _key_figures(
    verdict: Mapping[str, Any], comparison: Mapping[str, Any], tasks: Mapping[str, Any], validation: Mapping[str, Any]
) -> list[dict[str, str]]:
    size_ratio = verdict.get("size_ratio") or validation.get("size_ratio")
    bits = verdict.get("bits_per_weight") or validation.get("bits_per_weight")
    blocking = [
        entry for entry in tasks.values() if entry.get("drop_fraction") is not None and entry.get("tier") != "advisory"
    ]
    within = sum(entry.get("within") is True for entry in blocking)
    strength = comparison.get("evidence") or verdict.get("evidence_strength")
    return [
        {"value": NONE if size_ratio is None else f"{100 * size_ratio:.1f} %", "label": "of the source's size"},
        {"value": NONE if bits is None else f"{bits:.2f}", "label": "bits per weight"},
        {"value": _percent(max((e["drop_fraction"] for e in blocking), default=None)) or NONE,
         "label": "largest drop, of the scale"},
        {"value": f"{within} of {len(blocking)}" if blocking else NONE, "label": "blocking tasks within the limit"},
        {"value": strength or NONE, "label": "paired evidence"},
    ]  # fmt: skip


def _criterion(verdict: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    policy = mapping_or_empty(verdict.get("policy"))
    threshold = _percent(policy.get("threshold", comparison.get("threshold")))
    if threshold is None:
        return "each task's limit"
    of = "the baseline's score" if policy.get("relative", comparison.get("relative")) else "the task's scale"
    kind = comparison.get("criterion") or policy.get("criterion") or "point"
    if kind == "suite":
        return (
            f"the mean drop of the critical and supporting tasks proven within {threshold} of {of}, and no task with a "
            "proven or hidden loss (suite criterion)"
        )
    what = "the whole interval of the drop" if kind == "confident" else "the drop"
    return f"{what} within {threshold} of {of}, on every critical and supporting task ({kind} criterion)"


def _criteria(verdict: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each criterion says, the one that decided first."""
    deciding = comparison.get("criterion") or verdict.get("criterion")
    criteria = mapping_or_empty(comparison.get("criteria") or verdict.get("criteria"))
    return [
        {
            "name": name,
            "decides": name == deciding,
            "decision": "undecided"
            if said.get("decision") == Decision.ANOMALOUS
            else str(said.get("decision")).lower(),
            "tone": {Decision.ACCEPT: "good", Decision.REGRESSION: "bad"}.get(said.get("decision"), "odd"),
            "sentence": said.get("sentence", ""),
        }
        for name, said in sorted(criteria.items(), key=lambda item: (item[0] != deciding, item[0]))
    ]


def _suite_rows(comparison: Mapping[str, Any]) -> list[dict[str, str]]:
    evidence = mapping_or_empty(comparison.get("suite_evidence"))
    names = (("plain", "every task counts alike"), ("weighted", "tasks weighted by their precision"))
    return [
        {"name": label, "proves": "yes" if evidence.get("proven_by") == key else ""}
        | {field: f"{_fixed(100 * evidence[key][field], 2)} %" for field in ("drop", "largest", "limit")}
        for key, label in names
        if isinstance(evidence.get(key), Mapping)
    ]


def _warnings(verdict: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[dict[str, str]]:
    found = [*(comparison.get("warnings") or []), *(verdict.get("warnings") or [])]
    rows = [
        {"task": str(entry.get("task") or ""), "sentence": str(entry.get("sentence") or "")}
        if isinstance(entry, Mapping)
        else {"task": "", "sentence": str(entry)}
        for entry in found
    ]
    return [row for place, row in enumerate(rows) if row not in rows[:place]]


def _external(external: Any) -> dict[str, Any] | None:
    if not isinstance(external, Mapping) or external.get("status") not in EXTERNAL:
        return None
    tone, sentence = EXTERNAL[external["status"]]
    entries = [
        {
            "task": entry.get("task", NONE),
            "metric": entry.get("metric"),
            "score": _number(entry.get("score")),
            "expected": _published(entry),
            "difference": _fixed(entry.get("difference"), 1),
            "status": entry.get("status") or NONE,
            "tone": EXTERNAL.get(entry.get("status"), ("odd", ""))[0],
            "source": entry.get("source") or "",
            "notes": entry.get("notes") or "",
        }
        for entry in external.get("entries") or []
    ]
    return {"status": external["status"], "tone": tone, "sentence": sentence, "entries": entries}


def _published(entry: Mapping[str, Any]) -> str:
    """A published score with its scale, which need not be the task's."""
    scale = mapping_or_empty(entry.get("scale"))
    text = _number(entry.get("expected"))
    return f"{text} ({_number(scale['min'])} to {_number(scale['max'])})" if scale else text


def _confidence(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    found = ((entry.get("paired") or {}).get("confidence") for entry in tasks.values())
    levels = {level for level in found if level is not None}
    return f"{100 * levels.pop():g} % interval" if len(levels) == 1 else "Interval"


def _sizes(validation: Mapping[str, Any]) -> list[dict[str, Any]]:
    source, output = validation.get("source_bytes"), validation.get("output_bytes")
    if not source or not output:
        return []
    most = max(source, output)
    return [
        {"name": name, "bytes": _bytes(count), "percent": round(100 * count / most, 1)}
        for name, count in (("source", source), ("candidate", output))
    ]


def _families(validation: Mapping[str, Any]) -> list[dict[str, str]]:
    families = validation.get("families")
    if not isinstance(families, Mapping):
        return []
    return [
        {
            "name": name,
            **{key: _count(entry.get(key)) for key in ("layers", "intended", "quantized")},
            "bits": NONE if entry.get("bits_per_weight") is None else f"{entry['bits_per_weight']:.2f}",
        }
        for name, entry in families.items()
    ]


def _tracking(mlflow: Any) -> str | None:
    if not isinstance(mlflow, Mapping):
        return None
    if mlflow.get("status") == "failed":
        return f"not logged: {mlflow.get('detail')}"
    return f"run {mlflow.get('run_id')} of experiment {mlflow.get('experiment')} at {mlflow.get('tracking_uri')}"


def _task_row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    within, blocks = entry.get("within"), entry.get("tier") != "advisory"
    tone, verdict = "odd", "no result"
    if within is not None:
        tone, verdict = ("good", "within") if within else ("bad" if blocks else "odd", "beyond")
    if entry.get("note") and within is not None:
        tone, verdict = "odd", "suspect"
    interval = (entry.get("paired") or {}).get("interval")
    guard, digits = entry.get("relative_guard"), _digits(entry.get("scale"))
    notes = [str(entry["note"])] if entry.get("note") else []
    if isinstance(guard, Mapping):
        word = "within" if guard.get("within") else "beyond"
        limit, relative_drop = _percent(guard.get("limit")), _percent(guard.get("relative_drop"))
        notes.append(f"relative drop {relative_drop}, {word} the relative limit of {limit}")
    return {
        "name": name,
        "tier": entry.get("tier") or NONE,
        "metric": entry.get("metric"),
        **{key: _fixed(entry.get(key), digits) for key in ("baseline", "candidate", "drop", "limit")},
        "percent": NONE if entry.get("drop_fraction") is None else f"{_fixed(100 * entry['drop_fraction'], 2)} %",
        "interval": f"{_fixed(interval[0], digits)} to {_fixed(interval[1], digits)}" if interval else NONE,
        "verdict": verdict if blocks else f"{verdict}, advisory",
        "tone": tone,
        "notes": "; ".join(notes),
    }


def _rerun(clusters: Any, rate: float | None, scale: Any) -> float | None:
    """How far the score of an unchanged model moves, at most and with 95 %, where it answers that share anew by chance.

    A changed answer moves the mean of n by 1/n of the scale's width, up or down: the deviation is the root of rate/n.
    """
    if not (rate and isinstance(clusters, int) and clusters > 0):
        return None
    width = scale["max"] - scale["min"] if isinstance(scale, Mapping) else 1
    return NORMAL_95 * math.sqrt(rate / clusters) * width


def _paired_row(name: str, entry: Mapping[str, Any], rate: float | None) -> dict[str, Any]:
    paired, digits = entry["paired"], _digits(entry.get("scale"))
    return {
        "name": name,
        **{key: _count(paired.get(key)) for key in ("samples", "clusters", "wins", "losses", "ties")},
        "p": _p_value(paired.get("mcnemar_p")),
        "p_holm": _p_value(paired.get("mcnemar_p_holm")),
        "largest": _fixed(paired.get("largest_drop"), digits),
        "detectable": _fixed(paired.get("detectable_drop"), digits),
        "rerun": _fixed(_rerun(paired.get("clusters"), rate, entry.get("scale")), digits),
        "needed": _count(paired.get("repeats_needed") or paired.get("questions_needed"))
        + (" repeats" if paired.get("repeats_needed") else ""),
        "sentence": paired.get("sentence", ""),
    }


def _answer_rows(tasks: Mapping[str, Mapping[str, Any]], ordered: Sequence[str]) -> list[dict[str, str]]:
    """Tokens per answer of each task, and its malformed answers: how many on either side, and on one alone."""
    rows = []
    for name in ordered:
        tokens, kinds = mapping_or_empty(tasks[name].get("tokens")), tasks[name].get("answers") or []
        if not tokens and not kinds:
            continue
        interval, ratio = tokens.get("interval"), tokens.get("ratio")
        rows.append(
            {
                "name": name,
                **{side: _fixed(tokens.get(side), 1) for side in ("baseline", "candidate")},
                "change": NONE if ratio is None else f"{_fixed(100 * (ratio - 1), 1)} %",
                "interval": f"{_fixed(100 * (interval[0] - 1), 1)} to {_fixed(100 * (interval[1] - 1), 1)} %"
                if interval
                else NONE,
                "malformed": "; ".join(
                    f"{entry['kind']}: {entry['baseline']:,} and {entry['candidate']:,}, alone "
                    f"{entry['baseline_only']:,} and {entry['candidate_only']:,} (p {_p_value(entry['p'])})"
                    for entry in kinds
                )
                or "none",
            }
        )
    return rows


def _p_value(value: float | None) -> str:
    return NONE if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _flip_tables(tasks: Mapping[str, Mapping[str, Any]], questions: Mapping[str, Question]) -> list[dict[str, Any]]:
    """The samples that only one side has right, with what was asked, what was expected and what both said."""
    tables = []
    for name in sorted(tasks, key=lambda name: _worst_first(name, tasks)):
        paired = tasks[name].get("paired") or {}
        for kind, total in (("lost", paired.get("losses")), ("won", paired.get("wins"))):
            rows = (paired.get("flips") or {}).get(kind) or []
            shown = rows[: 10 if kind == "lost" else 5]
            if shown:
                title = f"{name}: samples {kind} ({len(shown)} of {_count(total)})"
                found = [questions.get(f"{name} {row['id']} {row['repeat']}", NO_QUESTION) for row in shown]
                rows = [_flip(row, question) for row, question in zip(shown, found, strict=True)]
                tables.append({"title": title, "rows": rows})
    return tables


def _flip(row: Mapping[str, Any], question: Question) -> dict[str, Any]:
    """A flipped sample; answers are as long as the samples have them, else as the comparison quotes them."""
    answers = {side: getattr(question, side) or row.get(side) for side in ("baseline", "candidate")}
    return {
        **row,
        "prompt": question.prompt,
        "target": question.target,
        **{side: NONE if text is None else str(text) for side, text in answers.items()},
    }


def _checkpoint_rows(
    verdict: Mapping[str, Any], validation: Mapping[str, Any], quantization: Mapping[str, Any]
) -> list[tuple[str, str]]:
    rows = []
    if validation.get("detail") and str(validation["detail"]) not in str(verdict.get("detail")):
        rows.append(("Validation", validation["detail"]))
    recipe = mapping_or_empty(quantization.get("recipe"))
    if recipe:
        is_imported = recipe.get("kind") == "imported"
        rows.append(("Recipe", f"{recipe.get('name')} ({'made elsewhere' if is_imported else recipe.get('kind')})"))
        if is_imported:
            versions = mapping_or_empty(quantization.get("versions"))
            made_by = ", ".join(f"{name} {version}" for name, version in versions.items())
            rows += [("Made by", made_by or NOT_KNOWN), ("Calibration", NOT_KNOWN)]
    if quantization.get("kv_cache"):
        rows.append(("KV cache", str(quantization["kv_cache"])))
    if quantization.get("calibration"):
        calibration = quantization["calibration"]
        text = (
            ", ".join(f"{key} {value}" for key, value in calibration.items() if not isinstance(value, Mapping | list))
            if isinstance(calibration, Mapping)
            else str(calibration)
        )
        rows.append(("Calibration", text))
    if quantization.get("detail") and quantization.get("status") == "failed":
        rows.append(("Import" if recipe.get("kind") == "imported" else "Quantize", quantization["detail"]))
    quantizers = mapping_or_empty(quantization.get("quantizers"))
    if quantizers.get("enabled") is not None:
        rows.append(("Quantizers", f"{quantizers['enabled']} enabled, {quantizers.get('disabled', 0)} disabled"))
    return rows


def _run_part(name: str, run: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    server = mapping_or_empty(metadata.get("server"))
    words = [
        f"{server.get('engine', 'engine')} {server.get('engine_version', '')}".strip() if server else "",
        *(f"{key.replace('_', ' ')} {server[key]}" for key in ("device", "quantization", "dtype") if server.get(key)),
    ]
    accounting = mapping_or_empty(metadata.get("accounting"))
    columns = list(dict.fromkeys(key for entry in accounting.values() for key in entry))
    return {
        "title": name.capitalize(),
        "detail": run.get("detail"),
        "server": ", ".join(filter(None, words)) + (f". {server['emulation']}" if server.get("emulation") else ""),
        "canary": _canary_sentence(mapping_or_empty(metadata.get("canary"))),
        "columns": columns,
        "accounting": [
            {"name": task, "cells": [_count(entry.get(column)) for column in columns]}
            for task, entry in accounting.items()
        ],
    }


def _canary_sentence(canary: Mapping[str, Any]) -> str:
    """The perplexity of the canary's passages, beside the baseline's; nothing where it has no passages."""
    own, baseline = (float_or_none(canary.get(name)) for name in ("perplexity", "baseline_perplexity"))
    if own is None:
        return ""
    beside = "" if not baseline else f", the baseline's {baseline:,.3g}: {own / baseline:.3g} times"
    return f"Perplexity of the canary's passages {own:,.3g}{beside}."


def _timings(efforts: Sequence[Effort]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "seconds": f"{one.seconds:,.1f}",
            "cpu": _tenths(one.cpu_seconds),
            "gpu": _gpu_hours(one.gpu_seconds),
            "memory": NONE if one.memory is None else f"{one.memory:,.0f}",
        }
        for one in sorted(efforts, key=lambda one: (one.start, one.name))
    ]


def cost_sentence(whole: Total) -> str:
    """What stages took together, in hours."""
    parts = [f"{hours(whole.seconds)} of stages' wall time"]
    parts += [f"{hours(whole.cpu_seconds)} of processor time"] if whole.cpu_seconds is not None else []
    if whole.gpu_seconds is None:
        parts.append("GPU time not known, for a stage does not say how many it held")
    elif whole.gpu_seconds:
        parts.append(f"{hours(whole.gpu_seconds)} of GPU time")
    else:
        parts.append("no GPU")
    return ", ".join(parts)


def hours(seconds: float | None) -> str:
    """Seconds as hours with three significant digits; less than a tenth of one as minutes."""
    if seconds is None:
        return NONE
    return f"{seconds / 3600:#.3g} h" if seconds >= 360 else f"{seconds / 60:.2g} min"


def _gpu_hours(seconds: float | None) -> str:
    return "not known" if seconds is None else hours(seconds) if seconds else NONE


def _tenths(value: float | None) -> str:
    return NONE if value is None else f"{value:,.1f}"


def asked_rows(metadata: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a run asked and answered, task by task and in all, as text."""
    return [
        {
            "name": row.task,
            **{key: _count(getattr(row, key)) for key in ("asked", "answered", "prompt_tokens", "generated_tokens")},
            "seconds": _tenths(row.seconds),
            "rate": _tenths(row.rate),
        }
        for row in asked_of(metadata)
    ]


def history_rows(
    history: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], verdict_sha256: str | None
) -> list[dict[str, Any]]:
    """Decisions on one release, the newest first; the verdict's own is among them, whatever the history has."""
    entries = list(history)
    if all(entry["verdict_sha256"] != verdict_sha256 for entry in entries):
        entries.append({**verdict, "verdict_sha256": verdict_sha256})
    return [
        {
            "decided": _time(entry.get("created")),
            "decision": str(entry["decision"]),
            "tone": str(entry["decision"]),
            **{key: entry.get(key) for key in ("failure_class", "detail", "recipe", "suite", "git_commit")},
            "is_current": entry["verdict_sha256"] == verdict_sha256,
        }
        for entry in reversed(entries)
    ]


def _environment(
    verdict: Mapping[str, Any],
    quantization: Mapping[str, Any],
    runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> list[tuple[str, str]]:
    servers = [mapping_or_empty(metadata.get("server")) for _, (_, metadata) in sorted(runs.items())]
    devices = {str(server["device"]) for server in servers if server.get("device")}
    devices |= {str(quantization["device"])} if quantization.get("device") else set()
    gpu = verdict.get("gpu")
    rows = []
    if gpu or devices:
        rows.append(("Hardware", str(gpu) if gpu else ", ".join(sorted(devices))))
    versions = mapping_or_empty(verdict.get("versions"))
    parts: list[tuple[str, Any]] = [("Decision", versions)]
    if not any(isinstance(group, Mapping) for group in versions.values()):
        parts += [("Quantize", quantization.get("versions"))]
        parts += [(name.capitalize(), metadata.get("versions")) for name, (_, metadata) in runs.items()]
    for label, found in parts:
        for name, group in _groups(label, found):
            rows.append((name, ", ".join(f"{package} {version}" for package, version in group.items() if version)))
    if verdict.get("git_commit"):
        rows.append(("Workflow", f"git commit {verdict['git_commit']}"))
    return rows


def _groups(label: str, versions: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Versions as they are recorded: of one environment, or of several by name."""
    if not isinstance(versions, Mapping) or not versions:
        return []
    nested = [
        (f"{label}, {name}" if label != "Decision" else name.replace("_", " ").capitalize(), group)
        for name, group in versions.items()
        if isinstance(group, Mapping) and group
    ]
    flat = {name: version for name, version in versions.items() if not isinstance(version, Mapping)}
    return [*([(label, flat)] if flat else []), *nested]


def _as_published(entry: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """An entry of the external check as config/external_scores.yaml holds it."""
    return {
        "model": model,
        "score": entry.get("expected"),
        **{key: entry[key] for key in ("task", "metric", "scale", "source", "notes") if key in entry},
    }


def _commands(verdict: Mapping[str, Any], external: Mapping[str, Any]) -> list[str]:
    commit = str(verdict.get("git_commit") or "")
    commands = []
    if commit.endswith("-dirty"):
        commands.append(f"# the working tree differed from commit {commit.removesuffix('-dirty')}")
    elif commit:
        commands.append(f"git checkout {commit}")
    folder = f"results/{verdict.get('model')}/{verdict.get('release')}"
    commands.append("# with --configfile FILE where the release is not in config/config.yaml")
    commands.append(f"snakemake {folder}/verdict.json {folder}/report.html")
    evidence = verdict.get("evidence") or {}
    if "comparison" in evidence and {"baseline_run", "candidate_run"} <= set(evidence):
        folders = [evidence[name]["path"].rpartition("/")[0] or "." for name in ("baseline_run", "candidate_run")]
        options = {
            "--baseline": folders[0],
            "--candidate": folders[1],
            "--policy": json.dumps(verdict.get("policy") or {}, sort_keys=True),
            "--source-record": f"results/{verdict.get('model')}/source.json",
        }
        published = [_as_published(entry, verdict.get("model")) for entry in external.get("entries") or []]
        options |= {"--external": json.dumps({"scores": published}, ensure_ascii=False)} if published else {}
        words = [f"{option} {shlex.quote(value)}" for option, value in options.items()]
        commands += ["# the comparison alone", f"python scripts/gate_compare.py {' '.join(words)}"]
    if verdict.get("decision") == Decision.ACCEPT:
        commands.append("# the bundle, wherever it was copied to")
        commands.append(f"python scripts/verify_release.py {folder}/release")
    return commands


def _bars(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    most = max(counts.values(), default=0) or 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "count": count, "percent": round(100 * count / most, 1)} for name, count in ordered]


def _digits(scale: Any) -> int:
    """Digits behind the point that show a ten-thousandth of a scale, so that the numbers of a column line up."""
    width = scale["max"] - scale["min"] if isinstance(scale, Mapping) else 1
    return max(0, 4 - round(math.log10(width)))


def _fixed(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point and a true minus sign."""
    if value is None:
        return NONE
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text.replace("-", "\N{MINUS SIGN}")


def _time(stamp: Any) -> str | None:
    """A time of day to the minute, in the zone that it was written in."""
    try:
        return f"{datetime.fromisoformat(stamp):%Y-%m-%d %H:%M %Z}"
    except (TypeError, ValueError):
        return None if stamp is None else str(stamp)


def _number(value: float | None) -> str:
    """Four significant digits behind the point at most, with a true minus sign; what rounds to nothing is 0."""
    if value is None:
        return NONE
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "0", "") else text.replace("-", "\N{MINUS SIGN}")


def _percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{_number(round(100 * fraction, 3))} %"


def _count(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else str(value)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{f'{count:#.3g}'.rstrip('.')} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
