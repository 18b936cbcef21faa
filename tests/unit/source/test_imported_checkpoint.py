"""A checkpoint made elsewhere is linked, hashed once and recorded with what is known of it, and with nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from day0.base.artefacts import digest_of, digest_of_file, write_json
from day0.records.quantization import Quantization
from day0.source.imported_checkpoint import declared_versions, file_states, files_of_checkpoint

SCRIPT = Path(__file__).parents[3] / "scripts" / "import_checkpoint.py"


@pytest.fixture
def made(tmp_path):
    """A source model, and a checkpoint made of it, in folders of their own."""
    for name in ("source", "made"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    (tmp_path / "made" / "below" / "chat.jinja").write_text("hello")
    (tmp_path / "made" / ".cache").mkdir()
    (tmp_path / "made" / ".cache" / "lock").write_text("")
    (tmp_path / "made" / "modeling.py").write_text("")
    return tmp_path


def run(folder, checkpoint="made", **changes):
    definition = {"checkpoint": str(folder / checkpoint)}
    recipe = {"name": "unknown", "kind": "imported", "definition": definition, "digest": digest_of(definition)}
    command = [sys.executable, SCRIPT, "--source", folder / "source", "--recipe-json", json.dumps(recipe | changes)]
    command += ["--output", folder / "checkpoint", "--record", folder / "quantization.json"]
    return subprocess.run(command, capture_output=True, text=True)


def test_its_files_are_linked_and_nothing_is_made_up(made):
    done = run(made)
    assert done.returncode == 0, done.stderr
    record = Quantization.read(made / "quantization.json")
    assert list(record.files) == ["below/chat.jinja", "config.json", "model.safetensors"]
    for name, entry in record.files.items():
        assert (made / "checkpoint" / name).is_symlink()
        assert entry.sha256 == digest_of_file(made / "made" / name)
    unknown = (record.calibration, record.seed, record.device, record.kv_cache, record.quantizers, record.search)
    assert record.status == "done" and set(unknown) == {None} and record.versions == {}
    assert record.recipe.checkpoint == str(made / "made")


def test_a_second_import_of_the_same_bytes_gives_the_same_record(made):
    run(made)
    first = (made / "quantization.json").read_bytes()
    assert run(made).returncode == 0
    assert (made / "quantization.json").read_bytes() == first
    (made / "made" / "model.safetensors").write_bytes(b"other")
    run(made)
    assert (made / "quantization.json").read_bytes() != first


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_that_went_away_is_a_recorded_failure(made, missing):
    (made / "made" / missing).unlink()
    assert run(made).returncode == 0
    record = Quantization.read(made / "quantization.json")
    assert (record.status, record.failure_class, record.checkpoint_digest) == ("failed", "USER_CONFIG_ERROR", None)
    assert "the checkpoint cannot be imported" in record.detail and list((made / "checkpoint").iterdir()) == []


def test_a_recipe_of_another_kind_is_refused_without_a_traceback(made):
    for changes in ({"kind": "preset"}, {"kind": "none"}):
        done = run(made, **changes)
        assert done.returncode == 2 and "error:" in done.stderr and "Traceback" not in done.stderr


def test_python_code_belongs_to_it_only_where_it_is_trusted(made):
    assert "modeling.py" in files_of_checkpoint(made / "made", trust_remote_code=True)
    assert "modeling.py" not in files_of_checkpoint(made / "made", trust_remote_code=False)


def test_a_file_that_is_replaced_with_its_time_kept_shows(made):
    file = made / "made" / "model.safetensors"
    before, times = file_states([file]), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    (made / "new").write_bytes(b"edam")
    os.replace(made / "new", file)
    os.utime(file, ns=times)
    assert file_states([file]) != before


@pytest.mark.parametrize(
    ("files", "versions"),
    [
        ({"config.json": {"quantization_config": {"quant_method": "fp8"}}}, {}),
        (
            {"hf_quant_config.json": {"producer": {"name": "modelopt", "version": "0.47.0"}}},
            {"nvidia-modelopt": "0.47.0"},
        ),
        (
            {"config.json": {"quantization_config": {"producer": {"name": "modelopt", "version": "0.41.0"}}}},
            {"nvidia-modelopt": "0.41.0"},
        ),
        (
            {"config.json": {"quantization_config": {"quant_method": "compressed-tensors", "version": "0.19.0"}}},
            {"compressed-tensors": "0.19.0"},
        ),
        (
            {"config.json": {"quantization_config": {"quant_method": "auto-round", "autoround_version": "0.16.1"}}},
            {"auto-round": "0.16.1"},
        ),
        (
            {
                "config.json": {
                    "quantization_config": {"quant_method": "gptq", "meta": {"quantizer": ["gptqmodel:1.4.2"]}}
                }
            },
            {"gptqmodel": "1.4.2"},
        ),
        ({"config.json": {"quantization_config": [1]}, "hf_quant_config.json": {"producer": 1}}, {}),
    ],
)
def test_who_made_it_is_read_from_its_declaration(tmp_path, files, versions):
    for name, content in files.items():
        write_json(tmp_path / name, content)
    assert declared_versions(tmp_path) == versions
    (tmp_path / "config.json").write_text("{")
    assert declared_versions(tmp_path) == (versions if "hf_quant_config.json" in files else {})
