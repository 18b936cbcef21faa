"""Quantize a model by a recipe with NVIDIA ModelOpt and export the Hugging Face checkpoint, with a record of how.

The recipe is resolved and checked before any weight is loaded. Activations are measured on calibration texts by
ModelOpt's own forward loop; a recipe of the type auto_quantize searches a format per layer instead. A recipe that
chooses formats or protects layers by their sensitivity is worked out by ``--sensitivity``, and recorded in full. The
weights are ModelOpt's export. Everything else in the checkpoint is the source's, byte for byte (tokenizer, chat
template, generation config, processor, licence), and config.json is the source's with the export's
``quantization_config``: baseline and candidate then differ in nothing but the weights and what declares them.

A failure that a second run would only repeat (a recipe that covers nothing, an architecture or format that cannot be
exported) is recorded, exit 0. What a retry could cure (out of memory, killed, a full disk) exits non-zero, no record. A
source that is not what source.json says is refused, exit 2: its files are hashed while they are loaded, and their
states compared before and after.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from day0.base.artefacts import digest_of_file, read_json
from day0.base.cli import EXIT_PASS, UnusableInput, json_argument, run_cli
from day0.base.gpus import reserve_gpus
from day0.base.stopwatch import Stopwatch
from day0.recipe.calibration import check_dataset, read_calibration, read_texts
from day0.recipe.failures import Unsupported
from day0.recipe.forms import BySensitivity
from day0.recipe.modelopt_form import as_json, recipe_file_text
from day0.recipe.modules import linear_modules
from day0.recipe.recipes import Recipe, read_resolved, resolve_named
from day0.recipe.resolve import protections, resolve_configuration
from day0.recipe.sensitivity import choose_formats, formats_to_measure
from day0.records.file_states import FileStates
from day0.records.files import digest_of_files
from day0.records.quantization import (
    FormatSearch,
    ModelOptConfiguration,
    Quantization,
    Quantizers,
    RecordedRecipe,
)
from day0.records.recipe import KV_CACHE_NONE, ResolvedRecipe
from day0.records.sensitivity import Sensitivity
from day0.source.model_folder import SourceModel, open_source
from day0.source.recorded_files import RecordedFiles, WrittenFiles, hash_files, write_states_beside
from day0.source.side_files import carry_side_files, left_behind
from loaded_model import (
    failures_recorded,
    import_modelopt,
    load_recorded,
    make_batches,
    peak_memory,
    prepare_process,
    read_shapes,
    set_seed,
    versions,
)

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "envs" / "modelopt_catalogue.json"
LONGEST_SUMMARY = 2000
_LAYER_NUMBER = re.compile(r"[.][0-9]+(?=[.]|$)")
_RANGE = re.compile(r" amax=[^)]*?(?= calibrator| quant|[)])")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, required=True, help="source.json, or the folder of the source model itself"
    )
    recipe = parser.add_mutually_exclusive_group(required=True)
    recipe.add_argument("--recipe", help="preset, recipe of ModelOpt's wheel, name in config/recipes, or a recipe file")
    recipe.add_argument("--recipe-json", help="the recipe in its resolved form, as the plan hands it over")
    parser.add_argument("--sensitivity", type=Path, help="sensitivity.json of the source, for a recipe that needs it")
    parser.add_argument("--calibration", help="calibration settings as JSON; the options below take precedence")
    parser.add_argument("--dataset", help="calibration texts: FILE.jsonl, FILE.txt or the name of a ModelOpt data set")
    parser.add_argument("--samples", type=int, help="number of calibration texts")
    parser.add_argument("--sequence-length", type=int, help="tokens at which a calibration text is cut")
    parser.add_argument("--batch-size", type=int, help="texts per forward pass")
    parser.add_argument("--text-field", help="field of a .jsonl file that holds the text")
    parser.add_argument(
        "--kv-cache", help=f"KV-cache preset of ModelOpt, or {KV_CACHE_NONE!r}; takes precedence over the recipe's"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "device_map"),
        default="auto",
        help="auto: cuda where there is one; device_map: spread over all GPUs and the host's memory",
    )
    parser.add_argument("--seed", type=int, default=1234, help="seed of Python, numpy and torch")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint; replaced if it exists")
    parser.add_argument("--record", type=Path, required=True, help="quantization.json to write")
    return parser.parse_args()


def read_recipe(arguments: argparse.Namespace) -> ResolvedRecipe:
    """The recipe: in its resolved form as the plan hands it over, or by a name or file given by hand."""
    if arguments.recipe_json is not None:
        return read_resolved(json_argument("--recipe-json", arguments.recipe_json), "--recipe-json")
    return resolve_named(arguments.recipe, ROOT / "config" / "recipes", read_json(CATALOGUE)).of_the_weights()


def read_sensitivity(path: Path | None, recipe: ResolvedRecipe, source: SourceModel) -> Sensitivity | None:
    """The sensitivity of the source, where the recipe needs it.

    Raises:
        UnusableInput: it is not given, or is that of another model.
    """
    if not formats_to_measure(recipe.definition):
        return None
    if path is None:
        raise UnusableInput(
            f"recipe {recipe.name!r} needs the model's sensitivity: give --sensitivity, as "
            "scripts/measure_sensitivity.py writes it"
        )
    sensitivity = Sensitivity.read(path)
    if None not in (source.digest, sensitivity.source_digest) and source.digest != sensitivity.source_digest:
        raise UnusableInput(
            f"{path}: source_digest: found {sensitivity.source_digest}; expected {source.digest}, that of the model; "
            "measure the sensitivity anew"
        )
    return sensitivity


class LoadedRecipe(NamedTuple):
    """A recipe as ModelOpt takes it, with every import filled in; None: it has no such part.

    A KV-cache preset is appended to ``quantize`` as ModelOpt's hf_ptq example does, and stays apart for a search, whose
    settings are an object of ModelOpt.
    """

    quantize: dict[str, Any] | None
    auto_quantize: Any
    kv_cache: dict[str, Any] | None

    def recorded(self) -> ModelOptConfiguration:
        """The same as the record holds it."""
        return ModelOptConfiguration(**{name: as_json(value) for name, value in self._asdict().items()})


def load_configuration(
    definition: Mapping[str, Any],
    kv_cache: str | None,
    modules: Sequence[str] = (),
    sensitivity: Sensitivity | None = None,
) -> LoadedRecipe:
    """Have ModelOpt read a recipe's definition.

    Args:
        definition: of the recipe.
        kv_cache: ModelOpt's KV-cache preset, or none; None: as the recipe has it.
        modules: linear modules of the model.
        sensitivity: of the model, where the recipe needs it.

    Raises:
        UnusableInput: ModelOpt does not accept it, or the model has not the layers that it names.
        Unsupported: the sensitivity does not allow what it asks for.
    """
    from modelopt.recipe import load_recipe
    from modelopt.recipe.presets import KV_QUANT_CFG_CHOICES, QUANT_CFG_CHOICES

    recipe = Recipe.model_validate(definition)
    search = fixed = None
    try:
        if recipe.preset is not None:
            fixed = QUANT_CFG_CHOICES[recipe.preset]
        elif recipe.sensitivity is not None:
            worked_out = resolve_configuration(definition, read_json(CATALOGUE), "recipe", None, modules, sensitivity)
            fixed = _load_body(Recipe(quantize=worked_out.quantize)).quantize.model_dump()
        elif isinstance(recipe.base, dict):
            fixed = load_configuration(recipe.base, None, modules, sensitivity).quantize or {}
            entries = as_json(fixed["quant_cfg"])
            more = protections(definition, entries, read_json(CATALOGUE), "recipe", modules, sensitivity)
            loaded = _load_body(Recipe(quantize={"quant_cfg": more, "algorithm": "max"}))
            fixed = {**fixed, "quant_cfg": [*fixed["quant_cfg"], *loaded.quantize.model_dump()["quant_cfg"]]}
        else:
            if recipe.modelopt_recipe is not None:
                loaded = load_recipe(recipe.modelopt_recipe, overrides=recipe.overrides or None)
            else:
                loaded = _load_body(recipe)
            fixed = loaded.quantize.model_dump() if getattr(loaded, "quantize", None) is not None else None
            search = loaded.auto_quantize if hasattr(loaded, "auto_quantize") else None
        kv = None
        if kv_cache == KV_CACHE_NONE:
            kv = {"quant_cfg": [{"quantizer_name": "*[kv]_bmm_quantizer", "enable": False}]}
        elif kv_cache is not None:
            kv = KV_QUANT_CFG_CHOICES[kv_cache]
    except KeyError as error:
        raise UnusableInput(
            f"the installed ModelOpt has no preset {error}; make envs/modelopt_catalogue.json anew"
        ) from error
    except (UnusableInput, Unsupported):
        raise
    except Exception as error:
        raise UnusableInput(f"ModelOpt does not accept the recipe: {error}") from error
    if search is not None:
        return LoadedRecipe(fixed, search, kv)
    return LoadedRecipe(_with_kv_cache(fixed or {}, kv), None, kv)


def _with_kv_cache(config: dict[str, Any], kv: dict[str, Any] | None) -> dict[str, Any]:
    entries = list(config.get("quant_cfg") or [{"quantizer_name": "*", "enable": False}])
    return {
        **config,
        "quant_cfg": entries + list(kv["quant_cfg"] if kv else []),
        "algorithm": config.get("algorithm") or "max",
    }


def _load_body(recipe: Recipe) -> Any:
    """ModelOpt reads recipes from files only."""
    from modelopt.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(recipe_file_text(recipe), encoding="utf-8")
        return load_recipe(file)


def needs_calibration(configuration: LoadedRecipe) -> bool:
    """Whether texts are needed: to measure activations, or to score the formats of a search."""
    from modelopt.torch.quantization.config import need_calibration

    return configuration.auto_quantize is not None or need_calibration(configuration.quantize)


def known_datasets() -> list[str]:
    """Names of ModelOpt's calibration data sets."""
    from modelopt.torch.utils.dataset_utils import get_supported_datasets

    return get_supported_datasets()


