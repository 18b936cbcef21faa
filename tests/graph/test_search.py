"""A search for a recipe: its rungs, its winner, what reruns, and what a crash or an infeasible candidate does to it."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml

from conftest import Project

# By size, the cheaper the riskier: four, weights, blocks, eight.
RECIPES = {
    "four": {"preset": "w4a8_nvfp4_fp8"},
    "weights": {"preset": "w4a16_nvfp4"},
    "blocks": {"preset": "fp8_2d_blockwise_weight_only"},
    "eight": {"preset": "int8"},
}
BUDGET = {"candidates": 6, "decisions": 6, "parallel": 1, "rungs": 5}
LOST = {"scores": {"addition": 0.8}}
# Rung 0 asks four and eight, rung 1 weights, rung 2 blocks, and rung 3 nobody.
FOUR_LOSES_WEIGHTS_CANNOT_BE_MADE = {
    "evaluate": {"four": LOST},
    "quantize": {"weights": {"failure_class": "MODEL_UNSUPPORTED"}},
}
FOLDER = "tiny-llama/smallest"


def release(name="smallest", budget=None, **search):
    settings = {"objective": "size", "space": list(RECIPES), "budget": BUDGET | (budget or {})}
    return {"model": "tiny-llama", "name": name, "search": settings | search}


def configure(project, *releases, recipes=None, threshold=0.01):
    defaults = {"suite": "demo", "threshold": threshold, "expected_disagreement_rate": 0.01}
    project.configure(releases=list(releases), recipes=RECIPES | (recipes or {}), defaults=defaults)


def stages(project, *names):
    """Calls of the stages of candidates since the last question."""
    return [call for call in project.calls() if call.split()[0] in (names or ("quantize", "evaluate", "validate"))]


def winner(project, folder=FOLDER):
    return project.read(f"{folder}/search/search.json")["winner"]


def asked(project, folder=FOLDER):
    rungs = project.read(f"{folder}/search/search.json")["rungs"]
    return [[one["name"] for one in rung["asked"]] for rung in rungs]


def decision(project, folder=FOLDER):
    verdict = project.read(f"{folder}/verdict.json")
    return verdict["decision"], verdict["failure_class"]


@pytest.fixture
def project(equipped):
    """With environments and a model, and a search over four recipes."""
    configure(equipped, release())
    return equipped


@pytest.fixture(scope="session")
def searched_project(tmp_path_factory, equipped_project):
    made = Project(tmp_path_factory.mktemp("searched"), equipped_project)
    configure(made, release())
    made.behave(FOUR_LOSES_WEIGHTS_CANNOT_BE_MADE)
    run = made.snakemake("release")
    assert run.status == 0, run.output
    (made.folder / "calls.first").write_text("\n".join(made.calls()))
    return made


@pytest.fixture
def searched(tmp_path, searched_project):
    """A copy whose search has ended: blocks won in its third rung."""
    return Project(tmp_path, searched_project)


def as_a_job_of_the_cluster(project, rule):
    """Run a job as the Slurm plugin's job does: its process builds the graph anew from what lies on disk."""
    job = f"{rule}:model=tiny-llama,release=smallest"
    options = ["--mode", "remote", "--target-jobs", job, "--allowed-rules", rule, "--cores", "1", "--nolock", "-p"]
    return project.snakemake(*options)


def test_another_process_that_builds_the_graph_anew_finds_the_same_winner(searched):
    """Its graph begins with no rung resolved, and must follow the whole chain, over an infeasible candidate too."""
    (searched.folder / "results" / FOLDER / "search" / "search.json").unlink()
    run = as_a_job_of_the_cluster(searched, "conclude_search")
    assert run.status == 0, run.output
    assert winner(searched) == "blocks" and asked(searched) == [["four", "eight"], ["weights"], ["blocks"], []]
    outcomes = {one["name"]: one["decision"] for one in searched.read(f"{FOLDER}/search/search.json")["outcomes"]}
    assert outcomes == {"four": "REGRESSION", "weights": "INFEASIBLE", "blocks": "ACCEPT", "eight": "ACCEPT"}
    run = as_a_job_of_the_cluster(searched, "bundle_release")
    assert run.status == 0 and "--checkpoint results/tiny-llama/blocks/checkpoint " in run.output, run.output


