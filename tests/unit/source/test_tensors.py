"""Headers and indexes as columns: the same as decoded one by one, and whatever is unusual is read by slower means."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.source import header_text, safetensors_headers
from day0.source.safetensors_headers import BITS, INDEX_FILE, BrokenSafetensors, Tensor, read_header, read_tensors
from day0.source.tensors import HOLE, Forms, Kinds, Scalars, Tensors, split_name

PARTS = ("model", "layers", "experts", "0", "7", "61", "00", "012", "99999", "100000", "w1", "1x", "weight", "ü", "a b")
PARTS += ("weight_scale", "k_scale", "-1", "", "%d", "*")
names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=7).map(".".join)
forms = st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 40), max_size=3)).filter(
    lambda form: math.prod(form[1]) * BITS[form[0]] % 8 == 0
)


def entries(tensors):
    """What a header says of {name: (dtype, shape)}, one behind the other, and the bytes that they take."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    return header, end


def plain(header):
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False)


def write(path, text, size):
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(size))
    return path


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(names, forms, max_size=30), st.sampled_from(["", '"__metadata__":{"format":"pt"},']), st.data())
def test_columns_are_what_is_decoded_one_by_one(tmp_path_factory, tensors, metadata, data):
    folder = tmp_path_factory.mktemp("any")
    header, size = entries(tensors)
    text = "{" + (metadata if tensors else "") + plain(header)[1:] + " " * data.draw(st.integers(0, 9))
    expected = read_header(write(folder / "model.safetensors", text, size))
    found = read_tensors(folder)
    assert list(found.items()) == list(expected.items()) and list(found) == list(expected)
    assert list(found.values()) == list(expected.values()) and found == expected
    assert all(found[name] == tensor and name in found for name, tensor in expected.items())
    assert found.get("no") is None and "model.layers.5.no" not in found and 3 not in found


@settings(max_examples=150, deadline=None)
@given(names)
def test_a_name_is_its_stem_and_numbers(name):
    stem, count, key = split_name(name)
    tensors = Tensors.of({name: Tensor("U8", (), "f", 0, 1)})
    assert (stem.count(HOLE), list(tensors)) == (count, [name])
    assert tensors.kinds.list[0].name(key) == name


def usual(count=200):
    stems = ("weight", "weight_scale", "input_scale")
    return {
        f"model.layers.{n % 7}.mlp.experts.{n}.up_proj.{stem}": ("F32", (2, n % 3))
        for n in range(count)
        for stem in stems
    }


def read_fast(text, size):
    header = header_text.Header(text.encode(), 0, 8 + len(text), size)
    return header_text.read_entries([header], Kinds(), Forms())


def test_a_usual_header_takes_the_fast_way():
    header, size = entries(usual())
    assert read_fast(plain(header), size) is not None
    assert read_fast('{"__metadata__":{"format":"b{"},' + plain(header)[1:], size) is None
    assert read_fast('{"__metadata__":{"format":"pt"},' + plain(header)[1:] + "   ", size) is not None
    assert read_fast(plain(header), size + 1) is None


HOSTILE = {
    "whitespace": lambda text: text.replace(",", ", ", 1),
    "an escape in a name": lambda text: text.replace("up_proj", "up\\u005fproj", 1),
    "the order of keys": lambda text: text.replace('"dtype":"F32","shape":[2,0]', '"shape":[2,0],"dtype":"F32"', 1),
    "nested metadata": lambda text: '{"__metadata__":{"a":{"b":"c"}},' + text[1:],
    "metadata at the end": lambda text: text[:-1] + ',"__metadata__":{"format":"pt"}}',
    "a brace in a name": lambda text: text.replace("up_proj", "up}{[proj", 1),
    "a quote in a name": lambda text: text.replace("up_proj", 'up\\"proj', 1),
    "a letter that is not ASCII": lambda text: text.replace("up_proj", "üp_proj", 1),
    "a further key": lambda text: text.replace('"dtype":"F32"', '"dtype":"F32","x":1', 1),
    "a leading zero": lambda text: text.replace('"shape":[2,1]', '"shape":[02,1]', 1),
    "a number with a fraction": lambda text: text.replace('"data_offsets":[0,0]', '"data_offsets":[0.0,0]', 1),
    "a negative offset": lambda text: text.replace('"data_offsets":[0,0]', '"data_offsets":[-1,0]', 1),
    "an unknown dtype": lambda text: text.replace('"dtype":"F32"', '"dtype":"F33"', 1),
    "an overlap": lambda text: text.replace('"data_offsets":[0,8]', '"data_offsets":[0,4]', 1),
    "a trailing comma": lambda text: text[:-1] + ",}",
    "a second brace": lambda text: text + "}",
    "text behind": lambda text: text + " x",
    "no text": lambda text: "{}",
    "a list": lambda text: f"[{text}]",
    "a control character": lambda text: text.replace("up_proj", "up\tproj", 1),
    "a zero byte": lambda text: text.replace("experts.3.", "experts.\0.", 1),
    "a long name": lambda text: text.replace("up_proj", "up" * 300, 1),
    "many numbers": lambda text: text.replace("up_proj", "1.2.3.4", 1),
    "a key twice": lambda text: text.replace('experts.4.up_proj.weight"', 'experts.3.up_proj.weight"', 1),
    "an empty tensor twice": lambda text: text.replace('experts.3.up_proj.weight"', 'experts.0.up_proj.weight"', 1),
    "a shape beyond all bounds": lambda text: text.replace('"shape":[2,1]', f'"shape":[{1 << 62},{1 << 62}]', 1),
}


