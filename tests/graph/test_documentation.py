"""Every command of the documentation is run, or its block says why it cannot be: see MARKERS."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import BLOCKS, MARKERS, files_of

from conftest import ROOT, Project

# A command that two pages give is run once where both have the same files written.
COMMANDS = {
    (tuple(words), tuple(files_of(block.page).items()) if "--configfile" in words else ()): block.page
    for block in BLOCKS
    if block.language == "sh" and block.title not in MARKERS
    for words in block.commands()
}
# Commands with placeholders, or that need a stage's environment: by the test that runs them.
ELSEWHERE = {
    "python scripts/gate_ptq.py --checkpoint .*": "tests/exports/judging.py",
    "python scripts/gate_ptq.py --summary .*": "tests/unit/decision/test_summaries.py",
    r"\.envs/lm-eval/bin/python scripts/lm_eval_tasks.py .*": "tests/evaluation/test_lm_eval_tasks.py",
}


def named(key):
    return f"{COMMANDS[key].name}: {' '.join(key[0])}"


@pytest.fixture(scope="module")
def documented(tmp_path_factory, released_project):
    """A project that was released, with a model of one's own and calibration data."""
    project = Project(tmp_path_factory.mktemp("documented"), released_project)
    project.configure(defaults={}, releases=[{"model": "tiny-llama", "recipe": "fp8", "suite": "demo"}])
    model = project.folder / "models" / "my-model"
    shutil.copytree(project.folder / "results" / "demo" / "model", model)
    config = json.loads((model / "config.json").read_text()) | {"max_position_embeddings": 32768}
    (model / "config.json").write_text(json.dumps(config))
    (project.folder / "data").mkdir()
    (project.folder / "data" / "calibration.jsonl").write_text('{"text": "Text."}\n' * 512)
    return project


@pytest.mark.parametrize("key", COMMANDS, ids=named)
def test_a_command_of_the_documentation_runs(key, documented):
    page, words = COMMANDS[key], key[0]
    program, *arguments = words
    text = " ".join(words)
    elsewhere = next((test for pattern, test in ELSEWHERE.items() if re.fullmatch(pattern, text)), None)
    if elsewhere:
        script = next(word for word in words if word.startswith("scripts/"))
        assert Path(script).stem in (ROOT / elsewhere).read_text()
        return
    for path, content in files_of(page).items():
        file = documented.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    if program.endswith("snakemake"):
        only_reads = {"-n", "--report", "--touch"} & set(arguments)
        run = documented.snakemake(*([] if only_reads else ["-n"]), *arguments)
        assert run.status == 0, run.output
    elif program == "make":
        done = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        assert program == "python", f"{text}: add a way to run it, or a title that says why it cannot be run"
        done = subprocess.run([sys.executable, *arguments], cwd=documented.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_plan_of_the_tutorial_shows_its_releases_and_what_their_samples_cannot_decide(documented):
    for path, content in files_of(ROOT / "docs" / "tutorial.md").items():
        (documented.folder / path).write_text(content)
    run = documented.snakemake("-n", "release", "--configfile", "my-model.yaml")
    jobs = run.jobs()
    assert jobs["quantize_candidate"] == jobs["bundle_release"] == 2 and jobs["evaluate_run"] == 3
    assert "warning: my-model fp8: " in run.output, run.output
