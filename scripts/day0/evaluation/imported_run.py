"""A run that was made elsewhere, put into the shape of one of the graph's, so that it passes the same gate.

A run is read from a results.yml of this project, from NeMo Evaluator's, or from a folder of NeMo Evaluator's runs (one
per task; the folders of its launcher too). What a file does not tell is null or left out, and listed as unknown; it is
never filled in, but for the counts of samples where the configuration trusts the framework's or the suite's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from day0.base.artefacts import digest_of, digest_of_file, read_json_lines, read_yaml
from day0.base.cli import UnusableInput
from day0.base.mistakes import mistakes_of
from day0.base.numbers import mapping_or_empty
from day0.evaluation.nemo_evaluator import (
    LM_EVALUATION_HARNESS,
    MARKERS,
    METRICS_FILE,
    REPEAT_PARAMETERS,
    count_of,
    read_response_statistics,
    read_samples,
    version_of,
)
from day0.evaluation.results import fingerprint_of, in_order, statistics_of
from day0.evaluation.run_logs import logs_of, scan_log_file
from day0.records.failure_class import FailureClass
from day0.records.results import RunMetadata, read_metadata
from day0.records.samples import OPTIONAL_FIELDS, SAMPLE_FIELDS
from day0.suite.documents import count_asked
from day0.suite.score_names import canonical_score, find_score, find_task

OURS, NEMO_EVALUATOR = "day0", "nemo-evaluator"
RESULTS = "results.yml"
TRUST = "trust"
# What samples alone tell of how a run was made.
KNOWN_FROM_SAMPLES = ("data_digest", "sample_ids_digest", "prompts_digest", "task_hash")
COUNTS = ("asked", "answered", "scored", "empty", "cut", "unparsed", "failed")


@dataclass(frozen=True)
class Document:
    """One results.yml and the folder of the run that wrote it."""

    path: Path
    content: Mapping[str, Any]
    digest: str

    @property
    def folder(self) -> Path:
        """Folder of the file."""
        return self.path.parent

    def part(self, *keys: str) -> Mapping[str, Any]:
        """A mapping below the content; empty where there is none."""
        found: Any = self.content
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return mapping_or_empty(found)

    @property
    def producer(self) -> str:
        """This project's name where it wrote the file, else NeMo Evaluator's."""
        ours = isinstance(self.part("metadata").get("accounting"), Mapping)
        return OURS if ours else NEMO_EVALUATOR

    @property
    def task_names(self) -> set[str]:
        """Names under which a task of the run may be known."""
        names = {str(self.part("config").get("type")), str(self.part("config", "params").get("task"))}
        tasks = {str(name) for part in ("tasks", "groups") for name in self.part("results", part)}
        return {name.rpartition(".")[2] for name in names} | tasks


@dataclass
class Import:
    """What an import makes: the content of results.yml and the lines of the samples files by task."""

    document: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def find_results(path: Path) -> list[Path]:
    """The results files of a run: the file itself, or those of a folder.

    Raises:
        UnusableInput: there is none.
    """
    if path.is_file():
        return [path]
    for below in (path / RESULTS, path / "artifacts" / RESULTS):
        if below.is_file():
            return [below]
    found = sorted(path.rglob(RESULTS)) if path.is_dir() else []
    if not found:
        raise UnusableInput(f"{path}: expected a {RESULTS}, or a folder with one in it; found none")
    return found


def imported_files(path: Path) -> list[Path]:
    """Every file that an import of ``path`` may read: results, statistics and samples."""
    files: list[Path] = []
    for results in find_results(path):
        folder = results.parent
        patterns = ("samples_*.jsonl", "samples/*.jsonl", "nemo-evaluator-per-sample-outputs/*.jsonl", "results_*.json")
        files += [results, *(found for pattern in patterns for found in sorted(folder.rglob(pattern)))]
        files += [log for place in log_folders(folder) for log in sorted(place.rglob("*.log"))]
        files += [found for name in (METRICS_FILE, *MARKERS) if (found := folder / name).is_file()]
    return list(dict.fromkeys(files))


def log_folders(folder: Path) -> list[Path]:
    """Where the logs of a run lie: below its results, by shards too, or beside the launcher's artifacts."""
    beside = [folder.parent / "logs"] if folder.name == "artifacts" else []
    return [place for place in (folder / "logs", *sorted(folder.glob("shards/*/logs")), *beside) if place.is_dir()]


