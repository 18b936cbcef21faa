"""A library of faults: each breaks a copy of a real export in one way, as the field has seen it break.

Every fault says which check must fail (and no other), with which failure class, and the layer or file that the check
must name. A copy is made of hard links; what a fault changes is written anew, so that the export itself stays whole.
``HARMLESS`` holds the changes of the same kind that must not fail anything.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
ITEM_BYTES = {"F8_E4M3": 1, "F8_E5M2": 1, "U8": 1, "I8": 1, "BF16": 2, "F16": 2, "F32": 4}
NAN, INFINITY = float("nan"), float("inf")
FP8_NAN = 0x7F
UNSERVABLE = "DEPLOYMENT_HEALTH_FAILED"

Entry = tuple[str, list[int], bytes]


def link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=os.link, symlinks=True)


def replace(file: Path, content: bytes) -> None:
    """Write a file anew: what else is linked to the old one stays as it is."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def read_shard(file: Path) -> dict[str, Entry]:
    """Tensors of a file as {name: (dtype, shape, bytes)}, in the order of their bytes."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    spans = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {
        name: (
            entry["dtype"],
            entry["shape"],
            content[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]],
        )
        for name, entry in spans
    }


def shard_bytes(tensors: dict[str, Entry], change_header: Callable[[dict[str, Any]], None] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    if change_header is not None:
        change_header(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


class Copy:
    """A copy of an export and of its source that a fault may change."""

    def __init__(self, export: Path, source: Path, folder: Path) -> None:
        folder.mkdir()
        self.exports = export.parent
        self.checkpoint, self.source, self.record = folder / "checkpoint", folder / "source", folder / "record.json"
        link_tree(export / "checkpoint", self.checkpoint)
        link_tree(source, self.source)
        shutil.copy(export / "quantization.json", self.record)

    # files

    def edit_json(self, name: str, change: Callable[[dict[str, Any]], None], where: Path | None = None) -> None:
        file = (where or self.checkpoint) / name
        content = json.loads(file.read_text(encoding="utf-8"))
        change(content)
        replace(file, json.dumps(content, indent=2).encode())

    def edit_both_declarations(self, change: Callable[[dict[str, Any], str], None]) -> None:
        """Apply to the quantization of hf_quant_config.json and of config.json; with the excluded modules' key."""
        self.edit_json("hf_quant_config.json", lambda content: change(content["quantization"], "exclude_modules"))
        self.edit_json("config.json", lambda content: change(content["quantization_config"], "ignore"))

    def exclude(self, *modules: str) -> None:
        self.edit_both_declarations(lambda quantization, key: quantization[key].extend(modules))

    # shards

    def shards(self, where: Path | None = None) -> list[Path]:
        return sorted((where or self.checkpoint).glob("*.safetensors"))

    def shard_of(self, name: str, where: Path | None = None) -> Path:
        for file in self.shards(where):
            if name in read_shard(file):
                return file
        raise KeyError(name)

    def names(self, *parts: str) -> list[str]:
        """Tensors of the checkpoint whose names hold all of the parts."""
        return [n for file in self.shards() for n in read_shard(file) if all(part in n for part in parts)]

    def get(self, name: str, where: Path | None = None) -> Entry:
        return read_shard(self.shard_of(name, where))[name]

    def set(
        self, name: str, dtype: str | None = None, shape: list[int] | None = None, data: bytes | None = None
    ) -> None:
        file = self.shard_of(name)
        tensors = read_shard(file)
        old_dtype, old_shape, old_data = tensors[name]
        dtype, shape = dtype or old_dtype, old_shape if shape is None else shape
        if data is None:
            size = ITEM_BYTES[dtype]
            for extent in shape:
                size *= extent
            data = (old_data * (size // max(len(old_data), 1) + 1))[:size]
        tensors[name] = (dtype, shape, data)
        replace(file, shard_bytes(tensors))

    def set_scalar(self, name: str, value: float) -> None:
        self.set(name, "F32", [], struct.pack("<f", value))

    def set_bytes(self, name: str, first: int, values: bytes) -> None:
        data = bytearray(self.get(name)[2])
        data[first : first + len(values)] = values
        self.set(name, data=bytes(data))

    def remove(self, *names: str) -> None:
        for name in names:
            file = self.shard_of(name)
            tensors = read_shard(file)
            del tensors[name]
            replace(file, shard_bytes(tensors)) if tensors else file.unlink()
            self._edit_index(lambda weight_map, name=name: weight_map.pop(name))

    def add(self, name: str, dtype: str, shape: list[int], data: bytes, where: Path | None = None) -> None:
        file = self.shards(where)[-1]
        tensors = read_shard(file)
        tensors[name] = (dtype, shape, data)
        replace(file, shard_bytes(tensors))
        self._edit_index(lambda weight_map: weight_map.update({name: file.name}), where)

    def rename(self, old: str, new: str) -> None:
        entry = self.get(old)
        self.remove(old)
        self.add(new, *entry)

    def restore(self, *modules: str) -> None:
        """Put the source's weights back in place of the quantized ones, scales removed."""
        for module in modules:
            for name in self.names(f"{module}."):
                if name.rpartition(".")[2] not in ("weight", "bias"):
                    self.remove(name)
            self.set(f"{module}.weight", *self.get(f"{module}.weight", self.source))

    def _edit_index(self, change: Callable[[dict[str, str]], Any], where: Path | None = None) -> None:
        if ((where or self.checkpoint) / INDEX).is_file():
            self.edit_json(INDEX, lambda content: change(content["weight_map"]), where)


@dataclass(frozen=True)
class Fault:
    """A way to break an export; ``also`` are checks that fail for the same cause and truly say so."""

    name: str
    base: str
    apply: Callable[[Copy], None]
    check: str
    must_name: str
    failure_class: str = "QUANT_COVERAGE_FAILURE"
    is_deep: bool = False
    engine: str | None = None
    also: tuple[str, ...] = ()
    must_not_name: tuple[str, ...] = field(default=())


FAULTS: list[Fault] = []
HARMLESS: list[tuple[str, str, Callable[[Copy], None]]] = []


def fault(base: str, check: str, must_name: str, **settings: Any) -> Callable[[Callable[[Copy], None]], Any]:
    def keep(function: Callable[[Copy], None]) -> Callable[[Copy], None]:
        FAULTS.append(Fault(function.__name__, base, function, check, must_name, **settings))
        return function

    return keep


def harmless(base: str) -> Callable[[Callable[[Copy], None]], Any]:
    def keep(function: Callable[[Copy], None]) -> Callable[[Copy], None]:
        HARMLESS.append((function.__name__, base, function))
        return function

    return keep


LAYER = "model.layers.1"
Q, K, V, O = (f"{LAYER}.self_attn.{x}_proj" for x in "qkvo")  # noqa: E741
DOWN, UP, GATE = (f"{LAYER}.mlp.{x}_proj" for x in ("down", "up", "gate"))
EXPERT = f"{LAYER}.mlp.experts.3"
FUSED = f"{LAYER}.feed_forward.experts"

# ---- integrity

SECOND = "model-00002-of-00004.safetensors"


@fault("llama-fp8", "integrity", SECOND)
def truncated_shard(copy: Copy) -> None:
    replace(copy.checkpoint / SECOND, (copy.checkpoint / SECOND).read_bytes()[:-100])


@fault("llama-fp8", "integrity", SECOND)
def shard_cut_in_its_header(copy: Copy) -> None:
    replace(copy.checkpoint / SECOND, (copy.checkpoint / SECOND).read_bytes()[:50])


@fault("llama-fp8", "integrity", SECOND)
def empty_shard(copy: Copy) -> None:
    replace(copy.checkpoint / SECOND, b"")


@fault("llama-fp8", "integrity", SECOND)
def missing_shard(copy: Copy) -> None:
    (copy.checkpoint / SECOND).unlink()


@fault("llama-fp8", "integrity", SECOND)
def shard_of_zeros(copy: Copy) -> None:
    """A download that was laid out on the disk and never filled."""
    replace(copy.checkpoint / SECOND, bytes((copy.checkpoint / SECOND).stat().st_size))


@fault("llama-fp8", "integrity", SECOND)
def shard_is_a_git_lfs_pointer(copy: Copy) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 400000\n"
    replace(copy.checkpoint / SECOND, text.encode())


@fault("llama-fp8", "integrity", SECOND)
def swapped_shards(copy: Copy) -> None:
    third = copy.checkpoint / "model-00003-of-00004.safetensors"
    contents = (copy.checkpoint / SECOND).read_bytes(), third.read_bytes()
    replace(copy.checkpoint / SECOND, contents[1])
    replace(third, contents[0])


@fault("llama-fp8", "integrity", "model.layers.7.mlp.down_proj.weight")
def index_names_a_tensor_that_no_shard_holds(copy: Copy) -> None:
    copy.edit_json(INDEX, lambda c: c["weight_map"].update({"model.layers.7.mlp.down_proj.weight": SECOND}))


@fault("llama-fp8", "integrity", f"{O}.weight")
def shard_holds_a_tensor_that_the_index_lacks(copy: Copy) -> None:
    copy.edit_json(INDEX, lambda c: c["weight_map"].pop(f"{O}.weight"))


@harmless("llama-fp8")
def index_that_lacks_scales(copy: Copy) -> None:
    copy.edit_json(INDEX, lambda c: c["weight_map"].pop(f"{O}.input_scale"))


@fault("llama-fp8", "integrity", INDEX)
def lost_index(copy: Copy) -> None:
    (copy.checkpoint / INDEX).unlink()


@fault("llama-fp8", "integrity", INDEX)
def index_is_no_json(copy: Copy) -> None:
    replace(copy.checkpoint / INDEX, (copy.checkpoint / INDEX).read_bytes()[:-20])


@fault("llama-fp8", "integrity", "../source/")
def index_leads_out_of_the_folder(copy: Copy) -> None:
    def change(content: dict[str, Any]) -> None:
        content["weight_map"]["model.norm.weight"] = "../source/model-00006-of-00006.safetensors"

    copy.edit_json(INDEX, change)


@fault("llama-fp8", "integrity", "/model.safetensors")
def index_names_an_absolute_path(copy: Copy) -> None:
    copy.edit_json(INDEX, lambda c: c["weight_map"].update({"model.norm.weight": "/model.safetensors"}))


@fault("llama-fp8", "integrity", "config.json")
def lost_config(copy: Copy) -> None:
    (copy.checkpoint / "config.json").unlink()


@fault("llama-fp8", "integrity", "config.json")
def config_is_no_json(copy: Copy) -> None:
    replace(copy.checkpoint / "config.json", (copy.checkpoint / "config.json").read_bytes()[:-20])


@fault("llama-fp8", "integrity", "model-00009-of-00009.safetensors")
def stale_shard_of_an_earlier_export(copy: Copy) -> None:
    replace(copy.checkpoint / "model-00009-of-00009.safetensors", (copy.checkpoint / SECOND).read_bytes())


@fault("llama-fp8", "integrity", "model.norm.weight")
def tensor_in_two_shards(copy: Copy) -> None:
    entry = copy.get("model.norm.weight")
    holder = copy.shard_of("model.norm.weight")
    other = next(file for file in copy.shards() if file != holder)
    replace(other, shard_bytes({**read_shard(other), "model.norm.weight": entry}))


def _change_header(copy: Copy, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    file = copy.shard_of(name)
    replace(file, shard_bytes(read_shard(file), change))


@fault("llama-tied-fp8", "integrity", "model.safetensors")
def overlapping_offsets(copy: Copy) -> None:
    def change(header: dict[str, Any]) -> None:
        header[f"{K}.weight"]["data_offsets"] = header[f"{V}.weight"]["data_offsets"]

    _change_header(copy, f"{K}.weight", change)


@fault("llama-tied-fp8", "integrity", "model.safetensors")
def offsets_beyond_the_file(copy: Copy) -> None:
    def change(header: dict[str, Any]) -> None:
        first, last = header[f"{K}.weight"]["data_offsets"]
        header[f"{K}.weight"]["data_offsets"] = [first + 10**9, last + 10**9]

    _change_header(copy, f"{K}.weight", change)


@fault("llama-tied-fp8", "integrity", "model.safetensors")
def bytes_that_no_tensor_owns(copy: Copy) -> None:
    file = copy.checkpoint / "model.safetensors"
    replace(file, file.read_bytes() + bytes(64))


@fault("llama-tied-fp8", "integrity", f"{K}.weight")
def span_that_does_not_fit_the_shape(copy: Copy) -> None:
    _change_header(copy, f"{K}.weight", lambda header: header[f"{K}.weight"].update(dtype="BF16"))


@fault("llama-tied-fp8", "integrity", "model.safetensors")
def header_is_no_json(copy: Copy) -> None:
    file = copy.checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[8:12] = b"\x80\x02}q"
    replace(file, bytes(content))


@fault("llama-tied-fp8", "integrity", "model.safetensors")
def gap_between_tensors(copy: Copy) -> None:
    """The payload is as long as it should be, but one tensor's span begins where the next one's does."""
    file = copy.checkpoint / "model.safetensors"
    tensors = read_shard(file)

    def change(header: dict[str, Any]) -> None:
        last = list(tensors)[-1]
        first, end = header[last]["data_offsets"]
        header[last]["data_offsets"] = [first + 64, end + 64]

    replace(file, shard_bytes(tensors, change) + bytes(64))


@fault("llama-tied-fp8", "integrity", "model.safetensors")
def header_of_a_huge_length(copy: Copy) -> None:
    file = copy.checkpoint / "model.safetensors"
    replace(file, (1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])


@fault("llama-fp8", "integrity", SECOND)
def shard_is_a_link_out_of_the_folder(copy: Copy) -> None:
    outside = copy.checkpoint.parent / "outside.safetensors"
    (copy.checkpoint / SECOND).rename(outside)
    (copy.checkpoint / SECOND).symlink_to(outside)


@fault("llama-tied-fp8", "integrity", "pytorch_model.bin")
def pickle_file(copy: Copy) -> None:
    replace(copy.checkpoint / "pytorch_model.bin", b"\x80\x02}q\x00.")


# ---- inventory


@fault("qwen3-nvfp4", "inventory", "mtp.fc.weight")
def dropped_mtp(copy: Copy) -> None:
    entry = copy.get(f"{O}.weight", copy.source)
    copy.add("mtp.fc.weight", *entry, where=copy.source)
    copy.add("mtp.layers.0.mlp.down_proj.weight", *entry, where=copy.source)


@fault("deepseek-v3-fp8", "inventory", "model.layers.2.eh_proj.weight")
def dropped_mtp_that_is_a_layer_of_its_own(copy: Copy) -> None:
    """DeepSeek-V3 keeps its MTP layer behind the last one."""
    for name in ("eh_proj", "self_attn.o_proj", "mlp.experts.0.down_proj"):
        entry = copy.get("model.layers.1.self_attn.o_proj.weight", copy.source)
        copy.add(f"model.layers.2.{name}.weight", *entry, where=copy.source)


@fault("qwen2-vl-fp8", "inventory", "visual.blocks.0.attn.qkv.weight")
def dropped_vision_tensor(copy: Copy) -> None:
    copy.remove("visual.blocks.0.attn.qkv.weight")


@fault("qwen2-fp8", "inventory", f"{Q}.bias")
def dropped_bias(copy: Copy) -> None:
    copy.remove(f"{Q}.bias")


@fault("llama-fp8", "inventory", "model.norm.weight")
def dropped_norm(copy: Copy) -> None:
    copy.remove("model.norm.weight")


@fault("qwen3-moe-nvfp4", "inventory", f"{EXPERT}.down_proj.weight", must_not_name=("experts.2.",))
def dropped_expert(copy: Copy) -> None:
    copy.remove(*copy.names(f"{EXPERT}."))


@fault("qwen3-moe-nvfp4", "inventory", f"{LAYER}.mlp.gate.weight")
def dropped_router(copy: Copy) -> None:
    copy.remove(f"{LAYER}.mlp.gate.weight")


@fault("llama-fp8", "inventory", f"{DOWN}.weight")
def dropped_layer(copy: Copy) -> None:
    copy.remove(*copy.names(f"{LAYER}."))


@fault("llama-fp8", "inventory", "lm_head.weight")
def dropped_lm_head_of_an_untied_model(copy: Copy) -> None:
    copy.remove("lm_head.weight")


@fault("gpt-oss-fp8", "inventory", f"{LAYER}.self_attn.sinks")
def dropped_attention_sinks(copy: Copy) -> None:
    copy.remove(f"{LAYER}.self_attn.sinks")


@fault("deepseek-v3-fp8", "inventory", f"{LAYER}.mlp.gate.e_score_correction_bias")
def dropped_router_correction(copy: Copy) -> None:
    copy.remove(f"{LAYER}.mlp.gate.e_score_correction_bias")


@fault("llama-fp8", "inventory", "model.adapter.weight")
def extra_tensor(copy: Copy) -> None:
    copy.add("model.adapter.weight", *copy.get("model.norm.weight"))


@fault("llama-fp8", "inventory", "model.layers.1.input_norm.weight")
def renamed_tensor(copy: Copy) -> None:
    copy.rename("model.layers.1.input_layernorm.weight", "model.layers.1.input_norm.weight")


@fault("llama-fp8", "inventory", "model.embed_tokens.weight")
def embedding_of_another_vocabulary(copy: Copy) -> None:
    copy.set("model.embed_tokens.weight", shape=[384, 256])


@fault("llama-fp8", "inventory", f"{K}.weight")
def weight_of_another_shape(copy: Copy) -> None:
    copy.set(f"{K}.weight", shape=[64, 256])


@fault("llama-nvfp4", "inventory", f"{K}.weight")
def packed_weight_of_another_shape(copy: Copy) -> None:
    copy.set(f"{K}.weight", shape=[64, 128])
    copy.set(f"{K}.weight_scale", shape=[64, 16])


@fault("llama-fp8", "inventory", f"{LAYER}.mlp.router_proj.weight_scale")
def scale_without_a_weight(copy: Copy) -> None:
    copy.add(f"{LAYER}.mlp.router_proj.weight_scale", "F32", [], struct.pack("<f", 1.0))


@fault("mixtral-fp8_2d_blockwise_weight_only", "inventory", f"{LAYER}.block_sparse_moe.experts.0.w1.weight")
def exporter_renamed_the_experts(copy: Copy) -> None:
    """ModelOpt 0.47 writes this one so itself: names of the model in memory, which no engine's loader knows."""


# ---- format


@fault("llama-nvfp4", "format", DOWN)
def lost_global_scale(copy: Copy) -> None:
    copy.remove(f"{DOWN}.weight_scale_2")


@fault("llama-nvfp4", "format", DOWN)
def lost_block_scales(copy: Copy) -> None:
    copy.remove(f"{DOWN}.weight_scale")


@fault("llama-fp8", "format", DOWN)
def lost_weight_scale(copy: Copy) -> None:
    copy.remove(f"{DOWN}.weight_scale")


@fault("llama-fp8", "format", DOWN)
def lost_input_scale(copy: Copy) -> None:
    copy.remove(f"{DOWN}.input_scale")


@fault("qwen3-moe-nvfp4", "format", f"{EXPERT}.down_proj", must_not_name=("experts.2.",))
def experts_without_input_scale(copy: Copy) -> None:
    copy.remove(*copy.names(f"{EXPERT}.", "input_scale"))


@fault("mixtral-fp8", "format", f"{LAYER}.block_sparse_moe.experts.0.w2")
def all_experts_without_input_scale(copy: Copy) -> None:
    copy.remove(*copy.names("experts.", "input_scale"))


@fault("llama4-nvfp4", "format", f"{FUSED}.gate_up_proj")
def fused_experts_without_global_scale(copy: Copy) -> None:
    copy.remove(f"{FUSED}.gate_up_proj_weight_scale_2")


@fault("llama4-nvfp4", "format", f"{FUSED}.gate_up_proj")
def fused_experts_with_scales_of_another_shape(copy: Copy) -> None:
    copy.set(f"{FUSED}.gate_up_proj_weight_scale", shape=[4, 8, 256])


@fault("llama-nvfp4", "format", DOWN)
def block_scales_of_another_type(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight_scale", dtype="BF16")


@fault("llama-nvfp4", "format", DOWN)
def block_scales_of_another_shape(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight_scale", shape=[128, 24])


@fault("llama-nvfp4", "format", DOWN)
def groups_of_32_where_16_are_declared(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight_scale", shape=[256, 12])


@fault("llama-mixed", "format", DOWN)
def declared_groups_of_32_where_16_are_held(copy: Copy) -> None:
    copy.edit_both_declarations(lambda quantization, _: quantization["quantized_layers"][DOWN].update(group_size=32))


@fault("llama-mxfp8", "format", DOWN)
def mxfp8_groups_of_16(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight_scale", shape=[256, 24])


@fault("llama-fp8_2d_blockwise_weight_only", "format", DOWN)
def fp8_blocks_of_another_size(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight_scale", shape=[4, 1, 6, 1])


@fault("llama-fp8_per_channel_per_token", "format", DOWN)
def too_few_channel_scales(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight_scale", shape=[128])


@fault("llama-fp8", "format", DOWN)
def fp8_weight_in_e5m2(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight", dtype="F8_E5M2")


@fault("llama-int4_awq", "format", O)
def pre_quant_scale_of_another_length(copy: Copy) -> None:
    copy.set(f"{O}.pre_quant_scale", shape=[128])


@fault("llama-int8_smoothquant", "format", O)
def lost_smoothing_scale(copy: Copy) -> None:
    copy.remove(f"{O}.pre_quant_scale")


@fault("llama-int8_weight_only", "format", DOWN)
def int8_weight_as_bytes_without_sign(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight", dtype="U8")


@fault("llama-fp8", "format", "lm_head")
def lm_head_excluded_yet_scaled(copy: Copy) -> None:
    copy.add("lm_head.weight_scale", "F32", [], struct.pack("<f", 0.01))
    copy.add("lm_head.input_scale", "F32", [], struct.pack("<f", 0.01))


@fault("llama-fp8", "format", DOWN)
def declared_quantized_yet_bf16(copy: Copy) -> None:
    copy.restore(DOWN)


@fault("llama-mixed", "format", DOWN)
def quantized_yet_undeclared(copy: Copy) -> None:
    copy.edit_both_declarations(lambda quantization, _: quantization["quantized_layers"].pop(DOWN))


@fault("llama-mixed", "format", DOWN)
def declared_as_another_algorithm(copy: Copy) -> None:
    def change(quantization: dict[str, Any], _: str) -> None:
        quantization["quantized_layers"][DOWN] = {"quant_algo": "FP8"}

    copy.edit_both_declarations(change)


@fault("llama-fp8", "format", DOWN)
def quantized_yet_excluded(copy: Copy) -> None:
    """An engine would read the packed weight as a plain one."""
    copy.exclude(f"{DOWN}*")


@fault("llama-mixed", "format", "model.layers.9.mlp.down_proj")
def declared_layer_that_does_not_exist(copy: Copy) -> None:
    def change(quantization: dict[str, Any], _: str) -> None:
        quantization["quantized_layers"]["model.layers.9.mlp.down_proj"] = {"quant_algo": "FP8"}

    copy.edit_both_declarations(change)


@fault("llama-nvfp4-kv_fp8_affine", "format", f"{K}.k_bias")
def lost_bias_of_an_affine_kv_cache(copy: Copy) -> None:
    copy.remove(f"{K}.k_bias")


@fault("qwen3-fp8-kv_fp8", "format", f"{K}.k_scale")
def lost_kv_scale(copy: Copy) -> None:
    copy.remove(f"{K}.k_scale")


@fault("qwen3-fp8-kv_fp8", "format", f"{V}.v_scale", must_not_name=(".k_scale",))
def k_scales_without_v_scales(copy: Copy) -> None:
    copy.remove(*copy.names(".v_scale"))


@fault("qwen3-fp8-kv_fp8", "declaration", "holds none")
def kv_cache_declared_and_no_scale_left(copy: Copy) -> None:
    copy.remove(*copy.names(".k_scale"), *copy.names(".v_scale"))


@fault("llama-nvfp4-kv_fp8", "declaration", "NVFP4")
def another_kv_format_than_the_recipe_has(copy: Copy) -> None:
    copy.edit_json("hf_quant_config.json", lambda c: c["quantization"].update(kv_cache_quant_algo="NVFP4"))
    copy.edit_json("config.json", lambda c: c["quantization_config"].update(kv_cache_scheme="NVFP4"))


def smooth(copy: Copy, algorithm: str, rank: int = 0) -> None:
    """Make an NVFP4 export one of NVFP4_AWQ or NVFP4_SVD, as ModelOpt's exporter writes it.

    ModelOpt quantizes these on CUDA devices only; source: modelopt/torch/export/quant_utils.py (the layer's
    configuration) and unified_export_hf.py (pre_quant_scale of the layers that follow no norm, svdquant_lora_a
    [rank, in] and svdquant_lora_b [out, rank] beside the weight).
    """

    def declare(quantization: dict[str, Any], _: str) -> None:
        quantization.update(quant_algo=algorithm, has_zero_point=False, pre_quant_scale=True)

    copy.edit_both_declarations(declare)
    method = {"method": "svdquant", "lowrank": rank} if rank else {"method": "awq_lite"}
    record = json.loads(copy.record.read_text())
    record["recipe"]["quant_cfg"]["quantize"]["algorithm"] = method
    record["recipe"]["definition"] = {"preset": "nvfp4_svdquant" if rank else "nvfp4_awq_lite"}
    replace(copy.record, json.dumps(record).encode())
    for name in copy.names(".weight_scale_2"):
        module = name.removesuffix(".weight_scale_2")
        out, inputs = copy.get(f"{module}.weight", copy.source)[1]
        if module.endswith(("o_proj", "down_proj")) or rank:
            copy.add(f"{module}.pre_quant_scale", "BF16", [inputs], b"\x80\x3f" * inputs)
        if rank:
            copy.add(f"{module}.svdquant_lora_a", "BF16", [rank, inputs], b"\x00\x3c" * (rank * inputs))
            copy.add(f"{module}.svdquant_lora_b", "BF16", [out, rank], b"\x00\x3c" * (out * rank))


@fault("llama-nvfp4", "format", O)
def awq_without_its_smoothing_scale(copy: Copy) -> None:
    smooth(copy, "NVFP4_AWQ")
    copy.remove(f"{O}.pre_quant_scale")


@fault("llama-nvfp4", "format", O)
def awq_smoothing_scale_of_another_length(copy: Copy) -> None:
    smooth(copy, "NVFP4_AWQ")
    copy.set(f"{O}.pre_quant_scale", shape=[64])


@fault("llama-nvfp4", "format", DOWN)
def svd_without_its_second_factor(copy: Copy) -> None:
    smooth(copy, "NVFP4_SVD", rank=8)
    copy.remove(f"{DOWN}.svdquant_lora_b")


@fault("llama-nvfp4", "format", DOWN)
def svd_factors_of_different_ranks(copy: Copy) -> None:
    smooth(copy, "NVFP4_SVD", rank=8)
    copy.set(f"{DOWN}.svdquant_lora_a", shape=[4, 384])


@fault("llama-nvfp4", "engine", "NVFP4_AWQ", failure_class=UNSERVABLE, engine="vllm==0.32.0")
def smoothing_that_the_engine_does_not_take(copy: Copy) -> None:
    smooth(copy, "NVFP4_AWQ")


@fault("qwen3-fp8-kv_fp8", "format", f"{LAYER}.self_attn")
def kv_scales_of_a_cache_that_is_not_declared(copy: Copy) -> None:
    """Judged by the recipe without a KV format, so that nothing but the tensors tells."""
    replace(copy.record, (copy.exports / "qwen3-fp8" / "quantization.json").read_bytes())

    def change(quantization: dict[str, Any], _: str) -> None:
        quantization.pop("kv_cache_scheme", None)
        if "kv_cache_quant_algo" in quantization:
            quantization["kv_cache_quant_algo"] = None

    copy.edit_both_declarations(change)


# ---- coverage


def _quantize_to_fp8(copy: Copy, module: str) -> None:
    shape = copy.get(f"{module}.weight")[1]
    copy.set(f"{module}.weight", dtype="F8_E4M3", shape=shape)
    copy.add(f"{module}.weight_scale", "F32", [], struct.pack("<f", 0.01))
    copy.add(f"{module}.input_scale", "F32", [], struct.pack("<f", 0.01))

    def declare(quantization: dict[str, Any], key: str) -> None:
        quantization[key] = [name for name in quantization[key] if name != module]

    copy.edit_both_declarations(declare)


@fault("llama-fp8", "coverage", "lm_head")
def lm_head_quantized_against_the_recipe(copy: Copy) -> None:
    _quantize_to_fp8(copy, "lm_head")


@fault("qwen3-moe-fp8", "coverage", f"{LAYER}.mlp.gate")
def router_quantized(copy: Copy) -> None:
    _quantize_to_fp8(copy, f"{LAYER}.mlp.gate")


@fault("qwen2-vl-fp8", "coverage", "visual.blocks.1.mlp.fc1")
def vision_mlp_quantized_against_the_recipe(copy: Copy) -> None:
    modules = [f"visual.blocks.{block}.mlp.{name}" for block in (0, 1) for name in ("fc1", "fc2")]
    for module in modules:
        _quantize_to_fp8(copy, module)

    def declare(quantization: dict[str, Any], key: str) -> None:
        kept = [name for name in quantization[key] if not name.startswith("visual")]
        kept += ["visual.blocks.0.attn*", "visual.blocks.1.attn*", "visual.merger*", "visual.patch_embed*"]
        quantization[key] = kept

    copy.edit_both_declarations(declare)


@fault("llama-fp8", "coverage", f"{LAYER}.self_attn.q_proj", must_not_name=("mlp",))
def attention_left_out(copy: Copy) -> None:
    modules = [f"model.layers.{layer}.self_attn.{x}_proj" for layer in (0, 1) for x in "qkvo"]
    copy.restore(*modules)
    copy.exclude(*modules)


@fault("llama-nvfp4", "coverage", DOWN, must_not_name=("model.layers.0",))
def last_layer_left_out(copy: Copy) -> None:
    modules = [Q, K, V, O, DOWN, UP, GATE]
    copy.restore(*modules)
    copy.exclude(f"{LAYER}*")


@fault("qwen3-moe-nvfp4", "coverage", f"{EXPERT}.down_proj", must_not_name=("experts.2.",))
def one_expert_left_out(copy: Copy) -> None:
    modules = [f"{EXPERT}.{name}_proj" for name in ("gate", "up", "down")]
    copy.restore(*modules)
    copy.exclude(*modules)


@fault("llama-nvfp4", "coverage", Q)
def more_quantized_than_the_recipe_says(copy: Copy) -> None:
    other = copy.exports / "llama-nvfp4_mlp_only" / "quantization.json"
    replace(copy.record, other.read_bytes())


@fault("llama-fp8", "coverage", DOWN)
def another_recipe_than_asked_for(copy: Copy) -> None:
    other = copy.exports / "llama-nvfp4" / "quantization.json"
    replace(copy.record, other.read_bytes())


@fault("llama-fp8", "support", "none of", failure_class="MODEL_UNSUPPORTED", also=("size",))
def recipe_matched_nothing(copy: Copy) -> None:
    """BF16 out: the source's weights, and a declaration without an algorithm."""
    for file in copy.shards():
        file.unlink()
    for file in [*copy.shards(copy.source), copy.source / INDEX]:
        replace(copy.checkpoint / file.name, file.read_bytes())
    copy.edit_json("hf_quant_config.json", lambda c: c["quantization"].update(quant_algo=None, exclude_modules=[]))
    copy.edit_json("config.json", lambda c: c.pop("quantization_config"))


@fault("qwen2-vl-wide-mlp", "coverage", "visual.blocks.1.mlp.fc1")
def vision_mlp_quantized_by_a_wide_pattern(copy: Copy) -> None:
    """A real export: ``*mlp*`` without ModelOpt's list of exceptions. No text ever calibrates the vision tower."""


@fault("qwen2-vl-wide-mlp-weights", "coverage", "visual.blocks.1.mlp.fc1")
def vision_mlp_weights_quantized_by_a_wide_pattern(copy: Copy) -> None:
    """The same for weights alone: no scale is missing, and still nobody meant it."""


@fault("llama4-wide-feed_forward", "coverage", f"{LAYER}.feed_forward.router")
def router_quantized_by_a_wide_pattern(copy: Copy) -> None:
    """The recipe's own ``*feed_forward*`` covers the router, a linear layer; ModelOpt 0.47 leaves it alone."""
    _quantize_to_fp8(copy, f"{LAYER}.feed_forward.router")


# ---- declaration


@fault("llama-fp8", "declaration", "NVFP4")
def files_declare_different_algorithms(copy: Copy) -> None:
    copy.edit_json("hf_quant_config.json", lambda c: c["quantization"].update(quant_algo="NVFP4", group_size=16))


@fault("llama-fp8", "declaration", "model.layers.0*")
def files_exclude_different_modules(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c["quantization_config"]["ignore"].append("model.layers.0*"))


@fault("qwen3-fp8-kv_fp8", "declaration", "kv_cache")
def files_declare_different_kv_caches(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c["quantization_config"].pop("kv_cache_scheme"))


@fault("llama-mixed", "declaration", DOWN)
def files_declare_different_layers(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c["quantization_config"]["quantized_layers"].pop(DOWN))


@fault("llama-fp8", "declaration", "producer")
def config_declares_nothing_and_no_producer_is_named(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c.pop("quantization_config"))
    copy.edit_json("hf_quant_config.json", lambda c: c.pop("producer"))


@fault("llama-fp8", "declaration", "quant_method")
def lost_quant_method(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c["quantization_config"].pop("quant_method"))


@fault("llama-nvfp4", "declaration", "compressed-tensors")
def quant_method_of_another_library(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c["quantization_config"].update(quant_method="compressed-tensors"))


@fault("llama-nvfp4", "declaration", "input_activations")
def groups_of_weights_alone(copy: Copy) -> None:
    def change(content: dict[str, Any]) -> None:
        content["quantization_config"]["config_groups"]["group_0"]["input_activations"] = None

    copy.edit_json("config.json", change)


def _rename_exclusions(copy: Copy, old: str, new: str) -> None:
    def change(quantization: dict[str, Any], key: str) -> None:
        quantization[key] = [new if name == old else name for name in quantization[key]]

    copy.edit_both_declarations(change)


@fault("qwen3-moe-nvfp4", "declaration", "model.layers.0.mlp.gate.")
def exclusion_with_a_dot_at_its_end(copy: Copy) -> None:
    _rename_exclusions(copy, "model.layers.0.mlp.gate", "model.layers.0.mlp.gate.")


@fault("llama-fp8", "declaration", "hf_quant_config.json")
def lost_hf_quant_config(copy: Copy) -> None:
    (copy.checkpoint / "hf_quant_config.json").unlink()


@fault("llama-fp8", "declaration", "hf_quant_config.json")
def hf_quant_config_is_no_json(copy: Copy) -> None:
    replace(copy.checkpoint / "hf_quant_config.json", b'{"quantization": {')


@fault("llama-fp8", "declaration", "INT3")
def unknown_algorithm(copy: Copy) -> None:
    copy.edit_both_declarations(lambda quantization, _: quantization.update(quant_algo="INT3"))


@fault("llama-nvfp4-kv_fp8", "declaration", "fp8")
def kv_cache_of_the_recipe_is_not_declared(copy: Copy) -> None:
    def change(quantization: dict[str, Any], _: str) -> None:
        quantization.pop("kv_cache_scheme", None)
        if "kv_cache_quant_algo" in quantization:
            quantization["kv_cache_quant_algo"] = None

    copy.edit_both_declarations(change)
    copy.remove(*copy.names(".k_scale"), *copy.names(".v_scale"))


# ---- scales


def _scale_fault(name: str, base: str, tensor: str, value: float) -> None:
    def apply(copy: Copy) -> None:
        copy.set_scalar(tensor, value)

    FAULTS.append(Fault(name, base, apply, "scales", tensor))


_scale_fault("expert_input_scale_zero", "qwen3-moe-nvfp4", f"{EXPERT}.down_proj.input_scale", 0.0)
_scale_fault("expert_input_scale_negative", "qwen3-moe-nvfp4", f"{EXPERT}.down_proj.input_scale", -0.5)
_scale_fault("expert_input_scale_inf", "qwen3-moe-nvfp4", f"{EXPERT}.down_proj.input_scale", INFINITY)
_scale_fault("expert_input_scale_nan", "qwen3-moe-nvfp4", f"{EXPERT}.down_proj.input_scale", NAN)
_scale_fault("fused_experts_input_scale_nan", "llama4-nvfp4", f"{FUSED}.down_proj_input_scale", NAN)
_scale_fault("global_scale_zero", "llama-nvfp4", f"{DOWN}.weight_scale_2", 0.0)
_scale_fault("negative_weight_scale", "llama-fp8", f"{DOWN}.weight_scale", -0.01)
_scale_fault("kv_scale_nan", "qwen3-fp8-kv_fp8", f"{K}.k_scale", NAN)
_scale_fault("kv_scale_zero", "qwen3-fp8-kv_fp8", f"{V}.v_scale", 0.0)


@fault("llama-nvfp4", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def block_scale_nan(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight_scale", 100, bytes([FP8_NAN]))


@fault("llama-nvfp4", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def block_scale_negative(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight_scale", 100, bytes([0xB8]))


@fault("llama-nvfp4", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def block_scales_all_zero(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight_scale", data=bytes(len(copy.get(f"{DOWN}.weight_scale")[2])))


@fault("llama-fp8", "blocks", f"{DOWN}.weight", is_deep=True)
def fp8_weight_nan(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight", 12345, bytes([FP8_NAN]))


@fault("llama-fp8", "blocks", f"{DOWN}.weight", is_deep=True)
def fp8_weight_all_zero(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight", data=bytes(len(copy.get(f"{DOWN}.weight")[2])))


@fault("llama-nvfp4", "blocks", f"{DOWN}.weight", is_deep=True)
def packed_weight_all_zero(copy: Copy) -> None:
    """A shard whose end was never written: the header is sound, the payload is not."""
    copy.set(f"{DOWN}.weight", data=bytes(len(copy.get(f"{DOWN}.weight")[2])))


@fault("llama-nvfp4", "blocks", "row 3, column 32", is_deep=True)
def one_block_scale_zero(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight_scale", 3 * 24 + 2, b"\x00")


@fault("llama-nvfp4", "blocks", "row 5, column 48", is_deep=True)
def one_block_of_a_packed_weight_zero(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight", 5 * 192 + 24, bytes(8))


@fault("llama-fp8", "blocks", f"{DOWN}.weight", is_deep=True)
def hole_in_an_fp8_weight(copy: Copy) -> None:
    """A page that was never written."""
    copy.set_bytes(f"{DOWN}.weight", 4096, bytes(4096))


@fault("llama-fp8_2d_blockwise_weight_only", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def fp8_block_scale_zero(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight_scale", 8, bytes(4))


@fault("llama-int4_awq", "blocks", f"{DOWN}.weight", is_deep=True)
def int4_weight_all_zero(copy: Copy) -> None:
    copy.set(f"{DOWN}.weight", data=bytes(len(copy.get(f"{DOWN}.weight")[2])))


@fault("llama4-nvfp4", "blocks", f"{FUSED}.gate_up_proj", is_deep=True)
def fused_experts_all_zero(copy: Copy) -> None:
    copy.set(f"{FUSED}.gate_up_proj", data=bytes(len(copy.get(f"{FUSED}.gate_up_proj")[2])))


@fault("llama-int8_weight_only", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def channel_scale_zero(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight_scale", 40, bytes(4))


@fault("llama-mxfp8", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def mxfp8_block_scale_zero(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight_scale", 100, bytes(1))


@fault("llama4-nvfp4", "blocks", f"{FUSED}.gate_up_proj_weight_scale", is_deep=True)
def fused_experts_block_scale_nan(copy: Copy) -> None:
    copy.set_bytes(f"{FUSED}.gate_up_proj_weight_scale", 100, bytes([FP8_NAN]))


@fault("llama-fp8_per_channel_per_token", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def channel_scale_inf(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight_scale", 40, struct.pack("<f", INFINITY))


@fault("llama-fp8_2d_blockwise_weight_only", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def fp8_block_scale_nan(copy: Copy) -> None:
    copy.set_bytes(f"{DOWN}.weight_scale", 8, struct.pack("<f", NAN))


@fault("llama-mxfp8", "blocks", f"{DOWN}.weight_scale", is_deep=True)
def mxfp8_block_scale_nan(copy: Copy) -> None:
    """255 is the only code of E8M0 that is no number."""
    copy.set_bytes(f"{DOWN}.weight_scale", 100, bytes([0xFF]))


# ---- size


@fault("llama-only-o_proj", "size", "ratio")
def rest_of_the_model_upcast_to_f32(copy: Copy) -> None:
    for file in copy.shards():
        tensors = read_shard(file)
        for name, (dtype, shape, data) in tensors.items():
            if dtype == "BF16":
                widened = bytearray(2 * len(data))
                widened[2::4], widened[3::4] = data[0::2], data[1::2]
                tensors[name] = ("F32", shape, bytes(widened))
        replace(file, shard_bytes(tensors))


# ---- metadata


@fault("llama-fp8", "metadata", "chat template")
def lost_chat_template(copy: Copy) -> None:
    (copy.checkpoint / "chat_template.jinja").unlink()


@fault("llama-fp8", "metadata", "chat template")
def changed_chat_template(copy: Copy) -> None:
    file = copy.checkpoint / "chat_template.jinja"
    replace(file, file.read_bytes().replace(b"</s>", b""))


@fault("llama-fp8", "metadata", "chat template")
def changed_template_for_tools_only(copy: Copy) -> None:
    """The default template is the same; the one that an agent asks for is not."""
    for side, text in ((copy.source, b"{{ tools }}"), (copy.checkpoint, b"{{ messages }}")):
        (side / "additional_chat_templates").mkdir()
        replace(side / "additional_chat_templates" / "tool_use.jinja", text)


@fault("llama-fp8", "metadata", "special_tokens_map.json")
def changed_special_tokens_map(copy: Copy) -> None:
    replace(copy.source / "special_tokens_map.json", b'{"eos_token": "</s>"}')
    replace(copy.checkpoint / "special_tokens_map.json", b'{"eos_token": "<pad>"}')


@fault("llama-fp8", "metadata", "tokenizer.json")
def lost_tokenizer(copy: Copy) -> None:
    (copy.checkpoint / "tokenizer.json").unlink()


@fault("llama-fp8", "metadata", "tokenizer.json")
def changed_vocabulary(copy: Copy) -> None:
    def change(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        first, second = list(vocabulary)[50:52]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    copy.edit_json("tokenizer.json", change)


@fault("qwen2-fp8-plain", "metadata", "tokenizer.json")
def tokenizer_rewritten_on_saving(copy: Copy) -> None:
    """A real one: transformers 5 saves a Qwen2 tokenizer with its own normalizer and pre-tokenizer."""


@fault("llama-fp8", "metadata", "tokenizer_config.json")
def lost_tokenizer_config(copy: Copy) -> None:
    (copy.checkpoint / "tokenizer_config.json").unlink()


@fault("llama-fp8", "metadata", "eos_token")
def changed_special_token(copy: Copy) -> None:
    copy.edit_json("tokenizer_config.json", lambda c: c.update(eos_token="<unk>"))


@fault("llama-fp8", "metadata", "generation_config.json")
def lost_generation_config(copy: Copy) -> None:
    (copy.checkpoint / "generation_config.json").unlink()


@fault("llama-fp8", "metadata", "eos_token_id")
def changed_stop_token(copy: Copy) -> None:
    copy.edit_json("generation_config.json", lambda c: c.update(eos_token_id=3))


@fault("llama-fp8", "metadata", "temperature")
def changed_sampling(copy: Copy) -> None:
    copy.edit_json("generation_config.json", lambda c: c.update(temperature=1.5))


@fault("llama-fp8", "metadata", "generation_config.json")
def generation_config_is_no_json(copy: Copy) -> None:
    replace(copy.checkpoint / "generation_config.json", b'{"do_sample": tru')


@fault("llama-fp8", "metadata", "tokenizer_config.json")
def tokenizer_config_is_no_json(copy: Copy) -> None:
    replace(copy.checkpoint / "tokenizer_config.json", b"")


@fault("qwen2-vl-fp8", "metadata", "preprocessor_config.json")
def lost_image_processor(copy: Copy) -> None:
    (copy.checkpoint / "preprocessor_config.json").unlink()


@fault("qwen2-vl-fp8", "metadata", "preprocessor_config.json")
def changed_image_processor(copy: Copy) -> None:
    copy.edit_json("preprocessor_config.json", lambda c: c.update(patch_size=16))


def _config_fault(name: str, key: str, value: Any, base: str = "llama-fp8", part: str | None = None) -> None:
    def change(content: dict[str, Any]) -> None:
        content = content[part] if part else content
        assert key in content and content[key] != value
        if value is None:
            del content[key]
        else:
            content[key] = value

    FAULTS.append(Fault(name, base, lambda copy: copy.edit_json("config.json", change), "metadata", key))


_config_fault("changed_vocabulary_size", "vocab_size", 384)
_config_fault("changed_max_positions", "max_position_embeddings", 4096)
_config_fault("changed_tying", "tie_word_embeddings", True)
_config_fault("changed_architecture", "architectures", ["MistralForCausalLM"])
_config_fault("changed_number_of_layers", "num_hidden_layers", 1)
_config_fault("changed_eos", "eos_token_id", 3)
_config_fault("lost_kv_heads", "num_key_value_heads", None)
_config_fault("changed_norm_epsilon", "rms_norm_eps", 1e-3)
_config_fault("changed_experts_per_token", "num_experts_per_tok", 1, "qwen3-moe-nvfp4")
_config_fault("lost_sliding_window", "sliding_window", None, "gpt-oss-fp8")
_config_fault("lost_latent_rank", "kv_lora_rank", None, "deepseek-v3-nvfp4")
_config_fault("lost_number_of_experts", "n_routed_experts", None, "deepseek-v3-nvfp4")
_config_fault("lost_scaling_of_routes", "routed_scaling_factor", None, "deepseek-v3-nvfp4")
_config_fault("lost_norm_of_routes", "norm_topk_prob", None, "qwen3-moe-nvfp4")
_config_fault("lost_vision_config", "vision_config", None, "qwen2-vl-fp8")
_config_fault("lost_text_config", "text_config", None, "qwen2-vl-fp8")
_config_fault("lost_patch_size", "patch_size", None, "qwen2-vl-fp8", "vision_config")
_config_fault("changed_patch_size", "patch_size", 16, "qwen2-vl-fp8", "vision_config")
_config_fault("changed_image_token", "image_token_id", 7, "qwen2-vl-fp8")


@fault("llama-fp8", "metadata", "rope")
def changed_rope(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c["rope_parameters"].update(rope_theta=5e5))


@fault("gpt-oss-fp8", "metadata", "rope")
def lost_rope_scaling(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c.pop("rope_parameters"))


@fault("llama-fp8", "metadata", "modeling_x.py")
def code_named_and_not_there(copy: Copy) -> None:
    for folder in (copy.checkpoint, copy.source):
        copy.edit_json("config.json", lambda c: c.update(auto_map={"AutoModelForCausalLM": "modeling_x.X"}), folder)


@fault("llama-fp8", "metadata", "layer_types")
def more_types_than_layers(copy: Copy) -> None:
    for folder in (copy.checkpoint, copy.source):
        copy.edit_json("config.json", lambda c: c.update(layer_types=["full_attention"] * 3), folder)


@fault("llama-fp8", "metadata", "merges")
def merges_in_another_order(copy: Copy) -> None:
    copy.edit_json("tokenizer.json", lambda c: c["model"]["merges"].reverse())


@fault("llama-fp8", "metadata", "extra_special_tokens")
def special_tokens_as_a_list(copy: Copy) -> None:
    copy.edit_json("tokenizer_config.json", lambda c: c.update(extra_special_tokens={"user": "<|user|>"}), copy.source)
    copy.edit_json("tokenizer_config.json", lambda c: c.update(extra_special_tokens=["<|user|>"]))


# ---- engine


@fault("llama-int4_awq", "engine", "W4A16_AWQ", failure_class=UNSERVABLE, engine="vllm")
def algorithm_that_the_engine_does_not_take(copy: Copy) -> None:
    """A sound export: only the engine refuses."""


@fault("qwen3-moe-nvfp4", "engine", "model.layers.0.mlp.gate", failure_class=UNSERVABLE, engine="vllm")
def router_not_excluded(copy: Copy) -> None:
    """vLLM's Qwen3-MoE builds its routers with the quantization config."""
    copy.edit_both_declarations(lambda quantization, key: quantization[key].remove("model.layers.0.mlp.gate"))


@fault(
    "llama-odd-fp8_2d_blockwise_weight_only",
    "engine",
    "model.layers.0.mlp.down_proj",
    failure_class=UNSERVABLE,
    engine="vllm",
)
def in_features_that_blocks_do_not_divide(copy: Copy) -> None:
    """A real one: the exporter writes blocks of 128 over 360 in-features without a word."""


@fault("llama-uneven-qkv", "engine", f"{LAYER}.self_attn", failure_class=UNSERVABLE, engine="vllm")
def fused_group_of_different_algorithms(copy: Copy) -> None:
    """A real one: the recipe's patterns give q and v FP8, k NVFP4."""


# ---- changes that must not fail


@harmless("llama-fp8")
def nothing_changed(copy: Copy) -> None:
    pass


@harmless("llama-fp8")
def shards_merged_into_one(copy: Copy) -> None:
    tensors = {name: entry for file in copy.shards() for name, entry in read_shard(file).items()}
    for file in [*copy.shards(), copy.checkpoint / INDEX]:
        file.unlink()
    replace(copy.checkpoint / "model.safetensors", shard_bytes(tensors))


@harmless("llama-nvfp4")
def source_merged_into_one(copy: Copy) -> None:
    tensors = {name: entry for file in copy.shards(copy.source) for name, entry in read_shard(file).items()}
    for file in [*copy.shards(copy.source), copy.source / INDEX]:
        file.unlink()
    replace(copy.source / "model.safetensors", shard_bytes(tensors))


@harmless("llama-fp8")
def chat_template_moved_into_the_tokenizer_config(copy: Copy) -> None:
    file = copy.checkpoint / "chat_template.jinja"
    template = file.read_text(encoding="utf-8")
    file.unlink()
    copy.edit_json("tokenizer_config.json", lambda c: c.update(chat_template=template))


@harmless("llama-fp8")
def config_in_the_words_of_transformers_4(copy: Copy) -> None:
    def change(content: dict[str, Any]) -> None:
        content["torch_dtype"] = content.pop("dtype")
        content["rope_theta"] = content.pop("rope_parameters")["rope_theta"]
        content["rope_scaling"] = None
        content["transformers_version"] = "4.57.1"

    copy.edit_json("config.json", change)


@harmless("llama-fp8")
def only_hf_quant_config_declares(copy: Copy) -> None:
    """As ModelOpt wrote it before 0.31; vLLM reads it."""
    copy.edit_json("config.json", lambda c: c.pop("quantization_config"))


@harmless("deepseek-v3-nvfp4")
def router_not_excluded_that_the_engine_never_quantizes(copy: Copy) -> None:
    def change(quantization: dict[str, Any], key: str) -> None:
        quantization[key] = [name for name in quantization[key] if not name.endswith("mlp.gate")]

    copy.edit_both_declarations(change)


@harmless("llama-fp8")
def merges_spelled_as_texts(copy: Copy) -> None:
    def change(content: dict[str, Any]) -> None:
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]

    copy.edit_json("tokenizer.json", change)


@harmless("llama-fp8")
def types_of_layers_cut_by_the_exporter(copy: Copy) -> None:
    for folder, count in ((copy.checkpoint, 2), (copy.source, 3)):
        copy.edit_json("config.json", lambda c, n=count: c.update(layer_types=["full_attention"] * n), folder)


@harmless("llama-fp8")
def sampling_switched_on_by_the_exporter(copy: Copy) -> None:
    copy.edit_json("generation_config.json", lambda c: c.pop("do_sample"), copy.source)


@harmless("llama-fp8")
def readme_written(copy: Copy) -> None:
    replace(copy.checkpoint / "README.md", b"# A quantized model\n")


@harmless("llama-fp8")
def exclusions_in_another_order(copy: Copy) -> None:
    copy.edit_json("config.json", lambda c: c["quantization_config"]["ignore"].reverse())


@harmless("llama-fp8")
def algorithm_in_lower_case(copy: Copy) -> None:
    copy.edit_json("hf_quant_config.json", lambda c: c["quantization"].update(quant_algo="fp8"))


@harmless("llama-tied-fp8")
def tied_head_written_out_in_the_source(copy: Copy) -> None:
    copy.add("lm_head.weight", *copy.get("model.embed_tokens.weight", copy.source), where=copy.source)


@harmless("llama-fp8")
def buffers_of_old_checkpoints_in_the_source(copy: Copy) -> None:
    for layer in (0, 1):
        data = struct.pack("<32f", *range(1, 33))
        copy.add(f"model.layers.{layer}.self_attn.rotary_emb.inv_freq", "F32", [32], data, where=copy.source)


@harmless("llama-fp8")
def older_chat_template_that_nobody_reads(copy: Copy) -> None:
    """chat_template.jinja stands above what the tokenizer's configuration holds."""
    copy.edit_json("tokenizer_config.json", lambda c: c.update(chat_template="{{ messages }}"))


@harmless("llama-nvfp4")
def zeros_that_the_source_has_too(copy: Copy) -> None:
    """A dead row of the source is a row of zero blocks in the export."""
    name = f"{DOWN}.weight"
    file = copy.shard_of(name, copy.source)
    tensors = read_shard(file)
    dtype, shape, data = tensors[name]
    tensors[name] = (dtype, shape, bytes(2 * shape[1]) + data[2 * shape[1] :])
    replace(file, shard_bytes(tensors))
    copy.set_bytes(name, 0, bytes(shape[1] // 2))


@harmless("llama-nvfp4")
def smoothed_as_nvfp4_awq(copy: Copy) -> None:
    smooth(copy, "NVFP4_AWQ")


@harmless("llama-nvfp4")
def low_rank_parts_as_nvfp4_svd(copy: Copy) -> None:
    smooth(copy, "NVFP4_SVD", rank=8)


@harmless("qwen3-moe-fp8")
def expert_that_is_dead_in_the_source_too(copy: Copy) -> None:
    name = f"{EXPERT}.down_proj.weight"
    file = copy.shard_of(name, copy.source)
    tensors = read_shard(file)
    dtype, shape, data = tensors[name]
    tensors[name] = (dtype, shape, bytes(len(data)))
    replace(file, shard_bytes(tensors))
    copy.set(name, data=bytes(len(copy.get(name)[2])))


@harmless("llama-fp8")
def snapshot_of_the_hubs_cache(copy: Copy) -> None:
    """The hub's cache keeps files as links to its own blobs."""
    home = copy.checkpoint.parent / "models--a--b"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots").mkdir()
    for number, file in enumerate(sorted(copy.checkpoint.iterdir())):
        blob = home / "blobs" / f"{number:08x}"
        file.rename(blob)
        file.symlink_to(blob)
    snapshot = home / "snapshots" / "0123abcd"
    copy.checkpoint.rename(snapshot)
    copy.checkpoint = snapshot


@harmless("qwen3-moe-nvfp4")
def shards_named_by_another_tool(copy: Copy) -> None:
    names = {file.name: f"part-{number}.safetensors" for number, file in enumerate(copy.shards())}
    for old, new in names.items():
        (copy.checkpoint / old).rename(copy.checkpoint / new)

    def change(content: dict[str, Any]) -> None:
        content["weight_map"] = {name: names[shard] for name, shard in content["weight_map"].items()}

    copy.edit_json(INDEX, change)
