"""JSON and YAML of others: what the parsers of Python would take silently, or break at, is refused with its line."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.base.artefacts import read_json, read_json_lines, read_yaml
from day0.base.cli import UnusableInput
from day0.base.parsing import (
    DATE,
    MAX_DEPTH,
    MAX_YAML_BYTES,
    MAX_YAML_NODES,
    Unparsable,
    parse_json,
    parse_yaml,
    parse_yaml_documents,
)

SCRIPTS = Path(__file__).parents[3] / "scripts"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
ALIAS_CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))
NODES = "[" + "0," * (MAX_YAML_NODES + 1) + "]"

JSON_REFUSED = {
    "nothing": ("", "Expecting value"),
    "two values": ("{} {}", "Extra data"),
    "a key twice": ('{"a": 1,\n "b": {"c": [{"a": 0}]},\n "a": 2}', r"key 'a' stands in lines 1 and 3"),
    "a key twice in a line": ('{"x": {"a": 1, "a": 1}}', r"key 'a' stands twice in line 1"),
    "a key twice, once escaped": ('{"a": 1, "\\u0061": 2}', r"key 'a' stands twice"),
    "a key twice, braces in texts": ('{"a": "}{", "b": "\\"", "a": 2}', r"key 'a' stands twice"),
    "lists too deep": ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deeper than 100 levels"),
    "objects too deep": ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "deeper than 100 levels"),
    "3,000 levels": ('{"a":' * 3000 + "1" + "}" * 3000, "deeper than 100 levels"),
    "100,000 levels": ("[" * 100_000 + "]" * 100_000, "deeper than 100 levels"),
    "100,000 levels without an end": ("[" * 100_000, "deeper than 100 levels"),
    "an integer of 5,000 digits": ("1" * 5000, "4300"),
    "half of a surrogate pair": ('{"a": "\\ud800"}', r"\\ud800, half of a surrogate pair"),
    "the second half alone": ('{"a": "\\ud83d\\ude00 \\udc00"}', r"half of a surrogate pair"),
    "half as a key": ('{"\\udfff": 1}', r"half of a surrogate pair"),
}
YAML_REFUSED = {
    "a key twice": ("a: 1\nb:\n  c: 2\na: 3\n", r"key 'a' stands in lines 1 and 4"),
    "a key twice within": ("x:\n  - {a: 1, a: 2}\n", r"key 'a' stands twice in line 2"),
    "keys that are equal": ("1: a\n1.0: b\n", r"key 1.0 stands in lines 1 and 2"),
    "a key that is a list": ("? [a]\n: 1\n", "line 1: a mapping or list is the key"),
    "100,000 levels in brackets": ("[" * 100_000, "deeper than 100 levels"),
    "100,000 levels in braces": ("{a: " * 100_000, "deeper than 100 levels"),
    "100,000 levels of dashes": ("- " * 100_000 + "a", "deeper than 100 levels"),
    "200 levels of lines": ("".join(" " * i + "a:\n" for i in range(200)), "deeper than 100 levels"),
    "aliases that multiply": (BOMB, f"more than {MAX_YAML_NODES} values"),
    "aliases that nest": (ALIAS_CHAIN, "with its aliases, it nests deeper than 100 levels"),
    "merges that multiply": (MERGE_BOMB, f"more than {MAX_YAML_NODES} values"),
    "too many values": (NODES, f"more than {MAX_YAML_NODES} values"),
    "an alias within itself": ("a: &a [*a]", r"\*a stands for stands within itself"),
    "an alias of nothing": ("a: *a", r"\*a stands for is not defined"),
    "a tag of Python": ("!!python/object/apply:os.system [ls]", "tag '.*os.system' is not known"),
    "a tag of its own": ("a: !function x.y", "tag '!function' is not known"),
    "a merge of a text": ("<<: text", "'<<' expects a mapping"),
    "a number that is none": ("a: !!int text", "'text' is no int"),
    "an integer of 5,000 digits": ("a: " + "1" * 5000, "is no int"),
    "two documents": ("a: 1\n---\nb: 1", "expected a single document, found 2"),
    "a control character": ("a: \x00", "control characters"),
    "half of a surrogate pair": ('a: "\\ud800"', "invalid Unicode character escape code"),
    "no end of a list": ("a: [", "did not find expected node content"),
}


@pytest.mark.parametrize(("text", "message"), JSON_REFUSED.values(), ids=JSON_REFUSED)
def test_json_is_refused_with_its_reason(text, message):
    with pytest.raises(Unparsable, match=message):
        parse_json(text)


@pytest.mark.parametrize(("text", "message"), YAML_REFUSED.values(), ids=YAML_REFUSED)
def test_yaml_is_refused_with_its_reason_and_soon(text, message):
    start = time.process_time()
    with pytest.raises(Unparsable, match=message):
        parse_yaml(text)
    assert time.process_time() - start < 20


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": [-1e400]}'])
def test_no_number_that_is_not_finite_where_none_may_be(text):
    assert parse_json(text)
    with pytest.raises(Unparsable):
        parse_json(text, finite=True)


def test_what_is_at_the_limit_is_read():
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) == parse_yaml(deep)
    assert parse_json('"\\ud83d\\ude00 \\\\ud800 \\\\\\\\udc00"') == "\U0001f600 \\ud800 \\\\udc00"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("made: 2026-01-01", {"made": "2026-01-01"}),
        ("model: 2026-01-01 10:00:00", {"model": "2026-01-01 10:00:00"}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("d: {b: 3, <<: [{b: 1, c: 1}, {c: 2, e: 5}]}", {"d": {"b": 3, "c": 1, "e": 5}}),
        ("a: &x [1]\nb: [*x, *x]", {"a": [1], "b": [[1], [1]]}),
        ("a: &x 1\nb: &x 2\nc: *x", {"a": 1, "b": 2, "c": 2}),
        ("'<<': 1", {"<<": 1}),
        ("a: !!str 1\nb: !!int '2'\nc: !!null ''", {"a": "1", "b": 2, "c": None}),
        ("? a\n: 1\n? b", {"a": 1, "b": None}),
    ],
)
def test_yaml_says_what_it_says(text, value):
    assert parse_yaml(text) == value


def test_tags_and_dates_of_task_files_are_made_by_the_reader():
    text = "a: !function x.y\nb: !list [1]\nc: 2026-01-01\nd: !!set {x}"
    assert parse_yaml(text, tagged=lambda tag, value: [tag, value]) == {
        "a": ["function", "x.y"],
        "b": ["list", [1]],
        "c": [DATE, "2026-01-01"],
        "d": ["tag:yaml.org,2002:set", {"x": None}],
    }


def test_all_documents_of_a_file_are_read():
    assert parse_yaml_documents("a: 1\n---\n- b\n") == [{"a": 1}, ["b"]]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


@given(VALUES, st.booleans())
@settings(deadline=None)
def test_what_is_written_comes_back(value, flow):
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value
    assert parse_yaml(yaml.safe_dump(value, default_flow_style=flow)) == value


@given(st.text(st.sampled_from("ab1-:,[]{}&*|>'\"#%? \n~"), max_size=30))
@settings(deadline=None, max_examples=200)
def test_yaml_is_read_as_pyyaml_reads_it(text):
    try:
        value = parse_yaml(text)
    except Unparsable:
        return
    assert value == yaml.load(text, yaml.CSafeLoader)


@pytest.mark.parametrize(("read", "name"), [(read_json, "a.json"), (read_yaml, "a.yaml")])
class TestFiles:
    def test_a_byte_order_mark_is_no_part_of_the_text(self, tmp_path, read, name):
        (tmp_path / name).write_bytes(b'\xef\xbb\xbf{"a": 1}')
        assert read(tmp_path / name) == {"a": 1}

    @pytest.mark.parametrize("data", [b'{"a": "\xff"}', '{"a": 1}'.encode("utf-16")])
    def test_another_encoding_is_named(self, tmp_path, read, name, data):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnusableInput, match=rf"{name}: cannot be read \(it is not in UTF-8"):
            read(tmp_path / name)

    def test_the_file_and_its_line_are_named(self, tmp_path, read, name):
        (tmp_path / name).write_text('{"a": 1,\n"a": 2}')
        with pytest.raises(UnusableInput, match=rf"{name}: expected .* key 'a' stands in lines 1 and 2"):
            read(tmp_path / name)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path):
    with open(tmp_path / "a.yaml", "wb") as stream:
        stream.truncate(MAX_YAML_BYTES + 1)
    with pytest.raises(UnusableInput, match=r"the largest that is read has 16777216"):
        read_yaml(tmp_path / "a.yaml")


def test_a_line_that_is_no_object_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "\u2028"}\n{"b": 1, "b": 2}\n')
    with pytest.raises(UnusableInput, match=r"a\.jsonl, line 2: .*key 'b' stands twice"):
        list(read_json_lines(tmp_path / "a.jsonl"))


# What parses by itself, and why.
ALLOWED = {
    "day0/base/parsing.py": "the one place",
    "day0/base/composing.py": "its part for YAML",
    "day0/base/closure.py": "its own memory, which is dropped where anything is wrong with it",
    "day0/evaluation/harness_process.py": "what a harness script says to the stage",
    "day0/evaluation/request.py": "what the interpreter of an environment answers",
    "day0/plan/preflight.py": "what a harness script says of itself",
    "day0/serving/processes.py": "what the stage says to the process that guards the server",
    "day0/serving/server.py": "the server's answers",
    "day0/source/header_text.py": "what headers and indexes say beside the tensors, by the same rules",
    "day0/source/safetensors_headers.py": "headers of tensors, by rules of their own",
    "driver/slurm.py": "its own record, which is dropped where anything is wrong with it",
    "driver/plugins/snakemake_logger_plugin_day0/__init__.py": "a verdict, for a line; imports nothing of the project",
    "harness_lm_eval.py": "what the stage says to the harness",
    "harness_nemo_evaluator.py": "what the stage says to the harness",
    "harness_transport.py": "the server's answers, and their store",
    "make_docs.py": "the descriptions in the project's own examples",
    "make_demo_model.py": "the embedded model's data, which this project makes",
    "read_as_vllm.py": "what the checkpoint gate asks it",
    "verify_release.py": "stands alone, for receivers; refuses a key that stands twice too",
}
PARSERS = re.compile(r"\bjson\.loads?\(|JSONDecoder|\byaml\.\w*load\w*\(|\byaml\.\w*Loader\b|tomllib")


def test_no_other_module_parses_by_itself():
    found = {
        path.relative_to(SCRIPTS).as_posix()
        for path in SCRIPTS.rglob("*.py")
        if PARSERS.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)
