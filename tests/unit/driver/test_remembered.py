"""What is asked once for all jobs; Snakemake's inside is as it was read."""

import inspect
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake import common, rules
from snakemake.dag import DAG
from snakemake.output_index import OutputIndex
from snakemake.scheduling.job_scheduler import JobScheduler

from driver import remembered


def test_the_inside_of_snakemake_is_as_it_was_read():
    """A failure means: read the new version, and adapt scripts/driver/remembered.py to it."""
    assert "get_function_params(func)" in inspect.getsource(rules.Rule)
    assert "get_function_params(func)" in inspect.getsource(common.get_input_function_aux_params)
    assert "if job.conda_env_spec" in inspect.getsource(remembered.update_conda_envs)
    assert list(inspect.signature(remembered.match_producers).parameters) == ["self", "targetfile"]
    assert "self.output_index.match_producers(targetfile)" in inspect.getsource(DAG.file2jobs)
    assert "self.resources[name] += value" in inspect.getsource(remembered.free_resources)


@pytest.mark.parametrize(("environment", "asked"), [(None, 0), ("env.yaml", 1)])
def test_conda_environments_are_looked_for_where_a_rule_has_one(monkeypatch, environment, asked):
    calls = []
    monkeypatch.setattr(remembered, "update_conda_envs", calls.append)
    rule = SimpleNamespace(conda_env=environment)
    remembered._update_conda_envs(SimpleNamespace(workflow=SimpleNamespace(rules=[rule])))
    assert len(calls) == asked


@pytest.mark.parametrize(("dry", "freed"), [(True, []), (False, ["job"])])
def test_only_what_a_job_has_taken_is_given_back(monkeypatch, dry, freed):
    calls = []
    monkeypatch.setattr(remembered, "free_resources", lambda scheduler, job: calls.append(job))
    remembered._free_resources(SimpleNamespace(dryrun=dry), "job")
    assert calls == freed


def test_the_rules_that_make_a_file_are_looked_for_once_by_each_index(monkeypatch):
    asked = []
    monkeypatch.setattr(remembered, "match_producers", lambda index, file: asked.append((index, file)) or {index.rule})
    first, second = SimpleNamespace(rule="a"), SimpleNamespace(rule="b")
    found = [remembered._match_producers(*of) for of in [(first, "f"), (first, "f"), (second, "f"), (first, "g")]]
    assert found == [{"a"}, {"a"}, {"b"}, {"a"}] and [file for _, file in asked] == ["f", "f", "g"]


def test_a_signature_is_read_once_for_the_rules_and_what_their_functions_are_given(monkeypatch):
    read = []
    signature = common.get_function_params
    for module in (common, rules):
        monkeypatch.setattr(module, "get_function_params", signature)
    monkeypatch.setattr(inspect, "signature", lambda f, read_it=inspect.signature: read.append(f) or read_it(f))
    for owner, name in (
        (DAG, "update_conda_envs"),
        (OutputIndex, "match_producers"),
        (JobScheduler, "_free_resources"),
    ):
        monkeypatch.setattr(owner, name, None)
    remembered.install()

    def files(wildcards, attempt):
        return wildcards, attempt

    for _ in range(3):
        assert common.get_input_function_aux_params(files, {"attempt": 1, "input": 2}) == {"attempt": 1}
        assert list(rules.get_function_params(files)) == ["wildcards", "attempt"]
    assert read == [files]
    assert DAG.update_conda_envs is remembered._update_conda_envs
    assert OutputIndex.match_producers is remembered._match_producers
    assert JobScheduler._free_resources is remembered._free_resources
