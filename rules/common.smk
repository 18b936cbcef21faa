# Lookups and input functions of all rules. Rules say what depends on what; the decisions are in scripts/day0.
import atexit
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError

sys.path.insert(0, os.path.join(workflow.basedir, "scripts"))

from day0.artefacts import UnusableInput, digest_of, read_json, write_json
from day0.config import BASELINE, Calibration, make_plan
from day0.harness import HARNESSES, harnesses_of
from day0.sources import get_sources
from day0.verdict import make_crash_verdict
from summarize import format_decisions

DEMO_MODEL = "results/demo/model"

try:
    PLAN = make_plan(config, is_produced=lambda path: Path(path).is_relative_to("results/demo"))
except UnusableInput as error:
    raise WorkflowError(str(error)) from None


def get_variant():
    """Variant of the stage environments: what the configuration asks for, else cuda where an NVIDIA GPU is found."""
    if PLAN.config.accelerator != "auto":
        return PLAN.config.accelerator
    return "cuda" if shutil.which("nvidia-smi") else "cpu"


VARIANT = get_variant()
STAGE_ENVIRONMENTS = (
    "quantize",
    "serve",
    *(harness.environment for harness in HARNESSES.values()),
    *(["mlflow"] if PLAN.config.mlflow else []),
)

# `python` in every rule is the driver's, whether or not .venv is activated; uncompiled imports would cost seconds a job,
# and threads that spin while they wait would stall the jobs beside them.
shell.executable("bash")
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


wildcard_constraints:
    model="[A-Za-z0-9][A-Za-z0-9._-]*",
    candidate="[A-Za-z0-9][A-Za-z0-9._-]*",
    recipe=f"(?!{BASELINE}/)[A-Za-z0-9][A-Za-z0-9._-]*",
    release=f"(?!{BASELINE}/)[A-Za-z0-9][A-Za-z0-9._-]*",
    suite="[A-Za-z0-9][A-Za-z0-9._-]*",
    environment="[a-z-]+([.](cpu|cuda))?",


def get_environment_name(stage):
    """Environment of a stage; a harness's, and that of the tracking, is one for both variants."""
    single = {"mlflow", *(harness.environment for harness in HARNESSES.values())}
    return stage if stage in single else f"{stage}.{VARIANT}"


def get_environment(stage):
    """Marker of a stage's environment, for a rule's input."""
    return f".envs/{get_environment_name(stage)}.json"


def get_python(stage):
    """Interpreter of a stage's environment."""
    return f".envs/{get_environment_name(stage)}/bin/python"


def get_script(name, *others):
    """A script and the modules it imports, for a rule's input: a change redoes the stages that use it."""
    return sorted({source for script in (name, *others) for source in get_sources(Path("scripts") / script)})


def get_harnesses(suite):
    """Names of the harnesses that a suite's tasks need."""
    return harnesses_of(task.model_dump() for task in PLAN.suites[suite].tasks.values())


def get_harness_environments(suite):
    """Markers of the environments of a suite's harnesses."""
    return [get_environment(HARNESSES[name].environment) for name in get_harnesses(suite)]


def get_evaluation_scripts(wildcards):
    """The evaluate stage's scripts: its own and its suite's harnesses'."""
    return get_script("evaluate.py", *(HARNESSES[name].script for name in get_harnesses(wildcards.suite)))


def get_plugin_files():
    """The plugin that vLLM loads on CPU."""
    return sorted(
        str(file) for file in Path("scripts/vllm_plugin").rglob("*") if file.is_file() and file.suffix != ".pyc"
    )


def get_text(settings):
    """Settings as one line of JSON with sorted keys: Snakemake compares params as text."""
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def get_model_files(model):
    """The files of a local source model; a hub model has none until it is fetched."""
    path = PLAN.config.models[model].path
    if path is None:
        return []
    if Path(path) == Path(DEMO_MODEL):
        return rules.train_demo_model.output
    return sorted(str(file) for file in Path(path).iterdir() if file.is_file())


