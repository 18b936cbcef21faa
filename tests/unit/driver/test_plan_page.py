"""The plan in a page: what is counted, and by what a time is known."""

import inspect

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake.dag import DAG
from snakemake.workflow import Workflow

from driver import plan_page
from driver.plan_page import Known, PlannedJob, page, read_seconds

WEIGHTS = {"small": 270_000_000, "large": 16_000_000_000}


def known(**changes):
    facts = {
        "releases": 2,
        "is_cpu": True,
        "weights_of": lambda model: WEIGHTS.get(model, 0),
        "samples_of": lambda suite: None if suite == "open" else 1437,
        "context_of": lambda suite: 100,
        "calibration_tokens": lambda model, candidate: 32_768,
        "cpu_samples_of": lambda model, candidate: None,
        "gpus_of": lambda stage, wildcards: 2,
    }
    return Known(**facts | changes)


def evaluation(candidate, benchmark=None, model="small", suite="s", rule="evaluate_run", **wildcards):
    return PlannedJob(rule, {"model": model, "candidate": candidate, "suite": suite, **wildcards}, benchmark)


def quantization(recipe, model="small", benchmark=None):
    return PlannedJob("quantize_candidate", {"model": model, "recipe": recipe}, benchmark)


def test_the_inside_of_snakemake_is_as_it_was_read():
    """A failure means: read the new version, and adapt scripts/driver/plan_page.py to it."""
    assert "self.dag.print_reasons()" in inspect.getsource(Workflow.execute)
    assert "exclude_finished" in inspect.signature(DAG.needrun_jobs).parameters
    assert list(inspect.signature(plan_page.print_reasons).parameters) == ["self"]


def measured(tmp_path, name, seconds):
    path = tmp_path / f"{name}.tsv"
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:10\t12\n")
    return str(path)


def test_a_plan_of_a_model_that_nothing_is_known_of_is_guessed_by_its_size():
    jobs = [evaluation("baseline"), quantization("fp8"), evaluation("fp8"), PlannedJob("render_index", {}, None)]
    lines, seconds = page(jobs, [], known())
    assert lines == [
        "plan: 2 releases, 4 jobs; 1 to quantize, 2 to evaluate",
        "  asks 2,874 answers, at most 287,400 tokens with their prompts",
        "  writes at most 270 MB of checkpoints; bundles share their files where they can",
        "  takes about 20 minutes on CPU in all, an estimate guessed by the models' sizes: "
        "small (270 MB) 20 minutes on CPU",
    ]
    assert 400 < seconds["evaluate_run"] < 600, "an evaluation of such a model took 471 s"
    assert seconds["render_index"] == plan_page.SHORT_SECONDS


def test_what_was_measured_counts_before_a_guess(tmp_path):
    kept = [evaluation("baseline", measured(tmp_path, "baseline", 600)), quantization("fp8")]
    jobs = [evaluation("fp8"), evaluation("nvfp4", measured(tmp_path, "nvfp4", 1200))]
    lines, seconds = page(jobs, kept, known())
    assert lines[0] == "plan: 2 releases, 2 jobs; 0 to quantize (1 kept), 2 to evaluate (1 kept)"
    assert lines[-1].startswith(
        "  takes about 35 minutes on CPU in all, an estimate by earlier runs of the same stages: "
    )
    assert seconds == {"evaluate_run": (900 + 1200) / 2}, "fp8 as the mean of what its model took"


def test_another_models_time_is_no_measure(tmp_path):
    kept = [evaluation("baseline", measured(tmp_path, "baseline", 60))]
    lines, _ = page([evaluation("baseline", model="large")], kept, known())
    assert "guessed by the models' sizes" in lines[-1] and "large (16 GB)" in lines[-1]


def test_gpu_hours_by_model_count_each_gpu():
    lines, seconds = page(
        [evaluation("baseline", model="large"), quantization("fp8", "large")], [], known(is_cpu=False)
    )
    hours = float(lines[-1].partition("takes about ")[2].split()[0])
    assert "GPU hours" in lines[-1]
    assert hours == pytest.approx(2 * sum(seconds.values()) / 3600, rel=0.06)


def test_shards_share_the_questions_of_their_run():
    jobs = [evaluation("fp8", rule="evaluate_shard", shard=f"{number}-of-4") for number in range(1, 5)]
    lines, _ = page(jobs, [], known(samples_of=lambda suite: 400))
    assert "asks 400 answers" in lines[1]


def test_what_is_not_known_is_named():
    lines, _ = page([evaluation("baseline", model="hub-model", suite="open")], [], known())
    assert lines[-1] == "  not counted, since not known yet: samples of suite open, size of hub-model"


def test_a_model_of_unknown_size_is_not_one_of_no_bytes():
    lines, _ = page([evaluation("baseline", model="hub-model")], [], known())
    assert "hub-model (size not known yet)" in lines[2] and "0 B" not in "".join(lines)


def test_a_number_of_texts_that_a_cpu_chose_is_said_with_its_candidates():
    jobs = [quantization("fp8"), quantization("nvfp4"), quantization("mine", model="large")]
    lines, _ = page(jobs, [], known(cpu_samples_of=lambda model, recipe: 64 if model == "small" else None))
    assert lines[-1] == (
        "  calibrates small fp8, small nvfp4 on 64 texts, the default on a CPU; calibration.samples gives a number "
        "that is the same on every machine"
    )
    lines, _ = page([quantization(f"r{number}") for number in range(6)], [], known(cpu_samples_of=lambda *of: 64))
    assert "small r3 and 2 more on 64 texts" in lines[-1]


def test_a_plan_without_a_heavy_stage_has_no_page(tmp_path):
    assert page([PlannedJob("release", {}, None)], [evaluation("baseline")], known())[0] == []


def test_rules_of_a_module_are_known_by_their_names():
    jobs = [PlannedJob("day0_quantize_candidate", {"model": "small", "recipe": "fp8"}, None)]
    lines, _ = page(jobs, [], known(name_of_rule=lambda rule: f"day0_{rule}"))
    assert "1 to quantize" in lines[0] and "270 MB of checkpoints" in lines[1]


def test_a_benchmark_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "a.tsv").write_text("s\n")
    (tmp_path / "b.tsv").write_text("s\tx\nNA?\t1\n")
    assert [read_seconds(path) for path in (tmp_path / "a.tsv", tmp_path / "b.tsv", tmp_path / "none", None)] == [
        None
    ] * 4
