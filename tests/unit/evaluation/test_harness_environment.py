"""A harness is given the secrets that its task needs, and no others of its caller's."""

import pytest

from day0.evaluation.harness_process import harness_environment

BASE = {
    "PATH": "/bin",
    "HF_TOKEN": "a",
    "HTTPS_PROXY": "http://user:word@proxy:1",
    "JUDGE_URL": "https://user:word@judge/v1",
    "JUDGE_KEY": "b",
    "OPENAI_API_KEY": "the user's own",
    "AWS_SECRET_ACCESS_KEY": "c",
    "GITLAB_PAT": "d",
    "MLFLOW_TRACKING_PASSWORD": "e",
}
JUDGE = {"model": "m", "url_variable": "JUDGE_URL", "key_variable": "JUDGE_KEY"}
OWN = {"PATH", "OPENAI_API_KEY", "TOKENIZERS_PARALLELISM"}


@pytest.mark.parametrize(
    ("judges", "has_local_data", "secrets"),
    [
        ({}, True, set()),
        ({}, False, {"HF_TOKEN", "HTTPS_PROXY"}),
        ({"judge": JUDGE}, True, {"JUDGE_URL", "JUDGE_KEY", "HTTPS_PROXY"}),
        ({"simulator": JUDGE | {"key_variable": None}}, True, {"JUDGE_URL", "HTTPS_PROXY"}),
    ],
    ids=["local", "hub", "judge", "simulator"],
)
def test_only_what_a_task_needs(judges, has_local_data, secrets):
    job = {"judge": None, "simulator": None, "include_path": None, "output": "/scratch/addition.json"} | judges
    environment = harness_environment(BASE, job, has_local_data, "the run's")
    assert environment.keys() == OWN | secrets and environment["OPENAI_API_KEY"] == "the run's"


def test_local_task_files_have_a_cache_of_their_own():
    job = {"judge": None, "simulator": None, "include_path": "tasks", "output": "/scratch/addition.json"}
    environment = harness_environment(BASE, job, True, "k")
    assert environment["HF_DATASETS_CACHE"] == "/scratch/datasets-addition"
