"""Calibration settings and texts: options take precedence, and every mistake is an error that names its place."""

import pytest

from day0.base.cli import UnusableInput
from day0.recipe.calibration import check_dataset, read_calibration, read_texts
from day0.records.recipe import Calibration


def test_an_option_takes_precedence_over_the_settings(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("a\n")
    settings = {"dataset": "cnn_dailymail", "samples": 3, "batch_size": 4}
    calibration = read_calibration(settings, {"dataset": str(file), "samples": None, "batch_size": 2, "seed": 7})
    assert calibration == Calibration(dataset=str(file), samples=3, batch_size=2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 0}, "calibration.samples: found 0"),
        ({"sampels": 1}, "calibration.sampels: unknown key"),
        ({"dataset": "none.jsonl"}, "found no file none.jsonl"),
    ],
)
def test_a_wrong_setting_is_named(settings, words):
    with pytest.raises(UnusableInput, match=words):
        read_calibration(settings, {})


def test_the_first_texts_of_a_file_are_taken(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"body": "a"}\n\n{"body": "b"}\n{"body": "c"}\n')
    assert read_texts(Calibration(dataset=str(file), samples=2, text_field="body")) == ["a", "b"]
    (tmp_path / "texts.txt").write_text("a\nb\n")
    assert read_texts(Calibration(dataset=str(tmp_path / "texts.txt"))) == ["a", "b"]
    assert read_texts(Calibration(dataset="cnn_dailymail")) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no text"),
        ("[1]\n", "texts.jsonl:1: expected an object"),
        ('{"text": "a"}\n{"other": 1}\n', "texts.jsonl:2: expected an object with a text in 'text'"),
        ('{"text": ""}\n', "expected a text"),
    ],
)
def test_a_line_without_a_text_is_named(content, words, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text(content)
    with pytest.raises(UnusableInput, match=words):
        read_texts(Calibration(dataset=str(file)))


def test_a_recipe_that_measures_activations_needs_texts():
    check_dataset(Calibration(), is_needed=False, known=[])
    check_dataset(Calibration(dataset="a.txt"), is_needed=True, known=[])
    check_dataset(Calibration(dataset="known"), is_needed=True, known=["known"])
    with pytest.raises(UnusableInput, match="it needs calibration texts"):
        check_dataset(Calibration(), is_needed=True, known=[])
    with pytest.raises(UnusableInput, match=r"found 'unknown'; expected .* one of known"):
        check_dataset(Calibration(dataset="unknown"), is_needed=True, known=["known"])
