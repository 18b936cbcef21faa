"""A configuration file that says two things is refused by the plan: Snakemake's loader takes the last of two keys."""

import pytest

from day0.base.cli import UnusableInput
from day0.plan.check import check_configuration_file, make_plan


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "defaults:\n  suite: demo\n  suite: quick\n"),
        ("a.json", '{"defaults": {"suite": "demo",\n "suite": "quick"}}'),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UnusableInput, match=rf"{name}: .* key 'suite' stands in lines \d and \d"):
        check_configuration_file(tmp_path / name)


def test_the_projects_own_is_sound():
    check_configuration_file("config/config.yaml")


@pytest.mark.parametrize("key", ["suite", "recipe"])
def test_a_name_that_no_file_can_have_is_a_mistake_with_its_place(key):
    release = {"model": "tiny", "recipe": "fp8", "suite": "demo", key: "x" * 5000}
    with pytest.raises(UnusableInput, match=rf"releases\[0\]\.{key}: unknown {key}"):
        make_plan({"models": {"tiny": {"path": "results/demo/x"}}, "releases": [release]}, lambda path: True)
