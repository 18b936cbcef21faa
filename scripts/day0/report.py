"""What the report page shows, from the verdict and the evidence beside it: rows of text, and one chart.

Nothing is decided here. Evidence that is absent leaves its part of the page out; evidence that changed since the
verdict is named as such.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from day0.triage import DECISIONS

TONES = {
    "ACCEPT": {
        "ink": "#17663a",
        "tint": "#ecf7f0",
        "meaning": "The candidate is within the limit on every task that blocks. It may be published.",
    },
    "REGRESSION": {
        "ink": "#a11f2c",
        "tint": "#fdf0f0",
        "meaning": "The candidate is worse than the baseline by more than the limit. It must not be published.",
    },
    "ANOMALOUS": {
        "ink": "#7a5200",
        "tint": "#fdf6e3",
        "meaning": "The evidence cannot be trusted or is not complete, so nothing is said about the candidate.",
    },
    "INFEASIBLE": {
        "ink": "#4a3f78",
        "tint": "#f2f0fa",
        "meaning": "This recipe gives no checkpoint of this model that is quantized as asked and can be served.",
    },
}
STAGE_NAMES = {
    "validation": "the validation of the checkpoint",
    "baseline_run": "the assessment of the baseline's run",
    "candidate_run": "the assessment of the candidate's run",
    "comparison": "the comparison of the two runs",
    "evidence": "the check of the chain of evidence",
    "preflight_model": "the preflight of the model",
    "preflight_recipe": "the preflight of the recipe",
    "preflight_suite": "the preflight of the suite",
}
NONE = "–"  # noqa: RUF001 (a dash on the page, where a number is absent)


def page_content(
    verdict: Mapping[str, Any],
    comparison: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
    runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
    benchmarks: Mapping[str, Mapping[str, str]] | None = None,
    states: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Variables of the template.

    Args:
        verdict: verdict.json.
        comparison, validation, quantization: their artefacts, where there are any.
        runs: "baseline" and "candidate" to (run.json, metadata of results.yml).
        benchmarks: stage to the last row of its Snakemake benchmark file (columns s, max_rss, ...).
        states: name of an evidence to "unchanged", "changed" or "missing".
    """
    comparison, validation, quantization = comparison or {}, validation or {}, quantization or {}
    runs, tasks = runs or {}, comparison.get("tasks") or verdict.get("tasks") or {}
    decision, ordered = verdict.get("decision"), sorted(tasks, key=lambda name: _worst_first(name, tasks))
    return {
        "verdict": verdict,
        "tone": TONES[decision if decision in DECISIONS else "ANOMALOUS"],
        "stage_name": STAGE_NAMES.get(verdict.get("stage"), f"the stage {verdict.get('stage')}"),
        "evidence_sentence": comparison.get("evidence_sentence"),
        "figures": _figures(verdict, comparison, tasks, validation),
        "tasks": [_task_row(name, tasks[name]) for name in ordered],
        "relative": comparison.get("relative", False),
        "threshold": _percent(comparison.get("threshold")),
        "chart": drop_chart(tasks) if any(entry.get("drop") is not None for entry in tasks.values()) else None,
        "paired": [_paired_row(name, tasks[name]) for name in ordered if tasks[name].get("paired")],
        "flip_tables": _flip_tables(tasks),
        "comparability": comparison.get("comparability"),
        "checkpoint_rows": _checkpoint_rows(validation, quantization),
        "precisions": _bars(validation.get("layer_precision_counts") or {}),
        "layer_map": layer_map_chart(validation["layer_map"]) if validation.get("layer_map") else None,
        "checks": [
            {"name": check.get("name", NONE), "pass": check.get("pass") is True, "detail": check.get("detail", "")}
            for check in validation.get("checks") or []
        ],
        "offenders": [str(offender) for offender in validation.get("offenders") or []],
        "runs": [_run_part(name, *runs[name]) for name in ("baseline", "candidate") if name in runs],
        "timings": _timings(benchmarks or {}),
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
        "commands": _commands(verdict),
    }


