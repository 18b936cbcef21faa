# Runs: served and asked, or imported; assessed, and their gate.

from day0.evaluation.imported_run import imported_files
from day0.suite.content import other_files

IMPORTED_RUNS = PLAN.imported_pattern()


def get_evaluation_code(wildcards):
    """Digest of what an evaluation runs: the stage, its suite's harnesses, and on a CPU the plugin that vLLM loads."""
    harnesses = [HARNESSES[name].script for name in get_harnesses(wildcards.suite)]
    plugin = [f"vllm_plugin/{file.name}" for file in sorted((SCRIPTS / "vllm_plugin").glob("*.py"))]
    return get_code("evaluate.py", *harnesses, *plugin)


def get_plugin_metadata():
    """How the plugin is known to vLLM: its entry points."""
    return sorted(map(str, Path("scripts/vllm_plugin").glob("*.dist-info/*")))


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
    return options + (["--shard", wildcards.shard] if "shard" in wildcards.keys() else [])


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


rule evaluate_run:
    """Serve a checkpoint with vLLM, ask it the suite's tasks with the harness, and record the results."""
    input:
        gates=get_evaluation_gates,
        baseline=get_baseline_results,
        record=get_served_record,
        data=lambda wildcards: get_suite_data(wildcards.suite),
        serve=get_environment("serve"),
        harness=lambda wildcards: get_harness_environments(wildcards.suite),
        plugin=get_plugin_metadata(),
    output:
        results="results/{model}/{candidate}/{suite}/results.yml",
        samples=directory("results/{model}/{candidate}/{suite}/samples"),
    log:
        "results/{model}/{candidate}/{suite}/evaluate.log",
    benchmark:
        "results/{model}/{candidate}/{suite}/evaluate.tsv"
    wildcard_constraints:
        model=f"(?!(?:{IMPORTED_RUNS})/)[A-Za-z0-9][A-Za-z0-9._-]*",
    threads: 1
    resources:
        mem_mb=get_mem_mb("evaluate"),
        gpu=get_gpu("evaluate"),
        cpus_per_task=get_cpus("evaluate"),
        nodes=1,
        server_nodes=get_server_nodes,
        runtime=get_runtime("evaluate", 480),
    params:
        code=get_evaluation_code,
        suite=lambda wildcards: SUITE_DIGESTS[wildcards.suite],
        serve=get_python("serve"),
        harness=lambda wildcards: [
            f"{name}={get_python(HARNESSES[name].environment)}" for name in get_harnesses(wildcards.suite)
        ],
        serving=lambda wildcards: get_text(PLAN.serving(wildcards.model, wildcards.candidate)),
        folder=get_evaluation_folder,
        options=get_evaluation_options,
        generated_code="--allow-generated-code" if PLAN.config.allow_generated_code else "",
    message:
        "Evaluating {wildcards.candidate} of {wildcards.model} on {wildcards.suite}"
    shell:
        "python scripts/evaluate.py --record {input.record} --suite config/suites/{wildcards.suite}.yaml"
        " --serving {params.serving:q} --serve-python {params.serve} --harness-python {params.harness} {params.generated_code}"
        " --model {wildcards.model} --candidate {wildcards.candidate} --walltime-minutes {resources.runtime}"
        " {params.options} --output-dir {params.folder} 2>&1 | tee -i {log}"


if PLAN.config.shards != 1:

    ruleorder: merge_shards > evaluate_run

    use rule evaluate_run as evaluate_shard with:
        output:
            part="results/{model}/{candidate}/{suite}/shards/{shard}/part.json",
        log:
            "results/{model}/{candidate}/{suite}/shards/{shard}/evaluate.log",
        benchmark:
            "results/{model}/{candidate}/{suite}/shards/{shard}/evaluate.tsv"
        message:
            "Evaluating {wildcards.candidate} of {wildcards.model} on {wildcards.suite}, shard {wildcards.shard}"

    rule merge_shards:
        """Put the shards of a run together."""
        input:
            parts=get_shards,
        output:
            results="results/{model}/{candidate}/{suite}/results.yml",
            samples=directory("results/{model}/{candidate}/{suite}/samples"),
        log:
            "results/{model}/{candidate}/{suite}/merge_shards.log",
        benchmark:
            "results/{model}/{candidate}/{suite}/merge_shards.tsv"
        wildcard_constraints:
            model=f"(?!(?:{IMPORTED_RUNS})/)[A-Za-z0-9][A-Za-z0-9._-]*",
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            code=get_code("merge_shards.py"),
            suite=lambda wildcards: SUITE_DIGESTS[wildcards.suite],
        message:
            "Putting the shards of {wildcards.candidate} on {wildcards.suite} together"
        shell:
            "python scripts/merge_shards.py {input.parts} --suite config/suites/{wildcards.suite}.yaml"
            " --output-dir $(dirname {output.results}) > {log} 2>&1"


rule import_run:
    """Take a run that was made elsewhere in place of the one that would be made here."""
    input:
        unpack(get_import_input),
    output:
        results="results/{model}/{candidate}/{suite}/results.yml",
        samples=directory("results/{model}/{candidate}/{suite}/samples"),
    log:
        "results/{model}/{candidate}/{suite}/import.log",
    benchmark:
        "results/{model}/{candidate}/{suite}/import.tsv"
    wildcard_constraints:
        model=f"(?=(?:{IMPORTED_RUNS})/)[A-Za-z0-9][A-Za-z0-9._-]*",
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=get_code("import_run.py"),
        suite=lambda wildcards: SUITE_DIGESTS[wildcards.suite],
        request=lambda wildcards: get_text(PLAN.import_request(wildcards.model, wildcards.candidate, wildcards.suite)),
    message:
        "Importing the run of {wildcards.candidate} of {wildcards.model} on {wildcards.suite}"
    shell:
        "python scripts/import_run.py --request {params.request:q} --record {input.record} --suite config/suites/{wildcards.suite}.yaml"
        " --model {wildcards.model} --candidate {wildcards.candidate}"
        " --output-dir results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite} 2>&1 | tee -i {log}"


checkpoint assess_run:
    """Assess the run: status, accounting, scores and logs."""
    input:
        results="results/{model}/{candidate}/{suite}/results.yml",
        samples="results/{model}/{candidate}/{suite}/samples",
    output:
        assessment="results/{model}/{candidate}/{suite}/run.json",
    log:
        "results/{model}/{candidate}/{suite}/assess_run.log",
    benchmark:
        "results/{model}/{candidate}/{suite}/assess_run.tsv"
    localrule: True
    params:
        code=get_code("gate_run.py"),
        definition=lambda wildcards: get_definition(
            wildcards.model, candidate=wildcards.candidate, suite=wildcards.suite
        ),
    message:
        "Assessing the run of {wildcards.candidate} on {wildcards.suite}"
    shell:
        "python scripts/gate_run.py --run results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite}"
        " --suite config/suites/{wildcards.suite}.yaml --definition-digest {params.definition} --assess --output {output.assessment} > {log} 2>&1"


use rule gate_preflight as gate_run with:
    input:
        assessment="results/{model}/{candidate}/{suite}/run.json",
    output:
        token="results/{model}/{candidate}/{suite}/run.ok",
    log:
        "results/{model}/{candidate}/{suite}/gate_run.log",
