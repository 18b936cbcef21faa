"""Folders that are made whole or not at all."""

import pytest

from day0.base.folders import move_model, unfinished_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make(place, content):
    with unfinished_folder(place) as folder:
        (folder / "config.json").write_text(content)
        move_model(folder, place)


def test_a_model_takes_the_place_of_an_earlier_one_and_all_may_read_it(tmp_path):
    place = tmp_path / "made" / "model"
    make(place, "1")
    (place / "old").write_text("")
    make(place, "2")
    assert names(place.parent) == ["model"] and names(place) == ["config.json"]
    assert (place / "config.json").read_text() == "2"
    assert (place.stat().st_mode & 0o777, (place / "config.json").stat().st_mode & 0o777) == (0o755, 0o644)


def test_what_fails_leaves_the_earlier_one_and_nothing_else(tmp_path):
    place = tmp_path / "model"
    make(place, "1")
    with pytest.raises(KeyError), unfinished_folder(place) as folder:
        (folder / "half").write_text("")
        raise KeyError
    assert names(tmp_path) == ["model"] and names(place) == ["config.json"]


def test_what_a_killed_run_left_is_removed_and_another_places_is_not(tmp_path):
    (tmp_path / ".model.unfinished-abc").mkdir()
    (tmp_path / ".model.cpu.unfinished-abc").mkdir()
    with unfinished_folder(tmp_path / "model") as folder:
        assert folder.name != ".model.unfinished-abc" and folder.parent == tmp_path
    assert names(tmp_path) == [".model.cpu.unfinished-abc"]