def drop_chart(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """SVG of the drops in percent of the scale, with their intervals and limits; the same bytes for the same data."""
    measured = [name for name in sorted(tasks, key=lambda name: _worst_first(name, tasks)) if _drop(tasks[name])]
    settings = {"svg.hashsalt": "day0", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8.4, 0.75 + 0.42 * len(measured)), layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(measured):
            entry = tasks[name]
            unit = 100 / (entry["scale"]["max"] - entry["scale"]["min"])
            within, blocks = entry["within"], entry.get("tier") != "advisory"
            color = "#8a94a1" if not blocks else "#1f6f43" if within else "#b3212f"
            interval = (entry.get("paired") or {}).get("interval")
            if interval:
                axes.plot([unit * end for end in interval], [row, row], color=color, linewidth=2, solid_capstyle="butt")
            axes.plot([unit * entry["drop"]], [row], marker="o", markersize=6, color=color, zorder=3)
            limit = unit * entry["limit"]
            axes.plot([limit, limit], [row - 0.36, row + 0.36], color="#b3212f", linewidth=1.6, linestyle=(0, (3, 1.5)))
        axes.axvline(0, color="#5b6675", linewidth=0.9, zorder=0)
        axes.set_yticks(range(len(measured)), [_chart_label(name) for name in measured])
        axes.set_ylim(len(measured) - 0.45, -0.55)
        axes.margins(x=0.08)
        axes.set_xlabel("drop in % of the scale (to the right: the candidate is worse)", color="#5b6675")
        axes.tick_params(axis="y", length=0, labelcolor="#1c2430")
        axes.tick_params(axis="x", colors="#5b6675")
        axes.grid(axis="x", color="#e6eaee", linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color("#dde2e8")
        return _svg(figure, "Drop of the candidate per task with interval and limit")


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def layer_map_chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """SVG of the precision of each kind of module (rows) in each layer (columns); the same bytes for the same data."""
    held = sorted({run[2] for row in rows for run in row["runs"]})
    colors = {name: _PLAIN if name in ("BF16", "F16", "F32") else None for name in held}
    palette = iter([*_PALETTE, *["#9a6fb0"] * len(held)])
    colors = {name: "#b3212f" if "broken" in name else color or next(palette) for name, color in colors.items()}
    settings = {"svg.hashsalt": "day0", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 8}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8.4, 1.1 + 0.21 * len(rows)), layout="constrained")
        axes = figure.subplots()
        last = max((run[1] or 0 for row in rows for run in row["runs"]), default=0)
        for place, row in enumerate(rows):
            for first, end, name, _ in row["runs"]:
                left, width = (-0.5, last + 1) if first is None else (first - 0.5, end - first + 1)
                axes.barh(place, width, left=left, height=0.82, color=colors[name], linewidth=0)
        axes.set_yticks(range(len(rows)), [_chart_label(_tail(row["module"])) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.5, last + 0.5)
        axes.set_xlabel("layer", color="#5b6675")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(axis="y", length=0, labelcolor="#1c2430")
        axes.tick_params(axis="x", colors="#5b6675")
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        handles = [Patch(color=colors[name], label=_chart_label(name)) for name in held]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure, "Precision of each kind of module by layer")


_PLAIN, _PALETTE = "#cfd6de", ("#2f6ca8", "#e08a2c", "#2f8f6b", "#7a4f9e", "#b8a12a", "#4aa3b5")


def _tail(module: str) -> str:
    return module if len(module) <= 32 else f"…{module[-31:]}"


def _drop(entry: Mapping[str, Any]) -> bool:
    return entry.get("drop") is not None and bool(entry.get("scale"))


def _chart_label(name: str) -> str:
    """A task's name for matplotlib, in which a dollar sign would begin a formula."""
    short = name if len(name) <= 32 else f"{name[:31]}…"
    return short.replace("$", r"\$")


