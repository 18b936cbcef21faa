"""The installed vLLM is asked how it reads real exports, and its answer is the finding.

One export is judged by the command as a user runs it; the others by forks of a process that has imported vLLM.
"""

import shutil
from pathlib import Path

import pytest
from judging import run_gate

from faults import FAULTS, HARMLESS, Copy

PYTHON = Path(__file__).parents[2] / ".envs" / "serve.cpu" / "bin" / "python"
FAULT = {fault.name: fault for fault in FAULTS}
CHANGE = {name: (base, change) for name, base, change in HARMLESS}
# A fault and the words of vLLM 0.32 by which it is known.
MISREAD = {
    "router_not_excluded": "reads as NVFP4",
    "groups_of_weights_alone": "W4A16_NVFP4",
    "more_types_than_layers": "must be equal to the number of `layer_types`",
}
READ = ("only_hf_quant_config_declares", "router_not_excluded_that_the_engine_never_quantizes")


@pytest.fixture
def judge(exports, warm_vllm, tmp_path):
    folder = exports.folder / f"copy-{tmp_path.name}"

    def apply(base, change, python=warm_vllm):
        copy = Copy(exports.folder / base, exports.source(base), folder)
        change(copy)
        options = {"record": copy.record, "engine-check": python}
        _, validation, failed = run_gate(copy.checkpoint, copy.source, **options)
        return failed, next(check["detail"] for check in validation["checks"] if check["name"] == "engine")

    yield apply
    shutil.rmtree(folder, ignore_errors=True)


pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not PYTHON.is_file(), reason="no serve environment is built")]


@pytest.mark.parametrize("name", MISREAD)
def test_vllm_misreads_it(judge, name):
    failed, detail = judge(FAULT[name].base, FAULT[name].apply)
    assert "engine" in failed and MISREAD[name] in detail


def test_a_part_that_the_environment_lacks_is_no_refusal(judge):
    """The environment for CPU has no torchvision, which vLLM's class of Qwen2-VL imports."""
    failed, detail = judge("qwen2-vl-fp8", lambda copy: None, PYTHON)
    assert not failed and "itself reads it as modelopt" in detail


@pytest.mark.parametrize("name", READ)
def test_vllm_reads_it_as_the_table_says(judge, name):
    failed, detail = judge(*CHANGE[name])
    assert not failed and "itself reads it as" in detail
