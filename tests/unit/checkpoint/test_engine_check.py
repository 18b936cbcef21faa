"""What vLLM itself answers about a checkpoint is compared with its tensors; here a stand-in of its python answers."""

import json
import stat

import pytest
from test_assess import LINEARS, Export, assess_checkpoint, run_gate

ANSWER = {
    "version": "0.32.0",
    "method": "modelopt",
    "reader": "ModelOptFp8Config",
    "kv_cache": None,
    "error": None,
    "remarks": [],
    "modules": {**dict.fromkeys(LINEARS, "FP8"), "lm_head": None},
    "refused": {},
}
UNASKED = {key: ANSWER[key] for key in ("version", "error", "refused")}


def changed(**fields):
    return {**ANSWER, **fields}


def of_modules(**modules):
    return changed(modules={**ANSWER["modules"], **{name.replace("__", "."): told for name, told in modules.items()}})


FAULTS = {
    "refused": (changed(error="ValueError: no such algorithm"), "no such algorithm"),
    "no quantization": (changed(method=None), "finds no quantization"),
    "a layer taken for plain": (of_modules(**{LINEARS[0]: None}), LINEARS[0]),
    "a plain layer taken for quantized": (of_modules(lm_head="FP8"), "lm_head"),
    "another algorithm": (of_modules(**{LINEARS[1]: "NVFP4"}), "reads as NVFP4"),
    "a layer refused": (changed(refused={LINEARS[2]: "All shards must use the same quantization"}), "All shards"),
}
SOUND = {
    "as held": (ANSWER, "by ModelOptFp8Config: 6 modules FP8, 1 modules plain"),
    "a cache": (changed(kv_cache="FP8"), "KV cache FP8"),
    "by another reader": (changed(modules={}, remarks=["by more than a name"]), "by ModelOptFp8Config; by more than"),
    "not asked": ({**UNASKED, "modules": {}, "remarks": ["Python code of its own"]}, "Python code of its own"),
}


@pytest.fixture
def python(tmp_path):
    """Make an interpreter that prints an answer after what else engines print."""

    def make(answer):
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\ncat > {tmp_path}/question\necho INFO loading\ncat <<'END'\n{answer}\nEND\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return file

    return make


def engine_check(export, interpreter):
    export.assess()
    assessment = assess_checkpoint(export.output, export.source, export.record, engine_python=interpreter)
    return assessment, next(check for check in assessment["checks"] if check["name"] == "engine")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_engine_misreads_fails(tmp_path, python, fault):
    answer, named = FAULTS[fault]
    assessment, check = engine_check(Export(tmp_path), python(json.dumps(answer)))
    assert assessment["failure_class"] == "DEPLOYMENT_HEALTH_FAILED"
    assert named in check["detail"] and "vLLM 0.32.0" in check["detail"]


@pytest.mark.parametrize("layout", SOUND)
def test_what_the_engine_reads_as_held_passes_and_is_quoted(tmp_path, python, layout):
    answer, quoted = SOUND[layout]
    assessment, check = engine_check(Export(tmp_path), python(json.dumps(answer)))
    assert assessment["pass"] and quoted in check["detail"]
    question = json.loads((tmp_path / "question").read_text())
    assert {*LINEARS, "lm_head"} == set(question)


@pytest.mark.parametrize("answer", ["", "{", "[]", '{"version": 3}'])
def test_another_interpreter_is_an_unusable_input(tmp_path, python, answer):
    export = Export(tmp_path)
    export.assess()
    sides = ["--checkpoint", export.output, "--source", export.source, "--recipe", "fp8"]
    for interpreter in (python(answer), tmp_path / "none"):
        told = run_gate(*sides, "--engine-check", interpreter)
        assert told.returncode == 2 and "serve environment" in told.stderr and "Traceback" not in told.stderr
