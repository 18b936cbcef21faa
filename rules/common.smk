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

from day0.cluster import jobs as cluster
from day0.base.artefacts import digest_of, digest_of_file, read_json, write_json
from day0.base.cli import UnusableInput
from day0.release.made_with import stamp
from day0.checkpoint.vllm_rules import ENGINE, locked_version
from day0.suite.harness import HARNESSES, harnesses_of
from day0.evaluation.imported_run import imported_files
from day0.serving.multinode import JOB_ID_VARIABLE, serving_gpus, serving_nodes
from day0.plan.check import make_plan, read_published_scores, resolution_warnings
from day0.plan.plan import BASELINE
from day0.recipe.recipes import Calibration
from day0.base.closure import get_sources
from day0.decision.verdict import make_crash_verdict
from driver.refusals import REFUSED, error_in
from driver.refusals import install as install_refusals
from summarize import format_decisions

DEMO_MODEL = "results/demo/model"

try:
    PLAN = make_plan(config, is_produced=lambda path: Path(path).is_relative_to("results/demo"))
    PUBLISHED_SCORES = read_published_scores(PLAN)
except UnusableInput as error:
    raise WorkflowError(str(error)) from None


def get_variant():
    """Variant of the stage environments: what the configuration asks for, else cuda where an NVIDIA GPU is found."""
    if PLAN.config.accelerator != "auto":
        return PLAN.config.accelerator
    return "cuda" if shutil.which("nvidia-smi") else "cpu"


VARIANT = get_variant()
IMPORTED_RUNS = PLAN.imported_pattern()


def warn_of_resolution(workflow):
    """Say on standard error which tasks cannot resolve their thresholds: once, where a plan is read or a run starts."""
    if workflow.is_main_process:
        for release in PLAN.releases:
            for warning in resolution_warnings(PLAN, release):
                print(f"warning: {release.model} {release.name}: {warning['sentence']}", file=sys.stderr)


warn_of_resolution(workflow)

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


# A prefix of our own replaces Snakemake's, without which a failure before a pipe would count as success. A stage is one
# process of its own: what srun, mpirun or torchrun leave behind would make torch wait for other ranks.
shell.prefix(
    f"set -euo pipefail; export {JOB_ID_VARIABLE}=${{{{SLURM_JOB_ID-}}}};"
    " unset ${{!SLURM_@}} ${{!PMI_@}} ${{!PMIX_@}} ${{!OMPI_@}} ${{!TORCHELASTIC_@}} RANK LOCAL_RANK GROUP_RANK NODE_RANK"
    " WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT; "
)


wildcard_constraints:
    model="[A-Za-z0-9][A-Za-z0-9._-]*",
    candidate="[A-Za-z0-9][A-Za-z0-9._-]*",
    recipe=f"(?!{BASELINE}/)[A-Za-z0-9][A-Za-z0-9._-]*",
    release=f"(?!{BASELINE}/)[A-Za-z0-9][A-Za-z0-9._-]*",
    suite="[A-Za-z0-9][A-Za-z0-9._-]*",
    shard="[A-Za-z0-9][A-Za-z0-9._-]*",
    environment="[a-z-]+([.](cpu|cuda))?",


def get_environment_name(stage):
    """Environment of a stage: its image where it has one; a harness's, and that of the tracking, is one for both variants."""
    if getattr(PLAN.config.containers, stage, None):
        return f"{stage}.image"
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


def get_engine():
    """The serving engine with the version that its environment is locked to, as gate_ptq.py takes it."""
    version = locked_version(Path(f"envs/serve.{VARIANT}.lock"))
    return f"{ENGINE}=={version}" if version else ENGINE


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
        return {
            "model": model,
            "location": settings.model_dump(mode="json", include={"path", "hub", "revision"}),
            "suite": rest[1],
            "settings": PLAN.suites[rest[1]].model_dump(mode="json"),
            "asked": PLAN.is_asked(model, rest[1]),
            "accelerator": VARIANT,
        }
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
        if not PLAN.is_asked(model, rest[1]):
            return {"files": [], "environments": []}
        files = [*PLAN.suites[rest[1]].data_files, *get_model_files(model)]
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


def needs_hub():
    """Whether a model of the plan is fetched from the hub."""
    return any(PLAN.config.models[release.model].hub for release in PLAN.releases)


def get_weights_bytes(model):
    """Bytes of a source model's weights: by its record, else by the files of its folder; 0 where nothing is known yet."""
    record = Path(f"results/{model}/source.json")
    if record.exists():
        try:
            return int(read_json(record).get("payload_bytes") or 0)
        except UnusableInput:
            return 0
    path = PLAN.config.models[model].path
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors")) if path and Path(path).is_dir() else 0


