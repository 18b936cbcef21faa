"""Bundles that somebody made by hand, with sums that fit: verify_release.py refuses them, and never waits."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from accepted_release import make_bundled_release

import verify_release
from day0.base.artefacts import digest_of_file, digest_of_inventory, inventory

SCRIPT = Path(__file__).parents[2] / "scripts" / "verify_release.py"
VERDICT, COMPARISON, RECORD = "evidence/verdict.json", "evidence/comparison.json", "evidence/quantization.json"
BASELINE, CANDIDATE, SOURCE = "evidence/baseline_run.json", "evidence/candidate_run.json", "evidence/source.json"
VALIDATION = "evidence/validation.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_bundled_release(tmp_path_factory.mktemp("bundle")) / "release"


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "copy")


def verify(folder):
    """What the receiver's script says."""
    problems, digests = verify_release.verify(folder)
    return SimpleNamespace(returncode=int(bool(problems)), stdout="\n".join(problems or ["sound"]), digests=digests)


def verify_by_hand(folder):
    """The same by its command line, which must not take long."""
    began = time.monotonic()
    command = [sys.executable, "-I", "-S", str(SCRIPT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    assert time.monotonic() - began < 30
    return done


def edit(folder, changes):
    """Replace keys of JSON files: {file: {dotted key: value}}."""
    for name, edits in changes.items():
        path = folder / name
        content = json.loads(path.read_text())
        for place, value in edits.items():
            *outer, last = place.split(".")
            inner = content
            for key in outer:
                inner = inner[key]
            inner[last] = value
        path.write_text(json.dumps(content))


def seal(folder):
    """Make every digest fit what lies there: comparison, verdict, provenance and sums, as a forger would."""
    digests = {name: digest_of_file(folder / name) for name in (BASELINE, CANDIDATE)}
    sides = {"baseline_sha256": digests[BASELINE], "candidate_sha256": digests[CANDIDATE]}
    edit(folder, {COMPARISON: sides})
    verdict = json.loads((folder / VERDICT).read_text())
    for stage, entry in verdict["evidence"].items():
        entry["sha256"] = digest_of_file(folder / "evidence" / f"{stage}.json")
    (folder / VERDICT).write_text(json.dumps(verdict))
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    sealed = [name for name in names if name not in ("SHA256SUMS", "provenance.json")]
    statement = json.loads((folder / "provenance.json").read_text())
    statement["subject"] = [{"name": name, "digest": {"sha256": digest_of_file(folder / name)}} for name in sealed]
    (folder / "provenance.json").write_text(json.dumps(statement))
    lines = [f"{digest_of_file(folder / name)}  {name}\n" for name in sorted([*sealed, "provenance.json"])]
    (folder / "SHA256SUMS").write_text("".join(lines))


EDITS = {
    "verdict's decision": ({VERDICT: {"decision": "REGRESSION"}}, "its decision is 'REGRESSION'"),
    "verdict's pass": ({VERDICT: {"pass": False}}, "its decision is 'ACCEPT'"),
    "verdict's class": ({VERDICT: {"failure_class": "UNKNOWN"}}, "accepted and that it failed with 'UNKNOWN'"),
    "verdict's classes": ({VERDICT: {"failure_classes": ["UNKNOWN"]}}, "accepted and that it failed"),
    "comparison's decision": (
        {COMPARISON: {"decision": "REGRESSION"}},
        "comparison.json: its decision is 'REGRESSION'",
    ),
    "comparison's pass": ({COMPARISON: {"pass": False}}, "comparison.json: did not pass"),
    "comparison's class": ({COMPARISON: {"failure_class": "UNKNOWN"}}, "comparison.json: says both"),
    "criterion's decision": (
        {COMPARISON: {"criteria.point.decision": "REGRESSION"}},
        "the criterion that decided says",
    ),
    "verdict's criterion": ({VERDICT: {"criteria": {}}}, "the criterion that decided says None"),
    "run failed": ({CANDIDATE: {"pass": False}}, "candidate_run.json: did not pass"),
    "run passed and failed": ({CANDIDATE: {"failure_class": "UNKNOWN"}}, "candidate_run.json: says both"),
    "run was stopped": ({CANDIDATE: {"early_stop": {}}}, "was stopped early"),
    "validation failed": ({VALIDATION: {"pass": False}}, "validation.json: did not pass"),
    "preflight failed": ({"evidence/preflight_suite.json": {"pass": False}}, "preflight_suite.json: did not pass"),
    "candidate's score": ({CANDIDATE: {"scores.addition.score": 0.5}}, "the candidate's score is 0.995"),
    "baseline's score": ({BASELINE: {"scores.addition.score": 0.5}}, "the baseline's score is 1.0"),
    "comparison's score": (
        {COMPARISON: {"tasks.addition.candidate": 1.0}},
        "its tasks are not those of the comparison",
    ),
    "verdict's score": ({VERDICT: {"tasks.addition.candidate": 1.0}}, "its tasks are not those of the comparison"),
    "both scores": (
        {COMPARISON: {"tasks.addition.candidate": 1.0}, VERDICT: {"tasks.addition.candidate": 1.0}},
        "the candidate's score is 1.0",
    ),
    "drop": ({COMPARISON: {"tasks.addition.drop": 0.0}, VERDICT: {"tasks.addition.drop": 0.0}}, "its drop is 0.0"),
    "within": (
        {COMPARISON: {"tasks.addition.within": False}, VERDICT: {"tasks.addition.within": False}},
        "by its own word",
    ),
    "no task": ({COMPARISON: {"tasks": {}}, VERDICT: {"tasks": {}}}, "its tasks are not those of"),
    "no score": ({CANDIDATE: {"scores": {}}}, "its tasks are not those of candidate_run.json"),
    "another task": ({CANDIDATE: {"scores.more": {"score": 1.0}}}, "its tasks are not those of candidate_run.json"),
    "count": ({CANDIDATE: {"scores.addition.samples": 3}}, "400 samples are paired, candidate_run.json has 3"),
    "another model's run": ({CANDIDATE: {"model": "o"}}, "the model is not the same"),
    "another model's baseline": ({BASELINE: {"model": "o"}}, "the model is not the same"),
    "another model's source": ({SOURCE: {"model": "o"}}, "the model is not the same"),
    "another model's record": ({RECORD: {"model": "o"}}, "the model is not the same"),
    "another suite's run": ({CANDIDATE: {"suite": "o"}}, "the suite is not the same"),
    "another suite's verdict": ({VERDICT: {"suite": "o"}}, "the suite is not the same"),
    "another candidate's run": ({CANDIDATE: {"candidate": "nvfp4"}}, "the candidate is not the same"),
    "a candidate's baseline": ({BASELINE: {"candidate": "fp8"}}, "is the run of 'fp8', not of the baseline"),
    "another checkpoint's run": (
        {CANDIDATE: {"checkpoint_digest": "0" * 64}},
        "the checkpoint's digest is not the same",
    ),
    "another checkpoint's validation": (
        {VALIDATION: {"checkpoint_digest": "0" * 64}},
        "checkpoint's digest is not the same",
    ),
    "another source's validation": ({VALIDATION: {"source_digest": "0" * 64}}, "the source's digest is not the same"),
    "another source's baseline": ({BASELINE: {"checkpoint_digest": "0" * 64}}, "the source's digest is not the same"),
    "another results": ({CANDIDATE: {"results_digest": "0" * 64}}, "is not the file that candidate_run.json assessed"),
    "a score beyond any float": ({CANDIDATE: {"scores.addition.score": 10**400}}, "the candidate's score is 0.995"),
    "a limit beyond any float": (
        {COMPARISON: {"tasks.addition.limit": 10**400}, VERDICT: {"tasks.addition.limit": 10**400}},
        "within its limit by its own word",
    ),
    "a file without its size": ({RECORD: {"files": {"config.json": {"bytes": "23"}}}}, "config.json has no size"),
    "half of a surrogate pair": ({BASELINE: {"model": "\ud800"}}, "baseline_run.json has \\ud800"),
    "a command of the terminal": ({BASELINE: {"model": "\x1b[2J"}}, "baseline_run.json has \\x1b[2J"),
    "no digest": ({CANDIDATE: {"checkpoint_digest": None}}, "the checkpoint's digest is not the same"),
}


@pytest.mark.parametrize("name", sorted(EDITS))
def test_edited_evidence_is_refused_though_every_digest_fits(copy, name):
    changes, said = EDITS[name]
    edit(copy, changes)
    seal(copy)
    done = verify(copy)
    assert done.returncode == 1 and said in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_checkpoint_without_what_it_needs_is_refused_though_its_record_fits(copy, name):
    (copy / name).unlink()
    record = json.loads((copy / RECORD).read_text())
    files = {path: entry for path, entry in record["files"].items() if path != name}
    digest = digest_of_inventory(files)
    edit(copy, {RECORD: {"files": files, "checkpoint_digest": digest}, VALIDATION: {"checkpoint_digest": digest}})
    edit(copy, {CANDIDATE: {"checkpoint_digest": digest}, VERDICT: {"digests.checkpoint_digest": digest}})
    seal(copy)
    done = verify(copy)
    what = "*.safetensors" if name == "model.safetensors" else name
    assert done.returncode == 1 and f"the checkpoint holds no {what}" in done.stdout, done.stdout


def put_into_the_record(copy, name, content):
    """A further file of the checkpoint, recorded, validated and evaluated by its word."""
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_bytes(content)
    files = json.loads((copy / RECORD).read_text())["files"] | inventory(copy, [name])
    digest = digest_of_inventory(files)
    edit(copy, {RECORD: {"files": files, "checkpoint_digest": digest}, VALIDATION: {"checkpoint_digest": digest}})
    edit(copy, {CANDIDATE: {"checkpoint_digest": digest}, VERDICT: {"digests.checkpoint_digest": digest}})
    seal(copy)


UNSAFE = [
    "modeling.py",
    "weights.bin",
    "model.pkl",
    "a.pt",
    "a.ckpt",
    "run.sh",
    "x.so",
    "a.npy",
    "a.zip",
    ".env",
    "a/.b/c.json",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_kind_of_file_that_could_hold_code_is_refused_though_it_is_recorded(copy, name):
    put_into_the_record(copy, name, b"x")
    done = verify(copy)
    assert done.returncode == 1 and f"{name}: is no kind of file that a model needs" in done.stdout, done.stdout


def test_code_is_let_through_where_the_source_was_trusted(copy):
    put_into_the_record(copy, "modeling.py", b"x")
    edit(copy, {SOURCE: {"trust_remote_code": True}})
    seal(copy)
    assert verify(copy).returncode == 0


def test_a_shard_that_the_index_names_must_be_there(copy):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    put_into_the_record(copy, "model.safetensors.index.json", json.dumps(index).encode())
    done = verify(copy)
    assert done.returncode == 1 and "names model-2.safetensors, which the checkpoint does not hold" in done.stdout


DISGUISES = {
    "tokenizer.model": b"\x80\x04\x95x",
    "LICENSE": b"\x7fELF\x02",
    "vocab.json": b"PK\x03\x04",
    "chat_template.jinja": b"#!/bin/sh",
    "model.safetensors": b"PK\x03\x04\x14\0\0\0\0",
}


@pytest.mark.parametrize("name", sorted(DISGUISES))
def test_a_program_archive_or_pickle_is_refused_whatever_it_is_called(copy, name):
    put_into_the_record(copy, name, DISGUISES[name])
    done = verify(copy)
    assert done.returncode == 1 and f"{name}: begins as a program, an archive or a pickle" in done.stdout, done.stdout


def test_the_length_of_a_header_may_look_like_a_pickle(copy):
    put_into_the_record(copy, "model.safetensors", (0x280).to_bytes(8, "little") + b"{" + b" " * 0x27F)
    assert verify(copy).returncode == 0


HOLLOW = {
    "weights": ("model.safetensors", b"", "is empty"),
    "config": ("config.json", b"", "does not parse"),
    "a list": ("config.json", b"[]", "holds no object"),
    "a key twice": ("config.json", b'{"a": 1, "a": 2}', "a key stands twice"),
    "a key of the tokenizer twice": ("tokenizer_config.json", b'{"a": 1, "a": 2}', "a key stands twice"),
    "an index of no files": ("model.safetensors.index.json", b'{"weight_map": {"a": ["x"]}}', "names no file for each"),
}


@pytest.mark.parametrize("kind", sorted(HOLLOW))
def test_a_file_that_says_nothing_or_two_things_is_refused_though_it_is_recorded(copy, kind):
    name, content, said = HOLLOW[kind]
    put_into_the_record(copy, name, content)
    done = verify(copy)
    assert done.returncode == 1 and f"{name}: " in done.stdout and said in done.stdout, done.stdout


def test_a_configuration_may_hold_an_infinity(copy):
    put_into_the_record(copy, "config.json", b'{"time_step_limit": [0.0, Infinity]}')
    assert verify(copy).returncode == 0


@pytest.mark.parametrize("name", [b"\xff.json", b"a\x1b[2J.json", b"a\nsound.json", "a\u202e.json".encode()], ids=ascii)
def test_a_name_is_shown_so_that_no_terminal_obeys_it(copy, name):
    with open(bytes(copy) + b"/" + name, "w"):
        done = verify_by_hand(copy)
    shown = name.decode("utf-8", "surrogateescape").encode("unicode-escape").decode()
    assert done.returncode == 1 and f"{shown}: not part of the release" in done.stdout, done.stdout


def test_folders_without_end_are_looked_through(copy):
    place = os.open(copy, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=place)
        place, above = os.open("d", os.O_RDONLY, dir_fd=place), place
        os.close(above)
    os.close(place)
    done = verify_by_hand(copy)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    subprocess.run(["rm", "-rf", copy / "d"], check=True)


@pytest.mark.parametrize("name", ["evidence/run.py", "evidence/model.pkl", "evidence/x.sh"])
def test_evidence_holds_evidence_alone(copy, name):
    (copy / name).write_text("x")
    seal(copy)
    done = verify(copy)
    assert done.returncode == 1 and "is no kind of file that evidence has" in done.stdout


JSONS = [VERDICT, COMPARISON, RECORD, SOURCE, CANDIDATE, VALIDATION, "provenance.json"]
TEXTS = {
    "a key twice": lambda text: re.sub(r"^\{", '{"schema_version": 1, "schema_version": 1,', text, count=1),
    "no number": lambda text: re.sub(r"^\{", '{"x": NaN,', text, count=1),
    "half": lambda text: text[: len(text) // 2],
    "nothing": lambda text: "",
    "a list": lambda text: "[]",
    "deep": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("kind", sorted(TEXTS))
@pytest.mark.parametrize("name", JSONS)
def test_json_that_says_two_things_or_nothing_is_refused(copy, name, kind):
    path = copy / name
    path.write_text(TEXTS[kind](path.read_text()))
    done = verify(copy)
    assert done.returncode == 1 and name in done.stdout


def in_place_of(copy, name, make):
    path = copy / name
    path.unlink(missing_ok=True)
    make(path)


def sparse(size):
    def make(path):
        path.touch()
        os.truncate(path, size)

    return make


NO_FILES = {
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to the terminal": lambda path: path.symlink_to("/dev/tty"),
    "a link to memory": lambda path: path.symlink_to("/proc/self/mem"),
    "a link to the kernel's log": lambda path: path.symlink_to("/proc/kmsg"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a folder": lambda path: path.symlink_to("/etc"),
    "a terabyte of nothing": sparse(1 << 40),
    "a gigabyte of nothing": sparse(1 << 30),
}


@pytest.mark.parametrize("kind", sorted(NO_FILES))
@pytest.mark.parametrize("name", ["model.safetensors", "SHA256SUMS", VERDICT, RECORD, "provenance.json", "more.json"])
def test_what_is_no_file_is_named_and_never_waited_for(copy, name, kind):
    in_place_of(copy, name, NO_FILES[kind])
    done = verify_by_hand(copy)
    if name == "more.json" and kind == "a folder":
        assert done.returncode == 0  # an empty folder is no file, and no part of anything
        return
    assert done.returncode == 1 and name in done.stdout, done.stdout


def test_a_socket_is_named(copy, monkeypatch):
    import socket

    monkeypatch.chdir(copy)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("more.json")
    assert "more.json: is no file" in verify(copy).stdout


def test_the_bundle_itself_is_sound(sound):
    """The faults are refused for what they are."""
    done = verify_by_hand(sound)
    assert done.returncode == 0 and "sound" in done.stdout, done.stdout


def test_sealing_alone_breaks_nothing(copy):
    seal(copy)
    assert verify(copy).returncode == 0