def assessment_passed(checkpoint, **wildcards):
    """Whether an assessment lets the graph go on. Unknown counts as passed, so that a plan shows the whole way.

    Only a failure on disk that still describes what would be assessed now stops the plan there until it is redone.
    """
    try:
        path = checkpoint.get(**wildcards).output[0]
    except IncompleteCheckpointException:
        path = str(checkpoint.rule.expand_output(wildcards)[0][0])
        if not Path(path).exists():
            return True
        try:
            recorded = read_json(path)
        except UnusableInput:
            return True
        if recorded.get("pass") is True or recorded.get("definition_digest") != get_definition(**wildcards):
            return True
        raise
    return read_json(path)["pass"] is True


def get_definition(model=None, recipe=None, candidate=None, suite=None, subject=None):
    """Digest of what an assessment with these wildcards is about; see Plan.definition_digest."""
    if subject is not None:
        return digest_of(get_preflight_request(subject))
    return PLAN.definition_digest(model, recipe or candidate or BASELINE, suite)


def get_preflight_request(subject):
    """What preflight checks for a folder of results: a model, a model's recipe, or the suite of a model's baseline."""
    model, *rest = subject.split("/")
    settings = PLAN.config.models[model]
    if not rest:
        return {
            "model": model,
            **settings.model_dump(mode="json", include={"path", "hub", "revision", "trust_remote_code"}),
        }
    if rest[0] == BASELINE:
        return {"model": model, "suite": rest[1], "data_files": PLAN.suites[rest[1]].data_files, "accelerator": VARIANT}
    return {
        "model": model,
        "recipe": rest[0],
        "definition": PLAN.recipe(model, rest[0]).definition,
        "calibration": PLAN.calibration(model, rest[0]),
        "accelerator": VARIANT,
    }


def get_preflight_input(wildcards):
    """What must exist before preflight can look at it: a model's own files, a stage's environment."""
    model, *rest = wildcards.subject.split("/")
    if not rest:
        return {"files": get_model_files(model), "environments": []}
    if rest[0] == BASELINE:
        files = PLAN.suites[rest[1]].data_files
        return {"files": files, "environments": [get_environment("serve"), *get_harness_environments(rest[1])]}
    files = get_calibration_files(model, rest[0])
    return {"files": files, "environments": [get_environment("quantize")]}


def get_recipe_file(wildcards):
    """The file of a recipe of config/recipes; recipes from elsewhere are params."""
    file = PLAN.recipe(wildcards.model, wildcards.recipe).file
    return str(file) if file else []


def get_calibration_files(model, recipe):
    """The calibration data where it is a local file."""
    file = Calibration(**PLAN.calibration(model, recipe)).local_file
    return [str(file)] if file else []


def get_suite_files(wildcards):
    """A suite's own file, its task files and its local data."""
    suite = PLAN.suites[wildcards.suite]
    tasks = sorted(map(str, Path(suite.include_path).rglob("*.*"))) if suite.include_path else []
    return [f"config/suites/{wildcards.suite}.yaml", *(t for t in tasks if "__pycache__" not in t), *suite.data_files]


def get_resource(name, default):
    """A resource of a model's heavy jobs: the configuration's value, else the default; more memory for each new attempt."""

    def resource(wildcards, attempt):
        value = PLAN.config.models[wildcards.model].resources.get(name, default)
        return value * attempt if name == "mem_mb" else value

    return resource


def get_served_record(wildcards):
    """The record of the checkpoint that a run serves: the source model's or the candidate's."""
    if wildcards.candidate == BASELINE:
        return f"results/{wildcards.model}/source.json"
    return f"results/{wildcards.model}/{wildcards.candidate}/quantization.json"


def get_evaluation_gates(wildcards):
    """Tokens without which a run must not start. A candidate waits for the baseline's too: an invalid baseline costs it nothing."""
    model, candidate, suite = wildcards.model, wildcards.candidate, wildcards.suite
    gates = [f"results/{model}/{BASELINE}/{suite}/preflight.ok"]
    if candidate != BASELINE:
        gates.append(f"results/{model}/{candidate}/validation.ok")
        if not PLAN.config.parallel_evaluation:
            gates.append(f"results/{model}/{BASELINE}/{suite}/run.ok")
    return gates