def get_mem_mb(stage):
    """Host memory of a stage's job: the configuration's, else by the model's size; never more than a node has."""
    formula = {"quantize": cluster.quantize_memory_mb, "evaluate": cluster.evaluate_memory_mb}[stage]

    def mem_mb(wildcards):
        given = PLAN.resource(wildcards.model, stage, "mem_mb")
        memory = given or formula(get_weights_bytes(wildcards.model), on_cpu=VARIANT == "cpu")
        return min(memory, PLAN.config.cluster.max_mem_mb or memory)

    return mem_mb


def get_server_nodes(wildcards):
    """Nodes of an evaluate job, one for each part of its server."""
    return serving_nodes(PLAN.serving(wildcards.model, wildcards.candidate))


def get_gpu(stage):
    """GPUs on each node of a stage's job: the configuration's, else what its serving settings or the model's size need."""

    def gpu(wildcards):
        given = PLAN.resource(wildcards.model, stage, "gpu")
        if given is not None or VARIANT == "cpu":
            return given or 0
        if stage == "evaluate":
            serving = PLAN.serving(wildcards.model, wildcards.candidate)
            return serving_gpus(serving) // serving_nodes(serving)
        site, device = PLAN.config.cluster, PLAN.config.quantization.device
        weights = get_weights_bytes(wildcards.model)
        return min(cluster.quantize_gpus(weights, device, site.gpu_memory_gb), site.gpus_per_node)

    return gpu


def get_cpus(stage):
    """CPU cores of a stage's Slurm job: the configuration's, else a site's share for each GPU."""
    gpu = get_gpu(stage)

    def cpus_per_task(wildcards, threads):
        given = PLAN.resource(wildcards.model, stage, "cpus")
        return given or max(threads, gpu(wildcards) * PLAN.config.cluster.cpus_per_gpu)

    return cpus_per_task


def get_runtime(stage, minutes):
    """Time limit of a stage's job in minutes: the configuration's, else a default and the time to read the model."""

    def runtime(wildcards):
        given = PLAN.resource(wildcards.model, stage, "runtime")
        wanted = given or cluster.reading_minutes(get_weights_bytes(wildcards.model), minutes)
        return min(wanted, PLAN.config.cluster.max_runtime or wanted)

    return runtime


def get_reading_runtime(wildcards):
    """Time limit in minutes of a job that reads and writes the whole model."""
    wanted = cluster.reading_minutes(2 * get_weights_bytes(wildcards.model), 60)
    return min(wanted, PLAN.config.cluster.max_runtime or wanted)


def get_release_names(wildcards):
    """Names of the releases that wait for a job with these wildcards."""
    model, *rest = Path(wildcards["subject"]).parts if "subject" in wildcards else [wildcards.get("model")]
    candidate = wildcards.get("recipe") or wildcards.get("candidate") or wildcards.get("release") or (rest or [None])[0]
    return [
        r.name
        for r in PLAN.releases
        if model in (None, r.model)
        and candidate in (None, BASELINE, r.name, r.recipe.path_name)
        and wildcards.get("suite") in (None, r.suite)
    ]


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


def get_baseline_results(wildcards):
    """The baseline's results, which a candidate's canary is held against; none where both are evaluated side by side."""
    if wildcards.candidate == BASELINE or PLAN.config.parallel_evaluation:
        return []
    return f"results/{wildcards.model}/{BASELINE}/{wildcards.suite}/results.yml"


def get_evaluation_folder(wildcards):
    """Folder of a run, or of one of its shards."""
    folder = f"results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite}"
    return f"{folder}/shards/{wildcards.shard}" if "shard" in wildcards.keys() else folder


def get_evaluation_options(wildcards, input):
    """What a run is told beside its checkpoint and suite: the baseline's results, and its share of the documents."""
    options = ["--baseline-results", str(input.baseline)] if input.baseline else []
    return options + (["--shard", wildcards.shard] if "shard" in wildcards.keys() else [])


def get_shards(wildcards):
    """The parts of a run: one per task, or as many as configured, each with every n-th document."""
    count = PLAN.config.shards
    tasks = PLAN.suites[wildcards.suite].tasks
    shards = list(tasks) if count == "per-task" else [f"{number}-of-{count}" for number in range(1, count + 1)]
    folder = f"results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite}/shards"
    return [f"{folder}/{shard}/part.json" for shard in shards]


