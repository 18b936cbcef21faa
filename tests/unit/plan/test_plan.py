"""What a plan says of its decisions before any job runs."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from day0.base.cli import UnusableInput
from day0.plan.check import make_plan, read_published_scores, resolution_warnings
from day0.plan.config import Defaults
from day0.statistics.resolution import EXPECTED_DISAGREEMENT_RATE

ROOT = Path(__file__).parents[3]
DEFAULTS = {"suite": "demo", "expected_disagreement_rate": 0.01}
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
DEFAULT |= {"defaults": DEFAULTS, "releases": [{"model": "tiny-llama", "recipe": "fp8"}]}


def plan(**changes):
    raw = copy.deepcopy(DEFAULT)
    raw["defaults"].update(changes.pop("defaults", {}))
    return make_plan(raw | changes, is_produced=lambda path: True, root=ROOT)


def warnings(**changes):
    made = plan(**changes)
    return resolution_warnings(made, made.releases[0])


def test_the_assumption_is_one_in_both_places():
    assert Defaults().expected_disagreement_rate == EXPECTED_DISAGREEMENT_RATE


def test_a_suite_that_resolves_its_thresholds_gives_no_warning():
    assert warnings() == []


def test_a_task_that_cannot_resolve_its_threshold_is_named_with_what_it_needs():
    found = warnings(defaults={"expected_disagreement_rate": 0.05, "criterion": "point"})
    assert [warning["task"] for warning in found] == ["addition", "reversal", "sorting"]
    assert "1,000 samples cannot resolve the limit of 0.01" in found[0]["sentence"]
    assert "about 3,925 samples" in found[0]["sentence"]


def test_advisory_tasks_and_wider_thresholds_are_not_warned_of():
    defaults = {"expected_disagreement_rate": 0.05, "criterion": "confident", "tiers": {"reversal": "advisory"}}
    found = warnings(defaults=defaults | {"thresholds": {"tiers": {"supporting": 0.03}}})
    assert [warning["task"] for warning in found] == ["addition"]


def test_what_the_suite_cannot_prove_together_is_said_once():
    found = warnings(defaults={"expected_disagreement_rate": 0.1})
    assert [warning["task"] for warning in found] == ["suite"]
    # 3 tasks of 1,000: the error of the mean is sqrt(0.1 / 3000), and 1.645 + 0.842 of them must fit into 0.01
    assert "3,000 samples cannot prove the limit of 0.01" in found[0]["sentence"]
    assert "they prove 0.014; the limit needs about 6,183" in found[0]["sentence"]
    assert warnings(defaults={"expected_disagreement_rate": 0.04}) == []


def test_a_task_that_could_hide_a_large_loss_is_named():
    found = warnings(defaults={"expected_disagreement_rate": 0.04, "thresholds": {"tasks": {"sorting": 0.001}}})
    assert "sorting" in [warning["task"] for warning in found]
    assert "more than 5 limits of 0.001" in found[-1]["sentence"]


def test_published_scores_are_read_by_name_and_by_hub_repository(tmp_path):
    assert read_published_scores(plan(external_scores=None)) == {"tiny-llama": []}
    entry = {"task": "a", "metric": "m", "score": 1, "source": "https://example.org", "notes": "n"}
    file = tmp_path / "scores.yaml"
    file.write_text(yaml.safe_dump({"scores": [entry | {"model": "o/n"}, entry | {"model": "m"}]}))
    models = {"m": {"hub": "o/n", "revision": "0" * 40}}
    made = plan(models=models, releases=[{"model": "m", "recipe": "fp8"}], external_scores=str(file))
    assert [found["model"] for found in read_published_scores(made)["m"]] == ["o/n", "m"]
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"scores": [entry | {"model": "m", "score": 7}]}))
    both = plan(models=models, releases=[{"model": "m", "recipe": "fp8"}], external_scores=[str(file), str(own)])
    assert [(found["model"], found["score"]) for found in read_published_scores(both)["m"]] == [("o/n", 1), ("m", 7)]


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UnusableInput, match=r"external_scores: none\.yaml: cannot be read.*or null for none"):
        read_published_scores(plan(external_scores="none.yaml"))


def test_decisions_that_share_their_chance_of_error_need_more_samples():
    """The factor is 1.645 + 0.842 for one decision, 2.128 + 0.842 for one of three."""
    made = plan(defaults={"expected_disagreement_rate": 0.04})
    (release,) = made.releases
    assert resolution_warnings(made, release) == []
    of_three = replace(release, policy=release.policy.model_copy(update={"decisions": 3}))
    (found,) = resolution_warnings(made, of_three)
    assert found["task"] == "suite" and "the limit needs about 3,528" in found["sentence"]
