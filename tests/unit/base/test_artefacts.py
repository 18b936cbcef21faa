"""Artefacts are written whole or not at all, and unreadable ones are named."""

import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.base.artefacts import (
    SCHEMA_VERSION,
    digest_of,
    digest_of_file,
    digest_of_inventory,
    inventory,
    read_json,
    read_lines,
    read_yaml,
    write_json,
)
from day0.base.cli import UnusableInput, run_cli


def test_json_comes_back_with_its_schema_version_first(tmp_path):
    path = tmp_path / "below" / "a.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert list(read_json(path).items()) == [("schema_version", SCHEMA_VERSION), ("b", 1), ("a", "ü")]
    assert "ü" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": [float("-inf")]}, object()])
def test_what_json_cannot_hold_leaves_the_old_file_alone(tmp_path, value):
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"new": value})
    assert read_json(path)["old"] is True
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00", '{"a": 1', "[" * 100_000])
def test_unreadable_json_names_the_file_and_what_was_expected(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UnusableInput, match=r"a\.json: expected a JSON object"):
        read_json(path)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "a: b: c", "&a [*a]"])
def test_unreadable_yaml_names_the_file_and_what_was_expected(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UnusableInput, match=r"a\.yaml: expected a YAML mapping"):
        read_yaml(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnusableInput, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_digest_does_not_depend_on_the_order_of_keys(content):
    assert digest_of(content) == digest_of(dict(reversed(content.items())))


@given(st.dictionaries(st.text(max_size=3), st.integers()), st.dictionaries(st.text(max_size=3), st.integers()))
def test_digest_differs_where_the_content_does(first, second):
    assert (digest_of(first) == digest_of(second)) == (first == second)


def test_inventory_lists_every_file_with_size_and_digest(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b").write_bytes(b"22")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / ".snakemake_timestamp").write_bytes(b"")
    files = inventory(tmp_path)
    assert list(files) == ["a", "below/b"]
    assert files["below/b"] == {"bytes": 2, "sha256": hashlib.sha256(b"22").hexdigest()}
    assert digest_of_file(tmp_path / "a") == files["a"]["sha256"]
    before = digest_of_inventory(files)
    (tmp_path / "a").write_bytes(b"2")
    assert digest_of_inventory(inventory(tmp_path)) != before


@pytest.mark.parametrize(("outcome", "status"), [(0, 0), (1, 1), (None, 0)])
def test_a_command_exits_with_its_status(outcome, status):
    with pytest.raises(SystemExit) as stopped:
        run_cli(lambda: outcome)
    assert stopped.value.code == status


def test_unusable_input_exits_with_2_and_a_plain_message(capsys):
    def main():
        raise UnusableInput("a.json: expected b")

    with pytest.raises(SystemExit) as stopped:
        run_cli(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: a.json: expected b\n"


def test_artefacts_are_readable_by_others(tmp_path):
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644
    assert json.loads((tmp_path / "a.json").read_text()) == {"schema_version": SCHEMA_VERSION}


@pytest.mark.parametrize("read", [read_json, read_yaml, digest_of_file, lambda path: list(read_lines(path))])
def test_a_pipe_is_named_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises((UnusableInput, OSError), match="it is a pipe or a device, no file"):
        read(tmp_path / "a.json")
