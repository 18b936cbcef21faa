"""Suites: the tasks that are asked, how they are scored and what makes a run invalid; files of config/suites."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from day0.base.artefacts import read_yaml
from day0.base.cli import UnusableInput
from day0.base.mistakes import SAFE_NAME, Name, PositiveInteger, Range, Strict, mistakes_of, nearest
from day0.suite.harness import HARNESSES

SUITES_FOLDER = Path("config/suites")
# The harness adds these to each request itself: another seed per repeat, one answer, whole.
OWN_GENERATION = frozenset({"seed", "n", "stream"})


def _known_harness(name: str) -> str:
    if name not in HARNESSES:
        raise ValueError(f"unknown harness; there are {', '.join(HARNESSES)}{nearest(name, HARNESSES)}")
    return name


def _variable_name(name: str) -> str:
    if name == "OPENAI_API_KEY":
        raise ValueError("OPENAI_API_KEY holds the key of the run's own server; copy yours to another variable")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name of an environment variable; give the name, never the value")
    return name


def _generation(settings: dict[str, Any]) -> dict[str, Any]:
    own = sorted(OWN_GENERATION & settings.keys())
    if own:
        raise ValueError(f"{', '.join(own)}: the harness sets this itself (the seed is the suite's); remove it")
    return settings


Generation = Annotated[dict[str, Any], AfterValidator(_generation)]
HarnessName = Annotated[str, AfterValidator(_known_harness)]
VariableName = Annotated[str, AfterValidator(_variable_name)]
UpToOne = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Tier = Literal["critical", "supporting", "advisory"]


class Scale(Range):
    """The range of a task's score and which end is the better one."""

    direction: Literal["higher", "lower"] = "higher"


class Reasoning(Strict):
    """What becomes of a reasoning model's thoughts before its answer is scored."""

    strip: bool = Field(True, description="score only what follows the last end mark")
    end: str = Field("</think>", min_length=1, description="text that ends the thoughts")


class Limits(Strict):
    """Fractions of a task's answers above which its score does not count."""

    cut: UpToOne = Field(0.1, description="answers that ended at the largest length instead of by themselves")
    unparsed: UpToOne = Field(0.1, description="answers in which the task's filter found nothing to score")
    empty: UpToOne = Field(0.1, description="answers without text")
    degenerate: UpToOne = Field(0.1, description="long answers that are mostly one part over and over")


class Judge(Strict):
    """The endpoint of a model that judges answers or plays the user; its key is in no file, log or command line."""

    model: str = Field(min_length=1, description="name of the model at the endpoint")
    url_variable: VariableName = Field(description="environment variable that holds the endpoint's address")
    key_variable: VariableName | None = Field(None, description="environment variable that holds the endpoint's key")


class Task(Strict):
    """One task of a suite."""

    harness: HarnessName = Field("lm-eval", description=f"one of {', '.join(HARNESSES)}")
    task: str = Field(min_length=1, description="the harness's name of the task; nemo-evaluator: FRAMEWORK.TASK")
    metric: str = Field(
        min_length=1,
        description="the canonical score: lm-eval's key, 'metric,filter'; nemo-evaluator: 'metric.score', or one name",
    )
    scale: Scale = Scale()
    tier: Tier = "critical"
    samples: PositiveInteger | None = Field(None, description="documents that the task must have; null: what it has")
    num_fewshot: Annotated[int, Field(ge=0, strict=True)] = 0
    limit: PositiveInteger | None = Field(None, description="ask only so many documents, the first ones from offset on")
    offset: Annotated[int, Field(ge=0, strict=True)] = Field(0, description="leave the first documents out")
    repeats: PositiveInteger = Field(1, description="times that each document is asked, each with a seed of its own")
    context_length: PositiveInteger | None = Field(
        None, description="tokens that this task needs, at most the suite's; null: the suite's"
    )
    concurrency: PositiveInteger | None = Field(
        None, description="prompts of this task in flight, at most; null: its share of the suite's"
    )
    generation: Generation = Field({}, description="generation settings of this task, above the suite's")
    system_prompt: str | None = Field(None, description="instead of the suite's")
    apply_chat_template: bool | None = Field(None, description="instead of the suite's")
    reasoning: Reasoning | None = Field(None, description="instead of the suite's")
    limits: Limits | None = Field(None, description="instead of the suite's")
    judge: str | None = Field(None, description="of the suite's judges, the one that scores the answers")
    simulator: str | None = Field(None, description="of the suite's judges, the one that plays the user")
    parameters: dict[str, Any] = Field({}, description="nemo-evaluator: config.params.extra of the task's framework")
    runs_generated_code: bool = Field(False, description="scoring runs what the model wrote, on this machine")
    calls_tools: bool = Field(False, description="the model is offered tools, so its server must parse calls of them")

    @model_validator(mode="after")
    def _fits_its_harness(self) -> Task:
        wrong = HARNESSES[self.harness].problems_of(self.model_dump(include=set(Task.model_fields)))
        if self.samples is not None and self.offset >= self.samples:
            wrong.append(f"offset: {self.offset} leaves none of its {self.samples} samples")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class Passage(Strict):
    """A text that a sound model finds likely."""

    context: str = Field("", description="what stands before it; its own likelihood does not count")
    text: str = Field(min_length=1)


