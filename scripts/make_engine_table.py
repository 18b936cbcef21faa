"""Make envs/engine_table.json: what vLLM's source says that the checks of checkpoints go by, and the lines that say it.

Reads the source as text, without importing vLLM. What a check relies on is a quote, a piece of Python within a
function, which is found however it is laid out and wherever it moved; day0/checkpoint/vllm_rules.py says what follows
from it. Run it in the serve environment after a change of vLLM's version, or with --source and --check on an unpacked
wheel to see what a version would change. Exits 1, and writes nothing, where a quote is no longer in the source.
"""

from __future__ import annotations

import argparse
import ast
import functools
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pydantic import ValidationError

from day0.base.artefacts import write_text
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.base.mistakes import mistakes_of
from day0.base.tables import read_table, table_text
from day0.checkpoint.engine_table import EngineTable


class Quote(NamedTuple):
    """Python that stands in vLLM's source: in a file of the package, within a class or function (empty: at its top).

    ``code`` is compared as a syntax tree. ``VALUE`` in it stands for any expression, whose value is the fact.
    """

    file: str
    within: str
    code: str


class Found(NamedTuple):
    """Where a quote stands, and what VALUE is there."""

    line: int
    value: Any


QUANTIZATION = "model_executor/layers/quantization"
MODELOPT = f"{QUANTIZATION}/modelopt.py"
COMPRESSED = f"{QUANTIZATION}/compressed_tensors/compressed_tensors.py"
MODELS = "model_executor/models"
NVFP4_CONFIG, ANY_CONFIG = "ModelOptNvFp4Config._from_config", "ModelOptQuantConfigBase"
CONVERTOR = "transformers_utils/model_arch_config_convertor.py"
ALONE = "ModelArchConfigConvertorBase._normalize_quantization_config"
ROUTERS = ("gate", "router")
# Classes that serve layers of compressed-tensors, and the files of their schemes.
SCHEMES = {
    "CompressedTensorsW4A4Fp4": "w4a4_nvfp4",
    "CompressedTensorsW4A4Mxfp4": "w4a4_mxfp4",
    "CompressedTensorsW8A16Fp8": "w8a16_fp8",
    "CompressedTensorsW8A8Fp8": "w8a8_fp8",
    "CompressedTensorsW8A8Int8": "w8a8_int8",
    "CompressedTensorsW8A8Mxfp8": "w8a8_mxfp8",
    "CompressedTensorsWNA16": "wNa16",
    "CompressedTensorsWNA8Int": "wNa8",
}
_ROUTER = re.compile(rf"self\.({'|'.join(ROUTERS)}) = [\w.]*Linear\(")
_IMPORT = re.compile(r"^\s*from +([\w.]+) +import", re.MULTILINE)

