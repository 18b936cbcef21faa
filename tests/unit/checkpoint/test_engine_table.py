"""What is read from vLLM's source is what stands there, and what no longer stands there is missed."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from day0.base.artefacts import read_json
from day0.base.tables import table_text
from day0.checkpoint.engine_table import TABLE, EngineTable, Place, read_engine_table
from day0.checkpoint.vllm_rules import ROUTER_IS_QUANTIZED
from make_engine_table import QUOTES, Models, Quote, Source, differences, read_capabilities

ROOT = Path(__file__).parents[3]
SOURCE = """
LIMIT: int = 4  # of a file
METHODS = {"fp8": Fp8Config, **others}


class Config:
    KINDS = {(4, True): kinds.four}

    @classmethod
    def get_min_capability(cls) -> int:
        return 80

    def load(self, group):
        # A comment, and a group that is checked first.
        if group is None:
            group = 16
        if group in {"b", "a"} or group in ("c",):
            raise ValueError(
                f"no group {group}: "
                "give one"
            )


class Dynamic(Config):
    def get_min_capability(cls):
        return cls.found
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "file.py").write_text(SOURCE)
    return Source(tmp_path)


@pytest.mark.parametrize(
    ("within", "code", "line", "value"),
    [
        ("", "LIMIT: int = VALUE", 2, 4),
        ("", "METHODS = VALUE", 3, "{'fp8': Fp8Config, **others}"),
        ("Config", "KINDS = VALUE", 7, {"(4, True)": "kinds.four"}),
        ("Config", "KINDS = {(4, True): kinds.four}", 7, None),
        ("Config.get_min_capability", "return VALUE", 11, 80),
        ("Config.load", "group = VALUE", 16, 16),
        ("Config.load", "group in VALUE", 17, ["b", "a"]),
        ("Config.load", 'raise ValueError(f"no group {group}: give one")', 18, None),
        ("Dynamic.get_min_capability", "return VALUE", 26, "cls.found"),
    ],
)
def test_a_quote_is_found_however_it_is_laid_out(source, within, code, line, value):
    assert source.find(Quote("file.py", within, code))[0] == (line, value)


@pytest.mark.parametrize(
    ("file", "within", "code"),
    [
        ("none.py", "", "LIMIT: int = VALUE"),
        ("file.py", "None", "KINDS = VALUE"),
        ("file.py", "Config.save", "group = VALUE"),
        ("file.py", "Config.get_min_capability", "group = VALUE"),
        ("file.py", "", "LIMIT = VALUE"),
        ("file.py", "Config.load", 'raise ValueError(f"no group {group}: give two")'),
        ("file.py", "Config", "KINDS = {(8, True): kinds.four}"),
    ],
)
def test_what_does_not_stand_there_is_not_found(source, file, within, code):
    assert source.find(Quote(file, within, code)) == []


def test_a_quote_that_stands_twice_gives_all_values_by_line(source):
    assert [one.value for one in source.find(Quote("file.py", "Config.load", "group in VALUE"))] == [["b", "a"], ["c"]]


def test_capabilities_are_the_numbers_that_classes_return(tmp_path):
    folder = tmp_path / "model_executor" / "layers" / "quantization" / "schemes"
    folder.mkdir(parents=True)
    (folder / "file.py").write_text(SOURCE)
    assert read_capabilities(Source(tmp_path)) == {"Config": 80}


MODELS = {
    "model_executor/models/registry.py": """
_TEXT = {"First": ("first", "First"), "Other": ("other", "Other"), "Plain": ("first", "Plain")}
_VISION = {"Image": ("vllm.models.image", "Image"), "Alone": ("image", "Alone")}
_ALL = {**_TEXT, **_VISION}
_OLD = {"Former": "0.1"}
""",
    "model_executor/models/first.py": """
class Block:
    def __init__(self, quant_config):
        self.gate = GateLinear(8, 2, quant_config=quant_config)
class PlainBlock:
    def __init__(self, quant_config):
        self.gate = GateLinear(8, 2, quant_config=None)
        self.up = Linear(8, 2, quant_config=quant_config)
class First:
    layers = Block
class Plain:
    layers = PlainBlock
""",
    "model_executor/models/other.py": "class Other:\n    first = First\n",
    "models/image/__init__.py": """
if is_cuda():
    from .nvidia import Image
else:
    from vllm.model_executor.models.other import Other as Image
""",
    "models/image/nvidia.py": """
from ...model_executor.models.first import First as Text
class Image(Text):
    pass
""",
}


def test_models_that_are_made_of_a_quantized_router_are_found_through_what_they_import(tmp_path):
    for name, text in MODELS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    router = ("model_executor/models/first.py", "Block", 4)
    assert Models(Source(tmp_path)).routers() == {"First": router, "Image": router}


def test_a_difference_is_a_line_and_places_are_counted():
    old = {"version": "1", "divisors": {"A": 16, "B": 8}, "places": {"x": {"line": 1}, "y": {"line": 2}}}
    new = {"version": "2", "divisors": {"A": 32, "C": 4}, "places": {"x": {"line": 5}, "y": {"line": 6}, "z": {}}}
    assert differences(old, new) == [
        "version: was '1', is '2'",
        "divisors: A: was 16, is 32",
        "divisors: B: gone, was 8",
        "divisors: C: new, 4",
        "places: 2 moved, 1 new",
    ]
    assert differences(new, new) == []


def test_the_committed_table_is_laid_out_as_it_is_written_and_knows_each_quote():
    content = read_json(TABLE)
    content.pop("schema_version")
    assert table_text(content) == TABLE.read_text()
    assert QUOTES.keys() <= read_engine_table().places.keys()


def test_an_algorithm_without_a_capability_is_no_table():
    content = read_json(TABLE)
    content.pop("schema_version")
    content["linear_algorithms"]["NEW"] = "modelopt_new"
    with pytest.raises(ValidationError, match="NEW is read by modelopt_new, whose class has no get_min_capability"):
        EngineTable.model_validate(content)


def test_a_place_is_named_by_its_file_and_folder():
    assert str(Place(file="model_executor/layers/quantization/modelopt.py", line=3)) == "quantization/modelopt.py:3"
    assert str(Place(file="_version.py", line=3)) == "_version.py:3"


def test_no_line_of_the_engine_is_kept_by_hand():
    files = "|".join({re.escape(Path(quote.file).name) for quote in QUOTES.values()})
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (ROOT / "scripts").rglob("*.py")
        for match in re.finditer(rf"\b({files}):\d+", path.read_text())
    }
    assert found == set()


def test_a_model_whose_layers_are_its_own_is_left_out_of_the_quantized_routers():
    named = read_engine_table().quantized_routers
    assert named.keys() - ROUTER_IS_QUANTIZED.keys() == {"InternS1ProForConditionalGeneration"}
    assert ROUTER_IS_QUANTIZED["Qwen3MoeForCausalLM"] == str(read_engine_table().places["Qwen3MoeSparseMoeBlock"])
