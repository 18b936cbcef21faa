"""Faults of values: each tensor is of the right type and shape, and holds what it must not.

Most are rebuilt from public reports; what the field calls them stands in the docstrings.
"""

from __future__ import annotations

import struct

import numpy

from faults import DOWN, FUSED, GATE, LAYER, UP, Copy, K, O, Q, V, fault, harmless, read_shard, replace, shard_bytes

E0, E1, E2, E3 = (f"{LAYER}.mlp.experts.{number}" for number in range(4))
QKV = (Q, K, V)


def rng() -> numpy.random.Generator:
    return numpy.random.default_rng(5)


def move(copy: Copy, origin: str, target: str) -> None:
    """Have the tensors of a module hold what those of another one do."""
    for name in copy.names(f"{target}."):
        if name.startswith(f"{target}."):
            copy.set(name, *copy.get(origin + name.removeprefix(target)))


def exchange(copy: Copy, one: str, other: str) -> None:
    for name in copy.names(f"{one}."):
        partner = other + name.removeprefix(one)
        first, second = copy.get(name), copy.get(partner)
        copy.set(name, *second)
        copy.set(partner, *first)


def scalar(copy: Copy, name: str) -> float:
    return struct.unpack("<f", copy.get(name)[2])[0]


def change_codes(copy: Copy, name: str, change) -> None:
    """Put what a function makes of a tensor's bytes, as an array of its shape, in its place."""
    _, shape, data = copy.get(name)
    codes = numpy.frombuffer(data, numpy.uint8).reshape(*shape, -1)
    copy.set(name, data=numpy.ascontiguousarray(change(codes)).tobytes())


def bf16(values: numpy.ndarray) -> bytes:
    return (numpy.asarray(values, numpy.float32).view(numpy.uint32) >> 16).astype("<u2").tobytes()


def floats(data: bytes) -> numpy.ndarray:
    return (numpy.frombuffer(data, "<u2").astype(numpy.uint32) << 16).view(numpy.float32)


def change_bf16(copy: Copy, name: str, change) -> None:
    copy.set(name, data=bf16(change(floats(copy.get(name)[2]).copy())))


# ---- scales


@fault("qwen3-moe-nvfp4", "values", f"{E3}.gate_proj", must_not_name=("cause was not looked for",))
def inverted_global_scales(copy: Copy) -> None:
    """vllm#42549: the convention of compressed-tensors."""
    for name in copy.names("weight_scale_2"):
        copy.set_scalar(name, 1 / scalar(copy, name))


@fault("llama-nvfp4", "values", "which is the inverse")
def one_inverted_global_scale(copy: Copy) -> None:
    copy.set_scalar(f"{DOWN}.weight_scale_2", 1 / scalar(copy, f"{DOWN}.weight_scale_2"))


@fault("llama-fp8", "values", "a scale of 1.0 is what is left where none was computed")
def fp8_scale_of_one(copy: Copy) -> None:
    copy.set_scalar(f"{DOWN}.weight_scale", 1.0)


@fault("llama-nvfp4", "values", "a scale of 1.0 is what is left where none was computed")
def global_scale_of_one(copy: Copy) -> None:
    copy.set_scalar(f"{O}.weight_scale_2", 1.0)


@fault("llama-fp8", "values", f"{O} holds the source's values times")
def fp8_scale_of_another_layer(copy: Copy) -> None:
    copy.set_scalar(f"{O}.weight_scale", 1.3 * scalar(copy, f"{O}.weight_scale"))


@fault("llama-nvfp4", "values", f"{O} holds the source's values times 2")
def doubled_global_scale(copy: Copy) -> None:
    copy.set_scalar(f"{O}.weight_scale_2", 2 * scalar(copy, f"{O}.weight_scale_2"))


@fault("llama-mxfp8", "values", DOWN)
def exponents_off_by_one(copy: Copy) -> None:
    change_codes(copy, f"{DOWN}.weight_scale", lambda codes: codes + 1)


@fault("llama-mxfp4", "values", DOWN)
def exponents_of_mxfp4_without_bias(copy: Copy) -> None:
    change_codes(copy, f"{DOWN}.weight_scale", lambda codes: codes - 7)


@fault("llama-fp8_per_channel_per_token", "values", DOWN)
def channel_scales_in_another_order(copy: Copy) -> None:
    change_codes(copy, f"{DOWN}.weight_scale", lambda codes: rng().permutation(codes * 1))
    spread = numpy.linspace(0.5, 2, 256, dtype=numpy.float32)
    copy.set(
        f"{DOWN}.weight_scale", data=(numpy.frombuffer(copy.get(f"{DOWN}.weight_scale")[2], "<f4") * spread).tobytes()
    )