# By the name under which vllm_rules.py asks for its line or its value; some are only there to be missed.
QUOTES = {
    "version": Quote("_version.py", "", "__version__ = version = VALUE"),
    "linear algorithms": Quote(MODELOPT, "", "LINEAR_ALGOS: dict[str, tuple[str, str]] = VALUE"),
    "methods": Quote(
        f"{QUANTIZATION}/__init__.py",
        "get_quantization_config",
        "method_to_config: dict[str, type[QuantizationConfig]] = VALUE",
    ),
    "method": Quote(
        f"{QUANTIZATION}/__init__.py",
        "get_quantization_config",
        'raise ValueError(f"Invalid quantization method: {quantization}")',
    ),
    "algorithm": Quote(MODELOPT, f"{ANY_CONFIG}.from_config", "quant_method not in QUANT_ALGOS"),
    "mixed": Quote(MODELOPT, "", 'QUANT_ALGOS = [*LINEAR_ALGOS, "MIXED_PRECISION"]'),
    "NVFP4": Quote(MODELOPT, "KNvfp4Static.create_weights", "shapes.input_size_per_partition % VALUE != 0"),
    "MXFP8": Quote(MODELOPT, "KMxfp8Static.create_weights", "shapes.input_size_per_partition % MXFP8_BLOCK_SIZE != 0"),
    "block of MXFP8": Quote(f"{QUANTIZATION}/utils/mxfp8_utils.py", "", "MXFP8_BLOCK_SIZE = VALUE"),
    "FP8_PB_WO": Quote(MODELOPT, "KFp8Block128.create_weights", "in_ % VALUE != 0"),
    "parameter of experts": Quote(
        "model_executor/layers/fused_moe/routed_experts.py",
        "RoutedExperts",
        'f"Layer {self.layer_name} has no parameter {param_name!r} for checkpoint weight {qual_name!r}"',
    ),
    "scale of experts": Quote(
        f"{QUANTIZATION}/fp8.py",
        "Fp8MoEMethod.__init__",
        'self.weight_scale_name = "weight_scale_inv" if self.block_quant else "weight_scale"',
    ),
    "block scale": Quote(MODELOPT, "KFp8Block128.create_weights", '"weight_scale"'),
    "group": Quote(MODELOPT, NVFP4_CONFIG, "group_size = VALUE"),
    "weights only": Quote(MODELOPT, NVFP4_CONFIG, 'isinstance(group, dict) and group.get("input_activations") is None'),
    "fields": Quote(MODELOPT, NVFP4_CONFIG, "required_fields = VALUE"),
    "alone": Quote(CONVERTOR, ALONE, 'producer_name = quant_cfg.get("producer", {}).get("name")'),
    "alone in FP8": Quote(CONVERTOR, ALONE, "quant_algo_upper in VALUE"),
    "alone in FP4": Quote(CONVERTOR, ALONE, "quant_algo_upper == VALUE"),
    "fused": Quote(
        MODELOPT,
        "ModelOptMixedPrecisionConfig._resolve_quant_algo",
        'raise ValueError(f"Mixed quant_algo within fused layer {prefix}: {algos}. '
        'All shards must use the same quantization.")',
    ),
    "names of fused": Quote(
        MODELOPT, "ModelOptMixedPrecisionConfig._resolve_quant_algo", "fused_projection_shards = VALUE"
    ),
    "vision": Quote(MODELOPT, f"{ANY_CONFIG}.get_quant_method", "VALUE in prefix"),
    "excluded": Quote(MODELOPT, f"{ANY_CONFIG}.is_layer_excluded", "exclude_module in prefix"),
    "dot": Quote(
        MODELOPT,
        f"{ANY_CONFIG}.is_layer_excluded",
        "is_layer_skipped(prefix, self.exclude_modules, self.packed_modules_mapping)",
    ),
    "alias": Quote(
        MODELOPT,
        "ModelOptMixedPrecisionConfig.get_quant_method",
        "quant_algo is None or quant_algo not in LINEAR_ALGOS",
    ),
    "block algorithms": Quote(MODELOPT, "", "_BLOCK_FP8_MOE_ALGOS = VALUE"),
    "block algorithms of experts": Quote(
        MODELOPT, "ModelOptMixedPrecisionConfig.get_quant_method", "quant_algo in _BLOCK_FP8_MOE_ALGOS"
    ),
    "tied": Quote(
        f"{MODELS}/utils.py",
        "AutoWeightsLoader.__init__",
        "self.aliased_params = _get_tied_embedding_params(module)",
    ),
    "router of InternS1Pro": Quote(
        f"{MODELS}/interns1_pro.py",
        "InternS1ProMoeSparseMoeBlock.__init__",
        'self.gate = GateLinear(config.hidden_size, config.num_experts, prefix=f"{prefix}.gate")',
    ),
    "whole groups": Quote(
        f"{QUANTIZATION}/compressed_tensors/schemes/compressed_tensors_wNa16.py",
        "CompressedTensorsWNA16.create_weights",
        "scales_and_zp_size = input_size // group_size",
    ),
    "FP8 or its weights only": Quote(
        COMPRESSED,
        "CompressedTensorsConfig._get_scheme_from_parts",
        "is_fp8_w8a8_supported = self._check_scheme_supported("
        "CompressedTensorsW8A8Fp8.get_min_capability(), error=False)",
    ),
    "scheme": Quote(
        COMPRESSED,
        "CompressedTensorsConfig._get_scheme_from_parts",
        'raise NotImplementedError(f"No compressed-tensors compatible scheme was found for {layer_name=}, '
        '{weight_quant=}, {input_quant=}, {output_quant=}, {format=}")',
    ),
    "sparse": Quote(
        COMPRESSED,
        "CompressedTensorsConfig",
        'raise DeprecationWarning("Sparsity support has been removed from compressed-tensors. '
        'Please use a model without sparsity configuration.")',
    ),
    "ordering": Quote(
        COMPRESSED,
        "CompressedTensorsConfig._quantization_scheme_map_from_config",
        "weight_quant.actorder in (ActivationOrdering.GROUP.value, ActivationOrdering.DYNAMIC.value)",
    ),
    "attention": Quote(
        COMPRESSED,
        "CompressedTensorsConfig.from_config",
        'len(v["targets"]) == 1 and v["targets"][0].endswith("Attention")',
    ),
    "AutoRound": Quote(
        f"{QUANTIZATION}/inc/inc.py", "INCConfig._validate_supported_quantization", 'self.data_type == "int"'
    ),
    "GPTQ": Quote(
        f"{QUANTIZATION}/auto_gptq.py",
        "AutoGPTQConfig",
        "TYPE_MAP = {(4, True): scalar_types.uint4b8, (8, True): scalar_types.uint8b128}",
    ),
    "AWQ": Quote(f"{QUANTIZATION}/auto_awq.py", "AutoAWQConfig", "TYPE_MAP = {4: scalar_types.uint4}"),
    **{
        name: Quote(
            f"{QUANTIZATION}/compressed_tensors/schemes/compressed_tensors_{file}.py",
            f"{name}.get_min_capability",
            "return VALUE",
        )
        for name, file in SCHEMES.items()
    },
    # day0/checkpoint/fused_scales.py
    "scale of fused experts": Quote(
        MODELOPT,
        "ModelOptNvFp4FusedMoE.process_weights_after_loading",
        "w13_weight_scale_2 = layer.w13_weight_scale_2[:, 0].contiguous()",
    ),
    "scale of fused": Quote(
        MODELOPT, "KNvfp4Static.process", "weight_global_scale = layer.weight_scale_2.max().to(torch.float32)"
    ),
    "input scale of fused": Quote(
        MODELOPT, "KNvfp4Dynamic.process", "input_global_scale = layer.input_scale.max().to(torch.float32)"
    ),
    "scale of fused by compressed-tensors": Quote(
        f"{QUANTIZATION}/compressed_tensors/schemes/compressed_tensors_w4a4_nvfp4.py",
        "CompressedTensorsW4A4Fp4.process_weights_after_loading",
        "weight_global_scale = layer.weight_global_scale.max().to(torch.float32)",
    ),
    # day0/checkpoint/declaration.py, source_weights.py and configs.py
    "key of exclusions": Quote(MODELOPT, f"{ANY_CONFIG}.from_config", 'exclude_modules = config.get("ignore", [])'),
    "key of exclusions alone": Quote(
        MODELOPT, f"{ANY_CONFIG}.from_config", 'exclude_modules = quant_config.get("exclude_modules", [])'
    ),
    "key of the KV cache": Quote(
        MODELOPT, f"{ANY_CONFIG}.from_config", 'kv_cache_scheme = config.get("kv_cache_scheme")'
    ),
    "key of the group": Quote(MODELOPT, f"{ANY_CONFIG}.from_config", 'group_size_raw = config.get("group_size")'),
    "key of layers": Quote(
        MODELOPT,
        "ModelOptMixedPrecisionConfig._from_config",
        'quantized_layers = original_config.get("quantized_layers", {})',
    ),
    "experts of DeepSeek-V4": Quote(
        "models/deepseek_v4/quant_config.py",
        "DeepseekV4FP8Config.get_quant_method",
        'self.moe_quant_algo == "NVFP4"',
    ),
    "scales of DeepSeek-V4": Quote(
        "models/deepseek_v4/amd/model.py",
        "_make_deepseek_v4_weights_mapper",
        r're.compile(r"(\.experts\.\d+\.w[123])\.scale$")',
    ),
    "blocks of GPT-OSS": Quote(f"{MODELS}/gpt_oss.py", "GptOssForCausalLM", '".gate_up_proj_blocks"'),
    "lists of Step-3.5": Quote(
        "transformers_utils/configs/step3p5.py",
        "Step3p5Config.__init__",
        "layer_types = layer_types[: self.num_hidden_layers]",
    ),
    # day0/source/safetensors_headers.py
    "files of an index": Quote(
        "model_executor/model_loader/weight_utils.py",
        "filter_duplicate_safetensors_files",
        "hf_weights_files = [f for f in hf_weights_files if f in weight_files_in_index]",
    ),
    "consolidated": Quote(
        "model_executor/model_loader/default_loader.py",
        "DefaultModelLoader._prepare_weights",
        "list_filtered_repo_files(model_name_or_path=model_name_or_path, "
        'allow_patterns=["consolidated*.safetensors"], revision=revision)',
    ),
}


