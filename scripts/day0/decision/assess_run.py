"""Whether a run of a suite counts: its status, accounts, scores and logs, judged without reading any file but its own.

``evaluate_run`` is the decision, a pure function over a summary; ``read_run`` makes the summary from a run folder or
a results.yml (NeMo Evaluator's schema, ours under ``metadata``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from day0.base.artefacts import digest_of_file, read_json, read_yaml
from day0.base.cli import UnusableInput
from day0.base.mistakes import is_file_name
from day0.base.numbers import is_count, is_number, mapping_or_empty
from day0.decision.external import protocol_of
from day0.decision.failures import severity
from day0.decision.quoting import number, plain_mapping, printable
from day0.decision.recount import Recount, SamplesFile, differences, read_samples_file, recount, with_recount
from day0.decision.rescoring import Rescored, find_difference, is_mean, rescored
from day0.decision.shared_samples import disjoint_problems
from day0.decision.stopped_run import as_asked
from day0.decision.summaries import COMPLETED, TRANSIENT_STATUSES, of_original
from day0.evaluation.run_logs import SERVER_LOG, logs_of, scan_log_file
from day0.records.failure_class import FailureClass
from day0.records.policy import TIERS, Scale
from day0.records.results import read_metadata
from day0.records.run import Finding, Protocol, RunAssessment, Score
from day0.records.speed import SPEED, Speed
from day0.suite.documents import asked_documents
from day0.suite.score_names import find_score
from day0.suite.suites import Limits, effective

Found = Callable[[FailureClass, str], None]

REQUIRED_COUNTS = ("expected", "scored")
# What a harness may be unable to count (null) without leaving the score in doubt.
INFORMATIVE_COUNTS = ("empty", "cut", "unparsed", "http_failures", "retried")
COUNTS = ("expected", "asked", "answered", "scored", "empty", "cut", "unparsed", "failed", "http_failures", "retried")
# Where no suite says otherwise: fractions of the answers above which a score does not count.
DEFAULT_LIMITS = Limits().model_dump()
# Count, the limit that holds for it, and what it counts.
LIMITED = (
    ("cut", "cut", "were cut at the largest length"),
    ("open_thoughts", "cut", "ended with their thoughts still open"),
    ("unparsed", "unparsed", "hold nothing that the task's filter could score"),
    ("empty", "empty", "are empty"),
    ("degenerate", "degenerate", "are mostly one part over and over"),
)
CONSTANT_SAMPLES = 20  # from as many samples on, one and the same answer or score is no coincidence
CONSTANT_TASKS, CONSTANT_TASK_SAMPLES = 3, 100


def evaluate_run(summary: Any) -> RunAssessment:
    """Judge a run.

    Args:
        summary: {status, failure_class, detail, tasks: {name: {score, stderr, samples, metric, scale: {min, max,
            direction}, tier, accounting: {expected, scored, ...}, limits: {cut, unparsed, empty, degenerate}, repeats,
            recount: a ``Recount`` of its samples, rescored: a ``Rescored`` of them, spread: {samples, scores, answers,
            targets} (numbers of different ones)}}, log_findings: [{class, file, line, text}],
            incidents: [{time, what}], findings: [{class, detail}]}, or a summary of the original design
            (day0/decision/summaries.py). Anything else is judged too, and never passes.

    Returns:
        The assessment; its scores are those of the tasks that have a usable one.
    """
    findings: list[Finding] = []
    notes: list[str] = []

    def found(failure_class: FailureClass, detail: str) -> None:
        findings.append(Finding(failure_class=failure_class, detail=printable(detail)))

    if not isinstance(summary, Mapping):
        found(FailureClass.USER_CONFIG_ERROR, f"a run's summary must be a mapping; found {type(summary).__name__}")
        return _assessment(findings, {}, notes)
    summary = of_original(summary)
    tasks = summary.get("tasks")
    is_empty = not isinstance(tasks, Mapping) or not tasks
    if not (is_empty and summary.get("status") is None and summary.get("failure_class") is None):
        _judge_status(summary, found)
    causes = len(findings)
    for entry in map(mapping_or_empty, _listed(summary.get("findings"))):
        found(FailureClass.of(entry.get("class")), _short(entry.get("detail"), 1000))
    imported = mapping_or_empty(summary.get("imported"))
    trusted = imported.get("counts") == "trust"
    scores: dict[str, Score] = {}
    if is_empty:
        # A run that ended by a failure has no task for that reason.
        found(
            FailureClass.SAMPLE_ACCOUNTING_FAILED if causes else FailureClass.USER_CONFIG_ERROR,
            f"the run holds no task: expected a mapping 'tasks'; found {_short(tasks)}",
        )
    else:
        for name, task in sorted(tasks.items(), key=lambda item: str(item[0])):
            if not isinstance(task, Mapping):
                found(
                    FailureClass.SAMPLE_ACCOUNTING_FAILED,
                    f"task {_short(name)}: expected a mapping; found {_short(task)}",
                )
                continue
            accounts_hold = _judge_accounting(name, task, trusted, found, notes)
            score = _judge_score(name, task, accounts_hold, found, notes)
            if score is not None:
                scores[printable(name)] = score
                _judge_spread(name, task.get("spread"), score, found)
        if len(scores) == len(tasks):
            _judge_constancy(scores, found)
    is_whole = not is_empty and not findings and len(scores) == len(tasks)
    _judge_logs(summary.get("log_findings"), is_whole, found, notes)
    for sentence in _listed(summary.get("record_mistakes")):
        found(FailureClass.UNKNOWN, f"the run's record was edited or is of another version: {_short(sentence, 300)}")
    for sentence in _listed(summary.get("shared_samples")):
        found(FailureClass.USER_CONFIG_ERROR, _short(sentence, 300))
    _judge_incidents(summary.get("incidents"), found, notes)
    assessment = _assessment(findings, scores, notes, causes)
    if assessment.passed and trusted and (counts := _sentences(imported.get("trusted_counts"))):
        assessment.detail += printable(f"; counts that the imported run does not state, and that are trusted: {counts}")
    return assessment


def _sentences(value: Any) -> str:
    return "; ".join(f"{task}: {text}" for task, text in mapping_or_empty(value).items())


def _judge_status(summary: Mapping[str, Any], found: Found) -> None:
    status, recorded, detail = (summary.get(key) for key in ("status", "failure_class", "detail"))
    sentence = str(detail)[:1000] if isinstance(detail, str) and detail else "no reason is given"
    if isinstance(status, str) and status in TRANSIENT_STATUSES:
        found(FailureClass.INFRA_TRANSIENT, f"the run's status is {status}: it did not end by itself ({sentence})")
    elif status != COMPLETED and recorded is None:
        found(FailureClass.UNKNOWN, f"the run's status is {_short(status)}, expected {COMPLETED} ({sentence})")
    if recorded is not None:
        found(FailureClass.of(recorded), f"the evaluation recorded {_short(recorded)}: {sentence}")


def _judge_accounting(name: Any, task: Mapping[str, Any], trusted: bool, found: Found, notes: list[str]) -> bool:
    accounting, limits, counted = (task.get(key) for key in ("accounting", "limits", "recount"))
    if not isinstance(accounting, Mapping):
        found(FailureClass.SAMPLE_ACCOUNTING_FAILED, f"task {_short(name)}: no accounting; found {_short(accounting)}")
        return False
    may_be_unknown = [field for field in COUNTS if field not in REQUIRED_COUNTS] if trusted else INFORMATIVE_COUNTS
    wrong = [
        f"{field} is {_short(accounting.get(field))}"
        for field in COUNTS
        if (field in REQUIRED_COUNTS or field in accounting)
        and not (is_count(accounting.get(field)) or (accounting.get(field) is None and field in may_be_unknown))
    ]
    if wrong:
        found(
            FailureClass.SAMPLE_ACCOUNTING_FAILED,
            f"task {_short(name)}: {', '.join(wrong)}; expected a whole number of 0 or more",
        )
        return False
    if isinstance(counted, Recount):
        differing = differences(counted, accounting, task.get("repeats"))
        for sentence in differing:
            found(FailureClass.SAMPLE_ACCOUNTING_FAILED, f"task {_short(name)}: {sentence}")
        if differing:
            return False
        if counted.sentence is not None and counted.samples >= CONSTANT_SAMPLES:
            found(FailureClass.UNKNOWN, f"task {_short(name)}: {counted.sentence_finding()}")
        accounting = with_recount(accounting, counted)
    expected, scored = accounting["expected"], accounting["scored"]
    if expected == 0:
        found(
            FailureClass.SAMPLE_ACCOUNTING_FAILED,
            f"task {_short(name)}: 0 samples were expected, so nothing was measured",
        )
        return False
    short = [
        f"{accounting[field]} {field}"
        for field in ("asked", "answered", "scored")
        if accounting.get(field) is not None and accounting[field] != expected
    ]
    if short:
        found(
            FailureClass.SAMPLE_ACCOUNTING_FAILED,
            f"task {_short(name)}: {expected} samples expected, but {', '.join(short)}",
        )
        return False
    if accounting.get("failed"):
        found(FailureClass.SAMPLE_ACCOUNTING_FAILED, f"task {_short(name)}: {accounting['failed']} samples failed")
        return False
    if accounting.get("empty") == scored:
        found(FailureClass.DEPLOYMENT_HEALTH_FAILED, f"task {_short(name)}: all {scored} answers are empty")
        return False
    allowed = {**DEFAULT_LIMITS, **mapping_or_empty(limits)}
    over = [
        f"{accounting[field]} of {scored} answers {what} (limit {_share(allowed[limit])})"
        for field, limit, what in LIMITED
        if accounting.get(field) and not (is_number(allowed[limit]) and accounting[field] <= allowed[limit] * scored)
    ]
    if over and isinstance(counted, Recount) and counted.cut_in_thoughts:
        over.append(f"{counted.cut_in_thoughts} of the cut answers never left their thoughts")
    if over:
        found(FailureClass.SAMPLE_ACCOUNTING_FAILED, f"task {_short(name)}: {'; '.join(over)}")
        return False
    repeated = [
        f"{accounting[field]} {what}"
        for field, what in (("http_failures", "attempts without an answer"), ("retried", "requests repeated"))
        if accounting.get(field)
    ]
    if repeated:
        notes.append(f"task {_short(name)}: {', '.join(repeated)}; every sample was answered in the end")
    return True


def _judge_score(
    name: Any, task: Mapping[str, Any], accounts_hold: bool, found: Found, notes: list[str]
) -> Score | None:
    score, tier, metric = task.get("score"), task.get("tier", TIERS[0]), task.get("metric")
    if score is None:
        found(FailureClass.SAMPLE_ACCOUNTING_FAILED, f"task {_short(name)}: has no score")
        return None
    if not is_number(score):
        found(FailureClass.SAMPLE_ACCOUNTING_FAILED, f"task {_short(name)}: score {_short(score)} is no finite number")
        return None
    try:
        scale = Scale.model_validate(task.get("scale", {"min": 0, "max": 1}))
    except ValidationError:
        expected = "expected min below max, both finite"
        found(FailureClass.USER_CONFIG_ERROR, f"task {_short(name)}: scale {_short(task.get('scale'))}; {expected}")
        return None
    if tier not in TIERS:
        expected = f"expected one of {', '.join(TIERS)}"
        found(FailureClass.USER_CONFIG_ERROR, f"task {_short(name)}: tier {_short(tier)}; {expected}")
        return None
    if not scale.min <= score <= scale.max:
        found(
            FailureClass.SAMPLE_ACCOUNTING_FAILED,
            f"task {_short(name)}: score {score} lies outside its scale {scale.min:g} to {scale.max:g}",
        )
        return None
    if isinstance(given := task.get("rescored"), Rescored) and (difference := find_difference(given, score, scale)):
        if is_mean(None if metric is None else str(metric)):
            found(FailureClass.SAMPLE_ACCOUNTING_FAILED, f"task {_short(name)}: {difference}, expected their mean")
            return None
        notes.append(f"task {_short(name)}: {metric} is no mean of samples, so its score is not held against them")
    if not accounts_hold:
        return None
    return Score(
        metric=None if metric is None else printable(metric),
        score=score,
        stderr=number(task.get("stderr")),
        samples=task["accounting"]["scored"],
        scale=scale,
        tier=tier,
        protocol=task["protocol"] if isinstance(task.get("protocol"), Protocol) else None,
    )


def _judge_spread(name: Any, spread: Any, entry: Score, found: Found) -> None:
    """Many different questions with one and the same answer, or one and the same middling score, were not answered."""
    if not isinstance(spread, Mapping) or not all(is_count(spread.get(key)) for key in ("samples", "scores")):
        return
    if spread["samples"] < CONSTANT_SAMPLES:
        return
    answers, targets = spread.get("answers"), spread.get("targets")
    what = f"task {_short(name)}: all {spread['samples']}"
    if answers == 1 and isinstance(targets, int) and targets > 1:
        found(FailureClass.UNKNOWN, f"{what} answers are the same, of {targets} expected ones")
    elif spread["scores"] == 1 and entry.scale.min < entry.score < entry.scale.max:
        found(FailureClass.UNKNOWN, f"{what} samples have the same score {entry.score:g}")


def _judge_constancy(scores: Mapping[str, Score], found: Found) -> None:
    values = {entry.score for entry in scores.values()}
    names = ", ".join(scores)
    if values == {0} and not any(entry.scale.direction == "lower" for entry in scores.values()):
        found(FailureClass.UNKNOWN, f"every score of the run is exactly 0 ({names}): no real model is that bad")
        return
    large = all(entry.samples >= CONSTANT_TASK_SAMPLES for entry in scores.values())
    if len(values) == 1 and len(scores) >= CONSTANT_TASKS and large:
        value = values.pop()
        if any(entry.scale.min < value < entry.scale.max for entry in scores.values()):
            found(FailureClass.UNKNOWN, f"every score of the run is exactly {value:g} ({names}): tasks do differ")


def _judge_incidents(incidents: Any, found: Found, notes: list[str]) -> None:
    if incidents is None:
        return
    if not isinstance(incidents, list) or not all(isinstance(entry, Mapping) for entry in incidents):
        found(FailureClass.UNKNOWN, f"incidents: expected a list of mappings; found {_short(incidents)}")
        return
    for entry in incidents:
        sentence = f"the server at {entry.get('time')}: {_short(entry.get('what'))}"
        if "started again" in str(entry.get("what")):
            found(FailureClass.DEPLOYMENT_HEALTH_FAILED, sentence)
        else:
            notes.append(sentence)


def _judge_logs(log_findings: Any, is_whole: bool, found: Found, notes: list[str]) -> None:
    """Judge the suspect lines of a run's logs.

    Args:
        is_whole: every sample of every task was answered and scored: then an exception that the server has logged, of
            which its log pattern says no more, was none of the run's.
    """
    if log_findings is None:
        return
    if not isinstance(log_findings, list):
        found(FailureClass.UNKNOWN, f"log_findings: expected a list; found {_short(log_findings)}")
        return
    for entry in log_findings:
        if not isinstance(entry, Mapping):
            found(FailureClass.UNKNOWN, f"log_findings: expected mappings; found {_short(entry)}")
            continue
        failure_class = FailureClass.of(entry.get("class"))
        sentence = f"{entry.get('file')}, line {entry.get('line')}: {_short(entry.get('text'), 300)}"
        if is_whole and failure_class is FailureClass.UNKNOWN and str(entry.get("file")).endswith(SERVER_LOG):
            notes.append(f"{sentence}; no answer was lost")
        else:
            found(failure_class, sentence)


def _assessment(findings: list[Finding], scores: dict[str, Score], notes: list[str], causes: int = 0) -> RunAssessment:
    """Sum up: the most severe class leads; the message states the first ``causes`` findings, where there are any."""
    ordered = sorted(findings, key=lambda finding: severity(finding.failure_class))
    if not ordered and not scores:
        ordered = [Finding(failure_class=FailureClass.UNKNOWN, detail="the run has no score")]
    classes = list(dict.fromkeys(finding.failure_class for finding in ordered))
    if ordered:
        stated = [finding.detail for finding in findings[:causes]]
        stated = stated or [f"{finding.failure_class}: {finding.detail}" for finding in ordered[:5]]
        rest = len(ordered) - len(stated)
        detail = "; ".join(stated) + (f"; and {rest} more findings" if rest else "")
    else:
        measured = ", ".join(f"{task} {entry.score:.4f} of {entry.samples} samples" for task, entry in scores.items())
        detail = f"{len(scores)} tasks complete: {measured}"
    return RunAssessment(
        passed=not ordered,
        failure_class=classes[0] if classes else None,
        detail=detail,
        failure_classes=classes,
        scores=scores,
        findings=ordered,
        notes=[printable(note) for note in notes],
    )


def assess_run(path: Path, suite: Mapping[str, Any] | None = None, suite_file: Path | None = None) -> RunAssessment:
    """Judge the run that lies at a path; see :func:`read_run` and :func:`evaluate_run`.

    Args:
        path, suite: as ``read_run`` takes them.
        suite_file: of the suite; with it, the samples are held against those of runs beside this one from which it
            must be disjoint.

    Raises:
        UnusableInput: nothing there that can be read.
    """
    summary, identity = read_run(path, suite)
    if suite is not None and suite_file is not None:
        summary["shared_samples"] = disjoint_problems(path if path.is_dir() else path.parent, suite, suite_file)
    judged = evaluate_run(summary)
    if identity.get("early_stop"):
        judged.detail = f"stopped early, {identity['early_stop'].end}: {judged.detail}"
    return RunAssessment(**{name: getattr(judged, name) for name in RunAssessment.model_fields} | identity)


def read_run(path: Path, suite: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary of a run, and what identifies it: {results_digest, checkpoint_digest, model, candidate, suite}.

    Args:
        path: a run folder, its results.yml, or a summary in JSON.
        suite: the suite's definition, from which scale, tier, metric and the declared tasks come.

    Raises:
        UnusableInput: nothing there that can be read.
    """
    if path.is_dir():
        path = path / "results.yml"
    if not path.exists():
        raise UnusableInput(f"{path}: does not exist; expected a run folder, a results.yml or a summary (JSON)")
    content = read_json(path) if path.suffix == ".json" else read_yaml(path)
    if "results" not in content and "metadata" not in content:
        return _with_suite(of_original(content), suite), {"results_digest": digest_of_file(path)}
    metadata = content.get("metadata")
    metadata = mapping_or_empty(metadata)
    stated = {key: metadata.get(key) for key in ("checkpoint_digest", "model", "candidate", "suite")}
    identity: dict[str, Any] = {
        "results_digest": digest_of_file(path),
        **{key: None if value is None else printable(value) for key, value in stated.items()},
    }
    summary = summary_of_results(content)
    imported = metadata.get("imported")
    if isinstance(imported, Mapping):
        # The logs lie where the run was made; the import has read them.
        summary["log_findings"] = imported.get("log_findings")
        identity["imported"] = plain_mapping({k: v for k, v in imported.items() if k != "log_findings"})
    else:
        logs = logs_of(path.parent, metadata, suite)
        names = {log: str(log.relative_to(path.parent)).removeprefix("logs/") for log in logs}
        summary["log_findings"] = [entry for log, name in names.items() for entry in scan_log_file(log, name)]
    summary = _with_suite(summary, suite)
    try:
        read_metadata(content, path)
    except UnusableInput as error:
        summary["record_mistakes"] = str(error).splitlines()
    if metadata.get("speed_digest") is not None:
        identity["speed_digest"] = printable(metadata["speed_digest"])
        summary["record_mistakes"] = [
            *_listed(summary.get("record_mistakes")),
            *_speed_mistakes(path.with_name(SPEED), metadata),
        ]
    summary, identity["early_stop"] = as_asked(summary, metadata, path.parent / "samples")
    _check_sample_files(summary, path.parent / "samples", is_own="schema_version" in metadata)
    return summary, identity