def quantize(model: Any, configuration: LoadedRecipe, batches: Any) -> FormatSearch | None:
    """Quantize the model in place; returns what a search found, or None where there was none."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.utils.dataset_utils import create_forward_loop

    forward_loop = create_forward_loop(dataloader=batches) if batches is not None else None
    if configuration.auto_quantize is None:
        mtq.quantize(model, configuration.quantize, forward_loop)
        return None
    return search_formats(model, configuration, batches, forward_loop)


def search_formats(model: Any, configuration: LoadedRecipe, batches: Any, forward_loop: Any) -> FormatSearch:
    """Search a format per layer as ModelOpt's hf_ptq example does; a KV-cache format is set and measured after it.

    Raises:
        Unsupported: no choice of formats meets the recipe's constraint.
    """
    import modelopt.torch.quantization as mtq

    search = configuration.auto_quantize
    constraints = search.constraints.model_dump(exclude_none=True)
    if search.cost_excluded_layers:
        constraints.setdefault("cost", {})["excluded_module_name_patterns"] = search.cost_excluded_layers
    spaces = [
        {
            "module_name_patterns": space.module_name_patterns,
            "quantization_formats": [candidate.model_dump(exclude_unset=True) for candidate in space.candidate_formats],
            "allow_no_quant": space.allow_no_quant,
        }
        for space in search.module_search_spaces
    ]
    batch_size = len(next(iter(batches))["input_ids"])
    is_gradient = search.auto_quantize_method == "gradient"
    _, state = mtq.auto_quantize(
        model,
        constraints=constraints,
        quantization_formats=[candidate.model_dump(exclude_unset=True) for candidate in search.candidate_formats]
        or None,
        data_loader=batches,
        forward_step=(lambda model, batch: model(**batch))
        if is_gradient
        else (lambda model, batch: model(**batch).logits),
        loss_func=lambda output, batch: output.loss,
        disabled_layers=search.disabled_layers,
        num_calib_steps=len(batches),
        num_score_steps=min(len(batches), max(search.score_size // batch_size, 1)),
        verbose=True,
        method=search.auto_quantize_method,
        module_search_spaces=spaces or None,
        fixed_quantization_config=configuration.quantize,
    )
    best = state["best"]
    reached = as_json(best.get("constraints", constraints))
    found = FormatSearch(is_satisfied=bool(best["is_satisfied"]), constraints=reached)
    if not found.is_satisfied:
        raise Unsupported(
            f"no choice of formats meets the recipe's constraint {as_json(constraints)}; found {found.constraints}"
        )
    kv = configuration.kv_cache
    if kv is None and search.kv_cache:
        kv = search.kv_cache.model_dump()
    if kv is not None:
        entries = [entry for entry in kv["quant_cfg"] if entry["quantizer_name"] != "*"]
        mtq.set_quantizer_by_cfg(model, entries)
        if any(entry.get("cfg") and not entry["cfg"].get("use_constant_amax") for entry in entries):
            with mtq.set_quantizer_by_cfg_context(model, [{"quantizer_name": "*", "enable": False}, *entries]):
                mtq.calibrate(model, algorithm="max", forward_loop=forward_loop)
    return found


def describe_quantizers(model: Any) -> Quantizers:
    """Count the quantizers and list them as ``mtq.print_quant_summary`` does; those of many layers folded together."""
    from modelopt.torch.quantization.nn import TensorQuantizer

    quantizers = [(name, module) for name, module in model.named_modules() if isinstance(module, TensorQuantizer)]
    lines = [f"{name:80} {module}" for name, module in quantizers]
    folded = Counter(f"{_LAYER_NUMBER.sub('.*', name):80} {_RANGE.sub('', str(module))}" for name, module in quantizers)
    short = [f"{count:6} x {line}" for line, count in folded.items()]
    print("\n".join(short))
    enabled = sum(module.is_enabled for _, module in quantizers)
    summary = lines if len(lines) <= LONGEST_SUMMARY else short
    return Quantizers(enabled=enabled, disabled=len(quantizers) - enabled, summary=summary)


def export(model: Any, source: SourceModel, folder: Path) -> None:
    """Write the checkpoint: ModelOpt's weights and declarations, everything else as the source has it."""
    import torch
    from modelopt.torch.export import export_hf_checkpoint

    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=folder)
    carry_side_files(source.folder, folder, source.trust_remote_code)
    for name, why in left_behind(source.folder, source.trust_remote_code).items():
        print(f"left behind: {name}: {why}", flush=True)


