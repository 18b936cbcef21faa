# Lookups and input functions of all rules. Rules say what depends on what; the decisions are in scripts/day0.
import atexit
import json
import os
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError

sys.path.insert(0, os.path.join(workflow.basedir, "scripts"))

from day0 import cluster
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

# `python` in every rule is the driver's, whether or not .venv is activated; uncompiled imports would cost seconds a job,
# and threads that spin while they wait would stall the jobs beside them.
shell.executable("bash")
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# A stage is one process of its own: what srun, mpirun or torchrun leave behind would make torch wait for other ranks.
shell.prefix(
    "unset ${{!SLURM_@}} ${{!PMI_@}} ${{!PMIX_@}} ${{!OMPI_@}} ${{!TORCHELASTIC_@}} RANK LOCAL_RANK GROUP_RANK NODE_RANK"
    " WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT; "
)


wildcard_constraints:
    model="[A-Za-z0-9][A-Za-z0-9._-]*",
    candidate="[A-Za-z0-9][A-Za-z0-9._-]*",
    recipe=f"(?!{BASELINE}/)[A-Za-z0-9][A-Za-z0-9._-]*",
    release=f"(?!{BASELINE}/)[A-Za-z0-9][A-Za-z0-9._-]*",
    suite="[A-Za-z0-9][A-Za-z0-9._-]*",
    environment="[a-z-]+([.](cpu|cuda))?",


def get_environment_name(stage):
    """Environment of a stage: its image where it has one; a harness's is one for both variants."""
    if getattr(PLAN.config.containers, stage, None):
        return f"{stage}.image"
    return stage if stage in {harness.environment for harness in HARNESSES.values()} else f"{stage}.{VARIANT}"


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
    """Host memory of a stage's job: the configuration's, else by the model's size; more for each new attempt."""
    formula = {"quantize": cluster.quantize_memory_mb, "evaluate": cluster.evaluate_memory_mb}[stage]

    def mem_mb(wildcards, attempt):
        given = PLAN.resource(wildcards.model, stage, "mem_mb")
        memory = given or formula(get_weights_bytes(wildcards.model), on_cpu=VARIANT == "cpu")
        return cluster.memory_of_attempt(memory, attempt, PLAN.config.cluster.max_mem_mb)

    return mem_mb


def get_gpu(stage):
    """GPUs of a stage's job: the configuration's, else what its serving settings or the model's size need."""

    def gpu(wildcards):
        given = PLAN.resource(wildcards.model, stage, "gpu")
        if given is not None or VARIANT == "cpu":
            return given or 0
        if stage == "evaluate":
            return cluster.serving_gpus(PLAN.serving(wildcards.model, wildcards.candidate))
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


def get_releases(pattern):
    """A path per release, for the targets."""
    return [
        pattern.format(model=r.model, release=r.name, recipe=r.recipe.path_name, suite=r.suite) for r in PLAN.releases
    ]


# The executor plugins are loaded by the time that a Snakefile is read; a job within Slurm has no use for this one.
if "snakemake_executor_plugin_slurm" in sys.modules and workflow.is_main_process:
    from executors.slurm import install

    install(PLAN.config.cluster.model_dump(), get_release_names)


def require_finished(workflow):
    """Fail a run that ended well with jobs left over.

    A retry that waits for resources while a checkpoint finishes can be lost by the scheduler.
    """
    lost = workflow.scheduler.remaining_jobs
    if lost:
        raise WorkflowError(
            f"the scheduler lost {', '.join(sorted({str(job) for job in lost}))}; run the same command again"
        )


def record_crashes(workflow):
    """After a failed run, make what crashed known: a verdict for every release below it, and nothing stale beside it.

    A gate that refused is no crash. Whatever lies below a crashed job is marked incomplete, so that the next run redoes
    it even where a file of an earlier run is left.
    """
    dag = workflow.dag
    attempts = getattr(workflow.scheduler._executor, "attempts", {})  # only the Slurm executor keeps them
    for job in workflow.scheduler.failed:
        if job.rule.name.startswith("gate_"):
            continue
        for below in dag.bfs(dag.depending, job):
            if below is not job:
                workflow.persistence.started(below)
            if below.rule.name == "decide_release":
                release = get_release_request(below.wildcards)
                log = str(job.log[0]) if job.log else None
                write_json(
                    str(below.output[0]),
                    make_crash_verdict(release, job.rule.name, job.attempt, log, attempts.get(job, [])),
                )
    decided = [path for path in get_releases("results/{model}/{release}/verdict.json") if Path(path).exists()]
    if decided:
        # Registered, so that the decisions are the last lines, below Snakemake's own.
        atexit.register(lambda: print(f"\n{format_decisions(map(Path, decided))}", file=sys.stderr))