def _worst_first(name: str, tasks: Mapping[str, Mapping[str, Any]]) -> tuple[bool, bool, float, str]:
    """Tasks that block before those that do not; in each, those without a result, then by their drop."""
    fraction = tasks[name].get("drop_fraction")
    return (tasks[name].get("tier") == "advisory", fraction is not None, -(fraction or 0.0), name)


def _figures(
    verdict: Mapping[str, Any], comparison: Mapping[str, Any], tasks: Mapping[str, Any], validation: Mapping[str, Any]
) -> list[dict[str, str]]:
    size_ratio = verdict.get("size_ratio") or validation.get("size_ratio")
    bits = verdict.get("bits_per_weight") or validation.get("bits_per_weight")
    fractions = [
        entry["drop_fraction"]
        for entry in tasks.values()
        if entry.get("drop_fraction") is not None and entry.get("tier") != "advisory"
    ]
    return [
        {"value": NONE if size_ratio is None else f"{size_ratio:.1%}", "label": "size of the source"},
        {"value": NONE if bits is None else f"{bits:.2f}", "label": "bits per weight"},
        {"value": _percent(max(fractions)) if fractions else NONE, "label": "largest drop, of the scale"},
        {"value": _percent(comparison.get("threshold")) or NONE, "label": "limit"},
        {"value": comparison.get("evidence") or NONE, "label": "paired evidence"},
    ]


def _task_row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    within, blocks = entry.get("within"), entry.get("tier") != "advisory"
    tone, verdict = {True: ("good", "within"), False: ("bad", "beyond"), None: ("odd", "no result")}[within]
    if entry.get("note") and within is not None:
        tone, verdict = "odd", "suspect"
    interval = (entry.get("paired") or {}).get("interval")
    return {
        "name": name,
        "tier": entry.get("tier") or NONE,
        **{key: _number(entry.get(key)) for key in ("baseline", "candidate", "drop", "limit")},
        "interval": f"{_number(interval[0])} to {_number(interval[1])}" if interval else NONE,
        "verdict": verdict if blocks else f"{verdict}, advisory",
        "tone": tone,
    }


def _paired_row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    paired = entry["paired"]
    p_value = paired.get("mcnemar_p")
    return {
        "name": name,
        **{key: _count(paired.get(key)) for key in ("samples", "wins", "losses", "ties")},
        "p": NONE if p_value is None else "< 0.0001" if p_value < 1e-4 else f"{p_value:.4f}",
        "detectable": _number(paired.get("detectable_drop")),
        "needed": _count(paired.get("samples_needed")),
        "sentence": paired.get("sentence", ""),
    }


