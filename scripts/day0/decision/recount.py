"""What a task's samples say themselves: one typed pass over samples/TASK.jsonl, and its counts.

The accounts of results.yml are what the maker of a run says of it. Here the same counts are taken from the samples, and
what no account holds: samples that are there twice, repeats that lack a question, texts of errors in place of answers,
thoughts that do not end, loops. ``differences`` holds both against each other.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from day0.base.artefacts import read_lines
from day0.base.mistakes import mistakes_of
from day0.base.numbers import is_count, is_number
from day0.base.parsing import MAX_LINE_BYTES, Unparsable, decode, parse_json
from day0.decision.answer_texts import DEFAULT_END, after_thoughts, has_open_thoughts, is_empty, is_error_text, is_loop
from day0.records.samples import Sample

MISTAKES_SHOWN = 3
FAULTS = ((), ("id",), ("score",))  # places in a line that make it no sample, whichever tool wrote it
ERROR_QUESTIONS = 3  # one text of an error as the answer to so many different questions is not what they ask for
SENTENCE_WORDS, SENTENCE_LENGTH = 5, 24  # a shorter answer is a choice, a name or a number, which repeat by nature
SENTENCE_SHARE = 0.5  # of the answers: more than this, and never with another score, were not answered


class _ForeignSample(Sample):
    """A line of a samples file that another tool wrote, whose further keys are left out."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


@dataclass(frozen=True)
class SamplesFile:
    """A samples file as it was read.

    Attributes:
        lines: how many there are.
        samples: those that are one, in their order.
        mistakes: sentences on the first lines that are none, with their numbers.
        faults: those of them that any tool would call one: no JSON object, no id, or no score that is a finite number.
    """

    lines: int
    samples: list[Sample] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def _sample_of(line: bytes, kind: type[Sample]) -> Sample:
    """The sample of a line, by pydantic's own parser where no key can stand twice: it is three times as fast.

    Each key ends in a quote and a colon, so that as many of these as fields were found leave none for another key.

    Raises:
        Unparsable, ValidationError: it is none.
    """
    if len(line) <= MAX_LINE_BYTES and b" :" not in line and b"\t:" not in line:
        sample = kind.model_validate_json(line)
        if line.count(b'":') == len(sample.model_fields_set):
            return sample
    return kind.model_validate(parse_json(decode(line, MAX_LINE_BYTES)))


def _has_score(line: bytes) -> bool:
    """Whether a line that is no sample is an object of JSON with a score."""
    try:
        content = parse_json(decode(line, MAX_LINE_BYTES))
    except Unparsable:
        return False
    return isinstance(content, dict) and is_number(content.get("score"))


def read_samples_file(file: Path, is_own: bool = True) -> SamplesFile:
    """Read a samples file once, each line by its type; a line that is no sample is a mistake and no error.

    Args:
        file: a missing one holds no line.
        is_own: this project wrote it, so that an unknown key is a mistake.
    """
    kind = Sample if is_own else _ForeignSample
    samples: list[Sample] = []
    mistakes: list[str] = []
    faults: list[str] = []
    number = 0
    for number, line in enumerate(read_lines(file) if file.is_file() else (), start=1):
        try:
            samples.append(_sample_of(line, kind))
        except ValidationError as error:
            is_fault = any(entry["loc"][:1] in FAULTS for entry in error.errors(include_url=False))
            # Such a line keeps the task from being counted, so that a missing score would go unseen.
            is_fault = is_fault or not _has_score(line)
            wanting = [found for found in (mistakes, *([faults] if is_fault else [])) if len(found) < MISTAKES_SHOWN]
            if wanting:
                mistake = "; ".join(mistakes_of(error, Sample, f"line {number}"))
        except Unparsable as error:
            wanting = [found for found in (mistakes, faults) if len(found) < MISTAKES_SHOWN]
            mistake = f"line {number}: expected a sample in JSON: {error}"
        else:
            continue
        for found in wanting:
            found.append(mistake)
    return SamplesFile(number, samples, mistakes, faults)


@dataclass(frozen=True)
class Repetition:
    """One text that is the whole answer to several questions."""

    text: str
    answers: int
    questions: int