def _speed_mistakes(path: Path, metadata: Mapping[str, Any]) -> list[str]:
    """What is wrong with the speed.json that a run names."""
    again = f"measure again by `snakemake --force {path.with_name('results.yml')}`"
    if not path.is_file():
        return [f"{path}: found no such file, though the run was put under load; {again}"]
    if digest_of_file(path) != metadata["speed_digest"]:
        return [f"{path}: its sha256 is not the one that the run recorded; {again}"]
    try:
        identity = Speed.read(path).identity.as_plain()
    except UnusableInput as error:
        return str(error).splitlines()
    return [
        f"{path}: identity.{name}: found {_short(value)}, its run has {_short(metadata.get(name))}; {again}"
        for name, value in identity.items()
        if value != metadata.get(name)
    ]


def summary_of_results(content: Mapping[str, Any]) -> dict[str, Any]:
    """The summary that ``evaluate_run`` judges, from the content of a results.yml."""
    metadata = content.get("metadata")
    metadata = mapping_or_empty(metadata)
    results = content.get("results")
    scored = results.get("tasks") if isinstance(results, Mapping) else None
    scored = mapping_or_empty(scored)
    accounting = metadata.get("accounting")
    accounting = mapping_or_empty(accounting)
    fingerprints = mapping_or_empty(metadata.get("fingerprint"))
    tasks: dict[Any, Any] = {}
    for name in [*accounting, *(name for name in scored if name not in accounting)]:
        tasks[name] = {
            "accounting": accounting.get(name),
            "protocol": protocol_of(fingerprints.get(name)),
            **_score_entry(scored.get(name), None),
        }
    return {
        **{key: metadata.get(key) for key in ("status", "failure_class", "detail", "incidents")},
        **({"imported": metadata["imported"]} if metadata.get("imported") is not None else {}),
        "tasks": tasks,
        "_results": scored,
    }


