# The set-up gate: before any GPU hour.
include: "lookups/preflight.smk"


checkpoint check_preflight:
    """Assess the set-up before any GPU hour: of a model, of a recipe, or of a suite."""
    input:
        unpack(get_preflight_input),
    output:
        assessment="results/{subject}/preflight.json",
    log:
        "results/{subject}/logs/preflight.log",
    benchmark:
        "results/{subject}/benchmarks/check_preflight.tsv"
    wildcard_constraints:
        subject="[^/]+(/[^/]+){0,2}",
    localrule: not PLAN.config.containers.images  # whose interpreters start on compute nodes only
    params:
        code=get_code("preflight.py"),
        request=lambda wildcards: get_text(get_preflight_request(wildcards.subject)),
        definition=lambda wildcards: get_definition(subject=wildcards.subject),
    message:
        "Checking the set-up of {wildcards.subject}"
    shell:
        f"python {OWN_SCRIPTS}/preflight.py"
        " --request {params.request:q} --definition-digest {params.definition:q}"
        " --environment {input.environments:q} --output {output.assessment:q} 2>&1 | tee {log:q} > /dev/null"


rule gate_preflight:
    """Refuse to go on unless the assessment passed; what is below has the token as an input."""
    input:
        assessment="results/{subject}/preflight.json",
    output:
        token="results/{subject}/preflight.ok",
    log:
        "results/{subject}/logs/gate_preflight.log",
    wildcard_constraints:
        subject="[^/]+(/[^/]+){0,2}",
    retries: 0
    localrule: True
    params:
        code=get_code("gate.py"),
    message:
        "Gate: {input.assessment}"
    shell:
        f"python {OWN_SCRIPTS}/gate.py"
        " --assessment {input.assessment:q} --token {output.token:q} 2>&1 | tee {log:q} > /dev/null"