@dataclass(frozen=True)
class Recount:
    """Counts of a task's samples; None where the samples do not hold what it takes.

    Attributes:
        samples: all of them.
        scored: with a finite score.
        blank: answers without text, as they were scored.
        empty: answers without text once thoughts are taken off; at least ``blank``.
        cut: answers that ended at the largest length, as far as ends are known.
        ends: samples that say how their answer ended.
        cut_in_thoughts: of the cut ones, those that never came to an answer.
        open_thoughts: answers that ended by themselves with their thoughts still open.
        degenerate: answers that are mostly one part over and over.
        errors: texts of an error, where one of them answers ``ERROR_QUESTIONS`` questions or more; the most frequent.
        sentence: one long text that more than ``SENTENCE_SHARE`` of the answers are, all with one and the same score.
        doubled: ids and repeats that are there more than once.
        uneven: for repeats that lack questions of others, a sentence each.
        repeats: numbers of the repeats.
    """

    samples: int
    scored: int
    blank: int | None
    empty: int | None
    cut: int | None
    ends: int
    cut_in_thoughts: int
    open_thoughts: int
    degenerate: int
    errors: Repetition | None
    sentence: Repetition | None
    doubled: list[tuple[str, int]]
    uneven: list[str]
    repeats: list[int]

    def sentence_finding(self) -> str:
        """What the one long text that most answers are means, in a sentence."""
        assert self.sentence is not None
        return (
            f"{self.sentence.answers} of {self.samples} answers are {_quoted(self.sentence.text)}, and all of these "
            "have one score: the questions were not answered"
        )


def recount(samples: Sequence[Sample], reasoning: Mapping[str, Any] | None = None) -> Recount:
    """Count a task's samples.

    Args:
        samples: of one run, all repeats.
        reasoning: {strip, end} as the suite has it; None: thoughts are known only by the usual marks.
    """
    end = str(reasoning["end"]) if reasoning and reasoning.get("end") else DEFAULT_END
    strips = bool(reasoning and reasoning.get("strip"))
    texts = [(sample, sample.answer) for sample in samples if sample.answer is not None]
    cut = [sample for sample in samples if sample.finish_reason == "length" and sample.score is not None]
    blank = empty = None
    if texts:  # where no answer was kept, nothing is known of any
        # A score without an answer, beside answers that were kept: there was no text.
        answerless = sum(sample.answer is None and sample.score is not None for sample in samples)
        blank = answerless + sum(not text.strip() for _, text in texts)
        empty = answerless + sum(is_empty(text, end) for _, text in texts)
    opened = [sample for sample, text in texts if has_open_thoughts(text, end)]
    ends = sum(sample.finish_reason is not None for sample in samples)
    return Recount(
        samples=len(samples),
        scored=sum(is_number(sample.score) for sample in samples),
        blank=blank,
        empty=empty,
        cut=len(cut) if ends else None,
        ends=ends,
        cut_in_thoughts=sum(_ended_in_thoughts(sample, end, strips) for sample in cut),
        open_thoughts=sum(sample.finish_reason != "length" for sample in opened),
        degenerate=sum(is_loop(text) for _, text in texts),
        errors=_repeated_error(texts),
        sentence=_repeated_sentence(samples, texts, end),
        doubled=[key for key, count in Counter((s.id, s.repeat) for s in samples).items() if count > 1],
        uneven=_uneven_repeats(samples),
        repeats=sorted({sample.repeat for sample in samples}),
    )


def _ended_in_thoughts(sample: Sample, end: str, strips: bool) -> bool:
    """Whether a cut answer is all thoughts: they are open, or it has no end mark and none was taken off.

    A harness that strips takes the mark off with the thoughts. Then the text is shorter than what was generated; a text
    of at least a character for each token is the whole of it.
    """
    text = sample.answer or ""
    if has_open_thoughts(text, end):
        return True
    return strips and end not in text and sample.tokens is not None and len(text) >= sample.tokens > 0