def make_checkpoint(
    source: SourceModel,
    recorded: RecordedFiles,
    configuration: LoadedRecipe,
    texts: list[str],
    record: Quantization,
    folder: Path,
    stopwatch: Stopwatch,
) -> None:
    """Load, quantize and export the model into a folder, and put into the record what was found on the way.

    Raises:
        Unsupported: a failure that a second run would only repeat.
        UnusableInput: the source is not what its record says.
    """
    device = record.device
    with stopwatch.step("load", f"loading {source.folder}"):
        model, tokenizer = load_recorded(source, recorded, device)
    record.device = "device_map" if device == "device_map" else str(model.device)
    with (
        stopwatch.step("calibrate", f"quantizing to {record.recipe.name}"),
        failures_recorded("ModelOpt cannot quantize", device),
    ):
        is_search = configuration.auto_quantize is not None
        batches = None
        if needs_calibration(configuration):
            assert record.calibration is not None  # which only a checkpoint that was made elsewhere lacks
            batches = make_batches(record.calibration, texts, tokenizer, model.device, labels=is_search)
        record.search = quantize(model, configuration, batches) or record.search
    record.quantizers = describe_quantizers(model)
    with (
        stopwatch.step("export", f"exporting {record.recipe.name}"),
        failures_recorded("ModelOpt cannot export", device),
    ):
        export(model, source, folder)
    recorded.finish()