def read_documents(path: Path) -> list[Document]:
    """The results of a run.

    Raises:
        UnusableInput: there are none, or one is no results.yml.
    """
    documents = []
    for file in find_results(path):
        content = read_yaml(file)
        if not isinstance(content.get("results"), Mapping):
            raise UnusableInput(
                f"{file}: expected a mapping 'results' with tasks, as NeMo Evaluator writes; "
                f"found {', '.join(map(str, content)) or 'nothing'}"
            )
        documents.append(Document(file, content, digest_of_file(file)))
    return documents


def import_run(
    path: Path,
    *,
    suite_name: str,
    suite: Mapping[str, Any],
    model: str,
    candidate: str,
    model_ids: list[str],
    counts: str,
    checkpoint_digest: str,
) -> Import:
    """Read a run and put it into the shape of the graph's.

    Args:
        path: what ``find_results`` takes.
        suite_name, suite: the suite that the run answers, with every default filled in.
        model: name of the model in the configuration.
        candidate: "baseline" or the recipe's name.
        model_ids: names under which the run may have served the model.
        counts: require or trust; see the configuration's ``imported_counts``.
        checkpoint_digest: of the checkpoint that the run is taken to be of.

    Returns:
        The run; one that cannot be used has status FAILED, with the class and the reason.
    """
    identity: dict[str, Any] = {"model": model, "candidate": candidate, "suite": suite_name}
    imported: dict[str, Any] = {"path": str(path), "digest": None, "producer": None, "counts": counts}
    imported["attributed_digest"] = checkpoint_digest
    try:
        documents = read_documents(path)
        digests = {str(document.path): document.digest for document in documents}
        imported["digest"] = documents[0].digest if len(documents) == 1 else digest_of(digests)
        producers = {document.producer for document in documents}
        imported["producer"] = OURS if producers == {OURS} else NEMO_EVALUATOR
        if producers == {OURS} and len(documents) == 1:
            return _own_run(documents[0], suite, identity, imported)
        if OURS in producers:
            raise UnusableInput(
                f"{path}: holds {len(documents)} runs, some of them this project's; import one of those by its own path"
            )
        return _nemo_run(documents, suite, identity, model_ids, imported)
    except UnusableInput as error:
        failure = _failure(FailureClass.USER_CONFIG_ERROR, str(error))
        metadata = RunMetadata(**identity, **failure, checkpoint_digest=None, accounting={}, imported=imported)
        return Import(_document({}, {}, metadata.as_metadata()))


def _failure(failure_class: FailureClass, detail: str) -> dict[str, Any]:
    return {"status": "FAILED", "failure_class": str(failure_class), "detail": detail}


def _document(content: Mapping[str, Any], tasks: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "command": str(content.get("command") or ""),
        "config": mapping_or_empty(content.get("config")),
        "git_hash": str(content.get("git_hash") or ""),
        "results": {"groups": {}, "tasks": dict(tasks)},
        "target": mapping_or_empty(content.get("target")),
        "metadata": {"schema_version": 1, "checkpoint_digest": None, "accounting": {}, **metadata},
    }


