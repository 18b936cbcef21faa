"""Recipes by a model's sensitivity: measured once for all of them, and for nothing else."""

FIVE, SIX = ({"sensitivity": {"formats": ["nvfp4", "fp8"], "bits": bits}} for bits in (5.0, 6.0))
GROUPS = {"base": "nvfp4", "protect": [{"groups": 1}], "by": "fp8"}
FAMILY = {"base": "nvfp4", "protect": ["attention"], "by": "fp8"}


def configure(project, **recipes):
    releases = [{"model": "tiny-llama", "recipe": name} for name in recipes]
    project.configure(recipes=recipes, releases=releases)


def test_it_is_measured_once_and_only_for_those_that_need_it(equipped):
    configure(equipped, five=FIVE, six=SIX, groups=GROUPS, family=FAMILY)
    run = equipped.snakemake("release")
    assert run.status == 0, run.output
    calls = equipped.calls()
    assert calls.count("sensitivity tiny-llama") == 1
    assert sum(call.startswith("quantize ") for call in calls) == 4
    assert equipped.read("tiny-llama/sensitivity.json")["formats"].keys() == {"nvfp4", "fp8", "w4a16_nvfp4"}

    configure(equipped, five=FIVE, six=SIX, groups=GROUPS, family=FAMILY, seven=FIVE | {"kv_cache": "fp8"})
    run = equipped.snakemake("release")
    assert run.status == 0, run.output
    assert [call for call in equipped.calls() if call.startswith(("sensitivity", "quantize"))] == ["quantize seven"]


def test_a_recipe_that_needs_none_measures_none(project):
    configure(project, family=FAMILY)
    jobs = project.snakemake("release", "--dry-run").jobs()
    assert "measure_sensitivity" not in jobs and jobs["quantize_candidate"] == 1
    configure(project, family=FAMILY, five=FIVE)
    assert project.snakemake("release", "--dry-run").jobs()["measure_sensitivity"] == 1


def test_a_measurement_that_crashes_is_the_verdict_of_those_that_need_it(equipped):
    configure(equipped, five=FIVE, family=FAMILY)
    equipped.behave({"sensitivity": {"tiny-llama": {"crashes": 9}}})
    run = equipped.snakemake("release", "--keep-going")
    assert run.status == 1
    crashed, accepted = (equipped.read(f"tiny-llama/{name}/verdict.json") for name in ("five", "family"))
    assert (crashed["decision"], crashed["failure_class"]) == ("ANOMALOUS", "SYSTEMIC")
    assert "measure_sensitivity" in crashed["detail"]
    assert accepted["decision"] == "ACCEPT"


def test_mistakes_in_these_forms_are_found_before_any_job(project):
    configure(
        project,
        low={"sensitivity": {"formats": ["nvfp4", "fp8"], "bits": 4.0}},
        awq={"sensitivity": {"formats": ["nvfp4_awq_lite"], "bits": 5.0}},
        unknown={"base": "nvpf4", "protect": ["attention"], "by": "fp8"},
        circle={"base": "circle", "protect": ["attention"], "by": "fp8"},
    )
    run = project.snakemake("release", "--dry-run")
    assert run.status == 1
    for words in (
        "sensitivity.bits: found 4; a weight takes 4.5 bits at least in these formats",
        "formats[0]: found 'nvfp4_awq_lite', whose scales are calibrated by awq_lite",
        "base: unknown recipe 'nvpf4'; did you mean nvfp4",
        "circle -> circle, a circle",
    ):
        assert words in run.output, words
