"""Make real quantized checkpoints of tiny models for the tests of the checkpoint gate, all in one process.

The source models have random weights, two layers and the architectures that differ in what an exporter does with them:
dense, per-expert and fused experts, a vision tower, latent attention, tied and untied embeddings, one file and shards.
Each is quantized by ``scripts/quantize.py``'s own ``main``, so that an export here is made exactly as in a release. A
combination that ModelOpt cannot export is kept as its record of the failure.

Run with the interpreter of the quantize environment, whose own view of every recipe goes to resolved.json: ModelOpt's
import costs much time, hence one process.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeio" for c in "bdfgklm"][:200]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>"]
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
VOCABULARY_SIZE = 320
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHARD_BYTES = 400_000


# ---- sources


def text_settings(**changes: Any) -> dict[str, Any]:
    """What all text models have in common: dimensions that every format's groups divide."""
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **changes,
    }


def make_llama(is_tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**text_settings(tie_word_embeddings=is_tied)))


def make_qwen3(is_tied: bool) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**text_settings(tie_word_embeddings=is_tied)))


def make_odd_llama() -> Any:
    """In-features of 192 and 360: groups of 16 divide neither the second, nor blocks of 128 the first."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            **text_settings(hidden_size=192, intermediate_size=360, num_attention_heads=3, num_key_value_heads=1)
        )
    )


def make_qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**text_settings()))


def make_qwen3_moe() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**text_settings(moe_intermediate_size=128, num_experts=4, num_experts_per_tok=2))
    )


def make_mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(**text_settings(intermediate_size=256, num_local_experts=4, num_experts_per_tok=2))
    )


def make_llama4() -> Any:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    return Llama4ForCausalLM(
        Llama4TextConfig(
            **text_settings(
                intermediate_size=128,
                intermediate_size_mlp=256,
                num_local_experts=4,
                num_experts_per_tok=1,
                interleave_moe_layer_step=1,
                attention_chunk_size=256,
            )
        )
    )


def make_gpt_oss() -> Any:
    from transformers import GptOssConfig, GptOssForCausalLM

    return GptOssForCausalLM(
        GptOssConfig(
            **text_settings(
                intermediate_size=256,
                num_local_experts=4,
                num_experts_per_tok=2,
                sliding_window=128,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 150000.0,
                    "factor": 32.0,
                    "original_max_position_embeddings": 16,
                },
            )
        )
    )


def make_deepseek_v3() -> Any:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    settings = text_settings(
        num_key_value_heads=4,
        moe_intermediate_size=128,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=128,
        kv_lora_rank=128,
        qk_rope_head_dim=32,
        qk_nope_head_dim=32,
        v_head_dim=64,
    )
    del settings["head_dim"]
    return DeepseekV3ForCausalLM(DeepseekV3Config(**settings))


def make_qwen2_vl() -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = text_settings(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]})
    del text["head_dim"]
    vision = {
        "depth": 2,
        "embed_dim": 128,
        "hidden_size": 256,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    names = ("vision_start", "vision_end", "vision", "image", "video")
    tokens = {f"{name}_token_id": len(SPECIAL) + i for i, name in enumerate(names)}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens)
    )


@dataclass(frozen=True)
class Source:
    make: Callable[[], Any]
    is_sharded: bool = False
    has_images: bool = False


SOURCES = {
    "llama": Source(functools.partial(make_llama, False), is_sharded=True),
    "llama-tied": Source(functools.partial(make_llama, True)),
    "llama-odd": Source(make_odd_llama),
    "qwen2": Source(make_qwen2),
    "qwen3": Source(functools.partial(make_qwen3, False)),
    "qwen3-tied": Source(functools.partial(make_qwen3, True), is_sharded=True),
    "qwen3-moe": Source(make_qwen3_moe, is_sharded=True),
    "mixtral": Source(make_mixtral),
    "llama4": Source(make_llama4),
    "gpt-oss": Source(make_gpt_oss),
    "deepseek-v3": Source(make_deepseek_v3),
    "qwen2-vl": Source(make_qwen2_vl, has_images=True),
}


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer trained on the calibration words, the kind that these architectures have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[*SPECIAL, *VISION_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_source(name: str, folder: Path) -> None:
    """Write a model with random weights in BF16, its tokenizer with a chat template, and the files beside them."""
    import torch
    from transformers import GenerationConfig

    torch.manual_seed(0)
    model = SOURCES[name].make().to(torch.bfloat16)
    # Biases and router corrections begin as zeros or are not initialised at all; a trained model's are neither.
    with torch.no_grad():
        for tensor_name, parameter in model.named_parameters():
            if "bias" in tensor_name or "experts" in tensor_name or "router" in tensor_name:
                parameter.normal_(0, 0.02)
    model.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=True, top_k=20, temperature=0.7
    )
    model.save_pretrained(folder, max_shard_size=SHARD_BYTES if SOURCES[name].is_sharded else "10GB")
    make_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("# A model with random weights\n")
    (folder / "LICENSE").write_text("Apache License 2.0\n")
    if SOURCES[name].has_images:
        processor = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def write_texts(file: Path) -> None:
    """Calibration texts of random words: enough of them that every expert is routed to."""
    chooser = random.Random(0)
    with open(file, "w", encoding="utf-8") as stream:
        for _ in range(16):
            stream.write(json.dumps({"text": " ".join(chooser.choices(WORDS, k=12))}) + "\n")


# ---- recipes

IMPORTS = {
    "base_disable_all": "configs/ptq/units/base_disable_all",
    "default_disabled_quantizers": "configs/ptq/units/default_disabled_quantizers",
    "fp8": "configs/numerics/fp8",
    "nvfp4": "configs/numerics/nvfp4",
}


def by_patterns(*patterns: tuple[str, str], is_guarded: bool = True) -> dict[str, Any]:
    """A recipe file's body: pairs of a module pattern and the format of its weights and inputs.

    Without the guard, ModelOpt's list of modules that should stay as they are is left out.
    """
    entries: list[dict[str, Any]] = [{"$import": "base_disable_all"}]
    for pattern, numerics in patterns:
        for quantizer in ("weight", "input"):
            entries.append({"quantizer_name": f"*{pattern}*{quantizer}_quantizer", "cfg": {"$import": numerics}})
    if is_guarded:
        entries.append({"$import": "default_disabled_quantizers"})
    return {"imports": IMPORTS, "quantize": {"algorithm": "max", "quant_cfg": entries}}


SEARCH = {
    "imports": IMPORTS,
    "auto_quantize": {
        "constraints": {"effective_bits": 11.0},
        "candidate_formats": [
            {
                "algorithm": "max",
                "quant_cfg": [
                    {"$import": "base_disable_all"},
                    {"quantizer_name": "*weight_quantizer", "cfg": {"$import": "fp8"}},
                    {"quantizer_name": "*input_quantizer", "cfg": {"$import": "fp8"}},
                    {"$import": "default_disabled_quantizers"},
                ],
            }
        ],
        "disabled_layers": ["*lm_head*", "*router*", "*mlp.gate.*", "*block_sparse_moe.gate*", "*visual*"],
        "auto_quantize_method": "gradient",
        "score_size": 8,
    },
}

EVERYWHERE = (
    "fp8",
    "fp8_per_channel_per_token",
    "fp8_2d_blockwise_weight_only",
    "nvfp4",
    "w4a16_nvfp4",
    "mxfp8",
    "int4_awq",
    "int8_smoothquant",
    "w4a8_awq_beta",
    "nvfp4_mlp_only",
)
ONCE = (
    "mxfp4",
    "mxfp4_mlp_weight_only",
    "w4a8_mxfp4_fp8",
    "w4a8_nvfp4_fp8",
    "int4_blockwise_weight_only",
    "int8_weight_only",
    "nvfp4_mlp_weight_only",
    "nvfp4_omlp_only",
)
MIXED_ATTENTION = by_patterns(("self_attn", "fp8"), ("mlp", "nvfp4"), ("block_sparse_moe", "nvfp4"))
KV_CACHES = ("fp8", "fp8_cast", "fp8_affine", "nvfp4", "nvfp4_cast", "nvfp4_affine")
UNEVEN = ("fp8_2d_blockwise_weight_only", "nvfp4", "w4a16_nvfp4", "mxfp8")
MIXTURES = ("qwen3-moe", "mixtral", "llama4", "gpt-oss", "deepseek-v3")


@dataclass(frozen=True)
class Export:
    source: str
    recipe: str
    definition: dict[str, Any]
    kv_cache: str | None = None
    is_sharded: bool = False
    is_plain: bool = False

    @property
    def name(self) -> str:
        kv = f"-kv_{self.kv_cache}" if self.kv_cache else ""
        plain = "-plain" if self.is_plain else ""
        return f"{self.source}-{self.recipe}{kv}{plain}".replace("/", "--")


def preset(source: str, name: str, **settings: Any) -> Export:
    is_sharded = settings.pop("is_sharded", SOURCES[source].is_sharded)
    return Export(source, name, {"preset": name}, is_sharded=is_sharded, **settings)


def all_exports() -> list[Export]:
    """Every architecture by the recipes that differ in its tensors; rare recipes and KV-cache formats on fewer."""
    exports = [preset(source, recipe) for source in SOURCES if source != "llama-odd" for recipe in EVERYWHERE]
    exports += [preset("llama-odd", recipe) for recipe in ("fp8", "fp8_per_channel_per_token", *UNEVEN)]
    exports += [preset(source, recipe) for source in ("llama", "qwen3-moe") for recipe in ONCE]
    exports += [preset(source, "nvfp4_experts_only") for source in MIXTURES]
    exports += [preset("llama", "nvfp4", kv_cache=kv) for kv in KV_CACHES]
    exports += [preset(source, "fp8", kv_cache="fp8") for source in ("qwen3", "qwen3-moe", "gpt-oss", "qwen2-vl")]
    exports += [preset("qwen3-moe", "nvfp4", kv_cache="fp8_cast"), preset("deepseek-v3", "nvfp4", kv_cache="fp8_cast")]
    exports += [
        Export(source, "mixed", MIXED_ATTENTION, is_sharded=SOURCES[source].is_sharded)
        for source in ("llama", "qwen3-tied", "qwen3-moe", "mixtral", "qwen2-vl")
    ]
    exports += [Export(source, "search", SEARCH) for source in ("llama", "qwen3", "qwen3-moe")]
    wheel = "general/ptq/nvfp4_default-kv_fp8"
    exports.append(Export("qwen3", wheel, {"modelopt_recipe": wheel}))
    exports.append(Export("llama", "only-o_proj", by_patterns(("o_proj", "fp8"))))
    exports.append(
        Export("llama", "uneven-qkv", by_patterns(("q_proj", "fp8"), ("k_proj", "nvfp4"), ("v_proj", "fp8")))
    )
    exports.append(Export("qwen2-vl", "wide-mlp", by_patterns(("mlp", "fp8"), is_guarded=False)))
    weights = by_patterns(("mlp", "nvfp4"), is_guarded=False)
    weights["quantize"]["quant_cfg"] = [
        entry for entry in weights["quantize"]["quant_cfg"] if "input_quantizer" not in entry.get("quantizer_name", "")
    ]
    exports.append(Export("qwen2-vl", "wide-mlp-weights", weights))
    exports.append(Export("llama4", "wide-feed_forward", by_patterns(("feed_forward", "fp8"), is_guarded=False)))
    lm_head = by_patterns(("self_attn", "fp8"), ("mlp", "fp8"))
    lm_head["quantize"]["quant_cfg"].append({"quantizer_name": "lm_head.weight_quantizer", "cfg": {"$import": "fp8"}})
    lm_head["quantize"]["quant_cfg"].append({"quantizer_name": "lm_head.input_quantizer", "cfg": {"$import": "fp8"}})
    exports.append(Export("llama", "fp8-with-lm_head", lm_head, is_sharded=True))
    exports += [
        preset(source, recipe, is_plain=True)
        for source, recipe in (
            ("llama", "fp8"),
            ("llama-tied", "nvfp4"),
            ("qwen2", "fp8"),
            ("qwen3", "nvfp4"),
            ("qwen3-moe", "nvfp4"),
            ("mixtral", "fp8"),
            ("llama4", "fp8"),
            ("gpt-oss", "fp8"),
            ("deepseek-v3", "fp8"),
            ("qwen2-vl", "fp8"),
        )
    ]
    return exports


# ---- making


def export_plain(model: Any, source: Any, folder: Path) -> None:
    """Write the checkpoint as ModelOpt's hf_ptq example does: its own config.json, the tokenizer saved anew."""
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoTokenizer

    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=folder)
    AutoTokenizer.from_pretrained(source.folder, local_files_only=True).save_pretrained(folder)
    for file in source.folder.glob("preprocessor_config.json"):
        shutil.copy(file, folder)


