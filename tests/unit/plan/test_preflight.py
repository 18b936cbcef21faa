"""The set-up gate finds what a user or an operator must mend, and says how."""

import json
import shutil

import pytest
from model_headers import llama_like, write_model

from day0.plan import preflight
from day0.plan.preflight import (
    Check,
    check_environment,
    check_frameworks,
    check_template,
    judge_frameworks,
)
from day0.records.environment import ImageEnvironment
from day0.records.preflight import ModelRequest, RecipeRequest, SuiteRequest

BY_SENSITIVITY = {"sensitivity": {"formats": ["nvfp4", "fp8"], "bits": 5.5}}


def protecting(*layers):
    protect = [layer if isinstance(layer, dict) else {"modules": layer} for layer in layers]
    return {"base": {"preset": "nvfp4"}, "protect": protect, "by": "fp8"}


def assess_setup(checks):
    return preflight.assess_setup(checks, ModelRequest(model="m", path="m")).as_plain()


def check_model(request, output):
    return preflight.check_model(ModelRequest(model="m", **request), output)


def check_recipe(request):
    return preflight.check_recipe(RecipeRequest(model="m", recipe="r", **request))


def check_suite(request):
    return preflight.check_suite(SuiteRequest(model="m", suite="s", accelerator="cpu", **request))


def recipe(preset, accelerator="cuda", dataset=None):
    return {
        "definition": {"preset": preset},
        "accelerator": accelerator,
        "calibration": {"dataset": dataset},
    }


def suite(folder, **changes):
    """A request to check a suite of one task, of a model without a config.json."""
    task = {"judge": None, "simulator": None, "context_length": None}
    settings = {"data_files": [], "context_length": 4096, "judges": {}, "tasks": {"task": task}, **changes}
    return {"settings": settings, "asked": True, "location": {"path": str(folder)}}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def failures(checks):
    return [(check.name, check.failure_class) for check in checks if check.failure_class]


def test_a_broken_machine_leads_over_a_mistaken_setting():
    checks = [Check("a", "fine"), Check("b", "wrong", "USER_CONFIG_ERROR"), Check("c", "broken", "SYSTEMIC")]
    found = assess_setup(checks)
    assert (found["pass"], found["failure_class"], found["detail"]) == (False, "SYSTEMIC", "b: wrong; c: broken")
    assert assess_setup(checks[:1])["pass"] is True


def test_a_sound_model_folder_passes(model, tmp_path):
    assert failures(check_model({"path": str(model)}, tmp_path)) == []


def test_a_model_folder_without_weights_is_the_users_to_mend(model, tmp_path):
    (model / "model.safetensors").unlink()
    assert failures(check_model({"path": str(model)}, tmp_path)) == [("model", "USER_CONFIG_ERROR")]


def test_code_of_the_model_must_be_trusted_by_name(model, tmp_path):
    (model / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}))
    assert failures(check_model({"path": str(model)}, tmp_path)) == [("remote code", "USER_CONFIG_ERROR")]
    assert failures(check_model({"path": str(model), "trust_remote_code": True}, tmp_path)) == []