@fault("llama-int8_weight_only", "values", DOWN)
def channel_scales_of_the_largest_row(copy: Copy) -> None:
    scales = numpy.frombuffer(copy.get(f"{DOWN}.weight_scale")[2], "<f4")
    copy.set(f"{DOWN}.weight_scale", data=numpy.full_like(scales, 1.5 * scales.max()).tobytes())


@fault("llama-fp8_2d_blockwise_weight_only", "values", DOWN)
def block_scales_inverted(copy: Copy) -> None:
    """DeepSeek's weight_scale_inv holds the scale, whatever its name says."""
    scales = numpy.frombuffer(copy.get(f"{DOWN}.weight_scale")[2], "<f4")
    copy.set(f"{DOWN}.weight_scale", data=(1 / scales).astype("<f4").tobytes())


@fault("llama-nvfp4", "values", "in 2 of 256 rows", is_deep=True)
def block_scales_of_some_rows(copy: Copy) -> None:
    def change(codes):
        changed = codes.copy()
        changed[7:9] -= 8  # half of each
        return changed

    change_codes(copy, f"{DOWN}.weight_scale", change)


@fault("llama-nvfp4", "values", DOWN)
def block_scales_in_the_order_of_a_kernel(copy: Copy) -> None:
    """Swizzled for a GEMM before they were saved."""

    def change(codes):
        rows, columns, _ = codes.shape
        tiles = codes.reshape(rows // 128, 4, 32, columns // 4, 4)
        return tiles.transpose(0, 3, 2, 1, 4).reshape(codes.shape)

    change_codes(copy, f"{DOWN}.weight_scale", change)


@fault("llama-int4_awq", "values", DOWN)
def group_scales_transposed(copy: Copy) -> None:
    def change(codes):
        values = codes.view("<f4")[..., 0] * numpy.linspace(0.3, 3, codes.shape[1])[None, :]
        return values.astype("<f4").view(numpy.uint8).reshape(codes.shape)

    change_codes(copy, f"{DOWN}.weight_scale", change)


@fault("llama-int4_awq", "values", DOWN)
def smoothing_vector_of_another_layer(copy: Copy) -> None:
    change_bf16(copy, f"{DOWN}.pre_quant_scale", lambda values: values * numpy.linspace(0.25, 4, values.size))


# ---- codes


@fault("llama-nvfp4", "values", "the two 4-bit codes of each byte are exchanged")
def swapped_nibbles(copy: Copy) -> None:
    change_codes(copy, f"{DOWN}.weight", lambda codes: (codes << 4) | (codes >> 4))


@fault("llama-mxfp4", "values", "the two 4-bit codes of each byte are exchanged")
def swapped_nibbles_of_mxfp4(copy: Copy) -> None:
    change_codes(copy, f"{DOWN}.weight", lambda codes: (codes << 4) | (codes >> 4))


@fault("llama-int4_awq", "values", "the two 4-bit codes of each byte are exchanged")
def swapped_nibbles_of_int4(copy: Copy) -> None:
    change_codes(copy, f"{DOWN}.weight", lambda codes: (codes << 4) | (codes >> 4))


@fault("llama-nvfp4", "values", "its codes are packed by halves of a row")
def packed_by_halves(copy: Copy) -> None:
    def change(codes):
        rows, columns, _ = codes.shape
        each = numpy.stack([codes & 15, codes >> 4], axis=-1).reshape(rows, 2 * columns)
        return (each[:, :columns] | (each[:, columns:] << 4)).reshape(codes.shape)

    change_codes(copy, f"{DOWN}.weight", change)


@fault("llama-int4_awq", "values", DOWN)
def codes_with_an_offset(copy: Copy) -> None:
    """GPTQ and compressed-tensors store INT4 as value + 8."""
    change_codes(copy, f"{DOWN}.weight", lambda codes: codes ^ 0x88)


@fault("llama-fp8", "values", DOWN)
def signs_lost(copy: Copy) -> None:
    change_codes(copy, f"{DOWN}.weight", lambda codes: codes & 0x7F)


@fault("llama-fp8", "values", O)
def weight_transposed(copy: Copy) -> None:
    change_codes(copy, f"{O}.weight", lambda codes: codes.transpose(1, 0, 2))


@fault("llama-fp8", "values", f"{O}", is_deep=True)
def rows_shifted_by_one(copy: Copy) -> None:
    change_codes(copy, f"{O}.weight", lambda codes: numpy.roll(codes, 1, axis=0))


@fault("llama-fp8", "values", Q, is_deep=True)
def heads_exchanged(copy: Copy) -> None:
    def change(codes):
        changed = codes.copy()
        changed[0:64], changed[64:128] = codes[64:128], codes[0:64]
        return changed

    change_codes(copy, f"{Q}.weight", change)


@fault("llama-nvfp4", "values", DOWN, is_deep=True)
def one_row_of_noise(copy: Copy) -> None:
    def change(codes):
        changed = codes.copy()
        changed[11] = rng().integers(0, 256, changed[11].shape)
        return changed

    change_codes(copy, f"{DOWN}.weight", change)


# ---- weights of another place


@fault("qwen3-moe-nvfp4", "values", f"it holds what the source has in {E0}.gate_proj")
def experts_are_copies_of_the_first(copy: Copy) -> None:
    """Megatron-Bridge#1871."""
    for expert in (E1, E2, E3):
        move(copy, E0, expert)


@fault("qwen3-moe-fp8", "values", f"it holds what the source has in {E0}.up_proj")
def one_expert_is_a_copy(copy: Copy) -> None:
    move(copy, E0, E2)


@fault("qwen3-moe-nvfp4", "values", "re-initialised")
def an_expert_is_noise(copy: Copy) -> None:
    for name in copy.names(f"{E3}.", ".weight"):
        if name.endswith(".weight"):
            change_codes(copy, name, lambda codes: rng().integers(0, 256, codes.shape).astype(numpy.uint8))


@fault("qwen3-moe-nvfp4", "values", f"{E2}.gate_proj")
def gate_and_up_exchanged_in_all_experts(copy: Copy) -> None:
    """vllm#46641, Model-Optimizer#2276."""
    for layer in (0, 1):
        for number in range(4):
            place = f"model.layers.{layer}.mlp.experts.{number}"
            exchange(copy, f"{place}.gate_proj", f"{place}.up_proj")


@fault("llama-fp8", "values", f"it holds what the source has in {UP}")
def gate_and_up_exchanged(copy: Copy) -> None:
    exchange(copy, GATE, UP)


@fault("llama-nvfp4", "values", f"it holds what the source has in {V}")
def k_and_v_exchanged(copy: Copy) -> None:
    exchange(copy, K, V)


@fault("llama-fp8", "values", "it holds what the source has in model.layers.0.self_attn.o_proj")
def layers_exchanged(copy: Copy) -> None:
    for leaf in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
        exchange(copy, f"model.layers.0.{leaf}", f"{LAYER}.{leaf}")


@fault("llama4-nvfp4", "values", f"{FUSED}.gate_up_proj")
def fused_experts_exchanged(copy: Copy) -> None:
    for part in ("gate_up_proj", "gate_up_proj_weight_scale"):
        change_codes(copy, f"{FUSED}.{part}", lambda codes: codes[[1, 0, *range(2, len(codes))]])


@fault("llama4-fp8", "values", f"{FUSED}.down_proj")
def fused_experts_reversed(copy: Copy) -> None:
    change_codes(copy, f"{FUSED}.down_proj", lambda codes: codes[::-1])


def _another_source(copy: Copy, keep: float) -> None:
    for file in copy.shards(copy.source):
        tensors = read_shard(file)
        for name, (dtype, shape, data) in tensors.items():
            if len(shape) > 1:
                noise = rng().standard_normal(len(data) // 2).astype(numpy.float32) * 0.02
                tensors[name] = (dtype, shape, bf16(keep * floats(data) + (1 - keep) * noise))
        replace(file, shard_bytes(tensors))


@fault("llama-fp8", "values", "the checkpoint was made from another source model", also=("unquantized",))
def another_source(copy: Copy) -> None:
    _another_source(copy, 0.0)


@fault("qwen3-nvfp4", "values", "trained further", also=("unquantized",))
def an_earlier_revision_of_the_source(copy: Copy) -> None:
    _another_source(copy, 0.5)


# ---- what was to stay


@fault("llama-fp8", "unquantized", f"{LAYER}.input_layernorm.weight")
def norms_plus_one(copy: Copy) -> None:
    """Model-Optimizer#793, mlx-lm#1735."""
    for name in copy.names("layernorm"):
        change_bf16(copy, name, lambda values: values + 1)


@fault("llama-int4_blockwise_weight_only", "unquantized", f"{LAYER}.input_layernorm.weight")
def norms_scaled_without_smoothing(copy: Copy) -> None:
    """Model-Optimizer#1825."""
    for name in copy.names("layernorm"):
        change_bf16(copy, name, lambda values: values * 3.7)


@fault("llama-int4_awq", "unquantized", f"{LAYER}.input_layernorm.weight")
def norms_scaled_by_what_no_weight_undoes(copy: Copy) -> None:
    change_bf16(copy, f"{LAYER}.input_layernorm.weight", lambda values: values * rng().uniform(0.2, 5, values.size))


@fault("llama-fp8", "unquantized", "lm_head.weight is zero")
def lm_head_zero(copy: Copy) -> None:
    """ollama#15866."""
    copy.set("lm_head.weight", data=bytes(len(copy.get("lm_head.weight")[2])))


@fault("llama-fp8", "unquantized", "model.embed_tokens.weight", is_deep=True)
def half_of_the_embeddings_zero(copy: Copy) -> None:
    data = copy.get("model.embed_tokens.weight")[2]
    copy.set("model.embed_tokens.weight", data=data[: len(data) // 2] + bytes(len(data) // 2))


@fault("llama-fp8", "unquantized", "lm_head.weight", is_deep=True)
def one_bit_of_the_head(copy: Copy) -> None:
    data = copy.get("lm_head.weight")[2]
    copy.set_bytes("lm_head.weight", 40_000, bytes([data[40_000] ^ 1]))


@fault("llama-fp8", "unquantized", "holds NaN or infinity")
def nan_in_a_norm(copy: Copy) -> None:
    copy.set_bytes("model.norm.weight", 10, b"\xff\x7f")


@fault("llama-fp8", "unquantized", "lm_head.weight holds NaN or infinity", is_deep=True)
def infinity_in_the_head(copy: Copy) -> None:
    copy.set_bytes("lm_head.weight", 4, b"\x80\x7f")


@fault("qwen2-fp8", "unquantized", f"{Q}.bias is zero")
def bias_zero(copy: Copy) -> None:
    copy.set(f"{Q}.bias", data=bytes(len(copy.get(f"{Q}.bias")[2])))


@fault("qwen2-nvfp4", "unquantized", f"{V}.bias")
def biases_exchanged(copy: Copy) -> None:
    first, second = copy.get(f"{K}.bias"), copy.get(f"{V}.bias")
    copy.set(f"{K}.bias", *second)
    copy.set(f"{V}.bias", *first)


@fault("qwen3-moe-nvfp4", "unquantized", f"{LAYER}.mlp.gate.weight")
def router_rows_exchanged(copy: Copy) -> None:
    change_codes(copy, f"{LAYER}.mlp.gate.weight", lambda codes: codes[::-1])


@fault("qwen3-moe-fp8", "unquantized", f"{LAYER}.mlp.gate.weight")
def router_rounded_to_8_bits(copy: Copy) -> None:
    change_codes(
        copy, f"{LAYER}.mlp.gate.weight", lambda codes: codes.reshape(-1, 2) & numpy.array([0xF0, 0xFF], numpy.uint8)
    )


@fault("qwen2-vl-fp8", "unquantized", "visual.blocks.1.attn.qkv.weight")
def vision_block_of_another_model(copy: Copy) -> None:
    change_bf16(copy, "visual.blocks.1.attn.qkv.weight", lambda values: rng().permutation(values))


@fault("deepseek-v3-nvfp4", "unquantized", "e_score_correction_bias is BF16 where the source has F32")
def router_bias_in_bf16(copy: Copy) -> None:
    """transformers#42580, auto-round#845, vllm#50761."""
    name = next(name for name in copy.names("e_score_correction_bias"))
    shape = copy.get(name)[1]
    values = rng().standard_normal(shape[0]).astype("<f4")
    for where in (copy.checkpoint, copy.source):
        file = copy.shard_of(name, where)
        tensors = read_shard(file)
        data = values.tobytes() if where == copy.source else bf16(values)
        tensors[name] = ("F32" if where == copy.source else "BF16", shape, data)
        replace(file, shard_bytes(tensors))


@fault("llama-fp8", "unquantized", "is F16 where the source has BF16")
def norms_in_another_type(copy: Copy) -> None:
    name = "model.norm.weight"
    copy.set(name, "F16", data=floats(copy.get(name)[2]).astype("<f2").tobytes())


@fault("llama-nvfp4", "unquantized", "lm_head.weight is F16 where the source has BF16")
def head_in_another_type(copy: Copy) -> None:
    copy.set("lm_head.weight", "F16", data=floats(copy.get("lm_head.weight")[2]).astype("<f2").tobytes())


@harmless("llama-fp8")
def one_norm_widened(copy: Copy) -> None:
    name = "model.norm.weight"
    copy.set(name, "F32", data=floats(copy.get(name)[2]).tobytes())


@harmless("llama-int4_awq")
def smoothing_moved_into_a_norm(copy: Copy) -> None:
    """What a fused pre_quant_scale leaves: the norm times a vector, the columns of the weights behind it divided."""
    norm = f"{LAYER}.input_layernorm.weight"
    factors = numpy.exp2(rng().integers(-2, 3, 256)).astype(numpy.float32)
    change_bf16(copy, norm, lambda values: values * factors)
    factors = floats(copy.get(norm)[2]) / floats(copy.get(norm, copy.source)[2])
    for module in QKV:
        _, shape, data = copy.get(f"{module}.weight", copy.source)
        codes, scales = _int4(floats(data).reshape(shape) / factors)
        copy.set(f"{module}.weight", data=codes.tobytes())
        copy.set(f"{module}.weight_scale", data=scales.tobytes())


def _int4(values: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    groups = values.reshape(len(values), -1, 128)
    scales = (numpy.abs(groups).max(-1) / 7).astype("<f4")
    codes = numpy.clip(numpy.rint(groups / scales[..., None]), -8, 7).astype(numpy.int8).reshape(values.shape)
    return ((codes[0::2] & 15) | (codes[1::2] << 4)).astype(numpy.uint8), scales


# ---- scales that an engine fuses


def _other_global_scale(copy: Copy, module: str, steps: int) -> None:
    """Multiply a global scale by 2 ** steps and divide the block scales by it: the same values, sound alone."""
    copy.set_scalar(f"{module}.weight_scale_2", scalar(copy, f"{module}.weight_scale_2") * 2.0**steps)
    change_codes(copy, f"{module}.weight_scale", lambda codes: codes - numpy.uint8(8 * steps))


@fault("qwen3-moe-nvfp4", "scales", f"{E3}.up_proj.weight_scale_2")
def global_scales_of_gate_and_up_differ(copy: Copy) -> None:
    """vllm#54974, #54150, Model-Optimizer#1411: the engine takes gate's for both."""
    _other_global_scale(copy, f"{E3}.gate_proj", 2)


@fault("llama-nvfp4", "scales", f"{K}.weight_scale_2")
def global_scales_of_q_k_v_differ(copy: Copy) -> None:
    _other_global_scale(copy, K, 2)


@fault("llama-w4a16_nvfp4", "scales", f"{UP}.weight_scale_2")
def global_scales_of_a_dense_mlp_differ(copy: Copy) -> None:
    _other_global_scale(copy, UP, 1)


@fault("llama-fp8", "scales", f"{DOWN}.input_scale is 1e+30")
def input_scale_beyond_all_activations(copy: Copy) -> None:
    copy.set_scalar(f"{DOWN}.input_scale", 1e30)


@fault("llama-nvfp4", "scales", f"{DOWN}.input_scale is 1e-20")
def input_scale_of_no_activation(copy: Copy) -> None:
    copy.set_scalar(f"{DOWN}.input_scale", 1e-20)


@fault("llama-nvfp4", "scales", f"{K}.input_scale")
def input_scales_of_a_group_far_apart(copy: Copy) -> None:
    copy.set_scalar(f"{K}.input_scale", 1000 * scalar(copy, f"{Q}.input_scale"))


@harmless("llama-nvfp4")
def input_scales_of_a_group_near_one_another(copy: Copy) -> None:
    copy.set_scalar(f"{K}.input_scale", 2 * scalar(copy, f"{Q}.input_scale"))


@harmless("llama-nvfp4")
def input_scales_pinned_to_one(copy: Copy) -> None:
    """Model-Optimizer#1947."""
    for name in copy.names("input_scale"):
        copy.set_scalar(name, 1.0)


@harmless("qwen3-fp8-kv_fp8")
def kv_scales_clamped_to_one(copy: Copy) -> None:
    """Model-Optimizer#20: by design of older exporters."""
    for name in (*copy.names("k_scale"), *copy.names("v_scale")):
        copy.set_scalar(name, 1.0)