def _own_run(
    document: Document, suite: Mapping[str, Any], identity: Mapping[str, Any], imported: dict[str, Any]
) -> Import:
    """A run of this project: everything is recorded, and everything must match."""
    metadata = read_metadata(document.content, document.path)
    wrong = [
        f"{key} is {metadata.get(key)!r}, expected {value!r}"
        for key, value in identity.items()
        if metadata.get(key) != value
    ]
    recorded = metadata.get("checkpoint_digest")
    if recorded is not None and recorded != imported["attributed_digest"]:
        wrong.append(f"its checkpoint has digest {str(recorded)[:12]}, expected {imported['attributed_digest'][:12]}")
    if wrong:
        raise UnusableInput(f"{document.path}: is another run: {'; '.join(wrong)}; import the run that fits")
    imported["unknown"] = [] if recorded is not None else ["checkpoint_digest"]
    findings = document.part("metadata", "imported").get("log_findings") or []
    if not isinstance(findings, list):
        raise UnusableInput(f"{document.path}: metadata.imported.log_findings: found {findings!r}; expected a list")
    imported["log_findings"] = [
        *findings,
        *(entry for log in logs_of(document.folder, metadata, suite) for entry in scan_log_file(log, str(log))),
    ]
    samples = {}
    for name in suite["tasks"]:
        file = document.folder / "samples" / f"{name}.jsonl"
        if file.is_file():
            samples[name] = _own_samples(file)
    # The record of a copied copy names the file that was copied last.
    whole = {**metadata, "imported": imported}
    results = _document(document.content, document.part("results", "tasks"), whole)
    return Import(results, samples)


def _own_samples(file: Path) -> list[dict[str, Any]]:
    samples = []
    for place, sample in read_json_lines(file):
        try:
            json.dumps(sample, allow_nan=False)
        except ValueError as error:
            raise UnusableInput(f"{place}: expected finite numbers, found NaN or an infinity") from error
        samples.append(sample)
    return samples


def _nemo_run(
    documents: list[Document],
    suite: Mapping[str, Any],
    identity: Mapping[str, Any],
    model_ids: list[str],
    imported: dict[str, Any],
) -> Import:
    for document in documents:
        _check_model(document, model_ids)
    tasks: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    problems: list[tuple[FailureClass, str]] = []
    for document in documents:
        problems += [
            (FailureClass.INFRA_TRANSIENT, f"{document.folder / marker}: {meaning}; let the run end, then import it")
            for marker, meaning in MARKERS.items()
            if (document.folder / marker).exists()
        ]
    for name, task in suite["tasks"].items():
        document = _document_of(name, task, documents)
        score, parts[name], lines = _task(name, document, suite, task, imported["counts"])
        metric, score_name = canonical_score(task["metric"])
        tasks[name] = {"metrics": {metric: {"scores": {score_name: score}}}}
        if lines is not None:
            samples[name] = lines
        if parts[name]["accounting"]["scored"] is None:
            problems.append(
                (
                    FailureClass.SAMPLE_ACCOUNTING_FAILED,
                    f"task {name}: {document.path} does not tell how many samples were scored (its folder holds no "
                    "lines per sample); import the whole folder, or set imported_counts: trust",
                )
            )
    trusted = {name: part["trusted"] for name, part in parts.items() if part["trusted"]}
    imported["trusted_counts"] = trusted
    logs = [log for document in documents for place in log_folders(document.folder) for log in place.rglob("*.log")]
    imported["log_findings"] = [entry for log in sorted(set(logs)) for entry in scan_log_file(log, str(log))]
    imported["unknown"] = ["checkpoint_digest", "suite_digest", "server"]
    imported["unknown_of_tasks"] = {name: part["unknown"] for name, part in parts.items()}
    status: dict[str, Any] = {
        "status": "COMPLETED",
        "failure_class": None,
        "detail": f"imported from {imported['path']}",
    }
    if problems:
        status = _failure(problems[0][0], "; ".join(sentence for _, sentence in problems))
    first = documents[0].content if len(documents) == 1 else _common(documents)
    try:
        metadata = RunMetadata(
            **status,
            **identity,
            checkpoint_digest=None,
            accounting={name: part["accounting"] for name, part in parts.items()},
            requests={name: part["requests"] for name, part in parts.items()},
            fingerprint={name: part["fingerprint"] for name, part in parts.items()},
            imported=imported,
        ).as_metadata()
    except ValidationError as error:
        raise UnusableInput("; ".join(mistakes_of(error, RunMetadata, imported["path"]))) from None
    except ValueError as error:  # binary content, which no JSON holds
        raise UnusableInput(f"{imported['path']}: expected text, numbers and lists of them: {error}") from error
    return Import(_document(first, tasks, metadata), samples)


