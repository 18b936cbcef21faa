# What the rules of source.smk look up.
def get_model_files(model):
    """The files of a local source model; a hub model has none until it is fetched."""
    path = PLAN.config.models[model].path
    if path is None:
        return []
    if made := {DEMO_MODEL: rules.train_demo_model, EXAMPLE_MODEL: rules.make_example_model}.get(
        os.path.normpath(path)
    ):
        return made.output
    return sorted(str(file) for file in Path(path).iterdir() if file.is_file())


def needs_hub():
    """Whether a model of the plan is fetched from the hub."""
    return any(PLAN.config.models[release.model].hub for release in PLAN.targets)