class Source:
    """The package vllm as text, each file parsed once."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.tree = functools.cache(self._tree)

    def _tree(self, file: str) -> ast.Module | None:
        path = self.package / file
        return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None

    def files(self, folder: str) -> list[str]:
        """Python files below a folder of the package, sorted."""
        found = (self.package / folder).rglob("*.py")
        return sorted(path.relative_to(self.package).as_posix() for path in found)

    def find(self, quote: Quote) -> list[Found]:
        """Where a quote stands, by line; empty: nowhere, or there is no such file or function."""
        scope: ast.AST | None = self.tree(quote.file)
        for name in quote.within.split(".") if quote.within else ():
            scope = next((one for one in _definitions(scope) if one.name == name), None)
        pattern: ast.AST = ast.parse(quote.code).body[0]
        pattern = pattern.value if isinstance(pattern, ast.Expr) else pattern
        found = []
        for node in ast.walk(scope) if scope is not None else ():
            values: list[Any] = []
            if _is_like(pattern, node, values):
                found.append(Found(node.lineno, values[0] if values else None))  # type: ignore[attr-defined]
        return sorted(found, key=lambda one: one.line)


def _definitions(scope: ast.AST | None) -> Iterator[Any]:
    """Classes and functions within a scope, the outer ones first."""
    for node in ast.walk(scope) if scope is not None else ():
        if node is not scope and isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_like(pattern: Any, node: Any, values: list[Any]) -> bool:
    """Whether a syntax tree is as a pattern; what stands in place of VALUE is added to ``values``."""
    if isinstance(pattern, ast.Name) and pattern.id == "VALUE" and isinstance(node, ast.expr):
        values.append(_value(node))
        return True
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(node) and all(
            _is_like(getattr(pattern, name, None), getattr(node, name, None), values) for name in pattern._fields
        )
    if isinstance(pattern, list):
        return (
            isinstance(node, list)
            and len(pattern) == len(node)
            and all(_is_like(one, other, values) for one, other in zip(pattern, node, strict=True))
        )
    return type(pattern) is type(node) and pattern == node


def _value(node: ast.expr) -> Any:
    """A literal as JSON has it, in the order of the source; what is none, such as the name of a class, as its text."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        names = [key.value if isinstance(key, ast.Constant) else ast.unparse(key) for key in node.keys if key]
        return dict(zip(names, map(_value, node.values), strict=True))
    return ast.unparse(node)