def outcome(read, path):
    try:
        return dict(read(path).items())
    except BrokenSafetensors as error:
        return str(error)


@pytest.mark.parametrize("what", HOSTILE)
def test_an_unusual_header_is_read_as_one_by_one(tmp_path, what):
    header, size = entries(usual())
    text = HOSTILE[what](plain(header))
    assert text != plain(header)
    path = write(tmp_path / "model.safetensors", text, size)
    assert outcome(lambda _: read_tensors(tmp_path), path) == outcome(read_header, path)


@pytest.mark.parametrize("what", HOSTILE)
def test_an_unusual_header_does_not_hide_the_others(tmp_path, what):
    header, size = entries(usual())
    others = entries({name.replace("model", "other"): form for name, form in usual().items()})
    write(tmp_path / "a.safetensors", plain(others[0]), others[1])
    path = write(tmp_path / "b.safetensors", HOSTILE[what](plain(header)), size)
    alone = outcome(read_header, path)
    together = outcome(lambda _: read_tensors(tmp_path), path)
    assert together == (alone if isinstance(alone, str) else read_header(tmp_path / "a.safetensors") | alone)


def spelled(weight_map, indent, is_sorted):
    index = {"metadata": {"total_size": 5}, "weight_map": weight_map}
    return json.dumps(index, indent=indent, sort_keys=is_sorted) + "\n" * is_sorted


@pytest.mark.parametrize("indent", [None, 2, 1, "\t"])
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("part", [1 << 21, 300])
def test_an_index_is_read_however_it_is_spaced(monkeypatch, indent, is_sorted, part):
    monkeypatch.setattr(header_text, "_PART", part)
    weight_map = {name: f"model-{n % 3:05}-of-00003.safetensors" for n, name in enumerate(usual())}
    kinds = Kinds()
    found = header_text.read_index(spelled(weight_map, indent, is_sorted).encode(), kinds)
    assert found is not None and found.weight_map(kinds) == weight_map


INDEXES = {
    "a name twice": lambda text: text.replace('experts.4.up_proj.weight"', 'experts.3.up_proj.weight"', 1),
    "another file": lambda text: text.replace('"b.safetensors"', '"a.safetensors"', 1),
    "no such file": lambda text: text.replace('"b.safetensors"', '"c.safetensors"', 1),
    "an escape": lambda text: text.replace("up_proj", "up\\u005fproj", 1),
    "uneven blanks": lambda text: text.replace('": "', '":"', 1),
    "a weight less": lambda text: text.replace('"model.layers.0.mlp.experts.0.up_proj.weight": "a.safetensors", ', ""),
    "a scale less": lambda text: text.replace(
        '"model.layers.0.mlp.experts.0.up_proj.weight_scale": "b.safetensors", ', ""
    ),
    "a number": lambda text: text.replace('"b.safetensors"', "1", 1),
    "an object": lambda text: text.replace('"b.safetensors"', '{"a": "b"}', 1),
    "another weight_map": lambda text: text.replace('"metadata"', '"weight_map": {}, "metadata"', 1),
    "none": lambda text: text.replace('"weight_map"', '"weights"'),
    "one that is inside another": lambda text: '{"x": ' + text + "}",
    "NaN": lambda text: text.replace('"total_size": 5', '"total_size": NaN'),
    "cut off": lambda text: text[:-9],
    "empty": lambda text: '{"weight_map": {}}',
    "a letter that is not ASCII": lambda text: text.replace("up_proj", "üp_proj", 1),
    "a control character": lambda text: text.replace("up_proj", "up\nproj", 1),
    "a file of numbers": lambda text: text.replace("a.safetensors", "a.1.safetensors"),
}


@pytest.mark.parametrize("what", INDEXES)
def test_an_unusual_index_is_read_as_one_by_one(tmp_path, monkeypatch, what):
    tensors = list(usual().items())
    weight_map = {}
    for number, file in enumerate(("a.safetensors", "b.safetensors")):
        part = dict(tensors[number::2])
        header, size = entries(part)
        write(tmp_path / file, plain(header), size)
    for number, (name, _) in enumerate(tensors):
        weight_map[name] = ("a.safetensors", "b.safetensors")[number % 2]
    text = spelled(weight_map, None, False)
    changed = INDEXES[what](text)
    assert changed != text
    (tmp_path / INDEX_FILE).write_text(changed, encoding="utf-8")

    def read(_):
        headers = safetensors_headers.read_headers(tmp_path)
        return dict.fromkeys(headers.unindexed) | dict(headers.tensors.items())

    fast = outcome(read, None)
    monkeypatch.setattr(header_text, "read_index", lambda *_: None)
    monkeypatch.setattr(header_text, "read_entries", lambda *_: None)
    assert fast == outcome(read, None)


def test_scalars_are_a_mapping_and_columns():
    values = {"a.1.scale": 1.0, "a.0.scale": math.nan, "b.k_scale": -2.0}
    scalars = Scalars.of(values)
    assert list(scalars) == list(values) and len(scalars) == 3
    assert scalars["b.k_scale"] == scalars.get("b.k_scale") == -2.0
    assert math.isnan(scalars["a.0.scale"]) and "a.2.scale" not in scalars and scalars.get("a.2.scale") is None
    assert scalars.where(scalars.column > 0) == {"a.1.scale": 1.0}
