rule evaluate_run:
    """Serve a checkpoint with vLLM, ask it the suite's tasks with the harness, and record the results."""
    input:
        gates=get_evaluation_gates,
        record=get_served_record,
        suite=get_suite_files,
        serve=get_environment("serve"),
        harness=lambda wildcards: get_harness_environments(wildcards.suite),
        script=get_evaluation_scripts,
        plugin=get_plugin_files(),
    output:
        results="results/{model}/{candidate}/{suite}/results.yml",
        samples=directory("results/{model}/{candidate}/{suite}/samples"),
    log:
        "results/{model}/{candidate}/{suite}/evaluate.log",
    benchmark:
        "results/{model}/{candidate}/{suite}/evaluate.tsv"
    threads: 1
    resources:
        mem_mb=get_mem_mb("evaluate"),
        gpu=get_gpu("evaluate"),
        cpus_per_task=get_cpus("evaluate"),
        nodes=1,
        runtime=get_runtime("evaluate", 480),
    params:
        serve=get_python("serve"),
        harness=lambda wildcards: [
            f"{name}={get_python(HARNESSES[name].environment)}" for name in get_harnesses(wildcards.suite)
        ],
        serving=lambda wildcards: get_text(PLAN.serving(wildcards.model, wildcards.candidate)),
    message:
        "Evaluating {wildcards.candidate} of {wildcards.model} on {wildcards.suite}"
    shell:
        "python scripts/evaluate.py --record {input.record} --suite config/suites/{wildcards.suite}.yaml"
        " --serving {params.serving:q} --serve-python {params.serve} --harness-python {params.harness}"
        " --model {wildcards.model} --candidate {wildcards.candidate}"
        " --output-dir results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite} 2>&1 | tee {log}"


checkpoint assess_run:
    """Assess the run: status, accounting, scores and logs."""
    input:
        results="results/{model}/{candidate}/{suite}/results.yml",
        samples="results/{model}/{candidate}/{suite}/samples",
        suite="config/suites/{suite}.yaml",
        script=get_script("gate_run.py"),
    output:
        assessment="results/{model}/{candidate}/{suite}/run.json",
    log:
        "results/{model}/{candidate}/{suite}/assess_run.log",
    benchmark:
        "results/{model}/{candidate}/{suite}/assess_run.tsv"
    params:
        definition=lambda wildcards: get_definition(
            wildcards.model, candidate=wildcards.candidate, suite=wildcards.suite
        ),
    message:
        "Assessing the run of {wildcards.candidate} on {wildcards.suite}"
    shell:
        "python scripts/gate_run.py --run results/{wildcards.model}/{wildcards.candidate}/{wildcards.suite}"
        " --suite {input.suite} --definition-digest {params.definition} --assess --output {output.assessment} > {log} 2>&1"


use rule gate_preflight as gate_run with:
    input:
        assessment="results/{model}/{candidate}/{suite}/run.json",
        script=get_script("gate.py"),
    output:
        token="results/{model}/{candidate}/{suite}/run.ok",
    log:
        "results/{model}/{candidate}/{suite}/gate_run.log",
