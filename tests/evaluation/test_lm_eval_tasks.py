"""The list of scores of lm-eval's tasks, in lm-eval's own environment."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".envs" / "lm-eval" / "bin" / "python"


def run(*arguments):
    command = [str(PYTHON), str(ROOT / "scripts" / "lm_eval_tasks.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_scores_of_tasks_are_listed_and_an_unknown_task_is_named_with_what_is_near():
    done = run("gsm8k", "arc_challenge", "demo_addition", "gsm8", "mmlu", "--include-path", "config/suites/demo")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "gsm8k: exact_match,flexible-extract  exact_match,strict-match",
        "arc_challenge: acc,none  acc_norm,none",
        "demo_addition: exact_match,none",
        "gsm8: lm-eval has no such task; near are gsm8k, gsm8k_cot",
        "mmlu: not known without its data: a group of tasks, or one with code of its own",
    ]
