"""The declaration as vLLM reads it by the table: each fault by its check and name, each sound declaration passes."""

import json

import pytest
from test_assess import FORMATS, HIDDEN, LINEARS, Export, assess_checkpoint, save, source_tensors

GATES = [f"model.layers.{layer}.moe.gate" for layer in range(2)]
EXPERTS = [f"model.layers.{layer}.moe.experts.0.up_proj" for layer in range(2)]
W4A4 = {"group_0": {"input_activations": {"num_bits": 4}, "weights": {"num_bits": 4}, "targets": ["Linear"]}}
WEIGHTS_ONLY = {"group_0": {**W4A4["group_0"], "input_activations": None}}


class Declared(Export):
    """An export with routers and experts, whose declarations a test changes together or one by one."""

    def __init__(self, folder, algorithm="NVFP4", architecture="Qwen3MoeForCausalLM"):
        super().__init__(folder, algorithm)
        self.record = None
        self.hf_quant_config = {"producer": {"name": "modelopt", "version": "0.47.0"}, "quantization": self.declared}
        self.inner = self.config["quantization_config"]
        self.declared.update(group_size=16, exclude_modules=[*self.declared["exclude_modules"], *GATES])
        self.inner["ignore"] = self.declared["exclude_modules"]
        self.before = source_tensors()
        self.before |= {f"{name}.weight": ("BF16", (HIDDEN, HIDDEN), None) for name in EXPERTS}
        self.before |= {f"{name}.weight": ("BF16", (4, HIDDEN), None) for name in GATES}
        self.tensors |= {f"{name}.weight": ("BF16", (4, HIDDEN), None) for name in GATES}
        for name in EXPERTS:
            self.tensors |= FORMATS[algorithm](name)
        self.config = {**self.config, "architectures": [architecture]}
        del self.config["quantization_config"]

    def assess(self, engine="vllm"):
        save(self.source / "model.safetensors", self.before)
        (self.source / "config.json").write_text(json.dumps(self.config))
        if self.inner is not None:
            self.config["quantization_config"] = self.inner
        save(self.output / "model.safetensors", self.tensors)
        (self.output / "config.json").write_text(json.dumps(self.config))
        if self.hf_quant_config is not None:
            (self.output / "hf_quant_config.json").write_text(json.dumps(self.hf_quant_config))
        return assess_checkpoint(self.output, self.source, self.record, engine=engine)

    def exclude(self, change):
        """Change the list of exclusions in both places."""
        change(self.declared["exclude_modules"])

    def mix(self, algorithms):
        """Declare {module: algorithm} by MIXED_PRECISION."""
        layers = {name: {"quant_algo": algorithm, "group_size": 16} for name, algorithm in algorithms.items()}
        self.hf_quant_config["quantization"] = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
        self.inner = {
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": layers,
            "ignore": [],
            "quant_method": "modelopt",
        }


def replaced(old, new):
    def change(names):
        names[:] = [new if name == old else name for name in names]

    return lambda one: one.exclude(change)


def without(*gone):
    def change(names):
        names[:] = [name for name in names if name not in gone]

    return lambda one: one.exclude(change)


def also(*added):
    return lambda one: one.exclude(lambda names: names.extend(added))


def in_config(**fields):
    return lambda one: one.inner.update(fields)


def alone(change=lambda one: None):
    def apply(one):
        one.inner = None
        change(one)

    return apply


def stays(*names):
    """Weights that are BF16 in both places."""

    def apply(one):
        for name in names:
            one.before[f"{name}.weight"] = one.tensors[f"{name}.weight"] = ("BF16", (HIDDEN, HIDDEN), None)

    return apply


def both(*changes):
    def apply(one):
        for change in changes:
            change(one)

    return apply


LINEAR_ATTENTION = "model.layers.0.linear_attn.in_proj_qkv"


def blocks_by_alias(one):
    names = [*LINEARS, *EXPERTS]
    one.tensors = {n: t for n, t in one.tensors.items() if not n.startswith(tuple(names))}
    for name in names:
        one.tensors |= FORMATS["fp8_pb_wo"](name)
    one.mix({name: "FP8_BLOCK_SCALES" if name in EXPERTS else "FP8_PB_WO" for name in names})


def all_by_alias(one):
    blocks_by_alias(one)
    one.mix(dict.fromkeys([*LINEARS, *EXPERTS], "FP8_BLOCK_SCALES"))


def mixed(one):
    one.mix(dict.fromkeys([*LINEARS, *EXPERTS], "NVFP4"))


def producer(name):
    return lambda one: one.hf_quant_config["producer"].update(name=name)


