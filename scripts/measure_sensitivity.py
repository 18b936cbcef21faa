"""Measure how sensitive the layers of a model are to formats: what its answers lose where one group is quantized.

ModelOpt's auto_quantize calibrates each format on all calibration texts and scores each group of layers on the first
of them, by the KL divergence of the model's answers from those without quantization. Layers that an engine fuses are
one group, and so are all experts of a layer. The scores are of a model and its calibration: every recipe that chooses
formats or protects layers by them is worked out from the same file, see day0/recipe/sensitivity.py.

A failure that a second run would only repeat is recorded, exit 0, as by scripts/quantize.py.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json
from day0.base.cli import EXIT_PASS, UnusableInput, json_argument, run_cli
from day0.base.gpus import reserve_gpus
from day0.base.stopwatch import Stopwatch
from day0.recipe.calibration import check_dataset, read_calibration, read_texts
from day0.recipe.failures import Unsupported
from day0.recipe.formats import FULL_BITS
from day0.recipe.resolve import NEVER_CHOSEN_FOR, read_format
from day0.records.sensitivity import LayerGroup, Sensitivity
from day0.source.model_folder import SourceModel, open_source
from day0.source.recorded_files import RecordedFiles
from loaded_model import (
    failures_recorded,
    import_modelopt,
    load_recorded,
    make_batches,
    prepare_process,
    set_seed,
    versions,
)

CATALOGUE = Path(__file__).resolve().parent.parent / "envs" / "modelopt_catalogue.json"
# Layers that vLLM fuses (day0/recipe/modules.py) and ModelOpt 0.47.0 does not score together by itself.
MORE_GROUPS = (r"^(.*?)\.(q_a_proj|kv_a_proj_with_mqa)$",)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, required=True, help="source.json, or the folder of the source model itself"
    )
    parser.add_argument("--formats", nargs="+", required=True, help="presets of ModelOpt, such as nvfp4 and fp8")
    parser.add_argument("--calibration", required=True, help="calibration settings as JSON")
    parser.add_argument("--scored-texts", type=int, default=128, help="calibration texts to score on (default: 128)")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "device_map"),
        default="auto",
        help="auto: cuda where there is one; device_map: spread over all GPUs and the host's memory",
    )
    parser.add_argument("--seed", type=int, default=1234, help="seed of Python, numpy and torch")
    parser.add_argument("--output", type=Path, required=True, help="sensitivity.json to write")
    arguments = parser.parse_args()
    catalogue = read_json(CATALOGUE)
    for name in arguments.formats:
        try:
            read_format(name, catalogue)
        except ValueError as error:
            parser.error(f"--formats: found {name!r}, {error}")
        except UnusableInput:
            parser.error(f"--formats: found {name!r}; expected presets of ModelOpt, such as nvfp4 and fp8")
    if arguments.scored_texts < 1:
        parser.error(f"--scored-texts: found {arguments.scored_texts}; expected a number of texts")
    return arguments


def score(model: Any, preset: str, batches: Any, scored: int, never: list[str]) -> dict[str, dict[str, Any]]:
    """ModelOpt's scores of the groups of layers in one format, with what it knows of each group, by the group's name.

    Args:
        model: the source model as it was loaded; it is not of use afterwards.
        preset: name of the format.
        batches: calibration batches.
        scored: batches that are scored.
        never: patterns of modules that no format is chosen for.
    """
    import modelopt.torch.quantization as mtq
    from modelopt.recipe.presets import QUANT_CFG_CHOICES
    from modelopt.torch.quantization.algorithms import AutoQuantizeKLDivSearcher

    rules = AutoQuantizeKLDivSearcher.quant_grouping_rules
    rules[:0] = [rule for rule in MORE_GROUPS if rule not in rules]
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": FULL_BITS},  # every choice is allowed: none is made here
        quantization_formats=[QUANT_CFG_CHOICES[preset]],
        data_loader=batches,
        forward_step=lambda model, batch: model(**batch).logits,
        num_calib_steps=len(batches),
        num_score_steps=scored,
        disabled_layers=never,
        method="kl_div",
        verbose=False,
    )
    return {name: group for name, group in state["candidate_stats"].items() if len(group["formats"]) > 1}


def add_scores(record: Sensitivity, preset: str, found: dict[str, dict[str, Any]]) -> None:
    """Put the scores of a format into the record.

    Raises:
        Unsupported: a score is not a number, or the groups are not those of the other formats.
    """
    groups = []
    for group in found.values():
        quantizers = [
            f"{module}.{name}"
            for module, names in group["quantizer_attrs"].items()
            for name in names
            if name.endswith(("weight_quantizer", "input_quantizer"))
        ]
        value, cost, weights = float(group["scores"][0]), group["costs"][0], group["uncompressed_cost"]
        if not math.isfinite(value):
            raise Unsupported(f"{group['module_names'][0]} in {preset}: the model's answers are no numbers any more")
        record.formats[preset] = cost / weights * FULL_BITS
        groups.append(
            LayerGroup(
                modules=group["module_names"], quantizers=quantizers, weights=round(weights), scores={preset: value}
            )
        )
    if not groups:
        raise Unsupported(f"ModelOpt finds no layer to quantize to {preset}")
    if not record.groups:
        record.groups = groups
        return
    for known, group in zip(record.groups, groups, strict=True):
        assert known.quantizers == group.quantizers
        known.scores |= group.scores


def measure(
    source: SourceModel,
    recorded: RecordedFiles,
    record: Sensitivity,
    presets: list[str],
    texts: list[str],
    stopwatch: Stopwatch,
) -> None:
    """Score each format on a model of its own, and put what was found into the record.

    Raises:
        Unsupported: a failure that a second run would only repeat.
        UnusableInput: the source is not what its record says.
    """
    device, catalogue = record.device, read_json(CATALOGUE)
    never = list(catalogue["blocks"][NEVER_CHOSEN_FOR]["body"])
    for preset in presets:
        with stopwatch.step(f"load for {preset}", f"loading {source.folder}"):
            model, tokenizer = load_recorded(source, recorded, device)
        record.device = "device_map" if device == "device_map" else str(model.device)
        if getattr(model.config, "tie_word_embeddings", False):
            never.append("*lm_head*")
        if model.device.type == "cpu" and read_format(preset, catalogue).is_nvfp4:
            record.emulated.append(preset)
        with (
            stopwatch.step(f"score {preset}", f"scoring {preset}"),
            failures_recorded(f"ModelOpt cannot score {preset}", device),
        ):
            batches = make_batches(record.calibration, texts, tokenizer, model.device, labels=False)
            batch_size = len(next(iter(batches))["input_ids"])
            scored = min(len(batches), max(record.scored_texts // batch_size, 1))
            add_scores(record, preset, score(model, preset, batches, scored, never))
    record.scored_texts = min(scored * batch_size, len(texts) or scored * batch_size)
    recorded.finish()


def main() -> int:
    arguments = parse_arguments()
    if arguments.device != "cpu":
        reserve_gpus(None if arguments.device == "device_map" else 1)
    source = open_source(arguments.source)
    calibration = read_calibration(json_argument("--calibration", arguments.calibration), {})
    texts = read_texts(calibration)
    stopwatch = Stopwatch("sensitivity")
    with stopwatch.step("import", "loading ModelOpt"):
        import_modelopt()
        from modelopt.torch.utils.dataset_utils import get_supported_datasets
    check_dataset(calibration, True, get_supported_datasets())
    set_seed(arguments.seed)
    record = Sensitivity(
        status="done",
        failure_class=None,
        detail="",
        model=source.name,
        source_digest=source.digest,
        calibration=calibration,
        scored_texts=arguments.scored_texts,
        formats={},
        groups=[],
        emulated=[],
        seed=arguments.seed,
        device=arguments.device,
        versions=versions(),
        duration_seconds={},
    )
    recorded = source.recorded_files()
    try:
        measure(source, recorded, record, sorted(set(arguments.formats)), texts, stopwatch)
    except Unsupported as error:
        record.status, record.failure_class, record.detail = "failed", error.failure_class, str(error)
        record.formats, record.groups = {}, []
    finally:
        recorded.stop()
    record.duration_seconds = stopwatch.total()
    record.write(arguments.output)
    if record.failure_class is not None:
        print(f"[sensitivity] {record.failure_class}: {record.detail}", file=sys.stderr)
    else:
        print(
            f"[sensitivity] {arguments.output}: {len(record.groups)} groups of layers in {', '.join(record.formats)}, "
            f"{record.duration_seconds['total']} s"
        )
    return EXIT_PASS


if __name__ == "__main__":
    prepare_process()
    run_cli(main)
