"""Answers of a finished run serve a later one that asks more, and never one that asks the same anew."""

import pytest

from day0.evaluation.kept_answers import keep, take_up

OLD, NEW = "a" * 64, "b" * 64


def stores(folder):
    """{name: content} of the stores below a folder, a store that is a folder by its files."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture
def finished(tmp_path):
    """The folder of a complete run of two tasks, one of them with a folder as its store."""
    cache = tmp_path / "cache"
    (cache / "v1.5-sorting-2" / "repeat-0").mkdir(parents=True)
    (cache / "addition-1.jsonl").write_text("answers")
    (cache / "v1.5-sorting-2" / "repeat-0" / "data").write_text("responses")
    (cache / "addition-0.jsonl").write_text("of another definition")
    assert keep(tmp_path, OLD, ["addition-1", "v1.5-sorting-2"]) == len("answers" + "responses" + OLD)
    return tmp_path


def test_a_complete_run_keeps_the_answers_of_its_own_definition_alone(finished):
    assert not (finished / "cache").exists()
    assert stores(finished / "answers") == {
        "addition-1.jsonl": "answers",
        "v1.5-sorting-2/repeat-0/data": "responses",
        "identity": OLD,
    }


@pytest.mark.parametrize(
    ("identity", "names", "found"),
    [
        (
            NEW,
            ["addition-1", "v1.5-sorting-2"],
            {"addition-1.jsonl": "answers", "v1.5-sorting-2/repeat-0/data": "responses"},
        ),
        (NEW, ["addition-1", "v1.5-sorting-3"], {"addition-1.jsonl": "answers"}),
        (NEW, ["addition-9"], {}),
        (OLD, ["addition-1", "v1.5-sorting-2"], {}),
    ],
)
def test_another_definition_takes_up_what_its_tasks_store_and_the_same_one_asks_anew(finished, identity, names, found):
    assert take_up(finished, identity, names) == bool(found)
    assert stores(finished / "cache") == found
    assert not (finished / "answers").exists()


def test_what_a_stopped_run_has_stored_already_is_not_replaced(finished):
    (finished / "cache").mkdir()
    (finished / "cache" / "addition-1.jsonl").write_text("more answers")
    assert take_up(finished, NEW, ["addition-1", "v1.5-sorting-2"])
    assert stores(finished / "cache")["addition-1.jsonl"] == "more answers"


def test_a_folder_without_kept_answers_has_none(tmp_path):
    assert not take_up(tmp_path, NEW, ["addition-1"])
    (tmp_path / "answers").mkdir()  # what is left of one that was deleted halfway
    (tmp_path / "answers" / "addition-1.jsonl").write_text("of nobody knows what")
    assert not take_up(tmp_path, NEW, ["addition-1"]) and stores(tmp_path) == {}
