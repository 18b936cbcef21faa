"""Make the evaluation and calibration data of the embedded demo model from a fixed seed.

Three tasks over a vocabulary of single characters, each prompt closed by a symbol of its own so that the model knows
the task from the prompt alone:

- ``addition``  ``5768+6746=`` answered ``41521``: a sum of two 4-digit numbers, lowest digit first (generated);
- ``reversal``  ``mabcab>`` answered ``bacbam``: six letters in reverse (generated);
- ``sorting``   ``593104:`` answered ``013459``: six digits in ascending order (four choices, three near misses).

Which problems are held out for the evaluation is decided by ``is_held_out`` alone: a fixed hash of the problem's
canonical form, so that ``6746+5768=``, the mirror image of a held-out word and every order of a held-out handful of
digits are held out with it. Training and calibration draw from the other side. The seed chooses problems within a
side, never the side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from day0.base.artefacts import write_text
from day0.base.cli import run_cli

TASKS = ("addition", "reversal", "sorting")
LETTERS = "abcdefghijklm"
CLOSING = {"addition": "=", "reversal": ">", "sorting": ":"}
SEPARATOR = ";"
"""Stands between worked examples in one prompt."""

EVALUATION_SAMPLES = 1000
CALIBRATION_SAMPLES = 768
CHOICES = 4
LENGTH = 6
"""Letters per word and digits per handful."""

DIGITS = 4
"""Digits of each operand of an addition."""

HELD_OUT_SHARE = 0.2
"""Share of all problems that training and calibration never see."""

DEFAULT_SEED = 1234


def canonical_codes(task: str, problems: np.ndarray) -> np.ndarray:
    """Give each problem the number that it shares with its trivial variants (swapped, mirrored, reordered).

    Args:
        task: one of ``TASKS``.
        problems: integers, shape [n, 2] (addition: the two operands) or [n, 6] (letters 0-12 or digits 0-9).

    Returns:
        uint64, shape [n].
    """
    if task == "addition":
        variants = [np.sort(problems, axis=1)]
        base = 10**DIGITS
    elif task == "reversal":
        variants = [problems, problems[:, ::-1]]
        base = len(LETTERS)
    else:
        variants = [np.sort(problems, axis=1)]
        base = 10
    weights = base ** np.arange(problems.shape[1], dtype=np.uint64)[::-1]
    return np.min([variant.astype(np.uint64) @ weights for variant in variants], axis=0)


def is_held_out(task: str, problems: np.ndarray) -> np.ndarray:
    """Say for each problem whether it belongs to the evaluation (True) or to training and calibration (False).

    The canonical code is hashed with SplitMix64's finalizer (Steele, Lea, Flood 2014, doi 10.1145/2714064.2660195).

    Args:
        task: one of ``TASKS``.
        problems: as for ``canonical_codes``.

    Returns:
        bool, shape [n].
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = (canonical_codes(task, problems) + np.uint64(TASKS.index(task) << 32)) * golden + golden
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state < np.uint64(HELD_OUT_SHARE * 2**64)


