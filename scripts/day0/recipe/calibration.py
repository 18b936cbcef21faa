"""The calibration settings and local texts of the quantize stage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from day0.base.artefacts import read_lines
from day0.base.cli import UnusableInput
from day0.base.mistakes import mistakes_of
from day0.base.parsing import MAX_LINE_BYTES, Unparsable, decode, parse_json
from day0.records.recipe import Calibration


def read_calibration(settings: Mapping[str, Any], options: Mapping[str, Any]) -> Calibration:
    """Calibration settings, and what a command line's options put in their place; an option of None was not given.

    Raises:
        UnusableInput: a wrong setting, or a local file that does not exist.
    """
    given = {key: options[key] for key in Calibration.model_fields if options.get(key) is not None}
    try:
        calibration = Calibration.model_validate({**settings, **given})
    except ValidationError as error:
        raise UnusableInput("\n".join(mistakes_of(error, Calibration, "calibration"))) from None
    file = calibration.local_file
    if file is not None and not os.path.isfile(file):  # of any name: Path.is_file raises for one that is too long
        raise UnusableInput(
            f"calibration: dataset: found no file {file}; expected .jsonl or .txt, or a ModelOpt data set's name"
        )
    return calibration


def read_texts(calibration: Calibration) -> list[str]:
    """The first ``samples`` texts of a local file; none where the data set is no local file.

    Raises:
        UnusableInput: a line that is no text, or no line at all.
    """
    file = calibration.local_file
    if file is None:
        return []
    texts: list[str] = []
    for number, data in enumerate(read_lines(file), 1):
        if len(texts) == calibration.samples:
            break
        try:
            line = decode(data, MAX_LINE_BYTES).rstrip("\r")
        except Unparsable as error:
            raise UnusableInput(f"{file}:{number}: is no text in UTF-8, or too long a line: {error}") from None
        if not line.strip():
            continue
        text: Any = line
        if file.suffix == ".jsonl":
            try:
                text = parse_json(line)[calibration.text_field]
            except (ValueError, KeyError, TypeError) as error:
                raise UnusableInput(
                    f"{file}:{number}: expected an object with a text in {calibration.text_field!r}: {error!r}"
                ) from error
        if not isinstance(text, str) or not text:
            raise UnusableInput(f"{file}:{number}: {calibration.text_field!r}: found {text!r:.80}; expected a text")
        texts.append(text)
    if not texts:
        raise UnusableInput(f"{file}: holds no text; expected up to {calibration.samples}")
    return texts


def check_dataset(calibration: Calibration, is_needed: bool, known: list[str]) -> None:
    """Check that there are calibration texts where they are needed, and that ModelOpt has the data set.

    Args:
        calibration: the settings.
        is_needed: whether the recipe measures activations.
        known: names of ModelOpt's data sets.

    Raises:
        UnusableInput: no texts, or a data set that ModelOpt does not have.
    """
    if calibration.dataset is None:
        if is_needed:
            raise UnusableInput(
                "the recipe measures activations: it needs calibration texts; give calibration.dataset (FILE.jsonl, "
                "FILE.txt or a ModelOpt data set's name)"
            )
    elif calibration.local_file is None and calibration.dataset not in known:
        raise UnusableInput(
            f"calibration: dataset: found {calibration.dataset!r}; expected FILE.jsonl, FILE.txt or one of "
            f"{', '.join(known)}"
        )
