"""Only what a change touches runs again."""

import os
import time

import pytest

from conftest import TWO_RELEASES

EVALUATIONS = ["evaluate baseline", "evaluate fp8", "evaluate nvfp4"]
PREFLIGHTS = [f"preflight tiny-llama{subject}" for subject in ("", "/baseline/demo", "/fp8", "/nvfp4")]
VALIDATIONS = ["validate fp8", "validate nvfp4"]
PAGES = {"render_report", "render_index"}
# Text that changes no meaning, for a file of Python and one of YAML.
REMARK = "\n# changed\n"
STATEMENT = "\nCHANGED = True\n"


def append(path, text):
    path.write_text(path.read_text() + text)


def planned(project, *options):
    """Jobs that a plan announces, but for the targets, which always run."""
    run = project.snakemake("-n", "release", *options)
    assert run.status == 0, run.output
    return {name: count for name, count in run.jobs().items() if name != "release"}


def rerun(project):
    run = project.snakemake("release")
    assert run.status == 0, run.output
    return project.calls()


def test_nothing_runs_where_nothing_changed(released):
    assert rerun(released) == []


def test_a_touch_triggers_nothing(released):
    later = time.time() + 5
    for folder in ("scripts", "rules", "config", "envs"):
        for path in (released.folder / folder).rglob("*"):
            os.utime(path, (later, later))
    assert rerun(released) == []


def test_a_threshold_redoes_the_comparison_only(released):
    released.configure(defaults={"suite": "demo", "threshold": 0.02})
    jobs = released.snakemake("-n", "release").jobs()
    assert jobs["compare_runs"] == 2 and not {"evaluate_run", "assess_run", "quantize_candidate"} & jobs.keys()
    assert rerun(released) == []
    assert released.read("tiny-llama/fp8/verdict.json")["policy"]["threshold"] == 0.02


def test_a_published_score_redoes_the_comparison_only_and_decides(released):
    file = released.folder / "config" / "external_scores.yaml"
    entry = (
        "scores:\n- {{model: {}, task: addition, metric: exact_match, score: {}, source: 'https://a.org', notes: n}}\n"
    )
    file.write_text(entry.format("another", 50))
    assert "compare_runs" not in released.snakemake("-n", "release").jobs()
    file.write_text(entry.format("tiny-llama", 88))
    assert rerun(released) == []
    verdict = released.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["external"]["status"]) == ("ACCEPT", "verified")
    file.write_text(entry.format("tiny-llama", 50))
    run = released.snakemake("release")
    assert run.status == 1 and released.calls() == [], run.output
    verdict = released.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH")


def test_one_more_recipe_runs_that_candidate_only(released):
    released.configure(releases=[*TWO_RELEASES, {"model": "tiny-llama", "recipe": "mxfp8"}])
    assert rerun(released) == [
        "evaluate mxfp8",
        "preflight tiny-llama/mxfp8",
        "quantize mxfp8",
        "validate mxfp8",
    ]


def test_a_recipe_file_redoes_its_candidate_only(released):
    recipe = released.folder / "config" / "recipes" / "mine.yaml"
    recipe.write_text("description: mine\npreset: fp8\n")
    released.configure(releases=[{"model": "tiny-llama", "recipe": "mine"}, {"model": "tiny-llama", "recipe": "nvfp4"}])
    rerun(released)
    recipe.write_text("description: mine\npreset: mxfp8\n")
    assert rerun(released) == ["evaluate mine", "preflight tiny-llama/mine", "quantize mine", "validate mine"]


def test_a_suite_redoes_the_evaluations(released):
    suite = released.folder / "config" / "suites" / "demo.yaml"
    suite.write_text(suite.read_text().replace("seed: 1234", "seed: 1235"))
    assert "seed: 1235" in suite.read_text()
    assert rerun(released) == [*EVALUATIONS, "preflight tiny-llama/baseline/demo"]


