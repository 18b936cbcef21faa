"""The checkpoint gate: a sound export passes, each way of breaking it fails by its own class and names the place."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.base.artefacts import digest_of_file, read_json, write_json
from day0.base.cli import UnusableInput
from day0.checkpoint import assess
from day0.checkpoint.configs import compare_configs
from day0.checkpoint.declaration import read_declarations
from day0.checkpoint.intentions import Patterns
from day0.checkpoint.summary import parse_summary, summary_as_dict
from day0.checkpoint.vllm_rules import ENGINE_VERSION, locked_version
from day0.recipe.resolve import resolve_configuration
from day0.records.quantization import ModelOptConfiguration, Quantization
from day0.source.safetensors_headers import BITS

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = read_json(ROOT / "envs" / "modelopt_catalogue.json")
HIDDEN, LAYERS = 32, 2
LINEARS = [
    f"model.layers.{i}.{m}" for i in range(LAYERS) for m in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "vocab_size": 8,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
FP8_PATTERNS = [
    {"quantizer_name": "*", "enable": False},
    {"quantizer_name": "*weight_quantizer", "enable": True},
    {"quantizer_name": "*lm_head*", "enable": False},
]


def save(path, tensors):
    """Write {name: (dtype, shape, bytes or None)} as a safetensors file; None: zeros."""
    header, payload = {}, b""
    for name, (dtype, shape, value) in tensors.items():
        raw = value if value is not None else bytes(math.prod(shape) * BITS[dtype] // 8)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(payload), len(payload) + len(raw)]}
        payload += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + payload)


def scalar(value):
    return ("F32", (), struct.pack("<f", value))


def source_tensors():
    rest = {"model.embed_tokens.weight": (8, HIDDEN), "lm_head.weight": (8, HIDDEN), "model.norm.weight": (HIDDEN,)}
    shapes = {**rest, **{f"{name}.weight": (HIDDEN, HIDDEN) for name in LINEARS}}
    return {name: ("BF16", shape, None) for name, shape in shapes.items()}


def as_fp8(name):
    return {
        f"{name}.weight": ("F8_E4M3", (HIDDEN, HIDDEN), None),
        f"{name}.weight_scale": scalar(0.5),
        f"{name}.input_scale": scalar(0.5),
    }


def as_nvfp4(name):
    return {
        f"{name}.weight": ("U8", (HIDDEN, HIDDEN // 2), None),
        f"{name}.weight_scale": ("F8_E4M3", (HIDDEN, HIDDEN // 16), None),
        f"{name}.weight_scale_2": scalar(0.5),
        f"{name}.input_scale": scalar(0.5),
    }


def as_int4(name):
    return {f"{name}.weight": ("U8", (HIDDEN // 2, HIDDEN), None), f"{name}.weight_scale": ("F32", (HIDDEN, 1), None)}


def as_w4a16(name):
    return {key: value for key, value in as_nvfp4(name).items() if not key.endswith("input_scale")}


def as_per_channel(name):
    return {f"{name}.weight": ("F8_E4M3", (HIDDEN, HIDDEN), None), f"{name}.weight_scale": ("F32", (HIDDEN,), None)}


def as_mxfp8(name):
    return {f"{name}.weight": ("F8_E4M3", (HIDDEN, HIDDEN), None), f"{name}.weight_scale": ("U8", (HIDDEN, 1), None)}


def as_blocks(name):
    return {
        f"{name}.weight": ("F8_E4M3", (HIDDEN, HIDDEN), None),
        f"{name}.weight_scale": ("F32", (1, 1, 1, 1), struct.pack("<f", 0.5)),
    }


FORMATS = {
    "FP8": as_fp8,
    "NVFP4": as_nvfp4,
    "W4A16_AWQ": as_int4,
    "W4A16_NVFP4": as_w4a16,
    "FP8_PER_CHANNEL_PER_TOKEN": as_per_channel,
    "MXFP8": as_mxfp8,
    "fp8_pb_wo": as_blocks,
}


RECORD = {
    "status": "done",
    "failure_class": None,
    "detail": "",
    "model": "m",
    "source_digest": None,
    "kv_cache": None,
    "calibration": {},
    "seed": 1,
    "device": "cpu",
    "versions": {},
    "duration_seconds": {},
    "peak_memory_bytes": None,
    "peak_gpu_memory_bytes": None,
    "search": None,
    "quantizers": None,
    "files": {},
    "checkpoint_digest": None,
}
RECIPE = {"name": "fp8", "kind": "preset", "definition": {"preset": "fp8"}, "digest": "5e" * 32}


def recorded(record):
    """A whole record from the part of it that a test is about."""
    if record is None:
        return None
    recipe = record.get("recipe", {})
    whole = {**RECORD, **record, "recipe": {**RECIPE, **recipe} if isinstance(recipe, dict) else recipe}
    return Quantization.parse(whole, "quantization.json")


def read_summary(checkpoint, source, recipe, record=None):
    return assess.read_summary(checkpoint, source, recipe, recorded(record))


def evaluate_checkpoint(summary, configuration=None):
    return assess.evaluate_checkpoint(summary, configuration).as_plain()


def assess_checkpoint(checkpoint, source, record=None, **options):
    return assess.assess_checkpoint(checkpoint, source, recorded(record), **options).as_plain()


class Export:
    """A source and its export in two folders; a test breaks ``tensors``, ``config`` or ``declared``, then assesses."""

    def __init__(self, folder, algorithm="FP8"):
        self.source, self.output = folder / "source", folder / "output"
        for side in (self.source, self.output):
            side.mkdir()
            (side / "tokenizer.json").write_text('{"model": {}}')
            (side / "tokenizer_config.json").write_text('{"eos_token": "</s>", "chat_template": "hello"}')
            (side / "generation_config.json").write_text('{"top_k": 5, "temperature": 0.6}')
        save(self.source / "model.safetensors", source_tensors())
        (self.source / "config.json").write_text(json.dumps(CONFIG))
        excluded = ["lm_head", "model.embed_tokens"]
        self.declared = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": excluded}
        self.config = {
            **CONFIG,
            "quantization_config": {"quant_algo": algorithm, "ignore": excluded, "quant_method": "modelopt"},
        }
        self.tensors = source_tensors()
        for name in LINEARS:
            self.tensors |= FORMATS[algorithm](name)
        self.record = {"status": "done", "recipe": {"quant_cfg": {"quantize": {"quant_cfg": FP8_PATTERNS}}}}

    def assess(self):
        if not (self.output / "model.safetensors").exists():
            save(self.output / "model.safetensors", self.tensors)
        (self.output / "config.json").write_text(json.dumps(self.config))
        if self.declared is not None:
            (self.output / "hf_quant_config.json").write_text(json.dumps({"quantization": self.declared}))
        return evaluate_checkpoint(read_summary(self.output, self.source, "fp8", self.record))


@pytest.fixture
def export(tmp_path):
    return Export(tmp_path)


@pytest.mark.parametrize("algorithm", FORMATS)
def test_a_sound_export_passes(tmp_path, algorithm):
    assessment = Export(tmp_path, algorithm).assess()
    assert assessment["pass"], assessment["detail"]
    assert assessment["failure_class"] is None
    assert assessment["layer_precision_counts"] == {algorithm.upper(): len(LINEARS), "BF16": 2}
    assert assessment["size_ratio"] < 1 and 0 < assessment["bits_per_weight"] < 16


def test_mixed_precision_is_held_against_each_layer(export):
    layers = {name: {"quant_algo": "NVFP4" if "mlp" in name else "FP8", "group_size": 16} for name in LINEARS}
    for name in LINEARS:
        if "mlp" in name:
            del export.tensors[f"{name}.weight_scale"], export.tensors[f"{name}.input_scale"]
            export.tensors |= as_nvfp4(name)
    export.declared = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None, "quantized_layers": layers}
    export.config["quantization_config"] = {
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": layers,
        "ignore": [],
        "quant_method": "modelopt",
    }
    assert export.assess()["pass"]
    layers[LINEARS[0]]["quant_algo"] = "NVFP4"
    assessment = export.assess()
    assert assessment["offenders"] == [LINEARS[0]]
    assert "declared NVFP4 yet hold F8_E4M3" in assessment["detail"]


def drop(*names):
    def breaking(export):
        for name in names:
            del export.tensors[name]

    return breaking


def put(**tensors):
    def breaking(export):
        export.tensors |= {name.replace("__", "."): value for name, value in tensors.items()}

    return breaking


def edit(**fields):
    return lambda export: export.config.update(fields)


def plain(name):
    def breaking(export):
        export.tensors = {k: v for k, v in export.tensors.items() if not k.startswith(f"{name}.")}
        export.tensors[f"{name}.weight"] = ("BF16", (HIDDEN, HIDDEN), None)

    return breaking


def exclude_a_layer(export):
    for patterns in (export.declared["exclude_modules"], export.config["quantization_config"]["ignore"]):
        if "model.layers.1*" not in patterns:
            patterns.append("model.layers.1*")


def contradict(export):
    export.declared = {**export.declared, "quant_algo": "NVFP4"}


def forget_declaration(export):
    export.declared = None


def want_a_cache(export):
    export.record["kv_cache"] = "fp8"


def truncate(export):
    path = export.output / "model.safetensors"
    save(path, export.tensors)
    path.write_bytes(path.read_bytes()[:-10])


def write_to(name, text):
    return lambda export: (export.output / name).write_text(text)


FIRST = LINEARS[0]
BROKEN = {
    "weight scale missing": (drop(f"{FIRST}.weight_scale"), "format", FIRST),
    "input scale missing": (drop(f"{FIRST}.input_scale"), "format", FIRST),
    "declared quantized yet plain": (plain(FIRST), "format", FIRST),
    "declared excluded yet quantized": (exclude_a_layer, "format", LINEARS[-1]),
    "plain yet scaled": (put(lm_head__weight_scale=scalar(1.0)), "format", "lm_head"),
    "zero scale": (put(**{f"{FIRST}.input_scale": scalar(0.0)}), "scales", f"{FIRST}.input_scale"),
    "negative scale": (put(**{f"{FIRST}.weight_scale": scalar(-1.0)}), "scales", f"{FIRST}.weight_scale"),
    "infinite scale": (put(**{f"{FIRST}.weight_scale": scalar(math.inf)}), "scales", f"{FIRST}.weight_scale"),
    "scale that is no number": (put(**{f"{FIRST}.k_scale": scalar(math.nan)}), "scales", f"{FIRST}.k_scale"),
    "tensor of the source missing": (drop("model.norm.weight"), "inventory", "model.norm.weight"),
    "tensor of nowhere": (put(model__extra__weight=("BF16", (4, 4), None)), "inventory", "model.extra.weight"),
    "scale of nothing": (put(model__ghost__input_scale=scalar(1.0)), "inventory", "model.ghost.input_scale"),
    "another shape": (put(model__norm__weight=("BF16", (HIDDEN // 2,), None)), "inventory", "model.norm.weight"),
    "two declarations": (contradict, "declaration", None),
    "no hf_quant_config.json": (forget_declaration, "declaration", None),
    "no KV cache declared": (want_a_cache, "declaration", None),
    "config field changed": (edit(max_position_embeddings=32), "metadata", "config.json: max_position_embeddings"),
    "rope changed": (edit(rope_theta=5e5), "metadata", "config.json: rope"),
    "end token changed": (edit(eos_token_id=[2, 3]), "metadata", "config.json: eos_token_id"),
    "head tied": (edit(tie_word_embeddings=True), "metadata", "config.json: tie_word_embeddings"),
    "chat template changed": (
        write_to("tokenizer_config.json", '{"eos_token": "</s>", "chat_template": "bye"}'),
        "metadata",
        "chat template",
    ),
    "chat template overruled": (write_to("chat_template.jinja", "bye"), "metadata", "chat template"),
    "special token changed": (
        write_to("tokenizer_config.json", '{"eos_token": "<e>", "chat_template": "hello"}'),
        "metadata",
        "tokenizer_config.json: eos_token",
    ),
    "vocabulary changed": (write_to("tokenizer.json", '{"model": {"a": 1}}'), "metadata", "tokenizer.json: model"),
    "tokenizer lost": (lambda export: (export.output / "tokenizer.json").unlink(), "metadata", "tokenizer.json"),
    "temperature changed": (
        write_to("generation_config.json", '{"top_k": 5, "temperature": 1.0}'),
        "metadata",
        "generation_config.json: temperature",
    ),
    "shard truncated": (truncate, "integrity", None),
    "config is no JSON": (None, "integrity", None),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_export_fails_by_the_right_check_and_names_the_place(export, fault):
    breaking, check, offender = BROKEN[fault]
    if breaking is None:
        save(export.output / "model.safetensors", export.tensors)
        (export.output / "config.json").write_text("{")
        assessment = evaluate_checkpoint(read_summary(export.output, export.source, "fp8", export.record))
    else:
        breaking(export)
        assessment = export.assess()
    assert not assessment["pass"]
    assert assessment["failure_class"] == "QUANT_COVERAGE_FAILURE"
    failed = {c["name"] for c in assessment["checks"] if not c["pass"]}
    assert check in failed
    if offender is not None:
        assert offender in assessment["offenders"]
        assert offender in assessment["detail"]


@pytest.mark.parametrize(
    "harmless",
    [
        edit(torch_dtype=None, dtype="bfloat16"),
        edit(rope_theta=None, rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}),
        edit(transformers_version="5.14.1", use_cache=False, head_dim=8, attention_bias=False),
        write_to(
            "generation_config.json", '{"top_k": 5, "temperature": 0.6, "do_sample": true, "transformers_version": "5"}'
        ),
        lambda export: (
            (export.output / "chat_template.jinja").write_text("hello"),
            (export.output / "tokenizer_config.json").write_text('{"eos_token": "</s>"}'),
        ),
    ],
)
def test_what_transformers_rewrites_is_no_alarm(export, harmless):
    harmless(export)
    assessment = export.assess()
    assert assessment["pass"], assessment["detail"]


def test_nothing_quantized_is_an_unsupported_model(export):
    for name in LINEARS:
        plain(name)(export)
    export.declared["quant_algo"] = None
    del export.config["quantization_config"]
    assessment = export.assess()
    assert assessment["failure_class"] == "MODEL_UNSUPPORTED"
    assert "none of 8 layers" in assessment["detail"]


def test_patterns_that_a_layer_escaped(export):
    """Declaration and tensors agree with each other, but not with the recipe."""
    plain(FIRST)(export)
    for patterns in (export.declared["exclude_modules"], export.config["quantization_config"]["ignore"]):
        if FIRST not in patterns:
            patterns.append(FIRST)
    assessment = export.assess()
    assert assessment["failure_class"] == "QUANT_COVERAGE_FAILURE"
    assert assessment["offenders"] == [FIRST]
    export.record = None
    assert export.assess()["pass"]


def test_a_failure_of_the_quantize_stage_is_carried_on(export):
    export.record = {"status": "failed", "failure_class": "MODEL_UNSUPPORTED", "detail": "no such architecture"}
    assessment = export.assess()
    assert assessment["failure_class"] == "MODEL_UNSUPPORTED"
    assert "no such architecture" in assessment["detail"]
    assert [check["name"] for check in assessment["checks"]] == ["quantize"]


def test_a_tied_head_may_be_left_out(export):
    config = {**CONFIG, "tie_word_embeddings": True}
    (export.source / "config.json").write_text(json.dumps(config))
    export.config["tie_word_embeddings"] = True
    del export.tensors["lm_head.weight"]
    assert export.assess()["pass"]


def test_the_message_names_ten_and_the_file_all(export):
    for name in LINEARS:
        for part in ("input_scale", "weight_scale"):
            export.tensors[f"{name}.{part}"] = scalar(0.0)
    assessment = export.assess()
    assert len(assessment["offenders"]) == 12
    assert "and 2 more" in assessment["detail"]


@pytest.mark.parametrize(
    ("module", "intended"),
    [
        ("model.layers.0.self_attn.q_proj", False),
        ("model.layers.0.mlp.up_proj", True),
        ("lm_head", False),
        ("model.layers.0.mlp.experts.3.gate_proj", True),
    ],
)
def test_patterns_apply_in_order_and_the_last_wins(module, intended):
    patterns = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*mlp*weight_quantizer", "cfg": {"num_bits": 8}},
        {"quantizer_name": "*", "enable": False, "parent_class": "nn.Embedding"},
        {"quantizer_name": "*lm_head*", "enable": False},
    ]
    assert bool(Patterns(tuple(patterns)).intention(module)) is intended


def test_patterns_that_name_an_expert_by_number_cannot_tell():
    patterns = [{"quantizer_name": "*", "enable": False}, {"quantizer_name": "*experts.3.*", "enable": True}]
    assert Patterns(tuple(patterns)).intention("model.layers.0.mlp.experts.3.gate_proj") is None


GIVEN = {
    "source_bytes": 16_000,
    "output_bytes": 5_000,
    "recipe": "nvfp4",
    "layer_precision_counts": {"NVFP4": 252, "BF16": 37},
    "metadata_diffs": [],
}


@pytest.mark.parametrize(
    ("change", "failure_class"),
    [
        ({}, None),
        ({"layer_precision_counts": {"BF16": 289}}, "MODEL_UNSUPPORTED"),
        ({"layer_precision_counts": {"NVFP4": 0, "bfloat16": 289}}, "MODEL_UNSUPPORTED"),
        ({"layer_precision_counts": {"FP8": 252}}, "QUANT_COVERAGE_FAILURE"),
        ({"output_bytes": 16_000}, "QUANT_COVERAGE_FAILURE"),
        ({"output_bytes": 17_000}, "QUANT_COVERAGE_FAILURE"),
        ({"metadata_diffs": ["max_position_embeddings"]}, "QUANT_COVERAGE_FAILURE"),
        ({"metadata_diffs": [{"field": "vocab_size", "source": 1, "output": 2}]}, "QUANT_COVERAGE_FAILURE"),
        ({"metadata_diffs": [{"field": "vocab_size", "expected": "yes"}]}, "QUANT_COVERAGE_FAILURE"),
        ({"metadata_diffs": [{"field": "quantization_config"}, {"field": "do_sample", "expected": True}]}, None),
    ],
)
def test_a_summary_alone(change, failure_class):
    assessment = evaluate_checkpoint({**GIVEN, **change})
    assert assessment["failure_class"] == failure_class
    assert assessment["pass"] is (failure_class is None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source_bytes", 0),
        ("source_bytes", True),
        ("source_bytes", "16"),
        ("output_bytes", -1),
        ("output_bytes", math.nan),
        ("recipe", ""),
        ("recipe", None),
        ("layer_precision_counts", {}),
        ("layer_precision_counts", {"FP8": -1}),
        ("layer_precision_counts", {"FP8": 1.5}),
        ("metadata_diffs", None),
        ("metadata_diffs", [3]),
    ],
)
def test_a_summary_with_a_wrong_field_is_unusable(field, value):
    with pytest.raises(UnusableInput, match=field):
        evaluate_checkpoint({**GIVEN, field: value})
    with pytest.raises(UnusableInput, match=field):
        evaluate_checkpoint({key: value for key, value in GIVEN.items() if key != field})


def test_a_summary_that_was_read_can_be_given_by_hand(export):
    export.assess()
    summary = read_summary(export.output, export.source, "fp8")
    assert evaluate_checkpoint(json.loads(json.dumps(summary_as_dict(summary))))["pass"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
PARTS = st.none() | st.dictionaries(st.sampled_from(["quant_cfg", "algorithm", "kv_cache"]), JSON_VALUES, max_size=3)
CONFIGURATIONS = st.fixed_dictionaries({}, optional={"quantize": PARTS, "auto_quantize": PARTS, "kv_cache": PARTS})


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*GIVEN, "x"]), JSON_VALUES) | JSON_VALUES)
def test_any_json_as_a_summary_is_a_clear_error_or_a_failing_verdict(content):
    try:
        assessment = evaluate_checkpoint(content)
    except UnusableInput:
        return
    assert assessment["pass"] is False or parse_summary(content).quantized > 0
    json.dumps(assessment, ensure_ascii=False, allow_nan=False).encode()


@settings(deadline=None)
@given(st.fixed_dictionaries({key: JSON_VALUES | st.just(value) for key, value in GIVEN.items()}))
def test_a_summary_passes_only_if_it_is_smaller_and_quantized(content):
    try:
        assessment = evaluate_checkpoint(content)
    except UnusableInput:
        return
    if assessment["pass"]:
        assert content["output_bytes"] < content["source_bytes"]
        assert any(
            count for name, count in content["layer_precision_counts"].items() if name.upper() not in ("BF16", "F32")
        )


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=12), JSON_VALUES),
    st.dictionaries(st.sampled_from(["quantization_config", "rope_scaling", "x"]), JSON_VALUES),
)
def test_any_config_is_compared(source, output):
    json.dumps(compare_configs(source, output))
    declaration, conflicts = read_declarations(output, {"quantization": source})
    assert declaration is None or isinstance(declaration.of("a.b"), tuple)
    assert isinstance(conflicts, list)


def test_what_no_file_can_hold_is_spelled_out():
    diff = {"field": "\ud800", "source": math.nan, "expected": True}
    recorded = evaluate_checkpoint({**GIVEN, "metadata_diffs": [diff]})["metadata_diffs"]
    assert recorded == [{"field": "\\ud800", "source": "nan", "output": None, "expected": True}]


def run_gate(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "gate_ptq.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("made_by", ["this", "another", "none"])
def test_a_recipe_that_was_worked_out_by_another_sensitivity_is_refused(export, tmp_path, made_by):
    export.assess()
    file = tmp_path / "sensitivity.json"
    file.write_text("{}")
    digest = {"this": digest_of_file(file), "another": "5e" * 32, "none": None}[made_by]
    record = export.record | {"sensitivity_sha256": digest}
    found = assess_checkpoint(export.output, export.source, record, recipe="fp8", sensitivity=file)
    if made_by == "this":
        assert found["pass"] is True
    else:
        assert (found["pass"], found["failure_class"]) == (False, "USER_CONFIG_ERROR")
        words = {"another": "made by one of digest 5e5e5e5e5e5e", "none": "made by none that it names"}[made_by]
        assert str(file) in found["detail"] and words in found["detail"] and "quantize anew" in found["detail"]


def test_the_command_line_exits_by_the_verdict(export, tmp_path):
    export.assess()
    sides = ["--checkpoint", export.output, "--source", export.source, "--recipe", "fp8"]
    sound = run_gate(*sides)
    assert sound.returncode == 0 and json.loads(sound.stdout)["pass"] is True

    (export.output / "chat_template.jinja").write_text("bye")
    broken = run_gate(*sides, "--output", tmp_path / "validation.json")
    assert broken.returncode == 1
    assert json.loads((tmp_path / "validation.json").read_text())["failure_class"] == "QUANT_COVERAGE_FAILURE"
    assert run_gate(*sides, "--output", tmp_path / "validation.json", "--assess").returncode == 0

    for text in ("[1]", "{", '{"recipe": "fp8"}'):
        (tmp_path / "summary.json").write_text(text)
        unusable = run_gate("--summary", tmp_path / "summary.json")
        assert unusable.returncode == 2 and "Traceback" not in unusable.stderr and "summary.json" in unusable.stderr
    write_json(tmp_path / "summary.json", GIVEN)
    assert run_gate("--summary", tmp_path / "summary.json").returncode == 0
    assert run_gate("--checkpoint", tmp_path / "none", "--source", export.source).returncode == 2


def test_the_layer_map_joins_layers_that_hold_the_same(export):
    plain(LINEARS[0])(export)
    rows = {row["module"]: row for row in export.assess()["layer_map"]}
    assert rows["model.layers.*.mlp.up_proj"]["runs"] == [[0, LAYERS - 1, "FP8", LAYERS]]
    assert [run[:2] for run in rows["model.layers.*.self_attn.q_proj"]["runs"]] == [[0, 0], [1, 1]]
    assert rows["lm_head"]["runs"] == [[None, None, "BF16", 1]]


@settings(deadline=None, max_examples=50)
@given(JSON_VALUES, JSON_VALUES)
def test_any_json_in_config_and_declaration_is_a_verdict_or_a_clear_error(tmp_path_factory, config, declared):
    one = Export(tmp_path_factory.mktemp("any"))
    save(one.output / "model.safetensors", source_tensors())
    (one.output / "config.json").write_text(json.dumps(config))
    (one.output / "hf_quant_config.json").write_text(json.dumps(declared))
    (one.output / "model.safetensors.index.json").write_text(json.dumps(declared))
    try:
        assert assess_checkpoint(one.output, one.source, one.record)["pass"] is False
    except UnusableInput as error:
        assert str(error)


@settings(deadline=None, max_examples=50)
@given(
    JSON_VALUES,
    st.fixed_dictionaries(
        {}, optional={"quant_cfg": JSON_VALUES | CONFIGURATIONS, "name": JSON_VALUES, "definition": JSON_VALUES}
    ),
    st.sampled_from(["tokenizer_config.json", "tokenizer.json", "generation_config.json"]),
)
def test_any_json_in_record_and_side_files_is_a_verdict_or_a_clear_error(tmp_path_factory, anything, recipe, name):
    one = Export(tmp_path_factory.mktemp("any"))
    (one.output / name).write_text(json.dumps(anything))
    for record in ({"status": anything}, {"status": "done", "recipe": anything}, {"status": "done", "recipe": recipe}):
        one.record = record
        try:
            assessment = one.assess()
        except UnusableInput as error:
            assert "quantization.json" in str(error)
            continue
        assert isinstance(assessment["pass"], bool)
        assert not assessment["pass"] or record["status"] == "done"
        json.dumps(assessment, ensure_ascii=False, allow_nan=False).encode()


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from([f"{name}.weight" for name in LINEARS] + ["lm_head.weight"]), st.binary(max_size=40)
    ),
    st.binary(max_size=200),
)
def test_any_bytes_in_a_shard_never_pass(tmp_path_factory, changed, tail):
    """The header stays sound JSON, with spans of arbitrary texts; or the file is any bytes."""
    one = Export(tmp_path_factory.mktemp("any"))
    path = one.output / "model.safetensors"
    save(path, one.tensors)
    whole = path.read_bytes()
    for content in (whole + tail + b"x", tail, whole[: len(tail)], whole[: -len(tail) - 1]):
        path.write_bytes(content)
        assessment = one.assess()
        assert assessment["pass"] is False and "model.safetensors" in assessment["detail"]
    for name, raw in changed.items():
        tensors = {**one.tensors, name: ("F8_E4M3", (len(raw),), raw)}
        save(path, tensors)
        assert one.assess()["pass"] is False


def test_the_engines_table_is_of_the_locked_version():
    for variant in ("cpu", "cuda"):
        assert locked_version(ROOT / "envs" / f"serve.{variant}.lock") == ENGINE_VERSION


@pytest.mark.parametrize(
    ("engine", "passes"), [("vllm", False), (f"vllm=={ENGINE_VERSION}", False), ("vllm==9.9", True)]
)
def test_the_table_of_another_version_only_warns(tmp_path, engine, passes):
    one = Export(tmp_path, "W4A16_AWQ")
    one.assess()
    assessment = assess_checkpoint(one.output, one.source, one.record, engine=engine)
    (check,) = [check for check in assessment["checks"] if check["name"] == "engine"]
    assert assessment["pass"] is passes and check["pass"] is passes
    assert "ModelOpt currently only supports" in check["detail"]
    assert assessment["failure_class"] == (None if passes else "DEPLOYMENT_HEALTH_FAILED")


def test_without_a_record_the_recipe_says_what_was_intended(export):
    plain(FIRST)(export)
    for patterns in (export.declared["exclude_modules"], export.config["quantization_config"]["ignore"]):
        patterns.append(FIRST)
    export.assess()
    sides = ["--checkpoint", export.output, "--source", export.source]
    broken = run_gate(*sides, "--recipe", "fp8")
    assert broken.returncode == 1 and json.loads(broken.stdout)["offenders"] == [FIRST]
    told = run_gate(*sides, "--recipe", "fp9")
    assert told.returncode == 2 and "did you mean" in told.stderr and "fp8" in told.stderr


def test_patterns_that_are_not_those_of_the_named_recipe_are_worth_a_word(export):
    entries = [*FP8_PATTERNS, {"quantizer_name": "*o_proj*", "enable": False}]
    configuration = ModelOptConfiguration(quantize={"quant_cfg": entries})
    export.assess()
    assessment = assess_checkpoint(export.output, export.source, export.record, configuration=configuration)
    (check,) = [check for check in assessment["checks"] if check["name"] == "coverage"]
    assert check["pass"] and "*o_proj*: off" in check["detail"]


def test_size_is_held_against_the_recipe_and_the_sources_shapes(export):
    export.record["recipe"]["quant_cfg"]["quantize"]["quant_cfg"] = [
        *FP8_PATTERNS[:1],
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": [4, 3]}},
        {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": [4, 3]}},
        *FP8_PATTERNS[2:],
    ]
    assessment = export.assess()
    (check,) = [check for check in assessment["checks"] if check["name"] == "size"]
    linear = len(LINEARS) * (HIDDEN * HIDDEN + 8)
    assert check["expected_bytes"] == assessment["output_bytes"] == linear + 2 * (2 * 8 * HIDDEN) + 2 * HIDDEN
    assert assessment["families"]["MLP"]["expected_bits_per_weight"] == 8 + 64 / HIDDEN**2


@pytest.mark.parametrize(
    ("output_bytes", "parameters", "passes"),
    [(4_500, None, True), (4_200, None, False), (14_000, None, False), (2_300, 4_000, True), (2_100, 4_000, False)],
)
def test_a_summarys_size_is_held_against_its_recipe(output_bytes, parameters, passes):
    configuration = resolve_configuration({"preset": "nvfp4"}, CATALOGUE, "nvfp4")
    extra = {"parameters": parameters} if parameters else {}
    assessment = evaluate_checkpoint({**GIVEN, "output_bytes": output_bytes, **extra}, configuration)
    assert assessment["pass"] is passes, assessment["detail"]
