"""Ask vLLM's own code how it reads a checkpoint's declaration; run by the serve environment's python.

``gate_ptq.py --engine-check PYTHON`` runs it. It loads no weights and starts no server: it takes vLLM's reader of
configurations, its choice of a quantization method, that method's reader of the declaration, and asks that for each
module. Standard input: the names of the checkpoint's modules, a JSON list. The last line of the output:
``{"version", "method", "reader", "kv_cache", "error", "remarks", "modules": {name: algorithm, null: not quantized},
"refused": {name: vLLM's words}}``; "method" is missing where vLLM was not asked, null where it takes no quantization.

Source of the steps: vLLM, ModelConfig._verify_quantization, get_quant_config (model_loader/weight_utils.py),
configure_quant_config (model_loader/utils.py), and in quantization/modelopt.py ModelOptMixedPrecisionConfig's
_resolve_quant_algo and ModelOptQuantConfigBase.is_layer_excluded.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
from inspect import isclass
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

from day0.checkpoint.vllm_rules import ENGINE_VERSION

ROUTERS = ("gate", "router")
MODELS = "vllm.model_executor.models."
AS_THEY_STAND = "names were compared as they stand in the checkpoint, routers were not asked for"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder of the checkpoint")
    arguments = parser.parse_args()
    modules = json.loads(sys.stdin.read())
    import vllm  # an environment without it has no answer

    answer: dict[str, Any] = {"error": None, "remarks": [], "modules": {}, "refused": {}}
    answer["version"] = vllm.__version__
    try:
        read(arguments.checkpoint, modules, answer)
    except ImportError as error:
        answer["remarks"].append(f"this vLLM has other parts than {ENGINE_VERSION}, and was not asked: {error}")
    except Exception as error:  # whatever vLLM raises is its answer
        answer["error"] = f"{type(error).__name__}: {error}"[:2000]
    print("\n" + json.dumps(answer))
    return 0


def read(checkpoint: str, modules: list[str], answer: dict[str, Any]) -> None:
    """Fill the answer step by step, so that an error leaves what was found before it."""
    from vllm.config.model import ModelConfig
    from vllm.model_executor.model_loader.weight_utils import get_quant_config
    from vllm.platforms import current_platform
    from vllm.transformers_utils.config import get_config
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    try:
        config = get_config(checkpoint, trust_remote_code=False)
    except Exception as error:
        if "trust_remote_code" not in str(error):
            raise
        answer["remarks"].append(
            "its configuration is Python code of its own, which is not run here: vLLM was not asked"
        )
        return
    convertor = ModelArchConfigConvertorBase(config, config.get_text_config())
    model = SimpleNamespace(
        model=checkpoint,
        revision=None,
        hf_config=config,
        hf_overrides={},
        quantization=None,
        quantization_config=None,
        allow_deprecated_quantization=True,
        model_arch_config=SimpleNamespace(
            quantization_config=convertor.get_quantization_config(),
            total_num_attention_heads=1,
            total_num_kv_heads=1,
        ),
    )
    # The device of this machine does not matter: what it cannot run is the engine's message at its start.
    with mock.patch.object(type(current_platform), "verify_quantization", lambda *_: None):
        ModelConfig._verify_quantization(model)
    answer["method"] = model.quantization
    if model.quantization is None:
        return
    load = SimpleNamespace(download_dir=None, model_loader_extra_config={})
    reader = get_quant_config(model, load)
    answer["reader"] = type(reader).__name__
    kv_cache = getattr(reader, "kv_cache_quant_method", None) or getattr(reader, "kv_cache_quant_algo", None)
    answer["kv_cache"] = kv_cache
    if not hasattr(reader, "is_layer_excluded"):
        answer["remarks"].append(f"{answer['reader']} decides by more than a layer's name: layers were not asked for")
        return
    mapper, routers = prepare(config, reader, answer)
    for name in modules:
        try:
            answer["modules"][name] = decision(reader, mapper, routers, name)
        except ValueError as error:
            answer["refused"][name] = str(error)


def prepare(config: Any, reader: Any, answer: dict[str, Any]) -> tuple[Any, set[str] | None]:
    """Give the reader the names of the model's class; the names of routers that the class builds quantized."""
    from vllm.model_executor.models import ModelRegistry

    for architecture in getattr(config, "architectures", None) or ():
        found = ModelRegistry.models.get(architecture)
        if found is None:
            continue
        try:
            of_class = found.load_model_cls()
        except ImportError as error:
            answer["remarks"].append(f"this environment lacks a part of {architecture} ({error}): {AS_THEY_STAND}")
            return None, None
        mapper = getattr(of_class, "hf_to_vllm_mapper", None)
        reader.packed_modules_mapping = dict(getattr(of_class, "packed_modules_mapping", None) or {})
        if mapper is not None:
            reader.apply_vllm_mapper(mapper)
        return mapper, quantized_routers(inspect.getmodule(of_class))
    answer["remarks"].append(f"{config.architectures} is none of vLLM's models: {AS_THEY_STAND}")
    return None, None


def quantized_routers(module: ModuleType | None) -> set[str]:
    """Names of the routers to which a model's classes, or those that it imports, pass a quant_config."""
    modules = {module.__name__: module} if module is not None else {}
    for _ in range(2):  # the model of images takes the model of texts, which may take its layers from a third
        homes = [inspect.getmodule(one) for held in modules.values() for one in vars(held).values() if isclass(one)]
        modules |= {home.__name__: home for home in homes if home is not None and home.__name__.startswith(MODELS)}
    found = set()
    for one in modules.values():
        for node in ast.walk(ast.parse(inspect.getsource(one))):
            if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
                continue
            target, settings = node.targets[0], {key.arg: ast.unparse(key.value) for key in node.value.keywords}
            is_router = isinstance(target, ast.Attribute) and target.attr in ROUTERS
            if (
                is_router
                and "Linear" in ast.unparse(node.value.func)
                and settings.get("quant_config", "None") != "None"
            ):
                found.add(target.attr)
    return found


def decision(reader: Any, mapper: Any, routers: set[str] | None, name: str) -> str | None:
    """The algorithm by which vLLM serves a module of the checkpoint; None: as it is."""
    from vllm.model_executor.layers.quantization.modelopt import LINEAR_ALGOS

    leaf = name.rpartition(".")[2]
    if leaf in ROUTERS and (routers is None or leaf not in routers):
        return None
    prefix = name
    if mapper is not None:
        mapped = mapper.apply_list([f"{name}.weight"])
        prefix = mapped[0].removesuffix(".weight") if mapped else name
    head, is_expert, _ = prefix.partition(".experts.")
    if is_expert:
        prefix = f"{head}.experts"
    else:
        head, _, leaf = prefix.rpartition(".")
        fused = [whole for whole, parts in reader.packed_modules_mapping.items() if leaf in parts]
        prefix = f"{head}.{fused[0]}" if fused else prefix
    if reader.is_layer_excluded(prefix):
        return None
    if hasattr(reader, "_resolve_quant_algo"):
        algorithm = reader._resolve_quant_algo(prefix)
        return str(algorithm) if algorithm and (is_expert or algorithm in LINEAR_ALGOS) else None
    if any(part in prefix for part in ("vision_tower", "vision_model", "vit_large_projector")):
        return None
    return str(reader.quant_method)


if __name__ == "__main__":
    sys.exit(main())