def test_a_task_file_redoes_the_evaluations(released):
    append(released.folder / "config" / "suites" / "demo" / "addition.yaml", "\nshould_decontaminate: false\n")
    assert rerun(released) == EVALUATIONS


def test_a_remark_in_a_suite_a_task_or_a_recipe_plans_nothing(released):
    recipe = released.folder / "config" / "recipes" / "mine.yaml"
    recipe.write_text("description: mine\npreset: fp8\n")
    released.configure(releases=[{"model": "tiny-llama", "recipe": "mine"}, {"model": "tiny-llama", "recipe": "nvfp4"}])
    rerun(released)
    assert planned(released) == {}
    for file in ("suites/demo.yaml", "suites/demo/addition.yaml", "recipes/mine.yaml", "config.yaml"):
        append(released.folder / "config" / file, REMARK)
    # Another order of a mapping's keys, and another spelling of a text, is the same content.
    recipe.write_text("preset: 'fp8'\n\n# a remark\ndescription: mine\n")
    assert planned(released) == {}


def python_files(folder):
    return sorted(path for path in (folder / "scripts").rglob("*.py"))


def test_remarks_in_all_files_of_the_scripts_plan_nothing(released):
    files = python_files(released.folder)
    assert len(files) > 80
    for path in files:
        text = path.read_text()
        # A docstring of another wording, blank lines, a remark.
        path.write_text(text.replace('"""', '"""Changed. ', 1) + "\n\n\n# changed\n")
    assert planned(released) == {}


def test_reordered_and_reformatted_imports_plan_nothing(released):
    path = released.folder / "scripts" / "day0" / "decision" / "comparison.py"
    lines = path.read_text().splitlines()
    imports = [line for line in lines if line.startswith("import ")]
    assert len(imports) >= 1
    rest = [line for line in lines if line not in imports]
    first = next(number for number, line in enumerate(rest) if line.startswith("from collections"))
    path.write_text("\n".join([*rest[:first], *[f"{line}  # moved" for line in imports], "", *rest[first:]]) + "\n")
    assert planned(released) == {}


def test_a_statement_is_a_change_of_every_script_that_imports_its_file(released):
    """The counterpart of the remarks: the digest does see the files."""
    append(released.folder / "scripts" / "day0" / "base" / "artefacts.py", STATEMENT)
    jobs = planned(released)
    assert {"evaluate_run", "quantize_candidate", "compare_runs", "build_environment"} <= jobs.keys()


@pytest.mark.parametrize(
    ("script", "stages"),
    [
        ("scripts/evaluate.py", EVALUATIONS),
        ("scripts/gate_ptq.py", VALIDATIONS),
        ("scripts/gate_run.py", []),
        ("scripts/gate.py", []),
        ("scripts/preflight.py", PREFLIGHTS),
        ("scripts/gate_compare.py", []),
        ("scripts/day0/decision/failures.py", []),
        ("scripts/bundle.py", []),
        ("scripts/harness_lm_eval.py", EVALUATIONS),
        ("scripts/vllm_plugin/day0_vllm_cpu.py", EVALUATIONS),
    ],
)
def test_a_script_redoes_its_stage_and_what_follows(released, script, stages):
    append(released.folder / script, STATEMENT)
    assert rerun(released) == stages


def test_a_decision_rule_plans_the_comparison_and_what_follows(released):
    append(released.folder / "scripts" / "day0" / "decision" / "comparison.py", STATEMENT)
    jobs = planned(released)
    assert jobs["compare_runs"] == jobs["decide_release"] == jobs["bundle_release"] == 2
    assert (
        not {"evaluate_run", "assess_run", "quantize_candidate", "assess_checkpoint", "check_preflight"} & jobs.keys()
    )


def test_a_check_of_checkpoints_plans_assessments_and_no_quantization(released):
    append(released.folder / "scripts" / "day0" / "checkpoint" / "checks.py", STATEMENT)
    jobs = planned(released)
    assert jobs["assess_checkpoint"] == 2
    assert not jobs.keys() & {"quantize_candidate", "describe_source", "build_environment", "evaluate_run"}