def _repeated_error(texts: Iterable[tuple[Sample, str]]) -> Repetition | None:
    """The most frequent text of an error; texts that differ only in numbers, such as a request's id, are one."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample, text in texts:
        if is_error_text(text):
            found[re.sub(r"[0-9a-f-]*\d[0-9a-f-]*", "0", text.strip().lower())].append(sample)
    if not found:
        return None
    most = max(found.values(), key=len)
    questions = len({sample.id for sample in most})
    return Repetition(most[0].answer or "", len(most), questions) if questions >= ERROR_QUESTIONS else None


def _repeated_sentence(samples: Sequence[Sample], texts: Sequence[tuple[Sample, str]], end: str) -> Repetition | None:
    """The one long text that most answers are, whatever was expected; None where it is right for some of them."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample, text in texts:
        found[after_thoughts(text, end).strip()].append(sample)
    if not found:
        return None
    text, most = max(found.items(), key=lambda item: len(item[1]))
    if len(text) < SENTENCE_LENGTH or len(text.split()) < SENTENCE_WORDS or len(most) <= SENTENCE_SHARE * len(samples):
        return None
    targets = {sample.target_digest for sample in most}
    if len({sample.score for sample in most}) > 1 or (len(targets) == 1 and None not in targets):
        return None
    return Repetition(text, len(most), len({sample.id for sample in most}))


def _uneven_repeats(samples: Iterable[Sample]) -> list[str]:
    questions: dict[int, set[str]] = defaultdict(set)
    for sample in samples:
        questions[sample.repeat].add(sample.id)
    every = set().union(*questions.values())
    return [
        f"repeat {repeat} lacks {len(missing)} of {len(every)} questions (such as id {min(missing)})"
        for repeat, asked in sorted(questions.items())
        if (missing := every - asked)
    ]


def differences(found: Recount, accounting: Mapping[str, Any], repeats: int | None = None) -> list[str]:
    """Where the samples are not what the account says of them, a sentence each: what was found, what was expected.

    Args:
        accounting: of results.yml; a count that is null states nothing.
        repeats: that the suite declares; None: not known.
    """
    sentences = []

    def compare(name: str, counted: int | None, what: str, is_whole: bool = True) -> None:
        stated = accounting.get(name)
        if counted is None or not is_count(stated) or stated == counted or (not is_whole and stated > counted):
            return
        sentences.append(f"{counted} of {found.samples} samples {what}, but the accounts say {stated}")

    compare("asked", found.samples, "are there")
    compare("scored", found.scored, "have a score")
    compare("empty", found.blank, "hold an empty answer")
    # Where some samples do not say how they ended, more may be cut.
    compare("cut", found.cut, "ended at the largest length", is_whole=found.ends >= found.scored)
    if found.doubled:
        identity, repeat = found.doubled[0]
        example = f"id {identity}, repeat {repeat}"
        sentences.append(f"{len(found.doubled)} samples are there more than once (such as {example}), expected once")
    sentences += [f"{sentence}, expected the same in each" for sentence in found.uneven]
    if repeats and found.samples and found.repeats != list(range(repeats)):
        numbers = ", ".join(map(str, found.repeats[:8])) + (", …" if len(found.repeats) > 8 else "")
        sentences.append(f"its samples are of repeats {numbers}, expected 0 to {repeats - 1}")
    if found.errors:
        sentences.append(
            f"{found.errors.answers} answers, to {found.errors.questions} questions, are the text of an error "
            f"({_quoted(found.errors.text)}), expected what the model says"
        )
    return sentences


def with_recount(accounting: Mapping[str, Any], found: Recount) -> dict[str, Any]:
    """An account with what the samples show beyond it: the larger count of empty and cut answers, and loops."""
    recounted = {
        "empty": found.empty,
        "cut": found.cut,
        "open_thoughts": found.open_thoughts,
        "degenerate": found.degenerate,
    }
    merged = dict(accounting)
    for name, count in recounted.items():
        stated = accounting.get(name)
        if count is not None and (stated is None or is_count(stated)):
            merged[name] = max(count, stated or 0)
    return merged


def _quoted(text: str, length: int = 80) -> str:
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= length else f"{shown[: length - 1]}…")