def draw_problems(task: str, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw problems of a task uniformly, from both sides, with repetitions; shape as for ``canonical_codes``."""
    if task == "addition":
        return generator.integers(10 ** (DIGITS - 1), 10**DIGITS, size=(count, 2))
    symbols = len(LETTERS) if task == "reversal" else 10
    return generator.integers(0, symbols, size=(count, LENGTH))


def distinct_problems(task: str, count: int, held_out: bool, generator: np.random.Generator) -> np.ndarray:
    """Draw ``count`` different problems from one side; for sorting with at least three different digits each."""
    drawn = draw_problems(task, 16 * count, generator)
    drawn = drawn[is_held_out(task, drawn) == held_out]
    if task == "sorting":
        drawn = drawn[(np.diff(np.sort(drawn, axis=1), axis=1) > 0).sum(axis=1) >= 2]
    _, first = np.unique(drawn, axis=0, return_index=True)
    if len(first) < count:
        raise ValueError(f"{task}: {len(first)} different problems drawn, {count} wanted")
    return drawn[np.sort(first)[:count]]


def prompt_and_answer(task: str, problem: np.ndarray) -> tuple[str, str]:
    """Write one problem as its prompt and the one right answer."""
    if task == "addition":
        left, right = (int(operand) for operand in problem)
        prompt, answer = f"{left}+{right}", str(left + right)[::-1]
    elif task == "reversal":
        prompt = "".join(LETTERS[index] for index in problem)
        answer = prompt[::-1]
    else:
        prompt = "".join(str(digit) for digit in problem)
        answer = "".join(sorted(prompt))
    return prompt + CLOSING[task], answer


def parse_prompt(task: str, prompt: str) -> np.ndarray:
    """Read a prompt back into its problem, shape [2] or [6].

    Raises:
        ValueError: the text is no prompt of this task.
    """
    body = prompt.removesuffix(CLOSING[task])
    try:
        if task == "addition":
            problem = np.array([int(operand) for operand in body.split("+")])
            fits = len(problem) == 2 and all(10 ** (DIGITS - 1) <= operand < 10**DIGITS for operand in problem)
        else:
            problem = np.array([(LETTERS if task == "reversal" else "0123456789").index(symbol) for symbol in body])
            fits = len(problem) == LENGTH
        if fits and prompt_and_answer(task, problem)[0] == prompt:
            return problem
    except ValueError:
        pass
    raise ValueError(f"{prompt!r} is no prompt of the task {task}")


def near_misses(answer: str, generator: np.random.Generator) -> list[str]:
    """Make three wrong answers to a sorting problem, each as close to the right one as it can be.

    Two neighbours swapped; one digit off by one, the rest still in order; one digit lost and another written twice.
    A kind that a given answer does not allow is made up for by another kind.
    """
    digits = [int(symbol) for symbol in answer]
    swapped = []
    for place in range(LENGTH - 1):
        if digits[place] != digits[place + 1]:
            swapped.append([*digits[:place], digits[place + 1], digits[place], *digits[place + 2 :]])
    shifted = []
    for place in range(LENGTH):
        for step in (-1, 1):
            if 0 <= digits[place] + step <= 9:
                shifted.append(sorted([*digits[:place], digits[place] + step, *digits[place + 1 :]]))
    doubled = []
    for lost in range(LENGTH):
        for kept in set(digits) - {digits[lost]}:
            doubled.append(sorted([*digits[:lost], kept, *digits[lost + 1 :]]))
    chosen: list[str] = []
    for kind in (swapped, shifted, doubled, swapped + shifted + doubled):
        texts = ["".join(map(str, candidate)) for candidate in kind]
        fresh = sorted(set(texts) - set(chosen) - {answer})
        if fresh and len(chosen) < CHOICES - 1:
            chosen.append(fresh[generator.integers(len(fresh))])
    return chosen


def evaluation_samples(task: str, generator: np.random.Generator) -> list[dict[str, object]]:
    """Make the held-out samples of a task: id, prompt, answer; for sorting also choices and the right one's index."""
    samples: list[dict[str, object]] = []
    for number, problem in enumerate(distinct_problems(task, EVALUATION_SAMPLES, True, generator)):
        prompt, answer = prompt_and_answer(task, problem)
        sample: dict[str, object] = {"id": f"{task}-{number:04d}", "prompt": prompt, "answer": answer}
        if task == "sorting":
            choices = near_misses(answer, generator)
            gold = int(generator.integers(CHOICES))
            choices.insert(gold, answer)
            sample |= {"choices": choices, "gold": gold}
        samples.append(sample)
    return samples


def calibration_samples(generator: np.random.Generator) -> list[dict[str, str]]:
    """Make calibration texts, prompt and answer as in training, the tasks in turn."""
    drawn = [distinct_problems(task, CALIBRATION_SAMPLES // len(TASKS), False, generator) for task in TASKS]
    rounds = zip(*drawn, strict=True)
    return [
        {"text": "".join(prompt_and_answer(task, problem))}
        for problems in rounds
        for task, problem in zip(TASKS, problems, strict=True)
    ]


def make_data(seed: int = DEFAULT_SEED) -> dict[str, list[dict[str, object]]]:
    """Make every file of the demo's data: file name to its rows, the same for the same seed."""
    streams = np.random.SeedSequence(seed).spawn(len(TASKS) + 1)
    files: dict[str, list[dict[str, object]]] = {}
    for task, stream in zip(TASKS, streams, strict=False):
        files[f"{task}.jsonl"] = evaluation_samples(task, np.random.default_rng(stream))
    files["calibration.jsonl"] = [dict(row) for row in calibration_samples(np.random.default_rng(streams[-1]))]
    return files


def seed_value(text: str) -> int:
    """Read a seed from the command line.

    Raises:
        argparse.ArgumentTypeError: no whole number from 0 to 2**32 - 1.
    """
    if text.isascii() and text.isdigit() and int(text) < 2**32:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0 to {2**32 - 1}")


def main() -> None:
    """Write the files and print a line for each."""
    parser = argparse.ArgumentParser(
        description="Make the held-out evaluation samples and the calibration texts of the embedded demo as JSONL."
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write the four .jsonl files to")
    parser.add_argument(
        "--seed", type=seed_value, default=DEFAULT_SEED, help="chooses the samples (default: %(default)s)"
    )
    arguments = parser.parse_args()
    for name, rows in make_data(arguments.seed).items():
        path = arguments.output_dir / name
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        print(f"{path}: {len(rows)} samples, first: {json.dumps(rows[0])}")


if __name__ == "__main__":
    run_cli(main)
