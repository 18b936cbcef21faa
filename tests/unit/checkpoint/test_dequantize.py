"""Stored codes as numbers: each format against arithmetic of its own, in parts as in the whole."""

import math
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.checkpoint.dequantize import NIBBLES, Codes, Files, Matrix, Scale, decode, open_files
from day0.source.safetensors_headers import BrokenSafetensors

RNG = np.random.default_rng(3)


@pytest.fixture
def files():
    with open_files() as opened:
        yield opened


def write(tmp_path, array, name="data"):
    path = tmp_path / name
    path.write_bytes(np.ascontiguousarray(array).tobytes())
    return str(path)


def e4m3(code):
    """FP8 E4M3 by the paper: sign, 4 bits of exponent with a bias of 7, 3 of mantissa; all ones are NaN."""
    exponent, mantissa = divmod(code & 0x7F, 8)
    size = math.nan if code & 0x7F == 0x7F else math.ldexp(mantissa + 8 * (exponent > 0), max(exponent, 1) - 10)
    return -size if code >= 0x80 else size


def test_every_code_of_a_byte_is_what_its_format_says(tmp_path, files):
    place = write(tmp_path, np.arange(256, dtype=np.uint8))
    found = Codes("F8_E4M3", place, 0).read(files, 0, 256)
    assert all(math.isnan(a) if math.isnan(b) else a == b for a, b in zip(found, map(e4m3, range(256)), strict=True))
    powers = Codes("F8_E8M0", place, 0).read(files, 0, 256)
    assert powers[127] == 1 and powers[130] == 8 and powers[1] == 2.0**-126 and math.isnan(powers[255])
    assert Codes("I8", place, 0).read(files, 126, 4).tolist() == [126, 127, -128, -127]


@pytest.mark.parametrize("factor", [1.0, 0.3337, -2.2, 2.0**-126, 1e-42, 127.9, 1e6, 0.0])
@pytest.mark.parametrize("codes", [np.delete(np.arange(256), [0x7F, 0xFF]), np.arange(0x80), np.arange(256)])
def test_many_codes_of_e4m3_are_each_what_one_alone_is(codes, factor):
    many = np.resize(codes.astype(np.uint8), 1 << 13)
    expected = np.array([e4m3(code) for code in many.tolist()], np.float32) * np.float32(factor)
    assert np.array_equal(decode("F8_E4M3", many, Files(), factor=factor), expected, equal_nan=True)


@pytest.mark.parametrize(("kind", "form"), [("F16", "<e"), ("F32", "<f"), ("F64", "<d")])
def test_plain_numbers_are_read_as_they_are(tmp_path, files, kind, form):
    place = tmp_path / "data"
    place.write_bytes(b"".join(struct.pack(form, value) for value in (0.5, -3.0, 65504.0)))
    assert Codes(kind, str(place), 0).read(files, 1, 2).tolist() == [-3.0, 65504.0]