def get_release(wildcards):
    """The planned release of a decision's folder."""
    return PLAN.release(wildcards.model, wildcards.release)


def get_comparison_input(wildcards):
    """Both runs of a release, and the tokens that they passed their gates."""
    release = get_release(wildcards)
    runs = {"baseline": BASELINE, "candidate": release.recipe.path_name}
    folders = {side: f"results/{release.model}/{candidate}/{release.suite}" for side, candidate in runs.items()}
    return {
        **{side: f"{folder}/run.json" for side, folder in folders.items()},
        **{f"{side}_gate": f"{folder}/run.ok" for side, folder in folders.items()},
    }


def get_release_request(wildcards):
    """What a verdict says of its release besides the evidence."""
    release = get_release(wildcards)
    return {
        "name": release.name,
        "model": release.model,
        "recipe": release.recipe.name,
        "candidate": release.recipe.path_name,
        "suite": release.suite,
        "policy": release.policy,
    }


def get_materials(wildcards):
    """What a release was made by, besides its model and the scripts: suite, calibration data, locks of its stages."""
    release = get_release(wildcards)
    stages = ["quantize", "serve", *(HARNESSES[name].environment for name in get_harnesses(release.suite))]
    return [
        f"config/suites/{release.suite}.yaml",
        *PLAN.suites[release.suite].data_files,
        *get_calibration_files(release.model, release.recipe.path_name),
        *(f"envs/{get_environment_name(stage)}.lock" for stage in stages),
    ]


def get_verdict_evidence(wildcards):
    """The assessments of a release in order, up to the first that failed; else the comparison."""
    release = get_release(wildcards)
    model, recipe, suite = release.model, release.recipe.path_name, release.suite
    assessments = {
        "preflight_model": (checkpoints.check_preflight, {"subject": model}),
        "preflight_recipe": (checkpoints.check_preflight, {"subject": f"{model}/{recipe}"}),
        "preflight_suite": (checkpoints.check_preflight, {"subject": f"{model}/{BASELINE}/{suite}"}),
        "validation": (checkpoints.assess_checkpoint, {"model": model, "recipe": recipe}),
        "baseline_run": (checkpoints.assess_run, {"model": model, "candidate": BASELINE, "suite": suite}),
        "candidate_run": (checkpoints.assess_run, {"model": model, "candidate": recipe, "suite": suite}),
    }
    evidence = {}
    for name, (checkpoint, values) in assessments.items():
        evidence[name] = str(checkpoint.rule.expand_output(values)[0][0])
        if not assessment_passed(checkpoint, **values):
            return evidence
    return {**evidence, "comparison": f"results/{model}/{wildcards.release}/comparison.json"}


def get_decision_input(wildcards):
    """What a decision is made from; where releases are logged with MLflow, the record of the run too."""
    tracking = f"results/{wildcards.model}/{wildcards.release}/mlflow.json"
    return {**get_verdict_evidence(wildcards), **({"tracking": tracking} if PLAN.config.mlflow else {})}


def get_releases(pattern):
    """A path per release, for the targets."""
    return [
        pattern.format(model=r.model, release=r.name, recipe=r.recipe.path_name, suite=r.suite) for r in PLAN.releases
    ]


def get_tracking():
    """The record of each release's logged decision, for the targets; none where nothing is logged."""
    return get_releases("results/{model}/{release}/mlflow.decision.json") if PLAN.config.mlflow else []


def get_published(dry_run):
    """The releases that the target publish takes along, by whether it only shows what it would do."""
    return [r for r in PLAN.releases if r.publish and r.publish["dry_run"] == dry_run]


def get_publish_input(wildcards):
    """Bundles whose publication is shown, and records of those that are published."""
    shown, done = get_published(dry_run=True), get_published(dry_run=False)
    if not shown + done:
        sys.exit(
            "error: no release says where it is to be published; give 'publish' in the configuration or in a release, "
            "with 'hub' (a repository id) or 'folder'; nothing was started"
        )
    return {
        "bundles": [f"results/{r.model}/{r.name}/release/SHA256SUMS" for r in shown],
        "published": [f"results/{r.model}/{r.name}/published.json" for r in done],
        "script": get_script("publish.py"),
    }