def _check_model(document: Document, model_ids: list[str]) -> None:
    model_id = document.part("target", "api_endpoint").get("model_id")
    if model_id is None:
        return
    known = {form for name in model_ids for form in (name, PurePath(name).name)}
    if str(model_id) not in known and PurePath(str(model_id)).name not in known:
        raise UnusableInput(
            f"{document.path}: target.api_endpoint.model_id is {model_id!r}, expected {' or '.join(model_ids)}; import "
            f"a run of this model, or set model_id: {model_id} beside its path where it is the same model's other name"
        )


def _document_of(name: str, task: Mapping[str, Any], documents: list[Document]) -> Document:
    wanted = {name, task["task"].rpartition(".")[2]}
    fitting = [document for document in documents if wanted & document.task_names]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        there = ", ".join(sorted({known for document in documents for known in document.task_names} - {"None"}))
        places = ", ".join(str(document.path) for document in documents)
        raise UnusableInput(f"{places}: expected a run of task {' or '.join(sorted(wanted))}; found {there or 'none'}")
    places = ", ".join(str(document.path) for document in fitting)
    raise UnusableInput(f"{places}: expected one run of task {name}, found {len(fitting)}; import one of them")


def _task(
    name: str, document: Document, suite: Mapping[str, Any], task: Mapping[str, Any], counts: str
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]] | None]:
    """Score, accounts and fingerprint of one task, and its samples where there are any."""
    names = [task["task"].rpartition(".")[2], name, *sorted(document.task_names)]
    try:
        metrics = find_task(document.part("results"), names, task["metric"])
        _, _, entry = find_score(metrics, task["metric"])
    except LookupError as error:
        raise UnusableInput(
            f"{document.path}: task {name}: {error.args[0]}; mend the suite's metric or import another run"
        ) from error
    found = read_samples(document.folder, task["metric"])
    lines = found["samples"] if found else None
    statistics = dict(entry.get("stats") or {}) if isinstance(entry.get("stats"), Mapping) else {}
    if lines and all(isinstance(line["score"], float) for line in lines):
        statistics = {**statistics_of([line["score"] for line in lines]), **statistics}
    requests = read_response_statistics(document.folder)
    accounting, trusted = _accounting(metrics, task, lines, requests, document, counts)
    fingerprint, unknown = _fingerprint(suite, task, document, found)
    part = {
        "accounting": accounting,
        "trusted": trusted,
        "requests": requests,
        "fingerprint": fingerprint,
        "unknown": unknown + [field for field in COUNTS if accounting[field] is None],
    }
    fields = (*SAMPLE_FIELDS, *OPTIONAL_FIELDS)
    shown = None if lines is None else [{field: line.get(field) for field in fields} for line in lines]
    return {"value": entry.get("value"), "stats": statistics}, part, shown


def _is_lm_eval(document: Document) -> bool:
    """Whether lm-eval asked: its framework is named, or its lines per sample are there."""
    command = str(document.content.get("command") or "")
    named = str(document.part("config").get("type")).startswith(f"{LM_EVALUATION_HARNESS}.")
    return named or " lm-eval --" in f" {command}" or " lm_eval --" in f" {command}"


