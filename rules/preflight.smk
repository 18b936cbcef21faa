# The set-up gate: before any GPU hour.


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
    params:
        code=get_code("preflight.py"),
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
        "python scripts/gate.py --assessment {input.assessment} --token {output.token} 2>&1 | tee {log}"


# The interpreters of images start on compute nodes only.
if not PLAN.config.containers.images:

    localrules:
        check_preflight,
