"""Train the embedded demo model on the spot and save it as an ordinary Hugging Face folder.

The model is a Llama of half a million parameters with one token per character. It learns the three tasks of
``make_demo_data.py`` from problems drawn afresh for every step, none of them held out (``is_held_out`` decides), with
the loss on the answers only. Matrices are trained by Muon (momentum, then orthogonalized by Newton-Schulz iterations:
Jordan et al. 2024, kellerjordan.github.io/posts/muon), everything else by AdamW. Half of the rows go without the
begin-of-sequence token, because clients that send token ids may leave it out; every eighth step trains on rows of two
samples, so that a prompt may open with a worked example.

The folder is then loaded again as any user would load it, and has to answer the held-out samples: by greedy decoding
on every task, and for the multiple-choice task also by the largest log-likelihood of a choice. Only a model that
reaches ``REQUIRED_ACCURACY`` on each of these is moved to its place.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.base.folders import move_model, unfinished_folder
from make_demo_data import (
    CLOSING,
    DIGITS,
    LENGTH,
    LETTERS,
    SEPARATOR,
    TASKS,
    draw_problems,
    is_held_out,
    parse_prompt,
    seed_value,
)

PADDING, BEGIN, END, UNKNOWN = range(4)
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
SYMBOLS = "0123456789+" + "".join(CLOSING[task] for task in TASKS) + SEPARATOR + LETTERS
TOKEN = {symbol: number for number, symbol in enumerate((*SPECIAL_TOKENS, *SYMBOLS))}
DIGIT, LETTER = TOKEN["0"], TOKEN[LETTERS[0]]

VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, HEADS, HEAD_WIDTH = len(TOKEN), 128, 256, 3, 4, 32
CONTEXT, ROPE_BASE, NORM_EPSILON = 256, 10000.0, 1e-6

MOST_STEPS, BATCH, WARM_UP = 1100, 192, 30
COOL_DOWN, CHECK_EVERY, CHECK_SAMPLES, LEARNED = 280, 20, 1024, 0.90
MATRIX_RATE, OTHER_RATE, MOMENTUM, CLIP = 0.014, 2e-3, 0.95, 1.0
TASK_SHARES = {"addition": 0.45, "reversal": 0.25, "sorting": 0.3}
EXAMPLES_PER_PACKED_ROW, PACKED_EVERY = 2, 8
LONGEST = max(2 * LENGTH + 2, 3 * DIGITS + 4)
"""Tokens of the longest sample: prompt, answer and end."""

REQUIRED_ACCURACY = 0.995
# Processors round differently, so that a seed which learns on one may not on another.
DEFAULT_TRAINING_SEED, SEEDS_TRIED = 2, 3

CHAT_TEMPLATE = (
    "{{- bos_token }}{% for message in messages %}{{- message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{- '" + SEPARATOR + "' }}{% endif %}{% endfor %}"
)

Parameters = dict[str, torch.Tensor]


def training_samples(task: str, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw training samples of one task, none of them held out.

    Returns:
        tokens int64 [count, LONGEST] (prompt, answer, END, then padding), lengths int64 [count] with END counted, and
        the number of tokens of the prompt.
    """
    problems = draw_problems(task, 2 * count + 64, generator)
    problems = problems[~is_held_out(task, problems)][:count]
    closing = np.full((count, 1), TOKEN[CLOSING[task]])
    end = np.full((count, 1), END)
    if task == "addition":
        powers = 10 ** np.arange(DIGITS)
        left, right, totals = problems[:, :1], problems[:, 1:], problems.sum(axis=1)
        plus = np.full((count, 1), TOKEN["+"])
        operands = [operand // powers[::-1] % 10 + DIGIT for operand in (left, right)]
        prompt = np.column_stack([operands[0], plus, operands[1], closing])
        carried = totals >= 10**DIGITS
        answer = totals[:, None] // powers % 10 + DIGIT
        last = np.where(carried, DIGIT + 1, END)
        tokens = np.column_stack([prompt, answer, last, np.where(carried, END, PADDING)])
        lengths = tokens.shape[1] - 1 + carried
    else:
        ordered = np.sort(problems, axis=1) if task == "sorting" else problems[:, ::-1]
        first = DIGIT if task == "sorting" else LETTER
        prompt = np.column_stack([problems + first, closing])
        tokens = np.column_stack([prompt, ordered + first, end])
        lengths = np.full(count, tokens.shape[1])
    padding = np.full((count, LONGEST - tokens.shape[1]), PADDING)
    return np.column_stack([tokens, padding]), lengths, prompt.shape[1]


def training_batch(rows: int, examples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make one batch: rows of worked examples with the separator between them, each answer followed by END as a label.

    Returns:
        inputs int64 and labels int64, both [rows, examples * LONGEST]; the label -100 is not learned.
    """
    count = rows * examples
    bounds = np.round(np.cumsum([0.0, *TASK_SHARES.values()]) * count).astype(int)
    parts = [
        training_samples(task, high - low, generator)
        for task, low, high in zip(TASK_SHARES, bounds, bounds[1:], strict=False)
    ]
    order = generator.permutation(count)
    tokens = np.concatenate([part[0] for part in parts])[order]
    lengths = np.concatenate([part[1] for part in parts])[order]
    prompts = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])[order]

    begins = generator.random(rows) < 0.5
    ends = np.cumsum(lengths.reshape(rows, examples), axis=1)
    starts = (ends - lengths.reshape(rows, examples) + begins[:, None]).reshape(-1)
    row, place = np.repeat(np.arange(rows), examples)[:, None], np.arange(LONGEST)[None]
    width = examples * LONGEST
    inputs = np.full((rows, width + 1), PADDING)
    labels = np.full((rows, width + 1), -100)
    inputs[begins, 0] = BEGIN
    used = place < lengths[:, None]
    columns = starts[:, None] + place
    inputs[np.broadcast_to(row, used.shape)[used], columns[used]] = np.where(tokens == END, TOKEN[SEPARATOR], tokens)[
        used
    ]
    learned = used & (place >= prompts[:, None])
    labels[np.broadcast_to(row, used.shape)[learned], columns[learned] - 1] = tokens[learned]
    return inputs[:, :width], labels[:, :width]


def initial_parameters(generator: torch.Generator) -> Parameters:
    """Draw the parameters, float32; those of the layers are stacked along the first axis, q/k/v and gate/up fused."""

    def normal(*shape: int, deviation: float) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * deviation

    residual = 0.5 / math.sqrt(2 * LAYERS)
    parameters = {
        "embedding": normal(VOCABULARY, HIDDEN, deviation=0.04),
        "head": normal(VOCABULARY, HIDDEN, deviation=0.02),
        "query_key_value": normal(LAYERS, 3 * HIDDEN, HIDDEN, deviation=0.5 / math.sqrt(HIDDEN)),
        "output": normal(LAYERS, HIDDEN, HIDDEN, deviation=residual / math.sqrt(HIDDEN)),
        "gate_up": normal(LAYERS, 2 * INTERMEDIATE, HIDDEN, deviation=0.5 / math.sqrt(HIDDEN)),
        "down": normal(LAYERS, HIDDEN, INTERMEDIATE, deviation=residual / math.sqrt(INTERMEDIATE)),
        "attention_norm": torch.ones(LAYERS, HIDDEN),
        "feed_forward_norm": torch.ones(LAYERS, HIDDEN),
        "norm": torch.ones(HIDDEN),
    }
    return {name: value.requires_grad_() for name, value in parameters.items()}


MATRICES = ("query_key_value", "output", "gate_up", "down")


def training_dtype() -> torch.dtype:
    """Choose bfloat16 where the processor multiplies it natively, else float32."""
    abilities = torch.cpu.get_capabilities()
    native = any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if native else torch.float32


def rotary_tables(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of rotary position embedding, each [CONTEXT, HEAD_WIDTH], halves not interleaved."""
    frequencies = ROPE_BASE ** -(torch.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
    angles = torch.outer(torch.arange(CONTEXT, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Causal attention over [batch, heads, tokens, width]; the fused kernel's backward pass is slow in bfloat16."""
    if query.dtype == torch.float32:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    scores = query @ key.transpose(-1, -2) * HEAD_WIDTH**-0.5 + mask
    return torch.softmax(scores, dim=-1) @ value


def answer_logits(
    parameters: Parameters, inputs: torch.Tensor, wanted: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Run the Llama forward pass in the dtype of the tables.

    Args:
        parameters: as ``initial_parameters`` makes them.
        inputs: int64 [batch, tokens].
        wanted: bool [batch, tokens], the places whose next token is asked for.
        tables: as ``rotary_tables`` makes them.

    Returns:
        float32 [number of wanted places, VOCABULARY].
    """
    batch, tokens = inputs.shape
    dtype = tables[0].dtype
    weights = {name: value.to(dtype) for name, value in parameters.items()}
    cosine, sine = tables[0][:tokens], tables[1][:tokens]
    mask = torch.full((tokens, tokens), -math.inf, dtype=dtype).triu(1)
    stream = functional.embedding(inputs, weights["embedding"])
    for layer in range(LAYERS):
        normed = functional.rms_norm(stream, (HIDDEN,), weights["attention_norm"][layer], NORM_EPSILON)
        fused = functional.linear(normed, weights["query_key_value"][layer])
        fused = fused.view(batch, tokens, 3, HEADS, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        turned, value = fused[:2], fused[2]
        left, right = turned.chunk(2, dim=-1)
        turned = turned * cosine + torch.cat([-right, left], dim=-1) * sine
        mixed = attend(turned[0], turned[1], value, mask).transpose(1, 2).reshape(batch, tokens, HIDDEN)
        stream = stream + functional.linear(mixed, weights["output"][layer])
        normed = functional.rms_norm(stream, (HIDDEN,), weights["feed_forward_norm"][layer], NORM_EPSILON)
        gate, up = functional.linear(normed, weights["gate_up"][layer]).chunk(2, dim=-1)
        stream = stream + functional.linear(functional.silu(gate) * up, weights["down"][layer])
    final = functional.rms_norm(stream[wanted], (HIDDEN,), weights["norm"], NORM_EPSILON)
    return functional.linear(final, weights["head"]).float()


def orthogonalize(update: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bring the singular values of each matrix of [n, rows, columns] near 1: five quintic Newton-Schulz iterations."""
    flip = update.shape[-2] > update.shape[-1]
    matrix = (update.mT if flip else update).to(dtype)
    matrix = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = matrix @ matrix.mT
        matrix = 3.4445 * matrix + (-4.7750 * gram + 2.0315 * gram @ gram) @ matrix
    return (matrix.mT if flip else matrix).to(update.dtype)


@torch.no_grad()
def step_matrices(parameters: Parameters, momenta: Parameters, rate: float, dtype: torch.dtype) -> None:
    """Take one Muon step (Nesterov momentum) on the stacked matrices."""
    for name in MATRICES:
        value, momentum = parameters[name], momenta[name]
        momentum.lerp_(value.grad, 1 - MOMENTUM)
        update = orthogonalize(value.grad.lerp(momentum, MOMENTUM), dtype)
        value.add_(update, alpha=-rate * max(1.0, value.shape[-2] / value.shape[-1]) ** 0.5)


@torch.no_grad()
def share_right(
    parameters: Parameters, inputs: torch.Tensor, labels: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """Share of rows in which every label is the likeliest token, as greedy decoding would have written it."""
    wanted = labels != -100
    right = torch.ones_like(wanted)
    right[wanted] = answer_logits(parameters, inputs, wanted, tables).argmax(dim=-1) == labels[wanted]
    return right.all(dim=1).double().mean().item()


def train(seed: int, most_steps: int = MOST_STEPS) -> Parameters:
    """Train from a fixed seed, printing step, loss and the time left.

    The learning rate stays up until the share of right answers on fresh problems of the training side reaches
    ``LEARNED``, then falls to 0 over ``COOL_DOWN`` steps; so every seed stops at the same stage of learning.
    """
    dtype = training_dtype()
    batches = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    parameters = initial_parameters(torch.Generator().manual_seed(seed))
    momenta = {name: torch.zeros_like(parameters[name]) for name in MATRICES}
    others = [value for name, value in parameters.items() if name not in MATRICES]
    optimizer = torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    tables = rotary_tables(dtype)
    check = [torch.from_numpy(part) for part in training_batch(CHECK_SAMPLES, 1, np.random.default_rng(seed))]
    last_step = most_steps
    started = time.monotonic()
    step = 0
    while step < last_step:
        schedule = min(1.0, (step + 1) / WARM_UP, (last_step - step) / COOL_DOWN)
        cooling = step >= last_step - COOL_DOWN
        examples = EXAMPLES_PER_PACKED_ROW if step % PACKED_EVERY == PACKED_EVERY - 1 and not cooling else 1
        inputs, labels = map(torch.from_numpy, training_batch(BATCH // examples, examples, batches))
        wanted = labels != -100
        loss = functional.cross_entropy(answer_logits(parameters, inputs, wanted, tables), labels[wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), CLIP)
        step_matrices(parameters, momenta, MATRIX_RATE * schedule, dtype)
        for group in optimizer.param_groups:
            group["lr"] = OTHER_RATE * schedule
        optimizer.step()
        for value in parameters.values():
            value.grad = None
        step += 1
        if step % CHECK_EVERY == 0 or step == last_step:
            right = share_right(parameters, *check, tables)
            if right >= LEARNED:
                last_step = min(last_step, step + COOL_DOWN)
            spent = time.monotonic() - started
            left = spent / step * (last_step - step)
            bound = "" if last_step < most_steps else "at most "
            print(
                f"step {step}  loss {loss.item():.5f}  right {right:.1%}  {spent:.0f} s, {bound}{left:.0f} s left",
                flush=True,
            )
    return parameters


def state_dict(parameters: Parameters) -> dict[str, torch.Tensor]:
    """Split the fused and stacked parameters into the tensors of LlamaForCausalLM, bfloat16."""
    split = {
        "model.embed_tokens.weight": parameters["embedding"],
        "model.norm.weight": parameters["norm"],
        "lm_head.weight": parameters["head"],
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, value in zip("qkv", parameters["query_key_value"][layer].chunk(3), strict=True):
            split[f"{prefix}.self_attn.{name}_proj.weight"] = value
        gate, up = parameters["gate_up"][layer].chunk(2)
        split |= {
            f"{prefix}.self_attn.o_proj.weight": parameters["output"][layer],
            f"{prefix}.mlp.gate_proj.weight": gate,
            f"{prefix}.mlp.up_proj.weight": up,
            f"{prefix}.mlp.down_proj.weight": parameters["down"][layer],
            f"{prefix}.input_layernorm.weight": parameters["attention_norm"][layer],
            f"{prefix}.post_attention_layernorm.weight": parameters["feed_forward_norm"][layer],
        }
    return {name: value.detach().to(torch.bfloat16).contiguous() for name, value in split.items()}


def make_tokenizer() -> Any:
    """Make the tokenizer: a token per character, BEGIN put in front, unknown characters as UNKNOWN."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    padding, begin, end, unknown = SPECIAL_TOKENS
    tokenizer = Tokenizer(models.WordLevel(TOKEN, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, BEGIN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=padding,
        unk_token=unknown,
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def save(parameters: Parameters, folder: Path) -> None:
    """Write config, generation config, tokenizer with chat template and weights as transformers does."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=NORM_EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        tie_word_embeddings=False,
        pad_token_id=PADDING,
        bos_token_id=BEGIN,
        eos_token_id=END,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(state_dict(parameters))
    model.generation_config = GenerationConfig(pad_token_id=PADDING, bos_token_id=BEGIN, eos_token_id=END)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def read_samples(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the held-out samples of every task.

    Raises:
        UnusableInput: a file is missing or no JSONL of samples, or holds a problem of the training side.
    """
    samples: dict[str, list[dict[str, Any]]] = {}
    for task in TASKS:
        path = data / f"{task}.jsonl"
        advice = "make the folder with scripts/make_demo_data.py"
        try:
            samples[task] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            problems = np.array([parse_prompt(task, sample["prompt"]) for sample in samples[task]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            detail = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise UnusableInput(f"{path}: cannot be read as samples of the task {task} ({detail}); {advice}") from error
        if not len(problems):
            raise UnusableInput(f"{path}: holds no samples; {advice}")
        seen = np.flatnonzero(~is_held_out(task, problems))
        if len(seen):
            prompt = samples[task][seen[0]]["prompt"]
            raise UnusableInput(
                f"{path}: {len(seen)} samples (first: {prompt!r}) belong to the training side; {advice}"
            )
    return samples


@torch.inference_mode()
def measure(folder: Path, samples: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Load the saved folder and answer the held-out samples.

    Returns:
        the share of right answers by what was measured: ``TASK exact_match`` (greedy decoding) and ``TASK acc``
        (largest log-likelihood among the choices) where the samples have choices.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    shares: dict[str, float] = {}
    for task, rows in samples.items():
        prompts = tokenizer([row["prompt"] for row in rows], return_tensors="pt")
        length = prompts["input_ids"].shape[1]
        written = model.generate(**prompts, do_sample=False, max_new_tokens=LENGTH + 1)[:, length:]
        answers = tokenizer.batch_decode(written, skip_special_tokens=True)
        right = [answer == row["answer"] for answer, row in zip(answers, rows, strict=True)]
        shares[f"{task} exact_match"] = float(np.mean(right))
        if "choices" in rows[0]:
            texts = [row["prompt"] + choice for row in rows for choice in row["choices"]]
            tokens = tokenizer(texts, return_tensors="pt")["input_ids"]
            chances = model(tokens).logits[:, length - 1 : -1].float().log_softmax(dim=-1)
            sums = chances.gather(-1, tokens[:, length:, None]).sum(dim=(1, 2)).view(len(rows), -1)
            gold = torch.tensor([row["gold"] for row in rows])
            shares[f"{task} acc"] = float((sums.argmax(dim=1) == gold).double().mean())
    return shares


def check_output(output: Path) -> None:
    """Refuse to replace anything but an empty folder or an earlier model.

    Raises:
        UnusableInput: there is something else.
    """
    if output.exists() and not (output.is_dir() and (not any(output.iterdir()) or (output / "config.json").exists())):
        raise UnusableInput(f"{output}: exists and is no model folder; name a folder that is new, or empty")


def main() -> int:
    """Train, save, measure, and move the folder to its place."""
    parser = argparse.ArgumentParser(description="Train the embedded demo model and save it as a Hugging Face folder.")
    parser.add_argument("--data", type=Path, required=True, help="folder that make_demo_data.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="model folder to write")
    parser.add_argument("--seed", type=seed_value, default=DEFAULT_TRAINING_SEED, help="seed of training (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="threads to compute with (default: torch's choice)")
    parser.add_argument("--most-steps", type=int, default=MOST_STEPS, help="most training steps (%(default)s)")
    arguments = parser.parse_args()
    if arguments.threads < 0 or arguments.most_steps < 1:
        parser.error("--threads must not be negative, --most-steps must be at least 1")

    started = time.monotonic()
    check_output(arguments.output)
    samples = read_samples(arguments.data)
    # Numbers below the smallest normal one slow a processor manyfold, and add nothing here.
    torch.set_flush_denormal(True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)

    from transformers.utils import logging

    logging.disable_progress_bar()
    with unfinished_folder(arguments.output) as temporary:
        for seed in range(arguments.seed, arguments.seed + SEEDS_TRIED):
            torch.manual_seed(seed)
            save(train(seed, arguments.most_steps), temporary)
            shares = measure(temporary, samples)
            for name, share in shares.items():
                print(f"held out: {name} {share:.2%}")
            missed = [f"{name} is {share:.2%}" for name, share in shares.items() if share < REQUIRED_ACCURACY]
            if not missed:
                break
            print(f"seed {seed}: {', '.join(missed)}, required {REQUIRED_ACCURACY:.1%}", file=sys.stderr, flush=True)
        else:
            print(
                f"failed: no seed reached {REQUIRED_ACCURACY:.1%}; nothing was written to {arguments.output}; "
                "try another --seed or more --most-steps",
                file=sys.stderr,
            )
            return EXIT_FAILED_CHECK
        move_model(temporary, arguments.output)
    size = sum(path.stat().st_size for path in arguments.output.iterdir())
    print(f"{arguments.output}: {size / 1e6:.1f} MB, made in {time.monotonic() - started:.0f} s")
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