def read_capabilities(source: Source) -> dict[str, int]:
    """What ``get_min_capability`` of each class of quantization returns, of those where it is a number."""
    found = {}
    for file in source.files(QUANTIZATION):
        for one in _definitions(source.tree(file)):
            if isinstance(one, ast.ClassDef):
                for place in source.find(Quote(file, f"{one.name}.get_min_capability", "return VALUE")):
                    if type(place.value) is int:
                        found[one.name] = place.value
    return dict(sorted(found.items()))


class Router(NamedTuple):
    """A class that builds its router with the checkpoint's quantization config, and the line that does."""

    file: str
    name: str
    line: int


class Models:
    """The classes of vLLM's models: which are made of which, as far as they lead to a router that may be quantized."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.classes, self.imported = functools.cache(self._classes), functools.cache(self._imported)
        self.routers_of = functools.cache(self._routers_of)
        self.files = {file for folder in (MODELS, "models") for file in source.files(folder)}
        texts = {file: (source.package / file).read_text(encoding="utf-8") for file in self.files}
        # Few of some hundred modules lead there, and only these are parsed: those with a router, and who imports them.
        self.leading = {file for file, text in texts.items() if _ROUTER.search(text) and self.routers_of(file)}
        imports = {file: {self._file(file, name) for name in _IMPORT.findall(text)} for file, text in texts.items()}
        while more := {file for file, names in imports.items() if names & self.leading} - self.leading:
            self.leading |= more

    def routers(self) -> dict[str, Router]:
        """Routers that are built with the quantization config, by architecture."""
        registry = self.source.tree(f"{MODELS}/registry.py")
        tables = [node.value for node in registry.body if isinstance(node, ast.Assign)] if registry else []
        found = {}
        for table in map(_value, tables):
            for architecture, entry in table.items() if isinstance(table, dict) else ():
                if isinstance(entry, list) and len(entry) == 2:
                    module, name = entry
                    file = self._file(f"{MODELS}/registry.py", module if module.startswith("vllm.") else f".{module}")
                    for router in self._reached(file, name):
                        found.setdefault(architecture, router)
        return dict(sorted(found.items()))

    def _file(self, importer: str, module: str) -> str | None:
        """The file of a module by the name that an import statement gives it; None: it is no model's."""
        name = module.lstrip(".")
        if dots := len(module) - len(name):
            folder = PurePosixPath(importer).parents[dots - 1]
        elif name.startswith("vllm."):
            folder, name = PurePosixPath(), name.removeprefix("vllm.")
        else:
            return None
        path = folder / name.replace(".", "/")
        return next((file for file in (f"{path}.py", f"{path}/__init__.py") if file in self.files), None)

    def _classes(self, file: str) -> dict[str, ast.ClassDef]:
        tree = self.source.tree(file)
        return {one.name: one for one in tree.body if isinstance(one, ast.ClassDef)} if tree else {}

    def _imported(self, file: str) -> dict[str, list[tuple[str | None, str]]]:
        """What each name that a module imports may be: one thing, or one for each platform."""
        found: dict[str, list[tuple[str | None, str]]] = {}
        tree = self.source.tree(file)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.ImportFrom):
                origin = self._file(file, "." * node.level + (node.module or ""))
                for alias in node.names:
                    found.setdefault(alias.asname or alias.name, []).append((origin, alias.name))
        return found

    def _routers_of(self, file: str) -> list[Router]:
        """Routers that the classes of a module build with the quantization config."""
        return [
            Router(file, name, node.lineno)
            for name, one in self.classes(file).items()
            for node in ast.walk(one)
            if isinstance(node, ast.Assign) and _is_quantized_router(node)
        ]

    def _reached(self, file: str | None, name: str) -> list[Router]:
        """Routers of the class of that name, and of all that its text names: what it inherits from and is made of."""
        seen, left = set(), [(file, name)]
        while left:
            file, name = one = left.pop()
            if file not in self.leading or one in seen:
                continue
            seen.add(one)
            defined = self.classes(file).get(name)
            if defined is None:
                left += self.imported(file).get(name, [])
            else:
                left += [(file, name) for name in {node.id for node in ast.walk(defined) if isinstance(node, ast.Name)}]
        return sorted(
            router for file in {file for file, _ in seen} for router in self.routers_of(file) if router[:2] in seen
        )


