# What the rules of preflight.smk look up.
def get_preflight_request(subject):
    """What preflight checks for a folder of results: a model, a model's recipe or imported checkpoint, or the suite of a model's baseline."""
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
    if checkpoint := PLAN.recipe(model, rest[0]).checkpoint:
        return {"model": model, "candidate": rest[0], "checkpoint": checkpoint}
    return {
        "model": model,
        "recipe": rest[0],
        "definition": PLAN.recipe(model, rest[0]).definition,
        "calibration": PLAN.calibration(model, rest[0]),
        "accelerator": VARIANT,
        "location": settings.model_dump(mode="json", include={"path", "hub", "revision"}),
        "device": PLAN.config.quantization.device,
        "engine": get_engine(),
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
    if PLAN.recipe(model, rest[0]).checkpoint:
        return {"files": [], "environments": []}
    # The headers of the source say which modules there are; those of a hub model are there once it is fetched.
    source = [f"results/{model}/source.json"] if PLAN.config.models[model].hub else get_model_files(model)
    tables = [get_own("envs/modelopt_catalogue.json"), get_own("envs/engine_table.json")]
    files = [*get_calibration_files(model, rest[0]), *source, *tables]
    return {"files": files, "environments": [get_environment("quantize")]}
