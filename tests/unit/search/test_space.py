"""Spaces of a search: files of config/spaces, and moves within the configuration."""

import pytest

from day0.base.cli import UnusableInput
from day0.search.space import load_space


def space(*moves, **fields):
    return {"description": "d", "moves": list(moves), **fields}


def test_moves_in_place_keep_their_order(tmp_path):
    definition = {"preset": "nvfp4", "calibration": {"samples": 64}}
    found = load_space(
        ["fp8", {"recipe": "nvfp4", "group": "nvfp4"}, {"name": "a", "recipe": definition}], tmp_path, "s"
    )
    assert [move.recipe_name for move in found.moves] == ["fp8", "nvfp4", "a"]
    assert found.definitions == {"a": definition} and found.moves[1].group == "nvfp4"
    assert found.problem_with("size") is None


@pytest.mark.parametrize(
    ("moves", "problem"),
    [
        ([], "at least 1 item"),
        (["fp8", "fp8"], "fp8 stand there twice"),
        ([{"recipe": {"preset": "fp8"}}], "a definition needs one"),
        ([{"recipe": {"preset": "fp8"}, "name": "a/b"}], "found 'a/b'"),
        ([{"recipe": "fp8", "name": "other"}], "which has a name"),
        ([{"recipe": "fp8", "axes": "family"}], "moves[0].axes: unknown key"),
        ([{"recipe": "fp8", "axis": "format"}], "found 'format'; input should be 'anchor'"),
        ([{"name": "a", "recipe": {"preset": "fp8", "kv_cache": "fp8"}}], "kv_cache would change the server"),
        ([{"name": "a", "recipe": {"preset": "fp8", "serving": {}}}], "serving would change the server"),
        ([{"name": "a", "recipe": {"presets": "fp8"}}], "unknown key"),
        ([{"name": "a", "recipe": {}}], "exactly one of"),
        ([3], "moves[0]: found 3; expected a recipe's name or a mapping"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, moves, problem):
    with pytest.raises(UnusableInput) as caught:
        load_space(moves, tmp_path, "releases[0].search.space")
    assert problem in str(caught.value) and "releases[0].search.space" in str(caught.value)


def test_several_mistakes_are_named_at_once(tmp_path):
    with pytest.raises(UnusableInput) as caught:
        load_space([{"recipe": "a", "axis": "x"}, {"recipe": {"preset": "b"}}], tmp_path, "s")
    assert "moves[0].axis" in str(caught.value) and "moves[1]" in str(caught.value)


def test_a_space_that_is_not_there(tmp_path):
    (tmp_path / "compute.yaml").write_text("moves: [fp8]")
    with pytest.raises(UnusableInput, match="did you mean compute"):
        load_space("compuet", tmp_path, "s")
    with pytest.raises(UnusableInput, match="expected a file"):
        load_space("../compute", tmp_path, "s")


def test_a_space_serves_its_objectives_alone(tmp_path):
    (tmp_path / "a.yaml").write_text("moves: [fp8]\nobjectives: [throughput]")
    found = load_space("a", tmp_path, "s")
    assert found.problem_with("throughput") is None and "not size" in found.problem_with("size")