def _accounting(
    metrics: Mapping[str, Any],
    task: Mapping[str, Any],
    lines: list[dict[str, Any]] | None,
    requests: Mapping[str, Any] | None,
    document: Document,
    counts: str,
) -> tuple[dict[str, int | None], str | None]:
    """Counts, null where not recorded; and where a count was trusted, whose it is."""
    repeats = int(task.get("repeats") or 1)
    declared = task.get("samples")
    asked = count_asked(task, declared)
    expected = None if asked is None else asked * repeats
    accounting: dict[str, int | None] = {"expected": expected, **dict.fromkeys(COUNTS)}
    trusted = None
    if lines is not None:
        generated = [line for line in lines if line["generated"]]
        accounting |= {
            "asked": len(lines),
            "answered": len(lines),
            "scored": sum(isinstance(line["score"], float) for line in lines),
            "empty": sum(not str(line["answer"] or "").strip() for line in generated),
        }
        if all(line["unparsed"] is not None for line in lines):
            accounting["unparsed"] = sum(bool(line["unparsed"]) for line in lines)
        if not generated:
            accounting["cut"] = 0
        elif requests and requests["answered"] == len(generated) == len(lines):
            accounting["cut"] = requests["finish_reasons"].get("length", 0)
    elif counts == TRUST:
        count = count_of(metrics, task["metric"], repeats)
        if count is not None:
            accounting["scored"], source = count
            trusted = f"{count[0]} samples scored, by {source}"
        elif expected is not None:
            accounting["scored"] = expected
            trusted = f"{expected} samples scored, as the suite declares"
    if (requests and requests["failed"] == 0) or _is_lm_eval(document):
        accounting["failed"] = 0  # lm-eval ends without a result where a request got no answer in the end
    if accounting["expected"] is None:
        accounting["expected"] = accounting["scored"]
    return accounting, trusted


def _fingerprint(
    suite: Mapping[str, Any], task: Mapping[str, Any], document: Document, found: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """What the run records about its making, in the fields of the graph's own fingerprint, and the fields it lacks."""
    parameters = document.part("config", "params")
    given = parameters.get("extra")
    extra: Mapping[str, Any] = mapping_or_empty(given)
    lm_eval = _is_lm_eval(document)
    endpoint = document.part("target", "api_endpoint").get("type")
    samples = in_order(found["samples"]) if found else []
    version = version_of(document.folder, task["task"].rpartition(".")[2])
    outcome = {
        "samples": samples,
        "version": version,
        "generation": found["generation"] if found else None,
    }
    whole = fingerprint_of(suite, task, outcome, {})
    recorded: dict[str, Any] = {"task": task["task"], "metric": task["metric"]}
    if samples:
        recorded |= {key: whole[key] for key in KNOWN_FROM_SAMPLES if whole.get(key) is not None}
        if any(line["document_digest"] is None for line in samples):
            recorded = {key: value for key, value in recorded.items() if key not in ("data_digest", "task_hash")}
    if version is not None:
        recorded["task_version"] = version
    if outcome["generation"] is not None:
        recorded["sampling"] = outcome["generation"]
    if endpoint is not None:
        recorded["endpoint"] = str(endpoint)
        if lm_eval:
            recorded["apply_chat_template"] = endpoint == "chat"
    if "limit_samples" in parameters or lm_eval:
        recorded |= {"limit": parameters.get("limit_samples"), "offset": 0}  # the tool has none
    if "num_fewshot" in extra:
        recorded["num_fewshot"] = extra["num_fewshot"]
    repeats = next((extra[key] for key in REPEAT_PARAMETERS if key in extra), 1 if lm_eval else None)
    if repeats is not None:
        recorded["repeats"] = repeats
    return recorded, sorted(set(whole) - set(recorded))


def _common(documents: list[Document]) -> dict[str, Any]:
    """The head of a run that was put together from several."""
    return {
        "command": "; ".join(str(document.content.get("command") or "").strip() for document in documents),
        "config": {
            "type": ",".join(str(document.part("config").get("type")) for document in documents),
            "params": {"task": ",".join(str(document.part("config", "params").get("task")) for document in documents)},
        },
        "target": documents[0].part("target"),
    }
