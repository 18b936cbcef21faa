# What the rules of quantize.smk look up.
from day0.recipe.recipes import Calibration
from day0.source.imported_checkpoint import file_states, files_of_checkpoint

IMPORTED_CHECKPOINTS = PLAN.imported_checkpoint_pattern()


def get_calibration_files(model, recipe):
    """The calibration data where it is a local file; of a checkpoint that was made elsewhere none is known."""
    if PLAN.recipe(model, recipe).checkpoint is not None:
        return []
    return get_files_of_calibration(PLAN.calibration(model, recipe))


def get_files_of_calibration(settings):
    """The calibration data where it is a local file."""
    file = Calibration(**settings).local_file
    return [str(file)] if file else []


def get_sensitivity(model, recipe):
    """The model's measured sensitivity, where the recipe is worked out by it."""
    return [f"results/{model}/sensitivity.json"] if PLAN.needs_sensitivity(model, recipe) else []


def get_imported_files(model, recipe):
    """The files of a checkpoint that was made elsewhere."""
    folder = Path(PLAN.recipe(model, recipe).checkpoint)
    is_trusted = PLAN.config.models[model].trust_remote_code
    return [str(folder / name) for name in files_of_checkpoint(folder, is_trusted)]