class Canary(Strict):
    """The first requests to a server: what it answers decides whether the tasks are asked at all."""

    prompt: str = Field(min_length=1)
    max_tokens: PositiveInteger = 16
    passages: list[Passage] = Field([], description="texts whose perplexity is measured, of all their tokens together")
    max_perplexity_ratio: float = Field(2.0, gt=1, description="candidate's perplexity over the baseline's")


class Suite(Strict):
    """A suite file, config/suites/NAME.yaml."""

    description: str
    disjoint_from: list[Name] = Field([], description="suites whose documents this one must not ask")
    context_length: PositiveInteger = Field(description="tokens of the longest prompt and answer together")
    concurrency: PositiveInteger = Field(64, description="prompts in flight at the server, shared by its tasks")
    tasks_side_by_side: PositiveInteger = Field(8, description="tasks that are asked at the same time, at most")
    max_attempts: PositiveInteger = Field(4, description="attempts of a request before it counts as failed")
    request_timeout_seconds: PositiveInteger = 1800
    seed: int = 1234
    include_path: str | None = Field(None, description="folder of the harness's task files")
    data_files: list[str] = Field([], description="local files that the tasks read")
    system_prompt: str | None = None
    apply_chat_template: bool = False
    reasoning: Reasoning | None = Field(None, description="null: answers are scored as they are")
    generation: Generation = Field({}, description="generation settings of all tasks")
    limits: Limits = Limits()
    judges: dict[Name, Judge] = Field({}, description="endpoints that tasks name as their judge or simulator")
    canary: Canary
    tasks: dict[Name, Task] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Suite:
        wrong = []
        for name, task in self.tasks.items():
            for role in ("judge", "simulator"):
                judge = getattr(task, role)
                if judge is not None and judge not in self.judges:
                    known = ", ".join(sorted(self.judges)) or "none"
                    wrong.append(f"tasks.{name}.{role}: unknown judge {judge!r}; 'judges' has {known}")
            if (task.context_length or 0) > self.context_length:
                wrong.append(
                    f"tasks.{name}.context_length: {task.context_length} is above the suite's {self.context_length}, "
                    "with which the server starts"
                )
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def judges_in_use(self) -> dict[str, Judge]:
        """The judges and simulators that some task names."""
        named = {name for task in self.tasks.values() for name in (task.judge, task.simulator) if name}
        return {name: self.judges[name] for name in sorted(named)}

    def context_needs(self) -> dict[str, int]:
        """Tokens that each task needs, by name."""
        return {name: task.context_length or self.context_length for name, task in self.tasks.items()}


def load_suite(name: str, folder: Path = SUITES_FOLDER) -> Suite:
    """Read a suite file.

    Raises:
        UnusableInput: there is none of that name, or it holds mistakes; all of them are in the message.
    """
    path = folder / f"{name}.yaml"
    if not SAFE_NAME.fullmatch(name) or not os.path.isfile(path):
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise UnusableInput(f"unknown suite {name!r}; {folder} has {', '.join(known)}{nearest(name, known)}")
    return Suite.model_validate(read_suite(path))


def read_suite(path: Path) -> dict[str, Any]:
    """A suite file with every default filled in.

    Its ``include_path`` is relative to the working directory, else to the folder that holds the config/ in which
    the suite lies.

    Raises:
        UnusableInput: it holds mistakes; all of them are in the message.
    """
    try:
        suite = Suite.model_validate(read_yaml(path)).model_dump(mode="json")
    except ValidationError as error:
        raise UnusableInput("\n".join(f"{path}: {sentence}" for sentence in mistakes_of(error, Suite))) from None
    beside = path.parents[2] / suite["include_path"] if suite["include_path"] and len(path.parents) > 2 else None
    if beside and beside.is_dir() and not os.path.isdir(suite["include_path"]):
        suite["include_path"] = str(beside)
    return suite


def effective(suite: Mapping[str, Any], task: Mapping[str, Any], name: str) -> Any:
    """A setting that a task may give instead of its suite, both as JSON holds them."""
    own = task.get(name)
    return suite.get(name) if own is None else own
