"""Figures are the same for the same data, can be read out, and take any name."""

import re
from xml.etree import ElementTree

import pytest

from day0.release.figures import (
    Stage,
    drop_chart,
    layer_map_chart,
    pareto_chart,
    timeline_chart,
)
from day0.release.portfolio import Candidate, pareto_front

SCALE = {"min": 0, "max": 1, "direction": "higher"}
TASKS = {
    "a$b_{c}^": {"drop": 0.02, "limit": 0.01, "within": False, "tier": "critical", "scale": SCALE},
    "x" * 200: {"drop": -20.0, "limit": 2.0, "within": True, "scale": {"min": -100, "max": 100}},
    "<lost> & gone": {"drop": None, "limit": 0.01, "within": None, "scale": SCALE},
}
ROWS = [
    {"module": "model.layers.*.mlp.up_proj", "runs": [[0, 3, "NVFP4", 4], [4, 4, "BF16", 1]]},
    {"module": "lm_head", "runs": [[None, None, "FP8, broken", 1]]},
]
STAGES = [Stage("evaluate, baseline", 100.0, 60.0, "baseline"), Stage("quantize & co", 90.0, 5.0, "candidate")]
CANDIDATES = [
    Candidate("fp8", "ACCEPT", 0.5, 0.99),
    Candidate("nvfp4", "REGRESSION", 0.3, 0.95),
    Candidate("big", "ACCEPT", 0.6, 0.98),
    Candidate("odd", "ANOMALOUS", 0.2, 1.0),
]
DRAWN = {
    "drops": lambda: drop_chart(TASKS, list(TASKS)),
    "precisions": lambda: layer_map_chart(ROWS),
    "timeline": lambda: timeline_chart(STAGES),
    "pareto": lambda: pareto_chart("<m> & co on $s$", CANDIDATES, 0.995),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_the_same_bytes_and_has_words(name):
    svg = DRAWN[name]()
    assert svg == DRAWN[name]()
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") and root.get("width")
    texts = {child.tag.rpartition("}")[2]: child.text for child in root}
    assert texts["title"] and texts["desc"]
    assert "http://www.w3.org/2000/svg" in svg and not re.search(r"(?<!xmlns)(?:href|src)=\"(?!#)", svg)


def test_two_figures_of_a_page_share_no_id_of_different_content():
    seen = {}
    for draw in DRAWN.values():
        for element in ElementTree.fromstring(draw()).iter():
            if identifier := element.get("id"):
                content = ElementTree.tostring(element)
                assert seen.setdefault(identifier, content) == content


def test_what_there_is_nothing_of_is_not_drawn():
    lost = {"lost": TASKS["<lost> & gone"]}
    assert drop_chart(lost, ["lost"]) is layer_map_chart([]) is timeline_chart([]) is pareto_chart("m", [], 1.0) is None


def test_names_that_mathematics_would_take_are_written_out():
    assert "a$b_{c}^" in "".join(ElementTree.fromstring(DRAWN["drops"]()).itertext())


def test_the_words_of_the_drops_say_their_limits():
    assert "drop 2 %, limit 1 %" in DRAWN["drops"]()


def test_the_front_is_what_nothing_smaller_equals():
    assert [point.release for point in pareto_front(CANDIDATES[:3])] == ["nvfp4", "fp8"]
    twins = [Candidate("b", "ACCEPT", 0.5, 0.9), Candidate("a", "ACCEPT", 0.5, 0.9)]
    assert [point.release for point in pareto_front(twins)] == ["a"]


def test_only_untrusted_candidates_make_no_front():
    assert "<svg" in pareto_chart("m on s", [CANDIDATES[3]], None)


def test_idle_time_is_cut_and_named():
    day = 86400.0
    stages = [Stage("first", 0.0, 100.0, "a"), Stage("second", 3 * day, 100.0, "a")]
    text = "".join(ElementTree.fromstring(timeline_chart(stages)).itertext())
    assert "idle 3 days" in text and "seconds since" in text


def test_stages_that_overlap_are_not_idle():
    stages = [Stage("long", 0.0, 1000.0, "a"), Stage("short", 10.0, 1.0, "b"), Stage("late", 1000.0, 1.0, "b")]
    assert "idle" not in timeline_chart(stages)


def test_names_of_points_that_lie_together_are_written_apart():
    names = ["alpha", "gamma", "delta", "omega"]
    points = [Candidate(name, "ACCEPT", 0.5, 0.9 + 0.0001 * place) for place, name in enumerate(names)]
    svg = pareto_chart("m", [*points, Candidate("low", "REGRESSION", 0.3, 0.8)], 0.95)
    texts = [element for element in ElementTree.fromstring(svg).iter() if element.text in names]
    places = [(float(text.get("x")), float(text.get("y"))) for text in texts]
    assert len(places) == len(names)
    for place, (x, y) in enumerate(places):
        for other_x, other_y in places[:place]:
            assert abs(y - other_y) >= 8 or abs(x - other_x) >= 18


def test_half_a_point_between_scores_is_no_cliff():
    svg = pareto_chart("m", [Candidate("a", "ACCEPT", 0.5, 0.905), Candidate("b", "ACCEPT", 0.3, 0.9)], 0.905)
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    scores = [float(text) for text in texts if re.fullmatch(r"\d+([.]\d+)?", text) and 85 < float(text) < 96]
    assert max(scores) - min(scores) >= 2, scores
