# What the rules of quantize.smk look up.
from day0.recipe.recipes import Calibration


def get_calibration_files(model, recipe):
    """The calibration data where it is a local file."""
    file = Calibration(**PLAN.calibration(model, recipe)).local_file
    return [str(file)] if file else []