def _score_entry(task: Any, metric: str | None) -> dict[str, Any]:
    """{metric, score, stderr} of a task in NeMo Evaluator's schema; the named metric, else its only one."""
    metrics = task.get("metrics") if isinstance(task, Mapping) else None
    if not isinstance(metrics, Mapping) or not metrics:
        return {"metric": metric, "score": None, "stderr": None}
    if metric is None and len(metrics) == 1:
        metric = next(iter(metrics))
    try:
        metric, score, value = find_score(metrics, str(metric))
    except LookupError:
        return {"metric": metric, "score": None, "stderr": None}
    metric = metric if metric == score else f"{metric}.{score}"
    statistics = value.get("stats")
    stderr = statistics.get("stderr") if isinstance(statistics, Mapping) else None
    return {"metric": metric, "score": value.get("value"), "stderr": stderr}


def _with_suite(summary: Mapping[str, Any], suite: Mapping[str, Any] | None) -> dict[str, Any]:
    """The summary with the suite's scale, tier and metric, and with its tasks that the run lacks."""
    result = dict(summary)
    scored = result.pop("_results", {})
    if suite is None or not isinstance(result.get("tasks"), Mapping):
        return result
    tasks = dict(result["tasks"])
    for name, declared in suite["tasks"].items():
        task = tasks.get(name, {"accounting": None, "score": None})
        if not isinstance(task, Mapping):
            continue
        task = dict(task)
        if name in scored:
            task.update(_score_entry(scored[name], declared["metric"]))
        limits = declared.get("limits") or suite.get("limits") or DEFAULT_LIMITS
        tasks[name] = {**task, "scale": declared["scale"], "tier": declared["tier"], "limits": limits}
        tasks[name] |= {"repeats": declared.get("repeats"), "reasoning": effective(suite, declared, "reasoning")}
        wanted = declared.get("samples")
        accounting = task.get("accounting")
        if wanted and isinstance(accounting, Mapping):
            # What the suite declares today counts, not what the run believed.
            documents = len(asked_documents(declared, wanted)) * int(declared.get("repeats") or 1)
            tasks[name]["accounting"] = {**accounting, "expected": documents}
    result["tasks"] = tasks
    return result