def test_a_plan_shows_the_first_rung_the_next_and_the_end(project):
    run = project.snakemake("-n", "release")
    jobs = run.jobs()
    assert run.status == 0 and (jobs["propose_rung"], jobs["conclude_search"]) == (2, 1), run.output
    assert jobs["bundle_release"] == 1 and not {"quantize_candidate", "evaluate_run"} & jobs.keys()
    assert "search smallest of tiny-llama" in run.output and "4 candidates: four, weights, blocks, eight" in run.output
    assert project.calls() == []
    # The other targets have names for what is not known yet.
    for target in ("compare", "evaluate", "verdict", "report"):
        assert project.snakemake("-n", "-p", target).status == 0
    assert project.snakemake("-n", "quantize").jobs()["quantize_candidate"] == len(RECIPES)


def test_the_winner_is_the_release(searched):
    verdict = searched.read(f"{FOLDER}/verdict.json")
    assert (verdict["decision"], verdict["candidate"], verdict["recipe"]) == ("ACCEPT", "blocks", "blocks")
    assert verdict["policy"]["decisions"] == 6 and verdict["evidence"]["search"]["path"].endswith("search/search.json")
    assert searched.exists(f"{FOLDER}/release/evidence/search.json") and searched.exists(f"{FOLDER}/report.html")
    calls = (searched.folder / "calls.first").read_text().splitlines()
    evaluated = [call for call in calls if call.startswith("evaluate")]
    assert evaluated == ["evaluate baseline", "evaluate blocks", "evaluate eight", "evaluate four"]
    check = subprocess.run(
        [sys.executable, "scripts/verify_release.py", f"results/{FOLDER}/release"],
        cwd=searched.folder,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_a_search_that_has_ended_plans_nothing(searched):
    run = searched.snakemake("-n", "release")
    assert run.status == 0 and run.jobs() == {"release": 1}, run.output
    assert searched.snakemake("release").status == 0 and searched.calls() == []


# Of each kind that a candidate fails in: what is decided of it, and what the next run looks at again.
KINDS_OF_FAILURE = {
    "preflight": ({"preflight": {"tiny-llama/four": {"failure_class": "USER_CONFIG_ERROR"}}}, "ANOMALOUS"),
    "broken machine": ({"preflight": {"tiny-llama/four": {"failure_class": "SYSTEMIC"}}}, "ANOMALOUS"),
    "quantize": ({"quantize": {"four": {"failure_class": "QUANT_COVERAGE_FAILURE"}}}, "INFEASIBLE"),
    "validation": ({"validate": {"four": {"failure_class": "MODEL_UNSUPPORTED"}}}, "INFEASIBLE"),
    "server": ({"evaluate": {"four": {"failure_class": "DEPLOYMENT_HEALTH_FAILED"}}}, "INFEASIBLE"),
    "harness": ({"evaluate": {"four": {"failure_class": "SAMPLE_ACCOUNTING_FAILED"}}}, "ANOMALOUS"),
}


@pytest.mark.parametrize("kind", KINDS_OF_FAILURE)
def test_a_search_that_was_accepted_plans_nothing_whatever_its_candidates_failed_of(project, kind):
    behaviour, decided = KINDS_OF_FAILURE[kind]
    configure(project, release(space=["four", "eight"]))
    project.behave(behaviour)
    run = project.snakemake("release")
    assert run.status == 0 and winner(project) == "eight", run.output
    outcomes = {one["name"]: one["decision"] for one in project.read(f"{FOLDER}/search/search.json")["outcomes"]}
    assert outcomes == {"four": decided, "eight": "ACCEPT"}
    project.calls()
    for target, jobs in (("evaluate", {}), ("release", {"release": 1})):
        run = project.snakemake(target)
        assert run.status == 0 and run.jobs() == jobs and project.calls() == [], run.output


def change_recipe(project):
    """Another recipe of the same name."""
    configure(project, release(space=["four", "eight"]), recipes={"four": {"preset": "nvfp4"}})


def change_model(project):
    """Another file of the same model."""
    (project.folder / "results/demo/model/tokenizer_config.json").write_text('{"changed": true}')


def change_environment(project):
    """Another lock of the environment that quantizes."""
    (project.folder / "envs/quantize.cpu.lock").open("a").write("# changed\n")


@pytest.mark.parametrize("change", [change_recipe, change_model, change_environment])
def test_a_candidate_whose_cause_of_failure_changed_is_checked_again(project, change):
    configure(project, release(space=["four", "eight"]))
    project.behave(KINDS_OF_FAILURE["preflight"][0])
    assert project.snakemake("release").status == 0
    project.behave({})
    project.calls()
    change(project)
    run = project.snakemake("release")
    assert run.status == 0 and winner(project) == "four", run.output
    assert {"preflight tiny-llama/four", "quantize four"} <= set(project.calls())


def test_a_search_that_a_broken_machine_ended_checks_it_again(project):
    failures = {f"tiny-llama/{name}": {"failure_class": "SYSTEMIC"} for name in RECIPES}
    project.behave({"preflight": failures})
    run = project.snakemake("release")
    assert run.status == 1 and decision(project) == ("ANOMALOUS", "SYSTEMIC"), run.output
    project.behave({})
    run = project.snakemake("release")
    assert run.status == 0 and winner(project) == "four", run.output


def test_the_winner_is_published_and_logged_as_any_other_release(searched):
    """Where MLflow is not installed, as here, the record says so, and the release goes on."""
    configure(searched, release() | {"publish": {"folder": "shared/{model}-{release}"}})
    searched.configure(mlflow={"tracking_uri": "sqlite:///mlflow.db"})
    run = searched.snakemake("publish")
    assert run.status == 0 and "dry run, nothing was sent" in run.output and "model.safetensors" in run.output, (
        run.output
    )
    assert not searched.exists(f"{FOLDER}/published.json") and stages(searched) == []
    verdict, tracking = searched.read(f"{FOLDER}/verdict.json"), searched.read(f"{FOLDER}/mlflow.json")
    assert (verdict["decision"], verdict["candidate"]) == ("ACCEPT", "blocks")
    assert tracking["status"] == "failed" and "mlflow" in tracking["detail"]
    run = searched.snakemake("publish", "release", "--config", "publish={dry_run: false}")
    published = searched.folder / "shared" / "tiny-llama-smallest" / "SHA256SUMS"
    assert run.status == 0 and f"published at {published.parent.as_uri()}" in run.output, run.output
    assert published.read_bytes() == (searched.folder / "results" / FOLDER / "release/SHA256SUMS").read_bytes()
    assert searched.read(f"{FOLDER}/mlflow.decision.json")["decision"] == "ACCEPT"
    # Candidates are no releases of their own.
    folders = {path.parent.name for path in (searched.folder / "results/tiny-llama").glob("*/mlflow*.json")}
    assert folders == {"smallest"}, folders


def test_a_threshold_decides_again_and_evaluates_nothing(searched):
    for threshold, won, rungs in ((0.2, "four", 2), (0.01, "blocks", 4)):
        configure(searched, release(), threshold=threshold)
        run = searched.snakemake("release")
        assert run.status == 0 and stages(searched) == [], run.output
        assert winner(searched) == won and len(asked(searched)) == rungs
        verdict = searched.read(f"{FOLDER}/verdict.json")
        assert (verdict["candidate"], verdict["policy"]["threshold"]) == (won, threshold)


def test_what_an_earlier_run_found_is_decided_again_in_a_later_rung(searched):
    """Its assessments are there before the rung that asks for it; its decision has to see them."""
    configure(searched, release(), threshold=0.02)
    run = searched.snakemake("release")
    assert run.status == 0 and searched.calls() == [], run.output
    verdict = searched.read(f"{FOLDER}.final.weights/verdict.json")
    assert (verdict["decision"], verdict["policy"]["threshold"]) == ("INFEASIBLE", 0.02)
    assert set(verdict["evidence"]) > {"preflight_model", "validation"}


def test_one_more_candidate_costs_its_own_stages(searched):
    configure(searched, release(space=[*RECIPES, "more"]), recipes={"more": {"preset": "int4_awq"}})
    run = searched.snakemake("release")
    assert run.status == 0, run.output
    assert stages(searched) == ["evaluate more", "quantize more", "validate more"] and winner(searched) == "more"


def test_a_smaller_budget_runs_nothing(searched):
    configure(searched, release(budget={"candidates": 3, "decisions": 3}))
    run = searched.snakemake("release")
    assert run.status == 0 and stages(searched) == [], run.output
    assert winner(searched) == "eight"


def test_a_crash_is_no_evidence(project):
    project.behave(FOUR_LOSES_WEIGHTS_CANNOT_BE_MADE | {"evaluate": {"four": LOST, "blocks": {"crashes": 2}}})
    run = project.snakemake("release")
    assert run.status == 1 and "Traceback" not in run.output, run.output
    assert decision(project) == ("ANOMALOUS", "SYSTEMIC") and not project.exists(f"{FOLDER}/search/search.json")
    assert "tiny-llama smallest: ANOMALOUS" in run.output and not project.exists(f"{FOLDER}/release")
    project.behave(FOUR_LOSES_WEIGHTS_CANNOT_BE_MADE)
    stages(project)
    run = project.snakemake("release")
    assert run.status == 0 and winner(project) == "blocks", run.output
    assert stages(project, "evaluate", "quantize") == ["evaluate blocks"]


def test_a_search_that_is_killed_goes_on_where_it_was(project):
    waits = {"evaluate": {"four": LOST, "blocks": {"waits_for": ["never"]}}}
    project.behave(FOUR_LOSES_WEIGHTS_CANNOT_BE_MADE | waits)
    command = [sys.executable, "-m", "snakemake", "release"]
    process = subprocess.Popen(command, cwd=project.folder, start_new_session=True, stdout=subprocess.DEVNULL)
    log = project.folder / "results/tiny-llama/blocks/demo/evaluate.log"
    deadline = time.monotonic() + 240
    while not (log.exists() and "evaluate blocks: waits" in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    project.calls()
    project.behave(FOUR_LOSES_WEIGHTS_CANNOT_BE_MADE)
    assert project.snakemake("--unlock").status == 0
    run = project.snakemake("release")
    assert run.status == 0 and stages(project) == ["evaluate blocks"], run.output
    assert winner(project) == "blocks"


@pytest.mark.parametrize(
    ("behaviour", "expected", "evaluated"),
    [
        (
            {"evaluate": dict.fromkeys(RECIPES, LOST)},
            ("REGRESSION", "SEARCH_EXHAUSTED"),
            ["evaluate baseline", "evaluate eight", "evaluate four"],
        ),
        (
            {"quantize": {name: {"failure_class": "QUANT_COVERAGE_FAILURE"} for name in RECIPES}},
            ("INFEASIBLE", "SEARCH_SPACE_INFEASIBLE"),
            [],  # the baseline perhaps, whose evaluation may begin while the first candidates are quantized
        ),
        (
            {"preflight": {f"tiny-llama/{name}": {"failure_class": "MODEL_UNSUPPORTED"} for name in RECIPES}},
            ("INFEASIBLE", "SEARCH_SPACE_INFEASIBLE"),
            [],
        ),
        (
            {"evaluate": {"baseline": {"failure_class": "DEPLOYMENT_HEALTH_FAILED"}}},
            ("ANOMALOUS", "DEPLOYMENT_HEALTH_FAILED"),
            ["evaluate baseline"],
        ),
    ],
)
def test_a_search_without_a_winner_has_a_verdict_of_its_own(project, behaviour, expected, evaluated):
    project.behave(behaviour)
    run = project.snakemake("release")
    assert run.status == 1 and decision(project) == expected, run.output
    verdict = project.read(f"{FOLDER}/verdict.json")
    assert verdict["stage"] == "search" and verdict["detail"] and verdict["next_action"]
    assert f"tiny-llama smallest: {expected[0]}" in run.output and "Traceback" not in run.output
    asked = stages(project, "evaluate")
    assert asked == evaluated or [*evaluated, *asked] == ["evaluate baseline"], asked
    assert not project.exists(f"{FOLDER}/release")
    assert project.snakemake("verdict").status == 0 and project.calls() == []


def test_two_searches_share_what_both_ask_for_beside_a_plain_release(project):
    fast = release("fast", objective="throughput", space=["four", "eight"])
    configure(project, release(), fast, {"model": "tiny-llama", "recipe": "blocks"})
    project.behave(FOUR_LOSES_WEIGHTS_CANNOT_BE_MADE)
    run = project.snakemake("release")
    assert run.status == 0, run.output
    assert (winner(project), winner(project, "tiny-llama/fast")) == ("blocks", "eight")
    calls = stages(project, "quantize", "evaluate")
    assert len(calls) == len(set(calls)) == 8
    for name, candidate in (("smallest", "blocks"), ("fast", "eight"), ("blocks", "blocks")):
        verdict = project.read(f"tiny-llama/{name}/verdict.json")
        assert (verdict["candidate"], verdict["decision"]) == (candidate, "ACCEPT")
    # A plain release is one decision, and needs no share of the chance of error.
    assert project.read("tiny-llama/blocks/verdict.json")["policy"]["decisions"] == 1
    assert project.snakemake("-n", "release").jobs() == {"release": 1}


def test_candidates_of_a_rung_are_made_side_by_side(project):
    """Each of the two waits for the other's log."""
    configure(project, release(budget={"parallel": 2}))
    waits = {
        name: {"waits_for": [f"results/tiny-llama/{other}/logs/quantize.log"]}
        for name, other in (("weights", "blocks"), ("blocks", "weights"))
    }
    project.behave({"evaluate": {"four": LOST, "weights": LOST}, "quantize": waits})
    began = time.monotonic()
    run = project.snakemake("results/tiny-llama/smallest/search/rung-2.json")
    assert run.status == 0 and time.monotonic() - began < 140, run.output
    assert project.read(f"{FOLDER}/search/rung-2.json")["asked"] == []


def test_a_release_that_lost_names_the_command_of_the_search_that_goes_on_from_it(equipped):
    """Of a release with limits of its own, in a file of the user's."""
    lossy = {"model": "tiny-llama", "recipe": "nvfp4", "suite": "demo", "threshold": 0.02}
    own = equipped.folder / "own.yaml"
    own.write_text(yaml.safe_dump({"releases": [lossy], "defaults": {"expected_disagreement_rate": 0.01}}))
    equipped.behave({"evaluate": {"nvfp4": LOST}})
    run = equipped.snakemake("verdict", "--configfile", "own.yaml")
    assert run.status == 0 and decision(equipped, "tiny-llama/nvfp4") == ("REGRESSION", None), run.output
    action = equipped.read("tiny-llama/nvfp4/verdict.json")["next_action"]
    program, *arguments = shlex.split(action.rpartition(": ")[2])
    assert program == "snakemake" and f"snakemake {' '.join(arguments)}" in run.output
    equipped.calls()
    for words in (arguments, ["release", "--configfile", "own.yaml", *arguments[2:]]):
        run = equipped.snakemake("-n", *words)
        assert run.status == 0 and run.jobs()["propose_rung"] == 2, run.output
        assert "4 candidates: nvfp4, nvfp4-attention-fp8, nvfp4-4-groups-fp8, fp8" in run.output
    run = equipped.snakemake(*arguments)
    assert run.status == 0, run.output
    assert (winner(equipped, "tiny-llama/nvfp4-search"), stages(equipped, "quantize")) == (
        "nvfp4-attention-fp8",
        ["quantize fp8", "quantize nvfp4-attention-fp8"],
    )
    assert equipped.read("tiny-llama/nvfp4-search/verdict.json")["policy"]["threshold"] == 0.02


@pytest.mark.parametrize("example", ["search", "search-size", "search-moe-30b"])
def test_every_example_of_a_search_plans(fresh_project, tmp_path, example):
    made = Project(tmp_path, fresh_project)
    run = made.snakemake("-n", "release", "--configfile", f"config/examples/{example}.yaml")
    assert run.status == 0 and run.jobs()["propose_rung"] == 2, run.output
    assert "cannot" not in run.output.partition("SNAKEMAKE")[0], "the deciding suite could accept nothing"
