"""The figures of the reports, as SVG: the same bytes for the same data, with text that can be read out and searched.

Every function returns one ``<svg>`` element that stands alone in a page or a file. Colours are of the palette of Okabe
and Ito (https://jfly.uni-koeln.de/color/), which stays apart for colour-blind readers; no meaning hangs on colour.
"""

from __future__ import annotations

import io
import itertools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath

from day0.records.failure_class import Decision
from day0.records.search import Candidate as SearchCandidate
from day0.records.search import Outcome, Search
from day0.release.portfolio import Candidate, pareto_front
from day0.release.search_page import KINDS, OBJECTIVES, last_outcomes, rungs_of

INK, SOFT, LINE, GRID, PAPER = "#1c2430", "#566170", "#dde2e8", "#e6eaee", "#ffffff"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b3a100",
)  # fmt: skip
FULL_PRECISION, BROKEN = "#cfd6de", "#b3212f"
# What a page draws in its own colours, by the names of style.css; the colours that carry data stay.
OF_THE_PAGE = {INK: "ink", SOFT: "soft", LINE: "line", GRID: "grid", PAPER: "paper", FULL_PRECISION: "full"}
ON_DARK, ON_LIGHT = "#fffffe", "#0b0f14"  # text within a bar, on whichever paper
MARKS: dict[str, tuple[str, str]] = {
    Decision.ACCEPT: (GREEN, "o"),
    Decision.REGRESSION: (VERMILION, "v"),
    Decision.ANOMALOUS: (YELLOW, "D"),
    Decision.INFEASIBLE: (PURPLE, "X"),
}
FONTS = "'DejaVu Sans', Verdana, Arial, sans-serif"
LONGEST_LABEL = 32
MOST_NAMES = 60  # beside points of one figure
LEAST_SPAN = 4.0  # of an axis of scores, in % of the scale
WIDTH_INCHES = 8.4


class Stage(NamedTuple):
    """A finished stage: when it began (seconds since the epoch), how long it took (seconds), and for what."""

    name: str
    start: float
    seconds: float
    group: str


def for_page(svg: str) -> str:
    """A figure in the colours of the page that it stands in, which are others on a dark screen."""
    return re.sub(
        r"\b(fill|stroke): (#[0-9a-f]{6})",
        lambda found: f"{found[1]}: var(--{OF_THE_PAGE[found[2]]})" if found[2] in OF_THE_PAGE else found[0],
        svg,
    )