def test_a_table_that_preflight_reads_too_plans_no_quantization(released):
    append(released.folder / "scripts" / "day0" / "checkpoint" / "vllm_rules.py", STATEMENT)
    jobs = planned(released)
    assert jobs["assess_checkpoint"] == 2 and jobs["check_preflight"] == 4
    assert not jobs.keys() & {"quantize_candidate", "describe_source", "build_environment", "evaluate_run"}


def test_the_table_of_the_engine_plans_the_same_for_recipes_and_checkpoints(released):
    table = released.folder / "envs" / "engine_table.json"
    table.write_text(table.read_text().replace('"nvfp4_group": 16', '"nvfp4_group": 32'))
    jobs = planned(released)
    assert jobs["assess_checkpoint"] == 2 and jobs["check_preflight"] == 2
    assert not jobs.keys() & {"quantize_candidate", "describe_source", "build_environment", "evaluate_run"}


def test_a_gate_above_hides_no_change_of_what_is_below(released):
    """A check and the suite change at once: the evaluations behind the gates run in the same run."""
    append(released.folder / "scripts" / "day0" / "checkpoint" / "checks.py", STATEMENT)
    suite = released.folder / "config" / "suites" / "demo.yaml"
    suite.write_text(suite.read_text().replace("seed: 1234", "seed: 1235"))
    jobs = planned(released)
    assert jobs["assess_checkpoint"] == 2 and jobs["evaluate_run"] == 3


def test_a_harness_plans_the_evaluations_of_the_suites_that_use_it(released):
    append(released.folder / "scripts" / "harness_nemo_evaluator.py", STATEMENT)
    assert planned(released) == {}  # demo asks by lm-eval
    released.configure(defaults={"suite": "demo-nemo-evaluator", "threshold": 0.01})
    rerun(released)
    append(released.folder / "scripts" / "harness_lm_eval.py", STATEMENT)
    assert planned(released) == {}
    append(released.folder / "scripts" / "harness_nemo_evaluator.py", STATEMENT)
    assert planned(released)["evaluate_run"] == 3


@pytest.mark.parametrize("name", ["report.html.jinja", "style.css", "index.html.jinja"])
def test_a_template_of_a_page_plans_the_page(released, name):
    append(released.folder / "scripts" / "templates" / name, "\n")
    jobs = planned(released)
    assert jobs and jobs.keys() <= {*PAGES, "bundle_release"}  # a bundle holds its report


def test_code_that_cannot_be_followed_is_refused_by_the_plan(released):
    append(released.folder / "scripts" / "decide.py", "\nfrom day0.base import nothing_of_that_name\n")
    run = released.snakemake("-n", "release")
    assert run.status == 1 and "Traceback" not in run.output
    assert "decide.py" in run.output and "nothing_of_that_name" in run.output


def test_a_lock_redoes_the_stages_of_its_environment(released):
    append(released.folder / "envs" / "lm-eval.lock", REMARK)
    assert rerun(released) == ["environment lm-eval", *EVALUATIONS, "preflight tiny-llama/baseline/demo"]


def test_serving_settings_of_a_recipe_redo_its_evaluation_only(released):
    releases = [{"model": "tiny-llama", "recipe": "mine"}, {"model": "tiny-llama", "recipe": "nvfp4"}]
    released.configure(recipes={"mine": {"preset": "fp8"}}, releases=releases)
    rerun(released)
    released.configure(recipes={"mine": {"preset": "fp8", "serving": {"max_model_len": 128}}})
    assert "evaluate nvfp4" not in (calls := rerun(released)) and "evaluate mine" in calls


def test_a_lost_artefact_is_made_again_with_what_it_needs(released):
    (released.folder / "results" / "tiny-llama" / "fp8" / "verdict.json").unlink()
    assert rerun(released) == []
    assert released.exists("tiny-llama/fp8/verdict.json")
