"""What the source of vLLM says, as scripts/make_engine_table.py found it there: the type of envs/engine_table.json."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Self

from pydantic import model_validator

from day0.base.mistakes import Strict
from day0.base.tables import read_table

TABLE = Path(__file__).resolve().parents[3] / "envs" / "engine_table.json"


class Place(Strict):
    """A line of vLLM's source; ``file`` is named from the package's folder."""

    file: str
    line: int

    def __str__(self) -> str:
        """The line as a sentence names it: the file with its folder."""
        return f"{'/'.join(PurePosixPath(self.file).parts[-2:])}:{self.line}"


class EngineTable(Strict):
    """Facts that day0/checkpoint/vllm_rules.py goes by, and where each of its rules stands.

    Attributes:
        version: vLLM's.
        linear_algorithms: by ``quant_algo`` of ModelOpt's, the quantization method that reads it.
        methods: by quantization method, the class of its configuration.
        capabilities: by class, ``get_min_capability``: CUDA compute capability, times ten.
        quantized_routers: by architecture, the class that builds its router with the checkpoint's quantization config.
        divisors: by algorithm, what a layer's in-features must divide by.
        nvfp4_group: the group size of NVFP4 where the declaration has none.
        block_algorithms: spellings of ModelOpt's algorithm of FP8 blocks.
        algorithms_alone: what hf_quant_config.json may declare where config.json declares nothing.
        fields_alone: what it must declare then, for NVFP4.
        unquantized_parts: parts of a name that keep a layer from being quantized.
        fused: by the name of a fused layer, those of its parts.
        places: by the name of a quote in scripts/make_engine_table.py or a class of ``quantized_routers``.
    """

    version: str
    linear_algorithms: dict[str, str]
    methods: dict[str, str]
    capabilities: dict[str, int]
    quantized_routers: dict[str, str]
    divisors: dict[str, int]
    nvfp4_group: int
    block_algorithms: list[str]
    algorithms_alone: list[str]
    fields_alone: list[str]
    unquantized_parts: list[str]
    fused: dict[str, list[str]]
    places: dict[str, Place]

    @model_validator(mode="after")
    def _has_capabilities(self) -> Self:
        for name, method in self.linear_algorithms.items():
            if self.methods.get(method) not in self.capabilities:
                raise ValueError(f"{name} is read by {method}, whose class has no get_min_capability with a number")
        return self


def read_engine_table(path: Path = TABLE) -> EngineTable:
    """The table of the engine that the serve environment is locked to."""
    return EngineTable.model_validate(read_table(path))