def drop_chart(tasks: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> str | None:
    """The drop of each task in percent of its scale, with its interval and limit; None where no task has a drop."""
    measured = [name for name in order if tasks[name].get("drop") is not None and tasks[name].get("scale")]
    if not measured:
        return None
    sentences = []
    with _style(9):
        figure = Figure(figsize=(WIDTH_INCHES, 1.05 + 0.42 * len(measured)), layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(measured):
            entry = tasks[name]
            unit = 100 / (entry["scale"]["max"] - entry["scale"]["min"])
            blocks = entry.get("tier") != "advisory"
            color = SOFT if not blocks else BLUE if entry.get("within") else VERMILION
            interval = (entry.get("paired") or {}).get("interval")
            if interval:
                axes.plot(
                    [unit * end for end in interval], [row, row], color=color, linewidth=2.4, solid_capstyle="butt"
                )
            shape = "o" if entry.get("within") else "v"
            axes.plot([unit * entry["drop"]], [row], marker=shape, markersize=7, color=color, zorder=3)
            words = f"{name}: drop {unit * entry['drop']:.3g} %"
            if entry.get("limit") is not None:
                limit = unit * entry["limit"]
                axes.plot([limit, limit], [row - 0.36, row + 0.36], color=INK, linewidth=1.6, linestyle=(0, (3, 1.5)))
                words += f", limit {limit:.3g} %"
            sentences.append(words)
        axes.axvline(0, color=SOFT, linewidth=0.9, zorder=0)
        axes.set_yticks(range(len(measured)), [_label(name) for name in measured])
        axes.set_ylim(len(measured) - 0.45, -0.55)
        axes.margins(x=0.08)
        axes.set_xlabel("drop in % of the scale (to the right: the candidate is worse)", color=SOFT)
        _bare(axes)
        figure.legend(
            handles=[
                Line2D([], [], color=BLUE, marker="o", linewidth=2.4, label="within the limit"),
                Line2D([], [], color=VERMILION, marker="v", linewidth=2.4, label="beyond the limit"),
                Line2D([], [], color=SOFT, marker="o", linewidth=2.4, label="advisory task"),
                Line2D([], [], color=INK, linewidth=1.6, linestyle=(0, (3, 1.5)), label="limit"),
            ],
            loc="outside upper left", ncols=4, frameon=False,
        )  # fmt: skip
        return _svg(figure, "Drop of the candidate per task, with interval and limit", "; ".join(sentences))


def layer_map_chart(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The precision of each kind of module (rows) in each layer (columns); None without rows.

    Args:
        rows: ``module`` and ``runs``, each [first layer or None, last layer or None, precision, modules].
    """
    if not rows:
        return None
    held = sorted({run[2] for row in rows for run in row["runs"]})
    palette = iter([BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, *[VERMILION] * len(held)])
    colors = {
        name: BROKEN if "broken" in name else FULL_PRECISION if name in ("BF16", "F16", "F32") else next(palette)
        for name in held
    }
    with _style(8):
        figure = Figure(figsize=(WIDTH_INCHES, 1.1 + 0.21 * len(rows)), layout="constrained")
        axes = figure.subplots()
        last = max((run[1] or 0 for row in rows for run in row["runs"]), default=0)
        for place, row in enumerate(rows):
            for first, end, name, _ in row["runs"]:
                left, width = (-0.5, last + 1) if first is None else (first - 0.5, end - first + 1)
                axes.barh(place, width, left=left, height=0.82, color=colors[name], linewidth=0)
        axes.set_yticks(range(len(rows)), [_label(_tail(row["module"])) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.5, last + 0.5)
        axes.set_xlabel("layer", color=SOFT)
        locator: Any = axes.xaxis.get_major_locator()  # a MaxNLocator, which alone takes "integer"
        locator.set_params(integer=True)
        _bare(axes)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        handles = [Patch(color=colors[name], label=_label(name)) for name in held]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False)
        sentences = [f"{row['module']}: {', '.join(sorted({run[2] for run in row['runs']}))}" for row in rows]
        return _svg(figure, "Precision of each kind of module by layer", "; ".join(sentences))


def timeline_chart(stages: Sequence[Stage]) -> str | None:
    """When each stage ran; idle time in which nothing ran is cut out and named. None without stages."""
    ordered = sorted(stages, key=lambda stage: (stage.start, stage.start + stage.seconds, stage.name))
    if not ordered:
        return None
    shifts, gaps, total = _without_idle(ordered)
    unit, word = (1, "seconds") if total < 600 else (60, "minutes") if total < 4 * 3600 else (3600, "hours")
    groups = sorted({stage.group for stage in ordered})
    colors = dict(zip(groups, [BLUE, ORANGE, GREEN, PURPLE, SKY] * len(groups), strict=False))
    with _style(8.5):
        figure = Figure(figsize=(WIDTH_INCHES, 1.1 + 0.24 * len(ordered)), layout="constrained")
        axes = figure.subplots()
        for row, (stage, shift) in enumerate(zip(ordered, shifts, strict=True)):
            left, width = (stage.start - shift) / unit, max(stage.seconds, total / 400) / unit
            axes.barh(row, width, left=left, height=0.66, color=colors[stage.group], linewidth=0)
            beside = left + width < 0.88 * total / unit
            inside = not beside and width > 0.12 * total / unit
            axes.annotate(
                _duration(stage.seconds), (left if not (beside or inside) else left + width, row), va="center",
                color=_ink_on(colors[stage.group]) if inside else INK, xytext=(4 if beside else -4, 0),
                textcoords="offset points", ha="left" if beside else "right", fontsize=7.5,
            )  # fmt: skip
        for place, _ in gaps:
            axes.axvline(place / unit, color=SOFT, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_yticks(range(len(ordered)), [_label(stage.name) for stage in ordered])
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.set_xlim(0, total * 1.02 / unit)
        axes.set_xlabel(f"{word} since the first stage began", color=SOFT)
        _bare(axes)
        handles = [Patch(color=colors[name], label=_label(name)) for name in groups]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False)
        if gaps:
            axes.set_ylim(len(ordered) + 0.3, -0.6)  # a line for the idle times
            figure.draw_without_rendering()
            idle = [(f"idle {_duration(seconds)}", place / unit, len(ordered) - 0.05) for place, seconds in gaps]
            _name_points(axes, idle, size=7, color=SOFT, rises=(-3,), reach=3, marks=False)
        sentences = [f"{stage.name}: {_duration(stage.seconds)}" for stage in ordered]
        return _svg(figure, "Timeline of the stages", "; ".join(sentences))


def pareto_chart(title: str, candidates: Sequence[Candidate], baseline_score: float | None) -> str | None:
    """Size against accuracy of one model's candidates on one suite, the source among them; None without candidates.

    The line joins what no other candidate beats in both: smaller and at least as good. Scores of an anomalous candidate
    are not to be trusted: its mark is hollow and no part of the line.
    """
    if not candidates:
        return None
    points = sorted(candidates, key=lambda point: (point.size_ratio, -point.score, point.release))
    with _style(9):
        figure = Figure(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
        axes = figure.subplots()
        front = pareto_front([point for point in points if point.decision != Decision.ANOMALOUS])
        places = [(100 * point.size_ratio, 100 * point.score) for point in front]
        if baseline_score is not None:
            axes.plot([100], [100 * baseline_score], marker="*", markersize=13, color=INK, linestyle="none", zorder=3)
            axes.axhline(100 * baseline_score, color=SOFT, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
            if places and baseline_score > max(point.score for point in front):
                places.append((100, 100 * baseline_score))
        if places:
            axes.plot(*zip(*places, strict=True), color=SOFT, linewidth=1.1, zorder=1)
        for point in points:
            color, shape = MARKS.get(point.decision, MARKS[Decision.ANOMALOUS])
            axes.plot(
                [100 * point.size_ratio], [100 * point.score], markersize=9, zorder=3, marker=shape, color=color,
                linestyle="none", markerfacecolor=_face(point.decision),
            )  # fmt: skip
        axes.set_xlim(0, 108)
        axes.margins(y=0.18)
        low, high = axes.get_ylim()
        if high - low < LEAST_SPAN:  # else half a point looks like a cliff
            axes.set_ylim((low + high - LEAST_SPAN) / 2, (low + high + LEAST_SPAN) / 2)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_xlabel("size of the weights in % of the source (to the left: smaller)", color=SOFT)
        axes.set_ylabel("mean score in % of the scale", color=SOFT)
        _bare(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        shown = [decision for decision in MARKS if any(point.decision == decision for point in points)]
        handles = [
            Line2D(
                [],
                [],
                color=MARKS[name][0],
                marker=MARKS[name][1],
                linestyle="none",
                markersize=8,
                label=name,
                markerfacecolor=_face(name),
            )
            for name in shown
        ]
        handles += [Line2D([], [], color=SOFT, linewidth=1.1, label="not beaten in size and score at once")]
        figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False)
        figure.draw_without_rendering()  # settles where the points come to lie
        named = [(point.release, 100 * point.size_ratio, 100 * point.score) for point in points]
        named.sort(key=lambda one: one[0] not in {point.release for point in front})
        source = [("source", 100.0, 100 * baseline_score)] if baseline_score is not None else []
        drawn = [places] + ([[(0, source[0][2]), (108, source[0][2])]] if source else [])
        _say_omitted(axes, _name_points(axes, [*source, *named], lines=drawn))
        sentences = [
            f"{point.release}: {point.decision}, {point.size_ratio:.1%} of the size, mean score {point.score:.2%}"
            for point in points
        ]
        return _svg(figure, f"Size and accuracy of {title}", "; ".join(sentences))


def search_chart(search: Search) -> str | None:
    """What each candidate of a search costs and keeps, the path that was taken, and those that were not tried.

    A filled mark is the deciding suite's, a hollow one the screening's; the line joins the candidates in the order in
    which they were asked, and a name's numbers are its rungs. None where the space has no candidate.
    """
    if not search.candidates:
        return None
    outcomes, rungs = last_outcomes(search), rungs_of(search)
    measured = {
        one.name: (one.cost, found) for one in search.candidates if (found := outcomes.get(one.name)) and found.loss
    }
    names = []
    with _style(9):
        figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
        axes = figure.subplots()
        for name, (cost, found) in measured.items():
            if found.loss is None:
                continue
            color, shape = MARKS[found.decision]
            change, ends = -100 * found.loss.drop, [-100 * found.loss.low, -100 * found.loss.high]
            axes.plot([cost, cost], ends, color=color, linewidth=1.8, solid_capstyle="butt", zorder=2)
            axes.plot(
                [cost], [change], marker=shape, markersize=9, color=color, linestyle="none", zorder=3,
                markerfacecolor=color if found.kind == "final" else PAPER,
            )  # fmt: skip
            winner = ", winner" if name == search.winner else ""
            names.append((f"{name} ({', '.join(map(str, rungs.get(name, [])))}){winner}", cost, change))
        path = [one.name for rung in search.rungs for one in rung.asked if one.name in measured]
        steps = [place for number, place in enumerate(path) if number == 0 or path[number - 1] != place]
        if len(steps) > 1:
            places = [(measured[name][0], -100 * measured[name][1].loss.drop) for name in steps]  # type: ignore[union-attr]
            axes.plot(*zip(*places, strict=True), color=SOFT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        limits = [found.loss.limit for _, found in measured.values() if found.loss and found.kind == "final"]
        if limits:
            axes.axhline(-100 * limits[0], color=INK, linewidth=1.2, linestyle=(0, (3, 1.5)), zorder=0)
        axes.axhline(0, color=SOFT, linewidth=0.9, zorder=0)
        axes.margins(x=0.12, y=0.2)
        bottom = axes.get_ylim()[0]
        others = [one for one in search.candidates if one.name not in measured]
        for one in others:
            axes.plot([one.cost], [bottom], marker="|", markersize=12, color=SOFT, linestyle="none", clip_on=False)
            names.append((one.name, one.cost, bottom))
        axes.set_ylim(bottom, None)
        axes.set_xlabel(f"{OBJECTIVES[search.objective]} (to the left: better)", color=SOFT)
        axes.set_ylabel("change of the mean score, % of the scale", color=SOFT)
        _bare(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        shown = [name for name in MARKS if any(found.decision == name for _, found in measured.values())]
        handles = [
            Line2D([], [], color=MARKS[name][0], marker=MARKS[name][1], linestyle="none", markersize=8, label=name)
            for name in shown
        ]
        handles += [
            Line2D([], [], color=SOFT, marker="o", markerfacecolor=PAPER, linestyle="none", label="by screening"),
            Line2D([], [], color=SOFT, marker="|", linestyle="none", markersize=10, label="no score, or not tried"),
            Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (3, 1.5)), label="limit of the mean"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=6, frameon=False)
        figure.draw_without_rendering()  # settles where the points come to lie
        drawn = [
            [(cost, -100 * found.loss.low), (cost, -100 * found.loss.high)]
            for cost, found in measured.values()
            if found.loss
        ]
        _say_omitted(axes, _name_points(axes, names, lines=drawn))
        reasons = {one.name: one.reason for one in search.not_tried}
        sentences = [_sentence_of(one, outcomes.get(one.name), reasons) for one in search.candidates]
        return _svg(figure, "Cost and accuracy of the candidates of the search", "; ".join(sentences))


def _sentence_of(candidate: SearchCandidate, outcome: Outcome | None, reasons: Mapping[str, str]) -> str:
    """A candidate of a search in words."""
    text = f"{candidate.name}: cost {candidate.cost:.4g}"
    if outcome is None:
        return f"{text}, not tried: {reasons.get(candidate.name, 'no reason recorded')}"
    drop = f", mean drop {outcome.loss.drop:.2%} of the scale" if outcome.loss else ""
    return f"{text}, {outcome.decision} by the {KINDS[outcome.kind]}{drop}"


def _face(decision: str) -> str:
    """The filling of a mark: none where the scores are not to be trusted."""
    return PAPER if decision == Decision.ANOMALOUS else MARKS.get(decision, MARKS[Decision.ANOMALOUS])[0]


def _name_points(
    axes: Any,
    points: Sequence[tuple[str, float, float]],
    size: float = 8.5,
    color: str = INK,
    rises: Sequence[float] = (5, -12, 17, -24, 29),
    reach: float = 9,
    marks: bool = True,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
) -> int:
    """Write a name beside each point: at the first of a few places that no mark and no earlier name has taken.

    Args:
        points: names and places; the first are named first.
        size, rises, reach: of the text, and how far above and beside its point it may stand, in points of the page.
        marks: whether the points have marks, which no name may cover.
        lines: drawn ones, by their corners, which no name may lie on.

    Returns:
        How many names found no place, and are left out; those beyond MOST_NAMES are not tried.
    """
    unit = axes.figure.dpi / 72
    places = [tuple(axes.transData.transform(point[1:]) / unit) for point in points]  # in points of the page
    right, top = (edge / unit for edge in axes.figure.bbox.extents[2:])
    left, low = axes.get_window_extent().x0 / unit, axes.get_window_extent().y0 / unit  # beyond are the ticks
    taken = [(x - 6, y - 5, x + 6, y + 5) for x, y in places] if marks else []
    for line in lines:
        corners = [tuple(axes.transData.transform(corner) / unit) for corner in line]
        for (x, y), (to_x, to_y) in itertools.pairwise(corners):
            steps = 1 + int(max(abs(to_x - x), abs(to_y - y)) / 3)
            along = [(x + (to_x - x) * step / steps, y + (to_y - y) * step / steps) for step in range(steps + 1)]
            taken += [(x - 0.5, y - 0.5, x + 0.5, y + 0.5) for x, y in along]
    omitted = max(0, len(points) - MOST_NAMES)
    for (name, *place), (x, y) in list(zip(points, places, strict=True))[:MOST_NAMES]:
        label = _label(name)
        width = _width_of(label, size)
        sides = (-1, 1) if x + reach + width > right - 4 else (1, -1)
        offsets = [(reach * side, rise) for rise in rises for side in sides]
        boxes = [_text_box(x + dx, y + dy, width if dx > 0 else -width, size) for dx, dy in offsets]
        free = (
            number
            for number, box in enumerate(boxes)
            if left < box[0] and box[2] < right and low - 1 < box[1] and box[3] < top
            if not any(_overlap(box, other) for other in taken)
        )
        chosen = next(free, None)
        if chosen is None:
            omitted += 1
            continue
        offset = offsets[chosen]
        taken.append(boxes[chosen])
        axes.annotate(
            label, place, xytext=offset, textcoords="offset points", color=color, fontsize=size,
            ha="right" if offset[0] < 0 else "left",
        )  # fmt: skip
    return omitted


def _say_omitted(axes: Any, omitted: int) -> None:
    """Say below a figure that names are left out; the page's table has them."""
    if omitted:
        axes.set_xlabel(f"{axes.get_xlabel()}; names without room: {omitted}", color=SOFT)


@lru_cache(maxsize=4096)
def _width_of(label: str, size: float) -> float:
    """Width of a text in points; a reader's font may be wider than DejaVu Sans by a little."""
    path = TextPath((0, 0), label, size=size, prop=FontProperties(family="DejaVu Sans"))
    return 1.06 * float(path.get_extents().width) + 1


def _ink_on(color: str) -> str:
    """The ink that is read on a colour."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return ON_DARK if sum(map(operator.mul, (0.2126, 0.7152, 0.0722), linear)) < 0.18 else ON_LIGHT


def _text_box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a text that runs to the right of a place, or to its left for a negative width."""
    return min(x, x + width), y - 2, max(x, x + width), y + height + 2


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _without_idle(ordered: Sequence[Stage]) -> tuple[list[float], list[tuple[float, float]], float]:
    """How far to move each stage to the left, where idle time was cut and how much, and the length that remains.

    Idle time counts where it is longer than a tenth of the time in which something ran; a hundredth of that remains.
    """
    busy, end = 0.0, ordered[0].start
    for stage in ordered:
        busy += max(0.0, stage.start + stage.seconds - max(end, stage.start))
        end = max(end, stage.start + stage.seconds)
    shifts, gaps, shift, end = [], [], ordered[0].start, ordered[0].start
    for stage in ordered:
        idle = stage.start - end
        if idle > max(busy / 10, 1.0):
            cut = idle - busy / 25
            gaps.append((end - shift + busy / 50, idle))
            shift += cut
        shifts.append(shift)
        end = max(end, stage.start + stage.seconds)
    return shifts, gaps, max(end - shift, 0.001)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _tail(module: str) -> str:
    return module if len(module) <= LONGEST_LABEL else f"…{module[1 - LONGEST_LABEL :]}"


def _label(name: str) -> str:
    """A name for matplotlib, in which a dollar sign would begin a formula."""
    short = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
    return short.replace("$", r"\$")


def _bare(axes: Any) -> None:
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.tick_params(axis="x", colors=SOFT)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)


@contextmanager
def _style(size: float) -> Iterator[None]:
    settings: Any = {"svg.hashsalt": "day0", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": size}
    settings |= {"text.color": INK, "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": INK}
    settings |= {"legend.labelcolor": INK}
    with matplotlib.rc_context(settings):
        yield


def _svg(figure: Figure, title: str, description: str) -> str:
    """The figure as an element that stands alone: no ids that a second figure of a page would repeat."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("'DejaVu Sans'", FONTS)
    head, _, rest = svg.partition(">")
    label = escape(title, quote=True)
    return (
        f'{head} role="img" aria-label="{label}">\n <title>{label}</title>\n <desc>{escape(description)}</desc>{rest}'
    )