def get_publish_commands():
    """Commands of the target publish: what would be done, and what was."""
    shown = [
        f"python scripts/publish.py --dry-run --bundle results/{r.model}/{r.name}/release"
        f" --destination {shlex.quote(get_text(r.publish))}"
        for r in get_published(dry_run=True)
    ]
    done = [
        f"python scripts/publish.py --show results/{r.model}/{r.name}/published.json"
        for r in get_published(dry_run=False)
    ]
    return " && ".join(shown + done)


def require_finished(workflow):
    """Fail a run that ended well with jobs left over.

    A retry that waits for resources while a checkpoint finishes can be lost by the scheduler; it counts as a crash.
    """
    lost = workflow.scheduler.remaining_jobs
    if lost:
        record_crashes(workflow)
        raise WorkflowError(
            f"the scheduler lost {', '.join(sorted({str(job) for job in lost}))}; run the same command again"
        )


def record_crashes(workflow):
    """After a failed run, make what crashed known: a verdict for every release below it, and nothing stale beside it.

    A gate that refused is no crash. Whatever lies below a crashed job is marked incomplete, so that the next run redoes
    it even where a file of an earlier run is left.
    """
    dag = workflow.dag
    lost = {job for job in workflow.scheduler.remaining_jobs if job.attempt > 1}
    for job in {*workflow.scheduler.failed, *lost}:
        if job.rule.name.startswith("gate_"):
            continue
        for below in dag.bfs(dag.depending, job):
            if below is not job:
                workflow.persistence.started(below)
            if below.rule.name == "decide_release":
                release = get_release_request(below.wildcards)
                log = str(job.log[0]) if job.log else None
                write_json(str(below.output[0]), make_crash_verdict(release, job.rule.name, job.attempt, log))
    if workflow.is_main_process:
        show_decisions(dag)


def show_decisions(dag):
    """After a failed run, bring the pages up to the verdicts, and make the decisions its last lines.

    A verdict that this run was to make again but did not reach is of an earlier state, and is not shown.
    """
    waiting = (job for job in dag.jobs if job.rule.name == "decide_release" and dag.needrun(job))
    outdated = {str(job.output[0]) for job in waiting if not dag.finished(job)}
    # A crash verdict is written here, by no job.
    outdated = {path for path in outdated if not is_crash_verdict(path)}
    everything = [Path(path) for path in get_releases("results/{model}/{release}/verdict.json")]
    decided = [path for path in everything if path.exists() and str(path) not in outdated]
    for path in decided:
        if is_older(path.with_name("report.html"), path):
            run_quietly("report.py", "--verdict", path, "--output", path.with_name("report.html"))
    if decided and any(is_older(Path("results/index.html"), path) for path in decided):
        pages = {"--output": "index.html", "--table": "decisions.csv", "--figures": "figures"}
        options = [word for option, name in pages.items() for word in (option, f"results/{name}")]
        run_quietly("index.py", *decided, "--others", "results", *options)
    rest = [
        f"{path.parts[-3]} {path.parts[-2]}: not decided in this run\n  next: Run the same command again."
        for path in everything
        if path not in decided
    ]
    text = "\n".join([*([format_decisions(decided)] if decided else []), *rest])
    # Registered, so that the decisions are the last lines, below Snakemake's own.
    atexit.register(lambda: print(f"\n{text}", file=sys.stderr))


def is_crash_verdict(path):
    """Whether a verdict was written because a job crashed."""
    return Path(path).exists() and read_json(path)["failure_class"] == "SYSTEMIC" and not read_json(path)["evidence"]


def is_older(path, than):
    """Whether a file is older than another, or missing."""
    return not path.exists() or path.stat().st_mtime < than.stat().st_mtime


def run_quietly(script, *arguments):
    """Run a script whose failure must not hide the decisions; what it says is shown only where it fails."""
    command = [sys.executable, f"scripts/{script}", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
