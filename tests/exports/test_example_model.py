"""The real model of config/examples/smollm2.yaml, as the quantize stage loads it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "results/examples/smollm2/model"
DATA = ROOT / "results/examples/smollm2/data"
pytestmark = pytest.mark.e2e

FACTS = """
import json, sys
from pathlib import Path
import torch
from day0.source.model_folder import open_source
from loaded_model import load_model
torch.set_num_threads(2)
model, tokenizer = load_model(open_source(Path(sys.argv[1])), "cpu")
dtype = str(model.dtype)
with torch.inference_mode():
    ids = tokenizer(sys.argv[2], return_tensors="pt")["input_ids"]
    loss = model.float()(ids, labels=ids).loss.item()
tied = model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
chat = [{"role": "user", "content": "Hi"}]
text = "In 1984  it cost 12,50 \\u2014 na\\u00efve \\u65e5\\u672c\\n\\n<|im_end|>"
print(json.dumps({
    "loss": loss, "tied": tied, "dtype": dtype, "ends": tokenizer.eos_token_id,
    "begins": tokenizer.bos_token_id, "pads": tokenizer.pad_token_id, "vocabulary": len(tokenizer),
    "digits": tokenizer.tokenize("2026"), "again": tokenizer.decode(tokenizer(text)["input_ids"]) == text,
    "chat": tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False),
}))
"""


@pytest.fixture(scope="module")
def made():
    targets = [MODEL / "model.safetensors", DATA / "calibration.jsonl", ROOT / ".envs/quantize.cpu.json"]
    command = [Path(sys.executable).parent / "snakemake", "--nolock", "--quiet", "all", "--"]
    command += [target.relative_to(ROOT) for target in targets]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_model_is_sound_where_it_is_quantized(made):
    text = json.loads((DATA / "calibration.jsonl").read_text().splitlines()[0])["text"]
    done = subprocess.run(
        [ROOT / ".envs/quantize.cpu/bin/python", "-c", FACTS, MODEL, text],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts.pop("loss") < 5, "per token of a news article: 4.2, and 10.8 of one that knows nothing"
    assert facts == {
        "tied": True,
        "dtype": "torch.bfloat16",
        "ends": 2,
        "begins": 1,
        "pads": 2,
        "vocabulary": 49152,
        "digits": ["2", "0", "2", "6"],
        "again": True,
        "chat": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    }


def test_the_planned_size_is_the_real_one(made):
    size = (MODEL / "model.safetensors").stat().st_size
    assert f"EXAMPLE_MODEL: {size:_}" in (ROOT / "rules/common.smk").read_text()


def test_the_card_says_what_the_source_is(made):
    front, _, text = (MODEL / "README.md").read_text().removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "language": ["en"],
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    }
    assert "not the original checkpoint" in text and "4 bits (Q4_1)" in text
    assert "Apache License" in (MODEL / "LICENSE").read_text()
