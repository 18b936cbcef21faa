"""What is asked once for all jobs; Snakemake's inside is as it was read."""

import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake import common, rules
from snakemake.dag import DAG
from snakemake.io import IOFile, _IOFile, flag
from snakemake.output_index import OutputIndex
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

from driver import remembered

ROOT = Path(__file__).resolve().parents[3]
IS_STORAGE, SERIALIZE = _IOFile.is_storage, PersistenceBase._serialize_param


def test_the_inside_of_snakemake_is_as_it_was_read():
    """A failure means: read the new version, and adapt scripts/driver/remembered.py to it."""
    assert "get_function_params(func)" in inspect.getsource(rules.Rule)
    assert "get_function_params(func)" in inspect.getsource(common.get_input_function_aux_params)
    assert "if job.conda_env_spec" in inspect.getsource(remembered.update_conda_envs)
    assert list(inspect.signature(remembered.match_producers).parameters) == ["self", "targetfile"]
    assert "self.output_index.match_producers(targetfile)" in inspect.getsource(DAG.file2jobs)
    assert "self.resources[name] += value" in inspect.getsource(remembered.free_resources)
    assert 'return is_flagged(self._file, "storage_object")' in inspect.getsource(IS_STORAGE.fget)
    assert 'find_spec("pandas") is not None' in inspect.getsource(SERIALIZE.fget.__wrapped__)


@pytest.mark.parametrize(
    ("file", "stored"),
    [
        (IOFile("a"), False),
        (IOFile(flag("a", "ancient")), False),
        (IOFile(flag("a", "storage_object", SimpleNamespace())), True),
        (IOFile(lambda wildcards: "a"), False),
    ],
)
def test_a_file_in_storage_is_known(file, stored):
    assert remembered._is_storage(file) is IS_STORAGE.fget(file) is stored


def test_parameters_are_recorded_as_ever():
    from pandas import DataFrame

    class Persistence:
        _serialize_param_pandas = PersistenceBase._serialize_param_pandas
        _serialize_param_builtin = PersistenceBase._serialize_param_builtin

    for value in (None, "a", 3, [1, {"b": 2}], DataFrame({"a": [1, 2]}), object()):
        found = remembered._serialize_param(Persistence())(value)
        assert found == Persistence()._serialize_param_pandas(value)
    code = "import sys, snakemake.api; sys.path.insert(0, 'scripts'); from driver import remembered"
    code += "; p = type('P', (), {'_serialize_param_builtin': 1, '_serialize_param_pandas': 2})"
    code += "; print(remembered._serialize_param(p), 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "1 False\n"


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
        (_IOFile, "is_storage"),
        (PersistenceBase, "_serialize_param"),
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
