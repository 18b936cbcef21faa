"""Hold the rounding to NVFP4 on a CPU, and the choice of formats by sensitivity, against ModelOpt's own.

Run with the interpreter of the quantize environment; prints what was compared, and exits 1 with what differs.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

from loaded_model import import_modelopt, prepare_process

prepare_process()

import torch  # noqa: E402

from day0.base.artefacts import read_json  # noqa: E402
from day0.recipe.formats import setting_of  # noqa: E402
from day0.recipe.forms import BySensitivity  # noqa: E402
from day0.recipe.modelopt_form import as_json  # noqa: E402
from day0.recipe.resolve import read_format  # noqa: E402
from day0.recipe.sensitivity import choose_formats, entries_of_choice  # noqa: E402
from measure_sensitivity import add_scores, score  # noqa: E402
from nvfp4_emulation import fake_quantize_nvfp4  # noqa: E402

CATALOGUE = read_json(Path(__file__).parents[2] / "envs" / "modelopt_catalogue.json")
FORMATS = ["fp8", "nvfp4"]


def compare_rounding() -> int:
    """Round tensors of many ranges, with ties, blocks of zeros and values beyond the range, as ModelOpt's export."""
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    torch.manual_seed(0)
    ties = torch.randint(-24, 25, (32, 256)) / 4
    wide = torch.randn(32, 256) * torch.logspace(-8, 1, 32)[:, None]
    sparse = torch.randn(32, 256) * (torch.rand(32, 1) > 0.3)
    count = 0
    for values, factor, share, dtype in itertools.product(
        (torch.randn(32, 256), ties, wide, sparse),
        (1e-6, 1e-3, 1.0, 300.0),
        (1.0, 0.5, 4.0),
        (torch.float32, torch.bfloat16, torch.float16),
    ):
        inputs = (values * factor).to(dtype)
        amax = inputs.abs().amax().float() * share
        packed, scales, per_tensor = NVFP4QTensor.quantize(inputs.clone(), 16, None, amax / (6 * 448))
        expected = packed.dequantize(dtype, scale=scales, double_scale=per_tensor, block_sizes={-1: 16})
        if not torch.equal(fake_quantize_nvfp4(inputs, amax), expected):
            sys.exit(f"rounding differs: {dtype}, factor {factor}, share {share}")
        count += 1
    return count


def small_model() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()


def compare_choices() -> int:
    """Choose formats for many targets, by the same scores, as ModelOpt's re-solve where that keeps to the target."""
    import modelopt.torch.quantization as mtq
    from modelopt.recipe.presets import QUANT_CFG_CHOICES

    torch.manual_seed(1)
    batches = [{"input_ids": torch.randint(0, 64, (4, 16))} for _ in range(2)]
    never = ["*lm_head*"]
    sensitivity = SimpleNamespace(status="done", formats={}, groups=[])
    for name in FORMATS:
        add_scores(sensitivity, name, score(small_model(), name, batches, 2, never))
    _, state = mtq.auto_quantize(
        small_model(),
        constraints={"effective_bits": 8.0, "cost": {"excluded_module_name_patterns": never}},
        quantization_formats=[QUANT_CFG_CHOICES[name] for name in FORMATS],
        data_loader=batches,
        forward_step=lambda model, batch: model(**batch).logits,
        num_calib_steps=2,
        num_score_steps=2,
        disabled_layers=never,
        method="kl_div",
        verbose=False,
    )
    formats = {name: read_format(name, CATALOGUE) for name in FORMATS}
    quantizers = [name for group in sensitivity.groups for name in group.quantizers]
    same = 0
    for bits in (4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 10.0, 12.0):
        choice = choose_formats(sensitivity, BySensitivity(formats=FORMATS, bits=bits))
        assert choice.bits <= bits
        ours = entries_of_choice(choice, sensitivity, formats)
        theirs = as_json(mtq.get_auto_quantize_config(state, {"effective_bits": bits}))["quant_cfg"]
        found = {name: _essence(setting_of(ours, name)) for name in quantizers}
        expected = {name: _essence(setting_of(theirs, name)) for name in quantizers}
        if found == expected:
            same += 1
            continue
        taken = sum(g.weights * {8: 8.0, 4: 4.5, 0: 16.0}[expected[_weight_of(g)]] for g in sensitivity.groups)
        achieved = taken / sum(g.weights for g in sensitivity.groups)
        if achieved <= bits:
            sys.exit(f"the choice for {bits} bits differs: {choice.bits} bits here, {achieved} by ModelOpt")
        print(f"ModelOpt's re-solve takes {achieved:.3f} bits for {bits}; here {choice.bits:.3f}")
    return same


def _weight_of(group) -> str:  # type: ignore[no-untyped-def]
    return next(name for name in group.quantizers if name.endswith("weight_quantizer"))


def _essence(setting) -> int:  # type: ignore[no-untyped-def]
    """Bits of the values: 8 for FP8, 4 for NVFP4, 0 where the quantizer is off."""
    bits = (setting or {}).get("num_bits")
    return sum(bits) + 1 if bits else 0


if __name__ == "__main__":
    import_modelopt()
    print(f"{compare_rounding()} tensors are rounded alike; {compare_choices()} of 10 choices are the same")