FAULTS = {
    "F09: the exclusions hold model*": (also("model*"), "format", LINEARS[0]),
    "F10: routers excluded with a dot at the end": (replaced(GATES[0], f"{GATES[0]}."), "declaration", f"{GATES[0]}."),
    "F10: for the engine too": (replaced(GATES[0], f"{GATES[0]}."), "engine", GATES[0]),
    "F10b: the head excluded with a dot at the end": (replaced("lm_head", "lm_head."), "declaration", "lm_head."),
    "F11: a part of MTP is not excluded": (
        both(stays("mtp.fc", "mtp.layers.0.mlp.up_proj"), also("mtp.layers.0*")),
        "format",
        "mtp.fc",
    ),
    "F12: another name excluded": (
        both(stays(f"{LINEAR_ATTENTION}z"), also(LINEAR_ATTENTION)),
        "format",
        "in_proj_qkvz",
    ),
    "F18: groups without input_activations": (in_config(config_groups=WEIGHTS_ONLY), "declaration", "W4A16_NVFP4"),
    "F24: another quant_method": (in_config(quant_method="compressed-tensors"), "declaration", "compressed-tensors"),
    "F24b: no quant_method": (lambda one: one.inner.pop("quant_method"), "declaration", "no quant_method"),
    "quant_method is null": (in_config(quant_method=None), "declaration", "no quant_method"),
    "quant_method is no text": (in_config(quant_method=["modelopt"]), "declaration", "quant_method"),
    "F29: routers not excluded": (without(*GATES), "engine", GATES[0]),
    "a layer excluded by a part of its name": (also("layers.1"), "engine", "model.layers.1.moe.experts.0.up_proj"),
    "nothing declared": (alone(lambda one: one.hf_quant_config.pop("quantization")), "declaration", "nothing"),
    "alone, of no known producer": (alone(producer("somebody")), "declaration", "somebody"),
    "alone, without a field": (alone(lambda one: one.declared.pop("group_size")), "declaration", "group_size"),
    "alone, mixed": (both(mixed, alone()), "declaration", "MIXED_PRECISION"),
    "S02: layers other than experts by an alias": (all_by_alias, "engine", LINEARS[0]),
}
SOUND = {
    "as exported": lambda one: None,
    "F29b: routers not excluded where the engine never quantizes them": both(
        without(*GATES), lambda one: one.config.update(architectures=["DeepseekV3ForCausalLM"])
    ),
    "routers by a pattern": both(without(*GATES), also("*moe.gate")),
    "a router by name, all by a pattern": both(without(GATES[1]), also("model.layers.*.moe.gate")),
    "S01b: only hf_quant_config.json": alone(),
    "groups with input_activations": in_config(config_groups=W4A4),
    "quant_method of one reader": in_config(quant_method="modelopt_fp4"),
}


def assessed(tmp_path, change, engine="vllm"):
    one = Declared(tmp_path)
    change(one)
    return one.assess(engine)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_declaration_that_the_engine_misreads_fails(tmp_path, fault):
    change, name, named = FAULTS[fault]
    assessment = assessed(tmp_path, change)
    failed = {check["name"]: check for check in assessment["checks"] if not check["pass"]}
    assert name in failed, assessment["detail"]
    assert named in "; ".join([failed[name]["detail"], *failed[name]["offenders"]])


@pytest.mark.parametrize("layout", SOUND)
def test_a_sound_declaration_passes(tmp_path, layout):
    assessment = assessed(tmp_path, SOUND[layout])
    assert assessment["pass"], assessment["detail"]


def test_a_declaration_in_one_file_is_worth_a_word(tmp_path):
    (check,) = [check for check in assessed(tmp_path, alone())["checks"] if check["name"] == "declaration"]
    assert "hf_quant_config.json alone declares NVFP4" in check["detail"]


def test_weights_alone_are_declared_as_the_engine_takes_them(tmp_path):
    """NVFP4 by name, in groups without input_activations and without an input_scale: vLLM serves W4A16_NVFP4."""
    one = Declared(tmp_path)
    one.inner["config_groups"] = WEIGHTS_ONLY
    one.tensors = {name: tensor for name, tensor in one.tensors.items() if not name.endswith("input_scale")}
    assessment = one.assess()
    assert assessment["pass"], assessment["detail"]
    assert assessment["layer_precision_counts"]["W4A16_NVFP4"] == len([*LINEARS, *EXPERTS])


def test_an_alias_is_the_algorithm(tmp_path):
    """S02; these blocks are too narrow for the engine, which is not asked."""
    assessment = assessed(tmp_path, blocks_by_alias, engine=None)
    assert assessment["pass"], assessment["detail"]
    assert assessment["layer_precision_counts"]["FP8_PB_WO"] == len([*LINEARS, *EXPERTS])


def test_without_an_engine_only_the_declaration_is_judged(tmp_path):
    assert assessed(tmp_path, without(*GATES), engine=None)["pass"]