def test_a_full_disk_is_systemic(model, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    assert failures(check_model({"path": str(model)}, tmp_path)) == [("disk", "SYSTEMIC")]


@pytest.mark.parametrize(
    ("preset", "capability", "expected"),
    [
        ("nvfp4", 70, [("engine", "USER_CONFIG_ERROR")]),
        ("nvfp4", 90, []),
        ("fp8", 75, [("engine", "USER_CONFIG_ERROR")]),
        ("fp8", None, []),
        ("int4_awq", 90, [("engine", "DEPLOYMENT_HEALTH_FAILED")]),
    ],
)
def test_a_recipe_is_held_against_the_gpu_that_is_there(monkeypatch, preset, capability, expected):
    monkeypatch.setattr(preflight, "_gpu_capability", lambda: capability)
    assert failures(check_recipe(recipe(preset))) == expected


@pytest.mark.parametrize(
    ("preset", "capability", "is_warned_of"),
    [("nvfp4", 90, True), ("nvfp4", 100, False), ("w4a16_nvfp4", 90, False), ("fp8", 90, False), ("fp8", 80, True)],
)
def test_activations_that_the_gpu_will_not_quantize_are_warned_of(monkeypatch, preset, capability, is_warned_of):
    monkeypatch.setattr(preflight, "_gpu_capability", lambda: capability)
    check = next(check for check in check_recipe(recipe(preset)) if check.name == "engine")
    assert ("only the weights will be quantized" in check.detail) is is_warned_of and check.failure_class is None


@pytest.mark.parametrize(
    ("name", "changes", "failure_class", "check", "words"),
    [
        ("fp8", {}, None, "recipe", "of 22 linear layers: 21 to FP8"),
        ("general/ptq/nvfp4_mlp_only-kv_fp8", {}, None, "recipe", "9 to NVFP4"),
        ("int4_awq", {}, "DEPLOYMENT_HEALTH_FAILED", "engine", "W4A16_AWQ, which vllm does not load"),
        ("int4_awq", {"hidden": 576}, "MODEL_UNSUPPORTED", "recipe", "have 576 in-features, which blocks of 128"),
        ("mxfp6", {}, "MODEL_UNSUPPORTED", "recipe", "cannot export MXFP6"),
        ("nvfp4_experts_only", {}, "MODEL_UNSUPPORTED", "recipe", "none of the model's 22 linear layers"),
        ("general/qad/nvfp4_lsq-mse_init-fp8_kv", {}, "USER_CONFIG_ERROR", "recipe", "learns scales by training"),
        ("nvfp4_awq_lite", {}, "DEPLOYMENT_HEALTH_FAILED", "engine", "NVFP4_AWQ, which vllm does not load"),
        ("nvfp4_svdquant", {}, "DEPLOYMENT_HEALTH_FAILED", "engine", "NVFP4_SVD, which vllm does not load"),
        ("nvfp4_four_over_six", {}, "USER_CONFIG_ERROR", "device", "needs CUDA and Triton; the accelerator is cpu"),
        ("nvfp4_four_over_six", {"accelerator": "cuda"}, None, "device", "must run on a GPU"),
        (
            "nvfp4_four_over_six",
            {"accelerator": "cuda", "device": "cpu"},
            "USER_CONFIG_ERROR",
            "device",
            "quantization.device is cpu",
        ),
        ("nvfp4_awq_lite", {"accelerator": "cuda"}, "DEPLOYMENT_HEALTH_FAILED", "engine", "NVFP4_AWQ, which vllm"),
        ("nvfp4_mlp_weight_only", {}, "DEPLOYMENT_HEALTH_FAILED", "engine", "reads as groups of 16"),
        ("fp8_2d_blockwise_weight_only", {"hidden": 192}, "DEPLOYMENT_HEALTH_FAILED", "engine", "divide by 128"),
        ("int4_awq", {"engine": "vllm==0.40.0"}, None, "engine", "warning: vllm 0.40.0 is configured"),
        ("general/auto_quantize/nvfp4_fp8_at_5p4bits", {}, None, "engine", "vLLM 0.32 loads FP8 and NVFP4"),
        (
            "general/auto_quantize/nvfp4_mse_fp8_at_6p0bits",
            {},
            "USER_CONFIG_ERROR",
            "device",
            "mse tries scales of NVFP4",
        ),
        (BY_SENSITIVITY, {}, None, "recipe", "21 to FP8, 21 to NVFP4"),
        (protecting("attention"), {}, None, "recipe", "12 to FP8, 9 to NVFP4"),
        (protecting("attention", {"groups": 2}), {}, None, "recipe", "12 to FP8, 9 to NVFP4"),
        (
            protecting("experts"),
            {},
            "USER_CONFIG_ERROR",
            "recipe",
            "'experts'; no linear layer of the model is of this",
        ),
        (protecting("lm_head"), {}, "USER_CONFIG_ERROR", "recipe", "so that nothing is protected"),
    ],
)
def test_a_recipe_is_known_before_anything_runs(tmp_path, monkeypatch, name, changes, failure_class, check, words):
    monkeypatch.setattr(preflight, "_gpu_capability", lambda: None)
    hidden = changes.pop("hidden", 128)
    write_model(tmp_path / "model", llama_like(hidden=hidden, inner=2 * hidden))
    definition = name
    if isinstance(name, str):
        definition = {"modelopt_recipe": name} if "/" in name else {"preset": name}
    location = {"path": str(tmp_path / "model")}
    request = {"definition": definition, "calibration": {}, "accelerator": "cpu", "engine": "vllm==0.32.0"}
    checks = check_recipe({**request, "location": location, **changes})
    found = preflight.assess_setup(checks, ModelRequest(model="m", path="m"))
    assert found.failure_class == failure_class, found.detail
    (named,) = (one for one in checks if one.name == check)
    assert words in named.detail and (named.failure_class is not None) is (failure_class is not None), named.detail


def test_a_recipe_is_not_refused_for_a_source_that_is_not_known_yet(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    request = recipe("nvfp4_experts_only", "cuda")
    for location in ({}, {"path": str(tmp_path)}, {"hub": "org/name", "revision": "0" * 40}):
        checks = check_recipe({**request, "location": location})
        assert failures(checks) == [] and "not known" in checks[0].detail


def test_local_data_must_be_there(tmp_path):
    missing = str(tmp_path / "none.jsonl")
    assert ("calibration", "USER_CONFIG_ERROR") in failures(check_recipe(recipe("fp8", dataset=missing)))
    assert failures(check_suite(suite(tmp_path, data_files=[missing]))) == [("data", "USER_CONFIG_ERROR")]
    assert failures(check_suite(suite(tmp_path))) == []


def test_a_model_that_is_too_short_for_a_suite_is_found_once_its_config_can_be_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    assert failures(check_suite(suite(tmp_path))) == [("context", "USER_CONFIG_ERROR")]
    assert failures(check_suite(suite(tmp_path, context_length=2048))) == []
    assert failures(check_suite({**suite(tmp_path), "asked": False})) == []


def test_a_judge_without_an_address_is_found(tmp_path, monkeypatch):
    judges = {"expert": {"url_variable": "URL_OF_TEST", "key_variable": None}}
    tasks = {"task": {"judge": "expert", "simulator": None, "context_length": None}}
    request = suite(tmp_path, judges=judges, tasks=tasks)
    assert failures(check_suite(request)) == [("judges", "USER_CONFIG_ERROR")]
    monkeypatch.setenv("URL_OF_TEST", "http://127.0.0.1:1")
    assert failures(check_suite(request)) == []


def test_a_framework_that_is_not_installed_is_named_with_its_package():
    known = {"gsm8k": {"framework": "lm-evaluation-harness"}}
    assert judge_frameworks(known).failure_class is None
    for framework, words in (("simple_evals", "nvidia-simple-evals"), ("nemo_skills", "image of it")):
        missing = {"problem": f"no framework {framework!r} is installed", "missing": framework}
        check = judge_frameworks({**known, "other": missing})
        assert check.failure_class == "USER_CONFIG_ERROR" and framework in check.detail and words in check.detail


def test_an_environment_that_cannot_list_its_tasks_is_systemic(tmp_path):
    assert check_frameworks(shutil.which("false"), ["gsm8k"]).failure_class == "SYSTEMIC"


def test_an_environment_without_its_package_is_systemic(tmp_path):
    python = tmp_path / "stage" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy2("/bin/false", python)
    check = check_environment(tmp_path / "stage.json", {"engine": "vllm"})
    assert check.failure_class == "SYSTEMIC" and "delete" in check.detail


def test_what_an_interpreter_in_a_job_step_says_is_told_and_not_what_srun_adds(tmp_path):
    python = tmp_path / "stage" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'No package vllm' >&2; echo 'srun: error: c0: task 0: Exited' >&2; exit 1\n")
    python.chmod(0o755)
    detail = check_environment(tmp_path / "stage.json", {"engine": "vllm"}).detail
    assert "No package vllm" in detail and "srun" not in detail


@pytest.mark.parametrize(
    ("said", "words"),
    [
        # Apptainer; pyxis, with the noise around enroot's own words; a node without the runtime (the launcher itself).
        ("FATAL:   stat /p: no such file", "stat /p: no such file (apptainer was to start p in the .sif file i.sif)"),
        (
            "slurmstepd-c0: error: pyxis: child 7 failed with error code: 1\n"
            "slurmstepd-c0: error: pyxis:     [ERROR] Invalid image format: i.sif\n"
            "slurmstepd-c0: error: Failed to invoke spank plugin stack",
            "Invalid image format: i.sif (",
        ),
        ("error: found no apptainer on c0; install it there", ": found no apptainer on c0; install it there ("),
    ],
)
def test_an_image_that_does_not_start_names_its_settings_and_the_reason(tmp_path, said, words):
    python = tmp_path / "serve.image" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho '{said}' >&2; exit 1\n")
    python.chmod(0o755)
    marker = tmp_path / "serve.image.json"
    ImageEnvironment(image="i.sif", image_sha256="5e" * 32, runtime="apptainer", python="p", mounts=[]).write(marker)
    check = check_environment(marker, {"engine": "vllm"})
    assert check.failure_class == "SYSTEMIC" and words in check.detail
    assert "correct containers.serve, the image or the node, and rerun" in check.detail


def test_tasks_that_lm_eval_does_not_have_and_scores_that_they_do_not_give_are_wrong_settings():
    known = {"gsm8k": {"scores": ["exact_match,strict-match"]}, "mmlu": {"scores": []}}
    sound = preflight.judge_tasks(known, {"gsm8k": ["exact_match,strict-match"], "mmlu": ["acc,none"]})
    assert sound.failure_class is None
    known["gsm8"] = {"problem": "lm-eval has no such task; near are gsm8k"}
    check = preflight.judge_tasks(known, {"gsm8": ["exact_match,none"], "gsm8k": ["exact_match,none"]})
    assert check.failure_class == "USER_CONFIG_ERROR"
    assert check.detail == (
        "task gsm8: lm-eval has no such task; near are gsm8k; correct the suite; "
        "task gsm8k: metric 'exact_match,none' is none of its scores exact_match,strict-match"
    )


def test_only_tasks_that_no_file_of_the_suite_defines_are_asked_of_lm_eval(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    task = {"harness": "lm-eval", "metric": "acc,none"}
    suite = {"include_path": str(tmp_path), "tasks": {"a": {**task, "task": "mine"}, "b": {**task, "task": "gsm8k"}}}
    assert preflight.foreign_tasks(suite) == {"gsm8k": ["acc,none"]}


@pytest.mark.parametrize(
    ("said", "failure_class", "words"),
    [
        ('{"tokens": [12, 30]}', None, "makes 30 tokens"),
        ('{"tokens": [12, 4096]}', "USER_CONFIG_ERROR", "task b: 4096 of 4096 tokens"),
        (
            '{"problem": "TemplateError: no system role"}',
            "USER_CONFIG_ERROR",
            "for a, b: TemplateError: no system role",
        ),
        ('{"unknown": "ValueError: no such tokenizer"}', None, "not rendered"),
        ("", "USER_CONFIG_ERROR", "it ended the interpreter that was to render it"),
    ],
)
def test_what_rendering_a_chat_template_shows(tmp_path, said, failure_class, words):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{said}'\n")
    python.chmod(0o755)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("x")
    task = {"harness": "lm-eval", "context_length": None}
    tasks = {"a": task, "b": task, "c": {**task, "apply_chat_template": False}, "d": {**task, "harness": "another"}}
    request = SuiteRequest(
        model="m", suite="s", accelerator="cpu", **suite(tmp_path, tasks=tasks, apply_chat_template=True)
    )
    check = check_template(python, request, ["lm-eval"])
    assert check.failure_class == failure_class and words in check.detail
    assert check_template(python, request, ["none"]) is None
    (tmp_path / "chat_template.jinja").unlink()
    assert check_template(python, request, ["lm-eval"]) is None  # see test_contents.py
