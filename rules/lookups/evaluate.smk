# What the rules of evaluate.smk look up.
from day0.base.artefacts import read_yaml
from day0.evaluation.imported_run import imported_files
from day0.records.part import Part
from day0.records.results import read_metadata
from day0.suite.content import other_files

IMPORTED_RUNS = PLAN.imported_pattern()


def get_evaluation_code(wildcards):
    """Digest of what an evaluation runs: the stage, its suite's harnesses, the client that measures, and vLLM's plugin."""
    clients = [HARNESSES[name].script for name in get_harnesses(wildcards.suite)]
    clients += ["measure_speed.py"] if PLAN.load(wildcards.model, wildcards.suite) else []
    plugin = [f"vllm_plugin/{file.name}" for file in sorted((SCRIPTS / "vllm_plugin").glob("*.py"))]
    return get_code("evaluate.py", *clients, *plugin)


def get_plugin_metadata():
    """How the plugin is known to vLLM: its entry points."""
    return sorted(map(str, Path(get_own("scripts/vllm_plugin")).glob("*.dist-info/*")))


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
    return [ancient(gate) for gate in gates]


def get_baseline_results(wildcards):
    """The baseline's results, which a candidate's canary is compared with; none where both are evaluated side by side."""
    if wildcards.candidate == BASELINE or PLAN.config.parallel_evaluation:
        return []
    return f"results/{wildcards.model}/{BASELINE}/{wildcards.suite}/results.yml"


def was_stopped_early(wildcards):
    """Whether the run, or the shard of one, that lies on disk was stopped early."""
    folder = Path(get_evaluation_folder(wildcards))
    try:
        if "shard" in wildcards.keys():
            return Part.read(folder / "part.json").early_stop is not None
        file = folder / "results.yml"
        # Most runs have no such key, and reading all of each would be a tenth of a plan.
        return b"early_stop" in file.read_bytes() and bool(read_metadata(read_yaml(file), file).get("early_stop"))
    except (OSError, UnusableInput):
        return False  # there is none, or it will be refused by the job that reads it


def get_stopping_rules(wildcards):
    """The rules by which a candidate may be stopped early; none for the baseline.

    Other rules change nothing of a run that asked every question; one that was stopped early is made again by them.
    """
    if wildcards.candidate == BASELINE:
        return []
    rules = f"results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite}/early_stopping.json"
    return rules if was_stopped_early(wildcards) else ancient(rules)


@functools.cache
def get_suite_data(suite):
    """The files of a suite that are compared byte by byte: its data, and the other files beside its task files."""
    return [*PLAN.suites[suite].data_files, *map(str, other_files(PLAN.suites[suite]))]


def get_evaluation_folder(wildcards):
    """Folder of a run, or of one of its shards."""
    folder = f"results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite}"
    return f"{folder}/shards/{wildcards.shard}" if "shard" in wildcards.keys() else folder


def get_evaluation_options(wildcards, input):
    """Options of a run besides its checkpoint and suite: the baseline's results, and its share of the documents."""
    options = ["--baseline-results", str(input.baseline)] if input.baseline else []
    if input.baseline and input.stopping:
        options += ["--early-stopping", str(input.stopping)]
    return options + (["--shard", wildcards.shard] if "shard" in wildcards.keys() else [])


def get_load_options(wildcards):
    """The load that a run's server is put under, where its model sets one; a param of its own, since another one redoes the run."""
    load = PLAN.load(wildcards.model, wildcards.suite)
    return ["--speed", get_text(load.as_plain())] if load else []


def get_shards(wildcards):
    """The parts of a run: one per task, or as many as configured, each with every n-th document."""
    count = PLAN.config.shards
    tasks = PLAN.suites[wildcards.suite].tasks
    shards = list(tasks) if count == "per-task" else [f"{number}-of-{count}" for number in range(1, count + 1)]
    folder = f"results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite}/shards"
    return [f"{folder}/{shard}/part.json" for shard in shards]


def get_import_input(wildcards):
    """The files of an imported run, the checkpoint that it is of, and for a candidate that this is valid."""
    model, candidate, suite = wildcards.model, wildcards.candidate, wildcards.suite
    try:
        run = imported_files(Path(PLAN.imported(model, candidate, suite).path))
    except UnusableInput:
        run = []  # the import itself records what is wrong with it
    gates = [] if candidate == BASELINE else [f"results/{model}/{candidate}/validation.ok"]
    return {"run": list(map(str, run)), "record": get_served_record(wildcards), "gates": list(map(ancient, gates))}
