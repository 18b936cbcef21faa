"""A harness at work on one task: its process, and what it reports; the protocol is in day0/suite/harness.py."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from day0.base.cli import UnusableInput
from day0.base.mistakes import mistakes_of
from day0.base.secret_texts import HUB_VARIABLES, PROXY_VARIABLES, without_secrets
from day0.evaluation.results import samples_of
from day0.records.outcome import Outcome
from day0.serving.processes import TRANSIENT_SIGNALS, Children, Transient


def usable_outcome(content: Any, task: str) -> dict[str, Any]:
    """An outcome that follows the protocol; what does not becomes one that failed, and says where."""
    try:
        outcome = Outcome.model_validate(content)
        samples_of({"samples": outcome.samples}, f"task {task}")
    except ValidationError as error:
        wrong = "; ".join(mistakes_of(error, Outcome))
    except UnusableInput as error:
        wrong = str(error)
    else:
        return dict(content)
    failed = Outcome(status="FAILED", error=f"its outcome does not follow the protocol: {wrong}", error_kind="task")
    return failed.model_dump(mode="json")


def harness_environment(
    base: Mapping[str, str], job: Mapping[str, Any], has_local_data: bool, key: str
) -> dict[str, str]:
    """The environment of a harness: of its caller's secrets only those that its task needs.

    Args:
        job: what to ask; the variables that its judge and simulator name are handed on.
        has_local_data: whether the task's documents lie in files; else they may come from the model hub.
        key: of the run's own server.
    """
    endpoints = [endpoint for role in ("judge", "simulator") if (endpoint := job[role])]
    needed = {endpoint[variable] for endpoint in endpoints for variable in ("url_variable", "key_variable")}
    if not has_local_data:
        needed |= HUB_VARIABLES
    if needed:
        needed |= PROXY_VARIABLES
    environment = without_secrets(base, needed) | {"OPENAI_API_KEY": key, "TOKENIZERS_PARALLELISM": "false"}
    if job["include_path"]:
        # Local task files: a data-set cache of the run's own, which no other run's files can be mistaken for.
        environment["HF_DATASETS_CACHE"] = str(Path(job["output"]).with_name(f"datasets-{Path(job['output']).stem}"))
    return environment


class HarnessProcess:
    """One harness process.

    Args:
        command: the harness's interpreter and script.
        job: what to ask; its ``output`` is where the outcome is expected.
        environment: see :func:`harness_environment`.
        log: file of its standard error.
    """

    def __init__(
        self,
        children: Children,
        command: Sequence[str],
        name: str,
        job: Mapping[str, Any],
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self.name, self.output = name, Path(job["output"])
        self.done = self.total = 0
        self._samples: queue.SimpleQueue[list[dict[str, Any]]] = queue.SimpleQueue()
        self.began = time.monotonic()
        with log.open("ab") as stream:
            # All harnesses in the stage's session: while they load, the server gets its share of the processors.
            self.process = children.start(
                command,
                own_session=False,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=dict(environment),
                text=True,
                encoding="utf-8",
            )
        self.tell(job)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.poll() is None

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a line of the protocol: the job, the server's address once it answers, later what changes."""
        if "base_url" in message:
            self.began = time.monotonic()
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def take_samples(self) -> list[dict[str, Any]]:
        """The samples that were reported since the last call."""
        samples: list[dict[str, Any]] = []
        with contextlib.suppress(queue.Empty):
            while True:
                samples += self._samples.get_nowait()
        return samples

    def outcome(self) -> dict[str, Any] | None:
        """What the process wrote, or None; raises Transient where it was ended from outside."""
        self._reader.join(timeout=10)
        code = self.process.wait()
        if code < 0 and -code in TRANSIENT_SIGNALS:
            raise Transient(f"the client of task {self.name} was killed by signal {-code}")
        try:
            content = json.loads(self.output.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return usable_outcome(content, self.name)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") == "progress":
                self.done, self.total = event["done"], event["total"]
            if isinstance(event, dict) and event.get("event") == "samples":
                self._samples.put(event["samples"])
