"""Headers of safetensors files: what is read, and every way in which a file can be broken."""

import json
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.source.safetensors_headers import (
    INDEX_FILE,
    BrokenSafetensors,
    payload_bytes,
    read_header,
    read_scalars,
    read_tensors,
)


def write(path, header, payload=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + payload)
    return path


def entry(dtype, shape, first, last):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_reads_names_types_shapes_and_places(tmp_path):
    header = {"__metadata__": {"format": "pt"}, "b": entry("BF16", [2, 3], 4, 16), "a": entry("F32", [], 0, 4)}
    path = write(tmp_path / "model.safetensors", header, bytes(16))
    tensors = read_header(path)
    assert tensors["b"].dtype == "BF16" and tensors["b"].shape == (2, 3) and tensors["b"].elements == 6
    assert tensors["b"].start == 8 + len(json.dumps(header)) + 4
    assert payload_bytes(tensors) == 16
    assert read_tensors(tmp_path) == tensors


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty or truncated"),
        (b"\xff" * 16, "truncated, or not safetensors"),
        ((5).to_bytes(8, "little") + b"{nope", "no JSON"),
        ((2).to_bytes(8, "little") + b"[]", "expected an object"),
    ],
)
def test_files_without_a_header(tmp_path, content, says):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BrokenSafetensors, match=says) as error:
        read_header(path)
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("header", "size", "says"),
    [
        ({"a": entry("F32", [2], 0, 8)}, 4, "truncated, 4 bytes are missing"),
        ({"a": entry("F32", [2], 0, 8)}, 9, "1 bytes too many"),
        ({"a": entry("F32", [2], 0, 4)}, 4, "takes 8 bytes; its span has 4"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, 6, "overlaps"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 6, 10)}, 10, "leaves a gap of 2 bytes"),
        ({"a": entry("Q3", [1], 0, 4)}, 4, "no valid entry"),
        ({"a": entry("F32", [-1], 0, 4)}, 4, "no valid entry"),
        ({"a": entry("F32", [True], 0, 4)}, 4, "no valid entry"),
        ({"a": 3}, 0, "no valid entry"),
    ],
)
def test_spans_that_do_not_fit(tmp_path, header, size, says):
    with pytest.raises(BrokenSafetensors, match=says):
        read_header(write(tmp_path / "x.safetensors", header, bytes(size)))


def test_scalars_of_every_type(tmp_path):
    payload = struct.pack("<f", 0.5) + struct.pack("<H", 0x3FC0) + b"\x38" + b"\x7f"
    header = {
        "f32": entry("F32", [], 0, 4),
        "bf16": entry("BF16", [1], 4, 6),
        "e4m3": entry("F8_E4M3", [1, 1], 6, 7),
        "nan": entry("F8_E4M3", [1], 7, 8),
    }
    tensors = read_header(write(tmp_path / "x.safetensors", header, payload))
    values = read_scalars(tensors)
    assert read_scalars(tensors, lambda name: name == min(values)) == {min(values): values[min(values)]}
    assert (values["f32"], values["bf16"], values["e4m3"]) == (0.5, 1.5, 1.0)
    assert math.isnan(values["nan"])


def index(folder, weight_map):
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


def test_index_and_shards_name_the_same_tensors(tmp_path):
    write(tmp_path / "m-1.safetensors", {"a": entry("U8", [1], 0, 1)}, bytes(1))
    write(tmp_path / "m-2.safetensors", {"b": entry("U8", [1], 0, 1)}, bytes(1))
    index(tmp_path, {"a": "m-1.safetensors", "b": "m-2.safetensors"})
    assert sorted(read_tensors(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"a": "m-1.safetensors", "c": "m-1.safetensors"}, "1 tensors are not where it says, first 'c'"),
        ({"a": "m-2.safetensors", "b": "m-1.safetensors"}, "not where it says"),
        ({"b": "m-2.safetensors"}, None),
        ({}, None),
        ({"a": "../m-1.safetensors"}, "of its own folder"),
        ({"a": "m-3.safetensors"}, "cannot be read"),
        ({"a": 1}, "to file names"),
        ([1], "must map"),
    ],
)
def test_an_index_that_is_wrong(tmp_path, weight_map, says):
    write(tmp_path / "m-1.safetensors", {"a": entry("U8", [1], 0, 1)}, bytes(1))
    write(tmp_path / "m-2.safetensors", {"b": entry("U8", [1], 0, 1)}, bytes(1))
    index(tmp_path, weight_map)
    if says is None:
        assert set(read_tensors(tmp_path)) == set(weight_map)
    else:
        with pytest.raises(BrokenSafetensors, match=says):
            read_tensors(tmp_path)


def test_an_index_alone(tmp_path):
    index(tmp_path, {"a": "m-1.safetensors"})
    with pytest.raises(BrokenSafetensors, match=r"m-1\.safetensors: cannot be read"):
        read_tensors(tmp_path)


def test_tensors_that_are_alike_share_their_shape(tmp_path):
    header = {"a": entry("F32", [300, 1], 0, 1200), "b": entry("F32", [300, 1], 1200, 2400)}
    tensors = read_header(write(tmp_path / "m.safetensors", header, bytes(2400)))
    assert tensors["a"].shape is tensors["b"].shape and tensors["a"].start + 1200 == tensors["b"].start


def test_a_tensor_that_the_index_leaves_out(tmp_path):
    write(tmp_path / "m.safetensors", {"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 1, 2)}, bytes(2))
    index(tmp_path, {"a": "m.safetensors"})
    with pytest.raises(BrokenSafetensors, match="not in it, first 'b'"):
        read_tensors(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(BrokenSafetensors, match=r"holds no \*\.safetensors"):
        read_tensors(tmp_path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=64) | st.builds(lambda value: json.dumps(value).encode(), JSON_VALUES), st.binary(max_size=16)
)
def test_any_bytes_are_tensors_or_a_clear_error(tmp_path_factory, header, payload):
    path = write(tmp_path_factory.mktemp("any") / "x.safetensors", header, payload)
    try:
        tensors = read_header(path)
    except BrokenSafetensors as error:
        assert "x.safetensors" in str(error)
    else:
        assert payload_bytes(tensors) == len(payload)


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES, JSON_VALUES, JSON_VALUES)
def test_any_entry_is_a_tensor_or_a_clear_error(tmp_path_factory, dtype, shape, offsets):
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
    try:
        read_header(write(tmp_path_factory.mktemp("any") / "x.safetensors", header))
    except BrokenSafetensors as error:
        assert "x.safetensors" in str(error)