def _is_quantized_router(node: ast.Assign) -> bool:
    """Whether it is such as ``self.gate = GateLinear(..., quant_config=quant_config)``."""
    target, call = node.targets[0], node.value
    return (
        isinstance(target, ast.Attribute)
        and target.attr in ROUTERS
        and isinstance(call, ast.Call)
        and "Linear" in ast.unparse(call.func)
        and any(key.arg == "quant_config" and ast.unparse(key.value) != "None" for key in call.keywords)
    )


def read_source(package: Path) -> tuple[dict[str, Any], list[str]]:
    """The fields of :class:`EngineTable` as they are in the source, and a sentence for each quote that is not there.

    Args:
        package: the folder of the package vllm.
    """
    source = Source(package)
    found = {name: source.find(quote) for name, quote in QUOTES.items()}
    values = {name: places[0].value if places else None for name, places in found.items()}
    version, algorithms = str(values["version"]).partition("+")[0], values["linear algorithms"]
    routers = Models(source).routers()
    places = {name: {"file": QUOTES[name].file, "line": one[0].line} for name, one in found.items() if one}
    places |= {router.name: {"file": router.file, "line": router.line} for router in routers.values()}
    table = {
        "version": version,
        "linear_algorithms": {name: next(iter(entry), None) for name, entry in algorithms.items()}
        if isinstance(algorithms, dict)
        else algorithms,
        "methods": values["methods"],
        "capabilities": read_capabilities(source),
        "quantized_routers": {architecture: router.name for architecture, router in routers.items()},
        "divisors": {
            "NVFP4": values["NVFP4"],
            "W4A16_NVFP4": values["NVFP4"],
            "MXFP8": values["block of MXFP8"],
            "FP8_PB_WO": values["FP8_PB_WO"],
        },
        "nvfp4_group": values["group"],
        "block_algorithms": values["block algorithms"],
        "algorithms_alone": [*(values["alone in FP8"] or ()), values["alone in FP4"]],
        "fields_alone": values["fields"],
        "unquantized_parts": [one.value for one in found["vision"]],
        "fused": values["names of fused"],
        "places": dict(sorted(places.items())),
    }
    lost = [
        f"vLLM {version} has no `{quote.code}` in {quote.within or 'the module'} of vllm/{quote.file}; read what it "
        f"does now, and change the quote {name!r} of scripts/make_engine_table.py and what relies on it in scripts/day0"
        for name, quote in QUOTES.items()
        if not found[name]
    ]
    return table, lost


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two tables, a line for each fact; places are only counted."""
    lines = []
    for name in dict.fromkeys([*old, *new]):
        first, second = old.get(name), new.get(name)
        if first == second:
            continue
        if not (isinstance(first, dict) and isinstance(second, dict)):
            lines.append(f"{name}: {_change(first, second)}")
        elif name == "places":
            moved = sum(first[key] != second[key] for key in first.keys() & second.keys())
            counts = {
                "moved": moved,
                "new": len(second.keys() - first.keys()),
                "gone": len(first.keys() - second.keys()),
            }
            lines.append(f"{name}: {', '.join(f'{count} {what}' for what, count in counts.items() if count)}")
        else:
            changed = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
            lines += [f"{name}: {key}: {_change(first.get(key), second.get(key))}" for key in changed]
    return lines


def _change(old: Any, new: Any) -> str:
    return f"new, {new!r}" if old is None else f"gone, was {old!r}" if new is None else f"was {old!r}, is {new!r}"


def find_package(source: Path | None) -> Path:
    """The folder of the package vllm: below ``source``, else the installed one.

    Raises:
        UnusableInput: it is not there.
    """
    if source is not None:
        if not (source / "vllm" / "__init__.py").is_file():
            raise UnusableInput(f"--source: {source} holds no vllm/__init__.py; expected an unpacked wheel of vLLM")
        return source / "vllm"
    found = find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        raise UnusableInput("vLLM is not installed; run this in the serve environment, or give --source")
    return Path(next(iter(found.submodule_search_locations)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("envs/engine_table.json"))
    parser.add_argument("--source", type=Path, help="folder of an unpacked wheel of vLLM; by default the installed one")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 unless the file is up to date")
    arguments = parser.parse_args()

    table, lost = read_source(find_package(arguments.source))
    recorded = read_table(arguments.output) if arguments.check or arguments.output.exists() else {}
    changes = differences(recorded, table)
    print("\n".join([*changes, *lost]) or f"{arguments.output} is what vLLM {table['version']} is")
    if lost:
        print(f"{len(lost)} quotes are not in the source of vLLM {table['version']}; {arguments.output} is as it was")
        return EXIT_FAILED_CHECK
    try:
        EngineTable.model_validate(table)
    except ValidationError as error:
        sentences = "; ".join(mistakes_of(error, EngineTable))
        raise UnusableInput(f"the source of vLLM {table['version']} has values of another kind: {sentences}") from None
    if arguments.check:
        if changes:
            print(f"{arguments.output} is not what vLLM {table['version']} is; make it anew")
        return EXIT_FAILED_CHECK if changes else EXIT_PASS
    write_text(arguments.output, table_text(table))
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
