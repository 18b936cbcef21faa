# Optional: log every release with MLflow. Nothing here is in the plan unless the configuration says `mlflow`.
include: "lookups/tracking.smk"


rule log_evidence:
    """Log parameters, metrics and evidence of a release as a run of MLflow, before the decision, which names the run."""
    input:
        unpack(get_verdict_evidence),
        environment=get_environment("mlflow"),
    output:
        record="results/{model}/{release}/mlflow.json",
    log:
        "results/{model}/{release}/logs/log_evidence.log",
    benchmark:
        "results/{model}/{release}/benchmarks/log_evidence.tsv"
    localrule: True
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=get_code("log_mlflow.py"),
        python=get_python("mlflow"),
        settings=get_text(PLAN.config.mlflow.model_dump() if PLAN.config.mlflow else {}),
        release=lambda wildcards: get_text(get_release_request(wildcards)),
        evidence=lambda wildcards, input: get_text({k: v for k, v in input.items() if k != "environment"}),
    message:
        "Logging the evidence on {wildcards.release} of {wildcards.model}"
    shell:
        "{params.python:q}"
        f" {OWN_SCRIPTS}/log_mlflow.py"
        " --settings {params.settings:q} --release {params.release:q}"
        " --evidence {params.evidence:q} --output {output.record:q} 2>&1 | tee {log:q} > /dev/null"


rule log_decision:
    """Tag the run with the decision, add the verdict and the report, and end it."""
    input:
        run="results/{model}/{release}/mlflow.json",
        verdict="results/{model}/{release}/verdict.json",
        report="results/{model}/{release}/report.html",
        environment=get_environment("mlflow"),
    output:
        record="results/{model}/{release}/mlflow.decision.json",
    log:
        "results/{model}/{release}/logs/log_decision.log",
    benchmark:
        "results/{model}/{release}/benchmarks/log_decision.tsv"
    localrule: True
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=get_code("log_mlflow.py"),
        python=get_python("mlflow"),
        settings=get_text(PLAN.config.mlflow.model_dump() if PLAN.config.mlflow else {}),
    message:
        "Logging the decision on {wildcards.release} of {wildcards.model}"
    shell:
        "{params.python:q}"
        f" {OWN_SCRIPTS}/log_mlflow.py"
        " --settings {params.settings:q} --run {input.run:q}"
        " --verdict {input.verdict:q} --report {input.report:q} --output {output.record:q} 2>&1 | tee {log:q} > /dev/null"
