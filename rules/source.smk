checkpoint check_preflight:
    """Assess the set-up before any GPU hour: of a model, of a recipe, or of a suite."""
    input:
        unpack(get_preflight_input),
        script=get_script("preflight.py"),
    output:
        assessment="results/{subject}/preflight.json",
    log:
        "results/{subject}/logs/preflight.log",
    benchmark:
        "results/{subject}/benchmarks/check_preflight.tsv"
    wildcard_constraints:
        subject="[^/]+(/[^/]+){0,2}",
    params:
        request=lambda wildcards: get_text(get_preflight_request(wildcards.subject)),
        definition=lambda wildcards: get_definition(subject=wildcards.subject),
    message:
        "Checking the set-up of {wildcards.subject}"
    shell:
        "python scripts/preflight.py --request {params.request:q} --definition-digest {params.definition}"
        " --environment {input.environments} --output {output.assessment} 2>&1 | tee {log}"


rule gate_preflight:
    """Refuse to go on unless the assessment passed; what is below has the token as an input."""
    input:
        assessment="results/{subject}/preflight.json",
        script=get_script("gate.py"),
    output:
        token="results/{subject}/preflight.ok",
    log:
        "results/{subject}/logs/gate_preflight.log",
    wildcard_constraints:
        subject="[^/]+(/[^/]+){0,2}",
    retries: 0
    message:
        "Gate: {input.assessment}"
    shell:
        "python scripts/gate.py --assessment {input.assessment} --token {output.token} 2>&1 | tee {log}"


rule describe_source:
    """Fetch the source model where it is on the hub, and record its files, digests and configuration."""
    input:
        files=lambda wildcards: get_model_files(wildcards.model),
        gate="results/{model}/preflight.ok",
        script=get_script("describe_source.py"),
    output:
        record="results/{model}/source.json",
    log:
        "results/{model}/logs/describe_source.log",
    benchmark:
        "results/{model}/benchmarks/describe_source.tsv"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=get_reading_runtime,
    params:
        model=lambda wildcards: get_text(get_preflight_request(wildcards.model)),
    message:
        "Describing the source model {wildcards.model}"
    shell:
        "python scripts/describe_source.py --model {params.model:q} --output {output.record} 2>&1 | tee {log}"