def work_out(
    recipe: ResolvedRecipe, kv_cache: str | None, source: SourceModel, sensitivity: Sensitivity | None
) -> tuple[LoadedRecipe, FormatSearch | None]:
    """What a recipe gives to ModelOpt for this model, and what a choice of formats by sensitivity comes to.

    Raises:
        UnusableInput, Unsupported: see :func:`load_configuration`.
    """
    modules: Sequence[str] = ()
    if recipe.definition.get("base") is not None:
        modules = linear_modules(read_shapes(source))
    configuration = load_configuration(recipe.definition, kv_cache, modules, sensitivity)
    wanted = recipe.definition.get("sensitivity")
    if wanted is None or sensitivity is None:
        return configuration, None
    choice = choose_formats(sensitivity, BySensitivity.model_validate(wanted))
    return configuration, FormatSearch(is_satisfied=True, constraints={"effective_bits": choice.bits})


def main() -> int:
    arguments = parse_arguments()
    if arguments.device != "cpu":
        reserve_gpus(None if arguments.device == "device_map" else 1)
    source, recipe = open_source(arguments.source), read_recipe(arguments)
    settings = json_argument("--calibration", arguments.calibration) if arguments.calibration else {}
    calibration = read_calibration(settings, vars(arguments))
    texts = read_texts(calibration)
    kv_cache = arguments.kv_cache or recipe.definition.get("kv_cache")
    stopwatch = Stopwatch("quantize")
    sensitivity = read_sensitivity(arguments.sensitivity, recipe, source)
    with stopwatch.step("import", "loading ModelOpt"):
        import_modelopt()
    configuration, refused, found = LoadedRecipe(None, None, None), None, None
    try:
        configuration, found = work_out(recipe, kv_cache, source, sensitivity)
    except Unsupported as error:
        refused = error
    is_named = calibration.dataset is not None and calibration.local_file is None
    is_needed = refused is None and needs_calibration(configuration)
    check_dataset(calibration, is_needed, known_datasets() if is_named else [])
    set_seed(arguments.seed)
    record = Quantization.begun(
        model=source.name,
        source_digest=source.digest,
        sensitivity_sha256=digest_of_file(arguments.sensitivity) if sensitivity is not None else None,
        recipe=RecordedRecipe(**recipe.as_plain(), quant_cfg=configuration.recorded()),
        kv_cache=kv_cache,
        calibration=calibration,
        seed=arguments.seed,
        device=arguments.device,
        versions=versions(),
    )
    record.search = found

    partial = arguments.output.with_name(f".{arguments.output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    arguments.record.unlink(missing_ok=True)
    partial.mkdir(parents=True)
    recorded, states = source.recorded_files(), FileStates(files={})
    try:
        try:
            if refused is not None:
                raise refused
            written = WrittenFiles(partial)
            try:
                make_checkpoint(source, recorded, configuration, texts, record, partial, stopwatch)
            finally:
                hashed = written.stop()
            record.files, states = hash_files(partial, known=hashed)
            record.checkpoint_digest = digest_of_files(record.files)
        except Unsupported as error:
            record.status, record.failure_class, record.detail = "failed", error.failure_class, str(error)
            shutil.rmtree(partial)
            partial.mkdir()
        record.duration_seconds = stopwatch.total()
        record.peak_memory_bytes, record.peak_gpu_memory_bytes = peak_memory()
        shutil.rmtree(arguments.output, ignore_errors=True)
        os.replace(partial, arguments.output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        recorded.stop()
    write_states_beside(arguments.record, states)
    record.write(arguments.record)
    if record.failure_class is not None:
        print(f"[quantize] {record.failure_class}: {record.detail}", file=sys.stderr)
    else:
        size = sum(entry.bytes for entry in record.files.values())
        print(
            f"[quantize] {arguments.output}: {len(record.files)} files, {size:,} bytes, "
            f"{record.duration_seconds['total']} s"
        )
    return EXIT_PASS


if __name__ == "__main__":
    prepare_process()
    run_cli(main)