@contextlib.contextmanager
def shards_of(limit: int | str) -> Iterator[None]:
    """ModelOpt's exporter with another largest shard; the models here are far below its default of 10 GB."""
    import modelopt.torch.export as exporter

    whole = exporter.export_hf_checkpoint
    exporter.export_hf_checkpoint = functools.partial(whole, max_shard_size=limit)
    try:
        yield
    finally:
        exporter.export_hf_checkpoint = whole


def recipe_json(export: Export) -> str:
    """The recipe in its resolved form, as the plan hands it over."""
    from day0.base.artefacts import read_json
    from day0.recipe.recipes import resolve_recipe

    catalogue = read_json(ROOT / "envs" / "modelopt_catalogue.json")
    recipe = resolve_recipe(export.recipe, {export.recipe: export.definition}, ROOT, catalogue)
    return json.dumps(recipe.of_the_weights().as_plain())


def make_export(export: Export, folder: Path, log: Path) -> dict[str, Any]:
    """Run the quantize stage for one combination; what it says goes to ``log``."""
    import quantize

    target = folder / export.name
    arguments = {
        "--source": folder / "sources" / export.source,
        "--recipe-json": recipe_json(export),
        "--calibration": json.dumps({"dataset": str(folder / "texts.jsonl"), "samples": 16, "batch_size": 8}),
        "--device": "cpu",
        "--output": target / "checkpoint",
        "--record": target / "quantization.json",
    }
    if export.kv_cache:
        arguments["--kv-cache"] = export.kv_cache
    sys.argv = ["quantize.py", *(str(part) for pair in arguments.items() for part in pair)]
    target.mkdir()
    start = time.monotonic()
    said = io.StringIO()
    of_the_release = quantize.export
    quantize.export = export_plain if export.is_plain else of_the_release
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            shards_of(SHARD_BYTES if export.is_sharded else "10GB"),
        ):
            quantize.main()
    finally:
        quantize.export = of_the_release
    log.write_text(said.getvalue(), encoding="utf-8")
    record = json.loads((target / "quantization.json").read_text())
    return {
        "name": export.name,
        "source": export.source,
        "recipe": export.recipe,
        "kv_cache": export.kv_cache,
        "is_sharded": export.is_sharded,
        "is_plain": export.is_plain,
        "status": record["status"],
        "failure_class": record["failure_class"],
        "detail": record["detail"],
        "seconds": round(time.monotonic() - start, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder: sources/MODEL, NAME/checkpoint, NAME/quantization.json")
    parser.add_argument("--only", default="", help="exports whose name holds this")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "scripts"))
    # Here and not at the top: the tests import this module, and what they start would inherit it.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}

    import torch
    import transformers
    from resolve_all import recipe_forms, resolve_all

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    folder = arguments.folder.resolve()
    (folder / "sources").mkdir(parents=True)
    (folder / "logs").mkdir()
    if not arguments.only:
        # Before any export, which might leave its traces in ModelOpt's own configurations.
        (folder / "resolved.json").write_text(json.dumps(resolve_all()), encoding="utf-8")
        (folder / "forms.json").write_text(json.dumps(recipe_forms()), encoding="utf-8")
    write_texts(folder / "texts.jsonl")
    exports = [export for export in all_exports() if arguments.only in export.name]
    for name in sorted({export.source for export in exports}):
        make_source(name, folder / "sources" / name)
    made = []
    for export in exports:
        made.append(make_export(export, folder, folder / "logs" / f"{export.name}.log"))
        print(
            f"{made[-1]['seconds']:6.1f} s  {made[-1]['status']:6}  {export.name}  {made[-1]['detail']:.120}",
            flush=True,
        )
    (folder / "exports.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