def _flip_tables(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    tables = []
    for name in sorted(tasks, key=lambda name: _worst_first(name, tasks)):
        paired = tasks[name].get("paired") or {}
        for kind, total in (("lost", paired.get("losses")), ("won", paired.get("wins"))):
            rows = (paired.get("flips") or {}).get(kind) or []
            shown = rows[: 10 if kind == "lost" else 5]
            if shown:
                title = f"{name}: samples {kind} ({len(shown)} of {_count(total)})"
                tables.append({"title": title, "rows": [{**row, **_answers(row)} for row in shown]})
    return tables


def _answers(row: Mapping[str, Any]) -> dict[str, str]:
    return {side: NONE if row.get(side) is None else str(row[side]) for side in ("baseline", "candidate")}


def _checkpoint_rows(validation: Mapping[str, Any], quantization: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if validation.get("detail"):
        rows.append(("Validation", validation["detail"]))
    recipe = quantization.get("recipe") if isinstance(quantization.get("recipe"), Mapping) else {}
    if recipe:
        rows.append(("Recipe", f"{recipe.get('name')} ({recipe.get('kind')})"))
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
        rows.append(("Quantize", quantization["detail"]))
    source, output = validation.get("source_bytes"), validation.get("output_bytes")
    if source and output:
        rows.append(("Size", f"{_bytes(output)} of weights, source {_bytes(source)}"))
    quantizers = quantization.get("quantizers") if isinstance(quantization.get("quantizers"), Mapping) else {}
    if quantizers.get("enabled") is not None:
        rows.append(("Quantizers", f"{quantizers['enabled']} enabled, {quantizers.get('disabled', 0)} disabled"))
    return rows


def _run_part(name: str, run: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    server = metadata.get("server") if isinstance(metadata.get("server"), Mapping) else {}
    words = [
        f"{server.get('engine', 'engine')} {server.get('engine_version', '')}".strip() if server else "",
        *(f"{key.replace('_', ' ')} {server[key]}" for key in ("device", "quantization", "dtype") if server.get(key)),
    ]
    accounting = metadata.get("accounting") if isinstance(metadata.get("accounting"), Mapping) else {}
    columns = list(dict.fromkeys(key for entry in accounting.values() for key in entry))
    return {
        "title": name.capitalize(),
        "detail": run.get("detail"),
        "server": ", ".join(filter(None, words)) + (f". {server['emulation']}" if server.get("emulation") else ""),
        "columns": columns,
        "accounting": [
            {"name": task, "cells": [_count(entry.get(column)) for column in columns]}
            for task, entry in accounting.items()
        ],
    }


def _timings(benchmarks: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    seconds = {name: _float(row.get("s")) or 0.0 for name, row in benchmarks.items()}
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        {
            "name": name,
            "seconds": f"{seconds[name]:,.1f}",
            "memory": NONE if _float(row.get("max_rss")) is None else f"{_float(row.get('max_rss')):,.0f}",
            "percent": round(100 * seconds[name] / longest, 1),
        }
        for name, row in benchmarks.items()
    ]


def _environment(
    verdict: Mapping[str, Any],
    quantization: Mapping[str, Any],
    runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> list[tuple[str, str]]:
    parts = [("Decision", verdict.get("versions")), ("Quantize", quantization.get("versions"))]
    parts += [(name.capitalize(), metadata.get("versions")) for name, (_, metadata) in runs.items()]
    rows = []
    for label, versions in parts:
        for name, group in _groups(label, versions):
            rows.append((name, ", ".join(f"{package} {version}" for package, version in group.items() if version)))
    if quantization.get("device"):
        rows.append(("Quantize device", str(quantization["device"])))
    return rows


def _groups(label: str, versions: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Versions as they are recorded: of one environment, or of several by name."""
    if not isinstance(versions, Mapping) or not versions:
        return []
    nested = [(f"{label}, {name}", group) for name, group in versions.items() if isinstance(group, Mapping) and group]
    flat = {name: version for name, version in versions.items() if not isinstance(version, Mapping)}
    return [*([(label, flat)] if flat else []), *nested]


def _commands(verdict: Mapping[str, Any]) -> list[str]:
    commit = str(verdict.get("git_commit") or "")
    commands = []
    if commit.endswith("-dirty"):
        commands.append(f"# the working tree differed from commit {commit.removesuffix('-dirty')}")
    elif commit:
        commands.append(f"git checkout {commit}")
    folder = f"results/{verdict.get('model')}/{verdict.get('release')}"
    commands.append(f"snakemake {folder}/verdict.json {folder}/report.html")
    evidence = verdict.get("evidence") or {}
    if "comparison" in evidence and {"baseline_run", "candidate_run"} <= set(evidence):
        policy = verdict.get("policy") if isinstance(verdict.get("policy"), Mapping) else {}
        commands.append(
            f"python scripts/gate_compare.py --baseline {evidence['baseline_run']['path']} "
            f"--candidate {evidence['candidate_run']['path']} --threshold {policy.get('threshold', 0.01)}"
            + (" --relative" if policy.get("relative") else "")
        )
    return commands


def _bars(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    most = max(counts.values(), default=0) or 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "count": count, "percent": round(100 * count / most, 1)} for name, count in ordered]


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


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
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def benchmark_row(text: str) -> dict[str, str]:
    """The last row of a Snakemake benchmark file (tab separated, one header line); {} where it has none."""
    lines: Sequence[str] = [line for line in text.splitlines() if line.strip()]
    return dict(zip(lines[0].split("\t"), lines[-1].split("\t"), strict=False)) if len(lines) > 1 else {}