def test_bf16_is_the_upper_half_of_f32(tmp_path, files):
    values = RNG.standard_normal(64).astype(np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    found = Codes("BF16", write(tmp_path, upper), 0).read(files, 0, 64)
    assert (found == (values.view(np.uint32) & 0xFFFF0000).view(np.float32)).all()


def packed(codes, along):
    low, high = (codes[:, 0::2], codes[:, 1::2]) if along == "columns" else (codes[0::2], codes[1::2])
    return (low | (high << 4)).astype(np.uint8)


@pytest.mark.parametrize("along", ["columns", "rows"])
@pytest.mark.parametrize("kind", list(NIBBLES))
def test_two_codes_of_a_byte(tmp_path, files, kind, along):
    codes = RNG.integers(0, 16, (6, 8))
    matrix = Matrix(Codes(kind, write(tmp_path, packed(codes, along)), 0), 6, 8, along, factor=0.25)
    expected = NIBBLES[kind][codes] * 0.25
    assert (matrix.read(files, 0, 6) == expected).all()
    assert (matrix.read(files, 2, 2) == expected[2:4]).all()


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 9), st.integers(1, 9), st.data())
def test_any_grid_of_scales_is_read_in_parts_as_in_the_whole(tmp_path_factory, shape, rows, columns, data):
    tmp_path = tmp_path_factory.mktemp("grid")
    height, width = shape
    grid = (-(-height // rows), -(-width // columns))
    codes, scales = RNG.integers(0, 126, shape).astype(np.uint8), RNG.random(grid).astype(np.float32)
    scale = Scale(Codes("F32", write(tmp_path, scales, "scales"), 0), rows, columns, grid[1])
    matrix = Matrix(Codes("I8", write(tmp_path, codes), 0), height, width, scale=scale, factor=2.0)
    expected = codes * np.repeat(np.repeat(scales, rows, 0), columns, 1)[:height, :width] * 2
    first = data.draw(st.integers(0, height - 1))
    count = data.draw(st.integers(1, height - first))
    with open_files() as files:
        assert np.allclose(matrix.read(files, 0, height), expected)
        assert np.allclose(matrix.read(files, first, count, "slot"), expected[first : first + count])


def test_low_rank_factors_are_added_and_smoothing_is_left(tmp_path, files):
    codes = RNG.integers(-5, 5, (4, 6)).astype(np.int8)
    left, right = RNG.random((4, 2)).astype(np.float32), RNG.random((2, 6)).astype(np.float32)
    factors = Codes("F32", write(tmp_path, left, "l"), 0), Codes("F32", write(tmp_path, right, "r"), 0), 2
    vector = np.arange(1, 7, dtype=np.float32)
    matrix = Matrix(Codes("I8", write(tmp_path, codes), 0), 4, 6, smoothing=vector, low_rank=factors)
    assert np.allclose(matrix.read(files, 1, 3), (codes + left @ right)[1:])
    assert (matrix.smoothing_vector(files) == vector).all()


def test_a_part_of_a_transposed_matrix(tmp_path, files):
    codes = RNG.integers(0, 100, (6, 4)).astype(np.int8)
    matrix = Matrix(Codes("I8", write(tmp_path, codes), 0), 6, 4, is_transposed=True, part=slice(1, 4, 2))
    assert (matrix.read(files, 0, 2) == codes.T[1:4:2]).all() and not matrix.is_whole


def test_orders_that_no_format_has(tmp_path, files):
    codes = RNG.integers(0, 16, (2, 8))
    swapped = Matrix(Codes("E2M1", write(tmp_path, packed(codes, "columns")), 0), 2, 8, "columns", is_swapped=True)
    pairs = codes.reshape(2, 4, 2)[..., ::-1].reshape(2, 8)
    assert (swapped.read(files, 0, 2) == NIBBLES["E2M1"][pairs]).all()
    halved = (codes[:, :4] | (codes[:, 4:] << 4)).astype(np.uint8)
    matrix = Matrix(Codes("E2M1", write(tmp_path, halved, "h"), 0), 2, 8, "columns", is_halved=True)
    assert (matrix.read(files, 0, 2) == NIBBLES["E2M1"][codes]).all()


def test_a_file_that_became_shorter_is_named(tmp_path, files):
    place = write(tmp_path, np.zeros(10, np.uint8))
    with pytest.raises(BrokenSafetensors, match="data: cannot be read: ends at byte 10"):
        Codes("I8", place, 4).read(files, 0, 20)
    with pytest.raises(BrokenSafetensors, match="missing"):
        Codes("I8", str(tmp_path / "missing"), 0).read(files, 0, 1)


def test_arrays_of_a_slot_are_used_again():
    files = Files()
    first = files.array("held", (4,), np.float32)
    assert files.array("held", (2, 2), np.float32).base is first.base or np.shares_memory(
        first, files.array("held", (2, 2), np.float32)
    )
    assert not np.shares_memory(files.array("", (4,), np.float32), files.array("", (4,), np.float32))


def test_loaded_bytes_are_those_of_the_file(tmp_path):
    content = bytes(range(256)) * 40
    (tmp_path / "f").write_bytes(content)
    with open_files() as files:
        files.load("held", str(tmp_path / "f"), 13, 9000)
        for start, length in ((13, 9000), (16, 64), (17, 5), (4096, 8), (9012, 1)):
            held = files.read(str(tmp_path / "f"), start, length, "codes")
            assert held.tobytes() == content[start : start + length] and held.ctypes.data % 8 == 0
        assert files.bytes_read == 9000
        assert files.read(str(tmp_path / "f"), 5, 20, "codes").tobytes() == content[5:25]
        with pytest.raises(BrokenSafetensors, match="cannot be read"):
            files.load("held", str(tmp_path / "f"), 10000, 1000)


def test_a_file_system_without_direct_reading_has_its_bytes_read_as_usual(tmp_path, monkeypatch):
    monkeypatch.setattr("os.O_DIRECT", 1 << 30)
    (tmp_path / "f").write_bytes(bytes(range(200)))
    real, asked = os.open, []

    def refuse(path, flags, *rest):
        asked.append(flags)
        if flags & 1 << 30:
            raise OSError(22, "Invalid argument")
        return real(path, flags, *rest)

    monkeypatch.setattr("os.open", refuse)
    with open_files() as files:
        files.load("held", str(tmp_path / "f"), 3, 100)
        assert files.read(str(tmp_path / "f"), 3, 100, "codes").tobytes() == bytes(range(3, 103))
    assert any(flags & 1 << 30 for flags in asked)
