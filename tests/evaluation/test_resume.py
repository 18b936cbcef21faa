"""A run that is killed, stopped or out of space loses no answer, asks none twice, and leaves nothing behind."""

import io
import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager

import psutil
import pytest

from evaluate_stage import Stage

pytestmark = pytest.mark.e2e

DOCUMENTS = 160
HELD = {"kind": "hold", "first": 2}  # two requests are answered, the others held, so that there is a middle to stop in
FEW_IN_FLIGHT = {"concurrency": 32}
TRANSIENT = 75


@contextmanager
def in_the_middle(stage, *arguments, answered=None):
    """A started run of which some requests, not all, have been answered."""
    process = stage.start(*arguments)
    deadline = time.monotonic() + 120
    answered = answered or (lambda: any(file.stat().st_size for file in stage.output.glob("cache/*")))
    while not answered():
        assert process.poll() is None, f"it ended before a request was answered:\n{process.stdout.read()}"
        assert time.monotonic() < deadline, "no request was answered"
        time.sleep(0.02)
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    yield process, [psutil.Process(pid) for pid in family if psutil.pid_exists(pid)]
    process.wait(timeout=60)
    stage.said = process.stdout.read()
    stage.status = process.returncode


def ports_of(processes):
    found = set()
    for process in processes:
        try:
            found |= {c.laddr.port for c in process.net_connections("tcp4") if c.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return found


def assert_nothing_is_left(family, ports):
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive, alive
    listening = {c.laddr.port for c in psutil.net_connections("tcp4") if c.status == psutil.CONN_LISTEN}
    assert not ports & listening


def go_on(stage, before, stored, documents, recorded):
    """Run a stopped stage to its end: it asks what has no answer, and nothing else. Returns its counts of requests."""
    assert 0 < stored <= len(before) < documents
    stage.strike()
    stage.run()
    assert stage.status == 0, stage.said
    again = stage.asked()
    assert len(again) == documents - stored
    assert len(set(before) | set(again)) == documents
    requests = stage.metadata["requests"]["addition"]
    assert requests["from_store"] == stored
    assert [attempt["status"] for attempt in stage.metadata["attempts"]] == [recorded, "ANSWERED"]
    assert stage.assessment()["pass"], stage.assessment()
    assert not (stage.output / "cache").exists()
    return requests


def harness_of(family):
    return next(p for p in family if "harness_lm_eval.py" in " ".join(p.cmdline()))


def server_of(family):
    return next(p for p in family if "proxy.py" in " ".join(p.cmdline()))


def stop_client(process, family):
    harness_of(family).kill()


def stop_server(process, family):
    server_of(family).kill()


def stop_both(process, family):
    for one in (harness_of(family), server_of(family)):
        one.kill()


def kill_stage(process, family):
    process.kill()


def terminate_stage(process, family):
    process.terminate()


def interrupt_stage(process, family):
    # As a terminal does: to the whole group.
    os.killpg(process.pid, signal.SIGINT)


STOPS = {
    "client killed": (stop_client, TRANSIENT, "STOPPED"),
    "server killed": (stop_server, TRANSIENT, "STOPPED"),
    "client and server killed": (stop_both, TRANSIENT, "STOPPED"),
    "stage killed": (kill_stage, -signal.SIGKILL, "KILLED"),
    "SIGTERM": (terminate_stage, TRANSIENT, "STOPPED"),
    "SIGINT": (interrupt_stage, TRANSIENT, "STOPPED"),
}


@pytest.mark.parametrize("name", STOPS)
def test_only_what_has_no_answer_is_asked_again(backend, tmp_path, name):
    stop, status, recorded = STOPS[name]
    stage = Stage(tmp_path, backend, HELD, FEW_IN_FLIGHT, limit=DOCUMENTS)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    stage.environment["TMPDIR"] = str(scratch)
    with in_the_middle(stage) as (process, family):
        ports = ports_of(family)
        assert len(list(scratch.glob("evaluate-*"))) == 1
        stop(process, family)
    assert stage.status == status, stage.said
    assert_nothing_is_left(family, ports)
    assert not list(scratch.glob("evaluate-*"))
    assert not (stage.output / "results.yml").exists()
    (cache,) = (stage.output / "cache").iterdir()
    stored = len(cache.read_bytes().splitlines())
    before = stage.asked()
    assert go_on(stage, before, stored, DOCUMENTS, recorded)["answered"] == DOCUMENTS


def test_more_repeats_and_documents_of_a_finished_run_ask_only_what_is_new(backend, tmp_path):
    """With sampling, so that an answer that was asked anew would differ from the stored one."""

    def samples_of(**settings):
        suite = {"generation": {"temperature": 1.0}, "tasks": {"addition": settings}}
        stage = Stage(tmp_path, backend, suite=suite, limit=settings.get("limit"))
        stage.run()
        assert stage.status == 0 and stage.assessment()["pass"], stage.said
        lines = (stage.output / "samples" / "addition.jsonl").read_text().splitlines()
        asked, counts = stage.asked(), stage.metadata["requests"]["addition"]
        assert len(asked) == counts["asked"] - counts["from_store"]
        return {(s["id"], s["repeat"]): s["answer"] for s in map(json.loads, lines)}, len(asked)

    first, asked = samples_of(repeats=2, limit=32)
    assert asked == len(first) == 64
    more, asked = samples_of(repeats=3, limit=32)
    assert (asked, len(more)) == (32, 96) and first.items() <= more.items()
    slice_, asked = samples_of(repeats=3, limit=32, offset=16)
    assert asked == 48 and {int(number) for number, _ in slice_} == set(range(16, 48))
    same, asked = samples_of(repeats=3, limit=32, offset=16)
    assert asked == len(same) == 96, "what was called for again is asked anew"


def test_a_walltime_ends_as_a_timeout_that_goes_on(backend, tmp_path):
    stage = Stage(tmp_path, backend, HELD, FEW_IN_FLIGHT, limit=DOCUMENTS)
    stage.run("--walltime-minutes", "0.5")
    assert stage.status == TRANSIENT and "TIMEOUT" in stage.said, stage.said
    assert stage.attempts[-1]["status"] == "TIMEOUT" and not (stage.output / "results.yml").exists()
    before = stage.asked()
    stage.strike()
    stage.run("--walltime-minutes", "60")
    assert stage.status == 0 and stage.metadata["requests"]["addition"]["from_store"] > 0, stage.said
    assert len(set(before) | set(stage.asked())) == DOCUMENTS


def test_a_prompt_that_was_given_up_is_alone_asked_again(backend, tmp_path):
    sound = Stage(tmp_path / "sound", backend, limit=DOCUMENTS).run()
    poison = json.loads(sound.asked()[1])[0]
    stage = Stage(tmp_path, backend, {"kind": "error 500", "match": poison}, {"max_attempts": 1}, limit=DOCUMENTS)
    stage.run()
    assert stage.metadata["accounting"]["addition"]["failed"] == 1, stage.said
    stage.asked()
    stage.strike()
    stage.run()
    assert [json.loads(line)[0] for line in stage.asked()] == [poison], stage.said
    assert stage.assessment()["pass"] and stage.metadata["requests"]["addition"]["from_store"] == DOCUMENTS - 1


def test_another_setting_never_gets_an_old_answer(backend, tmp_path):
    stage = Stage(tmp_path, backend, HELD, FEW_IN_FLIGHT, limit=DOCUMENTS)
    with in_the_middle(stage) as (process, _):
        process.terminate()
    stage.asked()
    changed = Stage(tmp_path, backend, suite={"generation": {"temperature": 0.0, "top_p": 0.9}}, limit=DOCUMENTS)
    changed.run()
    assert changed.status == 0 and len(changed.asked()) == DOCUMENTS
    assert changed.metadata["requests"]["addition"]["from_store"] == 0
    assert [attempt["status"] for attempt in changed.metadata["attempts"]] == ["ANSWERED"]


def test_a_full_disk_loses_no_answer(backend, tmp_path):
    disk, go = tmp_path / "disk", tmp_path / "go"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        stage = Stage(tmp_path / "stage", backend, HELD | {"until": str(go)}, FEW_IN_FLIGHT, limit=DOCUMENTS)
        stage.output = disk / "run"
        ballast = disk / "ballast"
        with in_the_middle(stage), ballast.open("wb") as stream, pytest.raises(OSError):
            try:
                while True:
                    os.write(stream.fileno(), bytes(1024))
            finally:
                go.touch()
        assert stage.status == TRANSIENT and "No space left" in stage.said, stage.said
        assert "Traceback" not in stage.said and not (stage.output / "results.yml").exists()
        before = len(stage.asked())
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        stage.strike()
        stage.run()
        assert stage.status == 0, stage.said
        stored = stage.metadata["requests"]["addition"]["from_store"]
        assert 0 < stored <= before and len(stage.asked()) == DOCUMENTS - stored
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_scratch_disk_is_no_verdict_on_the_model(backend, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        stage = Stage(tmp_path / "stage", backend, limit=8)
        stage.environment["TMPDIR"] = str(disk)
        stage.run()
        assert stage.status == TRANSIENT and "no space left on the device" in stage.said, stage.said
        assert str(disk) in stage.said and not (stage.output / "results.yml").exists()
        del stage.environment["TMPDIR"]
        assert stage.run().status == 0 and stage.assessment()["pass"], stage.said
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_reader_that_is_gone_changes_nothing(backend, tmp_path):
    """As where a pipe's other end was stopped before the stage."""
    stage = Stage(tmp_path, backend, HELD, FEW_IN_FLIGHT, limit=DOCUMENTS)
    with in_the_middle(stage) as (process, family):
        process.stdout.close()
        process.terminate()
        assert process.wait(timeout=60) == TRANSIENT
        process.stdout = io.StringIO()
    assert_nothing_is_left(family, set())
    assert stage.attempts[-1]["status"] == "STOPPED"


def test_two_runs_at_once_do_not_meet(backend, tmp_path):
    stages = [Stage(tmp_path / name, backend, {"pace": 0.2}, limit=DOCUMENTS) for name in ("one", "other")]
    processes = [stage.start() for stage in stages]
    for stage, process in zip(stages, processes, strict=True):
        stage.said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, stage.said
        assert stage.assessment()["pass"] and len(stage.asked()) == DOCUMENTS
        assert stage.metadata["requests"]["addition"]["attempts"] == {"200": DOCUMENTS // 16}
