"""What a bundle is made of, and whether it may be made at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from day0.base.artefacts import digest_of_file, files_below, inventory, read_json, read_yaml
from day0.base.cli import UnusableInput
from day0.base.numbers import mapping_or_empty
from day0.decision.verdict import STAGES
from day0.records.failure_class import Decision
from day0.records.file_states import SMALL_BYTES
from day0.records.files import LEGAL_FILES, list_files
from day0.records.quantization import Quantization
from day0.records.record import AGAIN
from day0.records.results import read_metadata
from day0.records.source import Source
from day0.records.speed import SPEED
from day0.records.verdict import Verdict

RUNS = ("baseline_run", "candidate_run")
CARD = "README.md"


@dataclass(frozen=True)
class AcceptedRelease:
    """An accepted release, and the files that its bundle is made of."""

    verdict: Verdict
    quantization: Quantization
    source: Source
    checkpoint: Path
    records: Mapping[str, Path]  # files of evidence that the verdict does not name itself, by name

    @classmethod
    def read(cls, verdict: Path, quantization: Path, source: Path, report: Path, checkpoint: Path) -> Self:
        """Read the records of a release.

        Raises:
            UnusableInput: the release is not accepted, or a record is not what its type says.
        """
        content = read_json(verdict)
        if content.get("decision") != Decision.ACCEPT:
            raise UnusableInput(
                f"{verdict}: only an accepted release is bundled; the decision is {content.get('decision')!r}"
            )
        accepted = Verdict.parse(content, verdict)
        if missing := [stage for stage in STAGES if stage not in accepted.evidence]:
            raise UnusableInput(f"{verdict}: evidence: found no {', '.join(missing)}; {AGAIN}")
        return cls(
            accepted,
            Quantization.read(quantization),
            Source.read(source),
            checkpoint,
            {"verdict": verdict, "quantization": quantization, "source": source, "report": report},
        )

    @cached_property
    def evidence(self) -> dict[str, Path]:
        """Every file of evidence by its name in the bundle: assessments, results of the runs, records and report."""
        named = {name: Path(entry.path) for name, entry in self.verdict.evidence.items()}
        results = {f"{run}_results": named[run].with_name("results.yml") for run in RUNS}
        speeds = {f"{run}_speed": named[run].with_name(SPEED) for run in self.speed_digests}
        return named | results | speeds | dict(self.records)

    @cached_property
    def speed_digests(self) -> dict[str, str]:
        """sha256 of the speed.json of each run whose server was put under load."""
        speed = self.verdict.speed
        found = {"baseline_run": speed and speed.baseline_sha256, "candidate_run": speed and speed.candidate_sha256}
        return {run: digest for run, digest in found.items() if digest}

    @cached_property
    def legal_files(self) -> list[str]:
        """Licence files of the source that the checkpoint does not have."""
        return [
            name for name in self.source.files if LEGAL_FILES.fullmatch(name) and name not in self.quantization.files
        ]

    def find_changes(self) -> list[str]:
        """Sentences on what is no longer what the verdict was made from; large files are known by their sizes only."""
        changes = [
            f"{entry.path} has changed since the verdict"
            for entry in self.verdict.evidence.values()
            if not Path(entry.path).is_file() or digest_of_file(entry.path) != entry.sha256
        ]
        for run, digest in self.speed_digests.items():
            path = self.evidence[f"{run}_speed"]
            if not path.is_file() or digest_of_file(path) != digest:
                changes.append(f"{path} has changed since the verdict")
        if self.quantization.checkpoint_digest != self.verdict.digests.get("checkpoint_digest"):
            changes.append("quantization.json is of another checkpoint than the verdict")
        sizes = {name: (self.checkpoint / name).stat().st_size for name in files_below(self.checkpoint)}
        recorded = {name: entry.bytes for name, entry in self.quantization.files.items()}
        small = [name for name, size in sizes.items() if size == recorded.get(name) and size <= SMALL_BYTES]
        changed = {name for name in {*sizes, *recorded} if sizes.get(name) != recorded.get(name)}
        return (
            changes
            + self._changed(changed)
            + self.changes_of({n: e.sha256 for n, e in list_files(self.checkpoint, small).items()})
        )

    def changes_of(self, digests: Mapping[str, str]) -> list[str]:
        """Sentences on files of the checkpoint, by their digests, that are not those which were quantized."""
        recorded = self.quantization.files
        return self._changed(
            name for name, sha256 in digests.items() if name in recorded and recorded[name].sha256 != sha256
        )

    def _changed(self, names: Iterable[str]) -> list[str]:
        return [f"{self.checkpoint / name} has changed since it was quantized" for name in sorted(names)]

    @cached_property
    def samples(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Sizes and digests of the samples of both runs, which are no part of the bundle, by "baseline" and so on."""
        folders = {run.removesuffix("_run"): self.evidence[run].with_name("samples") for run in RUNS}
        return {side: inventory(folder) if folder.is_dir() else {} for side, folder in folders.items()}

    def metadata(self, run: str) -> Mapping[str, Any]:
        """What a run's results.yml records about its making."""
        return read_metadata(self._results(run), self.evidence[f"{run}_results"])

    def server(self, run: str) -> Mapping[str, Any]:
        """What a run's results.yml records about its server."""
        return mapping_or_empty(self.metadata(run).get("server"))

    def commands(self) -> dict[str, str]:
        """The commands that made the runs and started their servers, as far as they are recorded."""
        found = {}
        for run in RUNS:
            found[f"{run}, evaluate"] = str(self._results(run).get("command") or "")
            found[f"{run}, serve"] = str(self.server(run).get("command") or "")
        return {name: command for name, command in found.items() if command}

    def _results(self, run: str) -> dict[str, Any]:
        return read_yaml(self.evidence[f"{run}_results"])
