"""A lock names its owner: a dead one's is removed, a living one's is not; Snakemake's inside is as it was read."""

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake.exceptions import WorkflowError
from snakemake.persistence import PersistenceBase
from snakemake.persistence.file import FilePersistence

from driver import locks
from driver.owners import VARIABLE, Owner, end_jobs, jobs_of, start_of, this_process

HERE = this_process()
AS_IT_WAS = {name: getattr(FilePersistence, name) for name in ("_read_locks", "_write_locks", "_delete_locks")}


@pytest.fixture
def ended():
    """A process of this host that has ended."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(HERE, pid=process.pid, started=start_of(process.pid))
    assert not owner.is_dead
    process.kill()
    process.wait()
    return owner


def test_the_inside_of_snakemake_is_as_it_was_read():
    """A failure means: read the new version, and adapt scripts/driver/locks.py to it."""
    for name in ("_read_locks", "_write_locks", "_delete_locks"):
        assert "_lockdir" in inspect.getsource(AS_IT_WAS[name]), "Snakemake's own folder of locks, which is not used"
    assert "_lockdir" not in inspect.getsource(PersistenceBase)
    base = inspect.getsource(PersistenceBase)
    for part in ("self.lock = self.noop", "self.lock = self.lock_warn_only", "self._write_locks(", "def locked(self)"):
        assert part in base
    assert "self._delete_locks()" in inspect.getsource(PersistenceBase.unlock)
    assert "self.unlock()" in inspect.getsource(PersistenceBase.cleanup_locks)


def test_an_owner_is_written_and_read():
    assert Owner.parse(f"{HERE}\n") == HERE and HERE.started > 0 and HERE.is_of_this_host and not HERE.is_dead


@pytest.mark.parametrize("text", ["", "results/model.json", "a:b:c:d:e:f", "a:b:c:d:1", "a:b:c:d:1:2:3"])
def test_no_file_is_taken_for_an_owner(text):
    assert Owner.parse(text) is None


@pytest.mark.parametrize(
    ("change", "is_dead"),
    [
        ({}, False),
        ({"started": HERE.started + 1}, True),  # the number is another's by now
        ({"pid": 2**22 + 1}, True),  # no process has it
        ({"host": "another"}, False),
        ({"machine": "another", "boot": "another"}, False),  # another host of the same name
        ({"boot": "another"}, bool(HERE.machine)),  # this host was started anew
        ({"machine": "", "boot": "another"}, False),
        ({"namespace": "1", "pid": 2**22 + 1}, False),  # of a container, whose numbers say nothing here
    ],
)
def test_an_owner_is_dead_only_where_that_is_known(change, is_dead):
    assert replace(HERE, **change).is_dead is is_dead


def test_a_process_that_nobody_has_waited_for_is_dead():
    process = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    process.stdout.read()
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        pass
    assert start_of(process.pid) is None
    process.wait()


@pytest.fixture
def persistence(tmp_path, monkeypatch):
    """Snakemake's own, with what is installed."""
    for name in ("lock", "locked", "_read_locks", "_write_locks", "_delete_locks", "cleanup_locks"):
        monkeypatch.setattr(FilePersistence, name, getattr(FilePersistence, name))
    monkeypatch.chdir(tmp_path)
    locks.install()
    monkeypatch.setattr(FilePersistence, "all_inputfiles", lambda self: ["in"])
    monkeypatch.setattr(FilePersistence, "all_outputfiles", lambda self: ["results/out"])

    def make(**options):
        settings = SimpleNamespace(max_checksum_file_size=0)
        dag = SimpleNamespace(workflow=SimpleNamespace(dag_settings=settings), needrun_jobs=lambda: iter(()))
        return FilePersistence(path=tmp_path / ".snakemake", dag=dag, **options)

    return make


def leave_lock(owner, place="/elsewhere"):
    locks.FOLDER.mkdir(parents=True, exist_ok=True)
    file = locks.FOLDER / "0.output.lock"
    file.write_text(f"{owner}\n{place}\nresults/out\n" if owner else f"no owner\n{place}\nresults/out\n")
    return file


def lock_texts():
    return sorted(file.read_text() for file in locks.FOLDER.iterdir())


