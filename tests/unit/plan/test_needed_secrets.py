"""Which secrets of its caller's environment a run needs."""

from pathlib import Path

import pytest
import yaml

from day0.plan.check import make_plan
from day0.plan.needed_secrets import unneeded_secrets

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    "HF_TOKEN": "a",
    "HTTPS_PROXY": "http://user:word@proxy:1",
    "PIP_INDEX_URL": "https://user:word@index/simple",
    "PUBLISHING_TOKEN": "b",
    "MLFLOW_TRACKING_PASSWORD": "c",
    "AWS_SECRET_ACCESS_KEY": "d",
    "GITLAB_PAT": "e",
    "MIRROR": "https://user:word@mirror/simple",
    "DOCKER_AUTH": "f",
    "KEY.OF.NO.SHELL": "g",
    "PWD": "/work",
    "EDITOR": "vi",
}
NEVER = ["GITLAB_PAT", "MIRROR"]


@pytest.mark.parametrize(
    ("changes", "unneeded"),
    [
        ({}, ["AWS_SECRET_ACCESS_KEY", "DOCKER_AUTH", "MLFLOW_TRACKING_PASSWORD", "PUBLISHING_TOKEN"]),
        ({"mlflow": {"tracking_uri": "https://mlflow"}}, ["DOCKER_AUTH", "PUBLISHING_TOKEN"]),
        (
            {"publish": {"hub": "me/{model}", "token_variable": "PUBLISHING_TOKEN"}},
            ["AWS_SECRET_ACCESS_KEY", "DOCKER_AUTH", "MLFLOW_TRACKING_PASSWORD"],
        ),
        (
            {"containers": {"runtime": "apptainer", "serve": {"image": "image.sif"}}},
            ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PUBLISHING_TOKEN"],
        ),
    ],
    ids=["neither", "mlflow", "publish", "containers"],
)
def test_what_no_part_of_a_configuration_needs_is_named(changes, unneeded, tmp_path):
    if "containers" in changes:
        (tmp_path / "image.sif").touch()
        changes["containers"]["serve"]["image"] = str(tmp_path / "image.sif")
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text()) | changes
    plan = make_plan(raw, is_produced=lambda path: True, root=ROOT)
    assert unneeded_secrets(plan, ENVIRONMENT) == sorted([*unneeded, *NEVER])


def test_the_keys_of_a_suites_judges_are_needed():
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    plan = make_plan(raw, is_produced=lambda path: True, root=ROOT)
    judge = {"model": "m", "url_variable": "JUDGE_TOKEN_URL", "key_variable": "JUDGE_KEY"}
    suite = plan.suites["demo"]
    plan.suites["demo"] = type(suite).model_validate(suite.model_dump() | {"judges": {"one": judge}})
    assert unneeded_secrets(plan, {"JUDGE_TOKEN_URL": "x", "JUDGE_KEY": "y", "OTHER_KEY": "z"}) == ["OTHER_KEY"]
