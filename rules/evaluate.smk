# Runs: served and asked, or imported; assessed, and their gate.
include: "lookups/evaluate.smk"


rule plan_stopping:
    """Write by which rules the evaluation of a candidate may be stopped early: those of the releases that share it."""
    output:
        rules="results/{model}/{candidate}/{suite}/early_stopping.json",
    log:
        "results/{model}/{candidate}/{suite}/plan_stopping.log",
    localrule: True
    params:
        rules=lambda wildcards: get_text(
            PLAN.stopping_rules(wildcards.model, wildcards.candidate, wildcards.suite).as_plain()
        ),
    message:
        "Early stopping of {wildcards.candidate} on {wildcards.suite}"
    shell:
        "printf '%s\\n' {params.rules:q} > {output.rules:q} 2> {log:q}"


rule evaluate_run:
    """Serve a checkpoint with vLLM, ask it the suite's tasks with the harness, and record the results."""
    input:
        gates=get_evaluation_gates,
        baseline=get_baseline_results,
        stopping=get_stopping_rules,
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
        load=get_load_options,
        generated_code="--allow-generated-code" if PLAN.config.allow_generated_code else "",
    message:
        "Evaluating {wildcards.candidate} of {wildcards.model} on {wildcards.suite}"
    shell:
        f"python {OWN_SCRIPTS}/evaluate.py"
        " --record {input.record:q}"
        f" --suite {SUITE_FILE}"
        " --serving {params.serving:q} --serve-python {params.serve:q} --harness-python {params.harness:q} {params.generated_code:q}"
        " --model {wildcards.model:q} --candidate {wildcards.candidate:q} --walltime-minutes {resources.runtime:q}"
        " {params.options:q} {params.load:q} --output-dir {params.folder:q} 2>&1 | tee -i {log:q} > /dev/null"


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
            f"python {OWN_SCRIPTS}/merge_shards.py"
            " {input.parts:q}"
            f" --suite {SUITE_FILE}"
            " --output-dir results/{wildcards.model:q}/{wildcards.candidate:q}/{wildcards.suite:q} > {log:q} 2>&1"


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
        f"python {OWN_SCRIPTS}/import_run.py"
        " --request {params.request:q} --record {input.record:q}"
        f" --suite {SUITE_FILE}"
        " --model {wildcards.model:q} --candidate {wildcards.candidate:q}"
        " --output-dir results/{wildcards.model:q}/{wildcards.candidate:q}/{wildcards.suite:q} 2>&1 | tee -i {log:q} > /dev/null"


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
        f"python {OWN_SCRIPTS}/gate_run.py"
        " --run results/{wildcards.model:q}/{wildcards.candidate:q}/{wildcards.suite:q}"
        f" --suite {SUITE_FILE}"
        " --definition-digest {params.definition:q} --assess --output {output.assessment:q} > {log:q} 2>&1"


use rule gate_preflight as gate_run with:
    input:
        assessment="results/{model}/{candidate}/{suite}/run.json",
    output:
        token="results/{model}/{candidate}/{suite}/run.ok",
    log:
        "results/{model}/{candidate}/{suite}/gate_run.log",
    localrule: True  # not taken over by `use rule`