def test_a_lock_is_there_during_a_run_alone(persistence, tmp_path):
    with persistence().lock():
        assert lock_texts() == [f"{HERE}\n{tmp_path}\n{tmp_path}/in\n", f"{HERE}\n{tmp_path}\nresults/out\n"]
        assert persistence().locked
    assert lock_texts() == []


def test_a_dead_owners_lock_is_removed_with_a_line_that_says_so(persistence, ended, monkeypatch):
    said = []
    monkeypatch.setattr(locks.logger, "warning", said.append)
    leave_lock(ended)
    plan = persistence(warn_only=True)
    assert not plan.locked
    with plan.lock():
        assert len(lock_texts()) == 1, "a plan changes nothing"
    with persistence().lock():
        assert len(lock_texts()) == 2
    assert said == [f"The lock of a snakemake that was killed (process {ended.pid} in /elsewhere) was removed."]


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (HERE, f"process {HERE.pid} of this host) makes the same files"),
        (replace(HERE, host="node7"), "of host node7"),
        (None, "left no name"),
    ],
)
def test_a_living_owners_lock_is_refused_with_its_name_and_folder(persistence, owner, words):
    file = leave_lock(owner)
    with pytest.raises(WorkflowError, match="the same command again") as refused, persistence().lock():
        pass
    assert words in str(refused.value) and ("from /elsewhere" in str(refused.value) or owner is None)
    assert list(locks.FOLDER.iterdir()) == [file], "its own was removed, the other's was not"
    persistence().cleanup_locks()
    assert file.exists() is (owner == HERE), "a living process of this host keeps its lock"
    file.unlink(missing_ok=True)
    with persistence().lock():
        pass


def test_a_run_leaves_the_locks_of_others_alone(persistence, monkeypatch):
    file = leave_lock(HERE)
    monkeypatch.setattr(FilePersistence, "all_inputfiles", lambda self: [])
    monkeypatch.setattr(FilePersistence, "all_outputfiles", lambda self: ["results/else"])
    with persistence().lock():
        pass
    assert list(locks.FOLDER.iterdir()) == [file]


def test_files_beside_results_are_each_clones_own(persistence, tmp_path, monkeypatch):
    """An environment of this folder is no other's of the same name; one that both reach by a link is."""
    monkeypatch.setattr(FilePersistence, "all_outputfiles", lambda self: [".envs/serve.json"])
    file = leave_lock(HERE)
    file.write_text(f"{HERE}\n/elsewhere\n/elsewhere/.envs/serve.json\n")
    with persistence().lock():
        pass
    (tmp_path / "shared").mkdir()
    (tmp_path / ".envs").symlink_to(tmp_path / "shared")
    file.write_text(f"{HERE}\n/elsewhere\n{tmp_path}/shared/serve.json\n")
    with pytest.raises(WorkflowError), persistence().lock():
        pass


@pytest.mark.parametrize(("is_needed", "is_plan"), [(True, False), (False, False), (True, True)])
def test_only_a_run_with_something_to_do_begins(persistence, is_needed, is_plan):
    begun = []
    locks.install(lambda: begun.append(lock_texts()))
    run = persistence(warn_only=is_plan)
    run.dag.needrun_jobs = lambda: iter([1] * is_needed)
    with run.lock():
        pass
    assert len(begun) == (is_needed and not is_plan) and all(begun), "under its lock"


def test_a_results_folder_that_cannot_be_written_to_is_named(persistence, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "say_disk_problem", lambda problem: None)
    (tmp_path / "results").write_text("no folder")
    with pytest.raises(WorkflowError, match="results: "), persistence().lock():
        pass


@pytest.mark.parametrize("ignores", [False, True])
def test_what_a_dead_owners_jobs_left_running_is_ended(ended, ignores):
    code = f"import signal; {'signal.signal(signal.SIGTERM, signal.SIG_IGN);' * ignores} print(1, flush=True); input()"
    environment = {VARIABLE: str(ended)}
    left = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    left.stdout.readline()
    assert list(jobs_of(ended)) == [left.pid]
    assert list(jobs_of(replace(ended, started=ended.started + 1))) == []
    assert end_jobs(ended, patience_seconds=0.2) == 1
    assert left.wait(timeout=10) == (-9 if ignores else -15)
