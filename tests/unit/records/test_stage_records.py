"""The records that the stages up to the validation leave: written as they are read, and nothing else is taken."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from day0.base.artefacts import write_json
from day0.base.cli import UnusableInput
from day0.records.environment import Environment, ImageEnvironment
from day0.records.preflight import Preflight
from day0.records.quantization import Quantization
from day0.records.source import Source
from day0.records.validation import Validation

ROOT = Path(__file__).parents[3]
SHA256 = "5e" * 32
SOURCE = {
    "schema_version": 1,
    "model": "m",
    "location": {"hub": "a/m", "revision": "0" * 40},
    "path": "models/m",
    "files": {"model.safetensors": {"bytes": 80, "sha256": SHA256}},
    "digest": SHA256,
    "payload_bytes": 16,
    "parameters": 8,
    "dtypes": {"BF16": 8},
    "config": {"model_type": "llama", "rope_scaling": None},
    "trust_remote_code": False,
    "card": {"license": "mit", "license_name": None, "license_link": None, "languages": [], "pipeline_tag": None},
}
PREFLIGHT = {
    "schema_version": 1,
    "pass": False,
    "failure_class": "USER_CONFIG_ERROR",
    "detail": "calibration: found no file",
    "definition_digest": SHA256,
    "checks": [{"name": "calibration", "pass": False, "detail": "found no file"}],
    "request": {
        "model": "m",
        "recipe": "fp8",
        "definition": {"preset": "fp8"},
        "calibration": {
            "dataset": "none.jsonl",
            "samples": 8,
            "sequence_length": 64,
            "batch_size": 2,
            "text_field": "text",
        },
        "accelerator": "cpu",
        "location": {"path": "models/m", "hub": None, "revision": None},
        "device": "auto",
        "engine": "vllm==0.32.0",
    },
}
QUANTIZATION = {
    "schema_version": 1,
    "status": "done",
    "failure_class": None,
    "detail": "",
    "model": "m",
    "source_digest": SHA256,
    "recipe": {
        "name": "fp8",
        "kind": "preset",
        "definition": {"preset": "fp8"},
        "digest": SHA256,
        "quant_cfg": {"quantize": {"quant_cfg": [], "algorithm": "max"}, "auto_quantize": None, "kv_cache": None},
    },
    "sensitivity_sha256": None,
    "kv_cache": None,
    "calibration": PREFLIGHT["request"]["calibration"],
    "seed": 1234,
    "device": "cpu",
    "versions": {"torch": "2.13.0"},
    "duration_seconds": {"load": 0.5, "total": 1.0},
    "peak_memory_bytes": 1,
    "peak_gpu_memory_bytes": None,
    "search": {"is_satisfied": True, "constraints": {"effective_bits": 6.0}},
    "quantizers": {"enabled": 1, "disabled": 2, "summary": ["a", "b"]},
    "files": {"model.safetensors": {"bytes": 80, "sha256": SHA256}},
    "checkpoint_digest": SHA256,
}
FAMILY = {
    "layers": 2,
    "quantized": 1,
    "intended": 1,
    "coverage": "whole",
    "bits_per_weight": 8.0,
    "expected_bits_per_weight": None,
}
VALIDATION = {
    "schema_version": 1,
    "pass": True,
    "failure_class": None,
    "detail": "sound",
    "definition_digest": None,
    "recipe": "fp8",
    "checks": [
        {"name": "coverage", "pass": True, "detail": "whole", "families": {"MLP": FAMILY}, "offenders": []},
        {"name": "metadata", "pass": True, "detail": "1 change", "offenders": []},
    ],
    "source_bytes": 16,
    "output_bytes": 8,
    "size_ratio": 0.5,
    "bits_per_weight": 8.0,
    "layer_precision_counts": {"FP8": 1, "BF16": 1},
    "families": {"MLP": FAMILY},
    "layer_map": [
        {"module": "model.layers.*.mlp", "family": "MLP", "runs": [[0, 3, "FP8", 4], [None, None, "BF16", 1]]}
    ],
    "metadata_diffs": [{"field": "config.json: use_cache", "source": None, "output": True, "expected": True}],
    "offenders": [],
    "checkpoint_digest": SHA256,
    "source_digest": SHA256,
    "recipe_digest": None,
}
ENVIRONMENT = {"schema_version": 1, "lock_sha256": SHA256, "python": "3.11.7"}
IMAGE = {
    "schema_version": 1,
    "image": "/images/vllm.sif",
    "image_sha256": SHA256,
    "runtime": "apptainer",
    "python": "python3",
    "mounts": ["/data:/data"],
}
ALL = [
    (Environment, ENVIRONMENT),
    (ImageEnvironment, IMAGE),
    (Source, SOURCE),
    (Preflight, PREFLIGHT),
    (Quantization, QUANTIZATION),
    (Validation, VALIDATION),
]


@pytest.mark.parametrize(("artefact", "content"), ALL)
def test_a_record_is_written_as_it_was_read_and_holds_to_its_schema(artefact, content, tmp_path):
    write_json(tmp_path / "first.json", content)
    artefact.read(tmp_path / "first.json").write(tmp_path / "second.json")
    written = json.loads((tmp_path / "second.json").read_text())
    assert written == content
    schema = json.loads((ROOT / "config" / "schemas" / f"{artefact.schema_name}.schema.json").read_text())
    jsonschema.validate(written, schema)


@pytest.mark.parametrize(
    ("artefact", "content", "place", "value", "words"),
    [
        (Source, SOURCE, ("digest",), "abc", ["digest: found 'abc'"]),
        (Source, SOURCE, ("files", "model.safetensors", "bytes"), -1, ["files.model.safetensors.bytes: found -1"]),
        (Source, SOURCE, ("surprise",), 1, ["surprise: unknown key"]),
        (Preflight, PREFLIGHT, ("failure_class",), "BAD_LUCK", ["failure_class: found 'BAD_LUCK'", "SYSTEMIC"]),
        (Preflight, PREFLIGHT, ("pass",), "perhaps", ["pass: found 'perhaps'"]),
        (Quantization, QUANTIZATION, ("status",), "begun", ["status: found 'begun'", "'done' or 'failed'"]),
        (Quantization, QUANTIZATION, ("recipe", "digest"), None, ["recipe.digest: found None"]),
        (Quantization, QUANTIZATION, ("schema_version",), 2, ["schema_version: found 2"]),
        (Validation, VALIDATION, ("size_ratio",), "half", ["size_ratio: found 'half'"]),
        (Validation, VALIDATION, ("checks",), None, ["checks: found None"]),
    ],
)
def test_what_is_no_such_record_is_named_with_file_field_found_and_expected(
    artefact, content, place, value, words, tmp_path
):
    content = copy.deepcopy(content)
    container = content
    for key in place[:-1]:
        container = container[key]
    container[place[-1]] = value
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UnusableInput) as caught:
        artefact.read(path)
    for word in [str(path), *words, f"expected {artefact.schema_name}, version 1"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("artefact", "content"), ALL)
def test_a_record_of_an_older_form_is_refused_by_the_keys_that_it_lacks(artefact, content):
    for key in [name for name, field in artefact.model_fields.items() if field.is_required()]:
        key = "pass" if key == "passed" else key
        with pytest.raises(UnusableInput, match=f"{key}: missing"):
            artefact.parse({name: value for name, value in content.items() if name != key}, "old.json")
