"""The sentences by which the stage learns what the engine loaded are those that the installed vLLM writes."""

import ast

import pytest

from day0.serving.engine_log import loaded_facts
from evaluate_stage import SERVE

pytestmark = pytest.mark.e2e

# By file of vLLM: a sentence as it stands in its source, what is put into it, and the fact that is read from it.
SENTENCES = [
    ("platforms/cuda.py", "Using %s attention backend out of potential backends: %s.", "FLASH_ATTN", "attention"),
    ("platforms/cuda.py", "Using %s backend.", "AttentionBackendEnum.FLASHINFER", "attention"),
    ("platforms/rocm.py", "Using %s backend (selected via --attention-backend).", "ROCM_ATTN", "attention"),
    ("v1/attention/backends/flash_attn.py", "Using FlashAttention version %s", "3", "kernels"),
    ("model_executor/kernels/linear/__init__.py", "Using %s for NVFP4 GEMM", "MarlinNvFp4LinearKernel", "kernels"),
    ("model_executor/kernels/linear/__init__.py", "Selected %s for %s", "CutlassFP8ScaledMMLinearKernel", "kernels"),
    ("model_executor/kernels/linear/__init__.py", "Using %s for mixed-precision linear", "MacheteKernel", "kernels"),
    ("model_executor/layers/fused_moe/oracle/nvfp4.py", "Using '%s' NvFp4 MoE backend out ", "MARLIN", "kernels"),
    ("model_executor/layers/fused_moe/oracle/fp8.py", "Using %s Fp8 MoE backend out ", "DEEPGEMM", "kernels"),
    (
        "model_executor/layers/quantization/utils/marlin_utils_fp4.py",
        "Your GPU does not have native support for FP4 computation but FP4 quantization is being used. Weight-only ",
        "",
        "emulation",
    ),
    (
        "model_executor/layers/quantization/utils/marlin_utils_fp8.py",
        "Your GPU does not have native support for FP8 computation but FP8 quantization is being used. Weight-only ",
        "",
        "emulation",
    ),
    ("v1/engine/core.py", "Initializing a V1 LLM engine (v%s) with config: ", "0.32.0", "engine_starts"),
]


def literals(path):
    """Every text of a source file; what an f-string puts in stands as %s."""

    def text(node):
        if isinstance(node, ast.Constant):
            return node.value
        return "".join(part.value if isinstance(part, ast.Constant) else "%s" for part in node.values)

    nodes = ast.walk(ast.parse(path.read_text()))
    return [text(n) for n in nodes if isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", None), str)]


@pytest.mark.parametrize(("file", "sentence", "value", "fact"), SENTENCES)
def test_a_sentence_stands_in_the_engine_and_is_read(project, file, sentence, value, fact):
    (package,) = SERVE.parents[1].glob("lib/python3*/site-packages/vllm")
    assert any(sentence in text for text in literals(package / file)), f"{file} has no {sentence!r}"
    facts = loaded_facts(sentence.replace("%s", value, 1).replace("%s", "Other"))
    if fact == "attention":
        assert facts["attention_backend"] == value.rpartition(".")[2]
    elif fact == "kernels":
        assert len(facts["kernels"]) == 1 and value in facts["kernels"][0]
    else:
        assert facts[fact]


def test_every_kernel_of_a_linear_layer_has_a_name_that_is_read(project):
    (package,) = SERVE.parents[1].glob("lib/python3*/site-packages/vllm")
    tree = ast.parse((package / "model_executor/kernels/linear/__init__.py").read_text())
    tables = [n for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and str(n.target.id).startswith("_POSSIBLE")]
    names = {
        name.id
        for table in tables
        for lists in ast.walk(table.value)
        if isinstance(lists, ast.List)
        for name in lists.elts
    }
    assert len(names) > 20
    for name in names:
        assert loaded_facts(f"Using {name} for NVFP4 GEMM")["kernels"] == [name]


def test_where_the_engine_takes_humming_there_is_no_arithmetic_of_the_formats_it_is_told_of():
    (package,) = SERVE.parents[1].glob("lib/python3*/site-packages/vllm")
    text = (package / "model_executor/layers/quantization/utils/humming/priority.py").read_text()
    assert "_HUMMING_PREFERRED_CAPABILITIES = frozenset({90})" in text  # Hopper: neither FP4 nor MXFP8


def test_what_the_engine_says_of_memory_in_the_hands_of_others():
    (package,) = SERVE.parents[1].glob("lib/python3*/site-packages/vllm/v1/worker")
    told = "".join(literals(package / "utils.py") + literals(package / "gpu_worker.py"))
    assert "Free memory on device %s (%s/%s GiB) on startup is less than desired GPU memory utilization" in told
    assert "Error in memory profiling. Initial free memory %s GiB, current free memory %s GiB" in told