def _check_sample_files(summary: dict[str, Any], folder: Path, is_own: bool) -> None:
    """Count the lines of each samples file and how they differ; where accounts say otherwise, the lines count.

    Args:
        is_own: this project wrote the files, so that each line must be what its type says.
    """
    if not folder.is_dir() or summary.get("status") != COMPLETED:
        return
    for name, task in summary["tasks"].items():
        accounting = task.get("accounting") if isinstance(task, Mapping) else None
        if not isinstance(accounting, Mapping):
            continue
        if not is_file_name(name):
            detail = f"task {_short(name)}: no samples file can have this name; expected no '/' and no dot before it"
            mistake = {"class": FailureClass.USER_CONFIG_ERROR, "detail": detail}
            summary["findings"] = [*_listed(summary.get("findings")), mistake]
            continue
        file = folder / f"{name}.jsonl"
        if _counted_by_framework(summary, accounting) and not (file.is_file() and file.stat().st_size):
            continue
        held = read_samples_file(file, is_own)
        lines = held.lines
        task["spread"] = _spread_of(held)
        if len(held.samples) == held.lines:
            task["recount"] = recount(held.samples, task.get("reasoning"))
            task["rescored"] = rescored(held.samples)
        mistakes = [f"samples/{file.name}: {sentence}" for sentence in held.mistakes] if is_own else []
        summary["record_mistakes"] = [*_listed(summary.get("record_mistakes")), *mistakes]
        summary["findings"] = [
            *_listed(summary.get("findings")),
            *(
                {"class": FailureClass.SAMPLE_ACCOUNTING_FAILED, "detail": f"samples/{file.name}: {sentence}"}
                for sentence in ([] if is_own else held.faults)
            ),
        ]
        if accounting.get("scored") != lines and is_count(accounting.get("scored")):
            task["accounting"] = {**accounting, "scored": min(lines, accounting["scored"])}
            summary["log_findings"] = [
                *_listed(summary.get("log_findings")),
                {
                    "class": FailureClass.SAMPLE_ACCOUNTING_FAILED,
                    "file": f"samples/{name}.jsonl",
                    "line": lines,
                    "text": f"holds {lines} samples, but the accounts say {accounting.get('scored')}",
                },
            ]


def _spread_of(held: SamplesFile) -> dict[str, int] | None:
    """How many different scores, answers and targets a samples file holds; None where a line is no sample."""
    if len(held.samples) < held.lines:
        return None
    return {
        "samples": held.lines,
        "scores": len({sample.score for sample in held.samples}),
        "answers": len({sample.answer for sample in held.samples if sample.answer is not None}),
        "targets": len({sample.target_digest for sample in held.samples}),
    }


def _counted_by_framework(summary: Mapping[str, Any], accounting: Mapping[str, Any]) -> bool:
    """Whether a task has no samples file because its framework leaves none, which its accounts say by a null."""
    return "imported" in summary or any(accounting.get(field, 0) is None for field in INFORMATIVE_COUNTS)


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else []


def _share(value: Any) -> str:
    return f"{value:.0%}" if is_number(value) else _short(value)


def _short(value: Any, length: int = 120) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