def get_release(wildcards):
    """The planned release of a decision's folder."""
    return PLAN.release(wildcards.model, wildcards.release)


def get_comparison_input(wildcards):
    """Both runs of a release, and the tokens that they passed their gates."""
    release = get_release(wildcards)
    runs = {"baseline": BASELINE, "candidate": release.recipe.path_name}
    folders = {side: f"results/{release.model}/{candidate}/{release.suite}" for side, candidate in runs.items()}
    return {
        "source": f"results/{release.model}/source.json",
        **{side: f"{folder}/run.json" for side, folder in folders.items()},
        **{f"{side}_gate": f"{folder}/run.ok" for side, folder in folders.items()},
    }


def get_published_scores(wildcards):
    """Published scores of a release's model."""
    return get_text({"scores": PUBLISHED_SCORES[wildcards.model]})


def get_release_request(wildcards):
    """What a verdict says of its release besides the evidence."""
    release = get_release(wildcards)
    return {
        "name": release.name,
        "model": release.model,
        "recipe": release.recipe.name,
        "candidate": release.recipe.path_name,
        "suite": release.suite,
        "policy": release.policy.as_plain(),
        "external": PUBLISHED_SCORES[release.model],
        "warnings": resolution_warnings(PLAN, release),
    }


def get_import_input(wildcards):
    """The files of an imported run, the checkpoint that it is of, and for a candidate that this is valid."""
    model, candidate, suite = wildcards.model, wildcards.candidate, wildcards.suite
    try:
        run = imported_files(Path(PLAN.imported(model, candidate, suite).path))
    except UnusableInput:
        run = []  # the import itself records what is wrong with it
    gates = [] if candidate == BASELINE else [f"results/{model}/{candidate}/validation.ok"]
    return {"run": list(map(str, run)), "record": get_served_record(wildcards), "gates": gates}


def get_environment_definition(stage):
    """The lock of a stage's environment, or the marker with the digest of its image."""
    name = get_environment_name(stage)
    return get_environment(stage) if name.endswith(".image") else f"envs/{name}.lock"


def get_materials(wildcards):
    """What a release was made by, besides its model and the scripts: suite, calibration data, locks of its stages."""
    release = get_release(wildcards)
    stages = ["quantize", "serve", *(HARNESSES[name].environment for name in get_harnesses(release.suite))]
    return [
        f"config/suites/{release.suite}.yaml",
        *PLAN.suites[release.suite].data_files,
        *get_calibration_files(release.model, release.recipe.path_name),
        *map(get_environment_definition, stages),
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


def get_baseline_at_hand(wildcards):
    """The baseline's run where one is there, so that an external mismatch leads also where the candidate failed early.

    Nothing is evaluated for that: it is an option of the decision, with its digest, and no input.
    """
    release = get_release(wildcards)
    run = f"results/{release.model}/{BASELINE}/{release.suite}/run.json"
    try:
        is_current = read_json(run).get("definition_digest") == get_definition(release.model, suite=release.suite)
        return ["--baseline-run", run, digest_of_file(run)] if is_current else []
    except (UnusableInput, OSError):
        return []


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


install_refusals()

# The executor plugins are loaded by the time that a Snakefile is read; a job within Slurm has no use for this one.
if "snakemake_executor_plugin_slurm" in sys.modules and workflow.is_main_process:
    from driver.slurm import install

    install(PLAN.config.cluster.model_dump(), get_release_names)


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


def redo_failed_preflights(workflow):
    """Let the next run look again where preflight failed: the machine may have been mended, at no change of an input."""
    for job in workflow.dag.jobs:
        if job.rule.name == "check_preflight":
            try:
                passed = read_json(str(job.output[0])).get("pass")
            except UnusableInput:
                continue  # it is not there, or about to be refused by whoever reads it
            if passed is not True:
                workflow.persistence.started(job)


def record_crashes(workflow):
    """After a failed run, make what crashed known: a verdict for every release below it, and nothing stale beside it.

    A gate that refused is no crash. Whatever lies below a crashed job is marked incomplete, so that the next run redoes
    it even where a file of an earlier run is left.
    """
    dag = workflow.dag
    attempts = getattr(workflow.scheduler._executor, "attempts", {})  # only the Slurm executor keeps them
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
                refusal = error_in(log) if job in REFUSED else None
                verdict = make_crash_verdict(release, job.rule.name, job.attempt, log, attempts.get(job, []), refusal)
                write_json(str(below.output[0]), verdict | stamp())
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
