"""A finished release that was damaged, by whatever means and with its times kept, is noticed where it is named next."""

import os
import shutil
import time
from pathlib import Path

import pytest
from accepted_release import by_hand

import summarize
from day0.base.artefacts import read_json, write_json
from day0.release.damage import STATES, find_damage, write_states

VERDICT, BUNDLE, CHECKPOINT = Path("m/fp8/verdict.json"), Path("m/fp8/release"), Path("m/fp8/checkpoint")


@pytest.fixture
def release(bundled_release, tmp_path, monkeypatch):
    """A copy of it in the working directory, its weights still one file with two names, and all states known."""
    folder = shutil.copytree(bundled_release, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(folder)
    weights = BUNDLE / "model.safetensors"
    weights.unlink()
    os.link(CHECKPOINT / "model.safetensors", weights)
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(1, 1))
    know_states()
    return folder


def know_states():
    """As if the release had been made long ago: the state of every file is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("day0.release.damage.SETTLED_NS", -(10**12))
        assert find_damage(VERDICT, full=True, needs_bundle=True) == []
    assert len(read_json(BUNDLE.with_name(STATES))["files"]) > 15


def keep_time(path, change):
    """Change a file and give it its times back."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwrite(path):
    """One byte in place, through whichever of its names."""
    with open(path, "r+b") as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(bytes([first[0] ^ 1]))


def replace(path):
    """Another file of the same size."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def grow(path):
    with open(path, "ab") as stream:
        stream.write(b" ")


def remove(path):
    path.unlink()


WAYS = [overwrite, replace, truncate, empty, grow]
FILES = {
    "weights of the bundle": BUNDLE / "model.safetensors",
    "config of the bundle": BUNDLE / "config.json",
    "a file below": BUNDLE / "below" / "vocab.txt",
    "card": BUNDLE / "README.md",
    "provenance": BUNDLE / "provenance.json",
    "sums": BUNDLE / "SHA256SUMS",
    "verdict of the bundle": BUNDLE / "evidence" / "verdict.json",
    "report of the bundle": BUNDLE / "evidence" / "report.html",
    "weights of the checkpoint": CHECKPOINT / "model.safetensors",
    "tokenizer of the checkpoint": CHECKPOINT / "tokenizer.json",
    "comparison": Path("m/fp8/comparison.json"),
    "validation": Path("m/fp8/validation.json"),
    "run": Path("m/fp8/s/run.json"),
    "run of the baseline": Path("m/baseline/s/run.json"),
    "preflight": Path("m/preflight.json"),
    "samples": Path("m/fp8/s/samples/addition.jsonl"),
    "samples of the baseline": Path("m/baseline/s/samples/addition.jsonl"),
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_changed_with_its_time_kept_is_named(release, name, way):
    keep_time(FILES[name], way)
    found = "\n".join(find_damage(VERDICT, needs_bundle=True))
    assert FILES[name].name in found and ("remove" in found or "run the same command" in found), found


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_is_gone_is_named(release, name):
    remove(FILES[name])
    found = "\n".join(find_damage(VERDICT, needs_bundle=True))
    assert FILES[name].name in found and "missing" in found, found


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def terabyte(path):
    """Of nothing."""
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("way", [pipe, device, terabyte], ids=lambda way: way.__name__)
@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("name", [*sorted(FILES), "record", "verdict"])
def test_what_is_no_file_is_named_and_never_waited_for(release, name, way, is_known):
    path = {**FILES, "record": Path("m/fp8/quantization.json"), "verdict": VERDICT}[name]
    if not is_known:
        (BUNDLE.with_name(STATES)).unlink()
    way(path)
    began = time.monotonic()
    assert path.name in "\n".join(find_damage(VERDICT, needs_bundle=True)) and time.monotonic() - began < 30


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to(path.name)])
def test_states_that_are_no_file_spare_nothing_and_stop_nothing(release, make):
    states = BUNDLE.with_name(STATES)
    states.unlink()
    make(states)
    assert find_damage(VERDICT, needs_bundle=True) == []


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to("/etc")]
)
def test_what_is_no_file_and_was_added_is_named(release, make):
    make(BUNDLE / "evidence" / "more")
    (found,) = find_damage(VERDICT, needs_bundle=True)
    assert "more: is no part of the release" in found


def test_a_write_through_one_name_is_found_at_both(release):
    keep_time(CHECKPOINT / "model.safetensors", overwrite)
    bundled, quantized = find_damage(VERDICT, needs_bundle=True)
    assert bundled.startswith(f"{BUNDLE / 'model.safetensors'}: is not what was bundled")
    assert quantized.startswith(f"{CHECKPOINT / 'model.safetensors'}: is the same file") and "quantizes" in quantized


def test_a_bundle_that_is_gone_is_named_where_one_is_needed(release):
    shutil.rmtree(BUNDLE)
    assert "SHA256SUMS is missing" in "\n".join(find_damage(VERDICT, needs_bundle=True))
    assert find_damage(VERDICT) == []


def test_a_bundle_of_another_verdict_is_named_where_one_is_needed(release):
    write_json(VERDICT, read_json(VERDICT) | {"created": "2031-01-01T00:00:00+00:00"})
    assert "is not the one in" in "\n".join(find_damage(VERDICT, needs_bundle=True))
    assert find_damage(VERDICT) == []


def test_a_file_that_was_added_is_named(release):
    (BUNDLE / "notes.txt").write_text("x")
    (BUNDLE / ".gitattributes").write_text("x")
    (found,) = find_damage(VERDICT, needs_bundle=True)
    assert "notes.txt: is no part of the release" in found


def test_without_states_everything_is_hashed_and_they_are_made_anew(release):
    (BUNDLE.with_name(STATES)).unlink()
    assert find_damage(VERDICT, needs_bundle=True) == []
    assert BUNDLE.with_name(STATES).is_file()


def test_a_known_state_is_not_hashed_again_and_full_hashes_all(release, monkeypatch):
    hashed = []
    real = summarize.find_damage.__globals__["digest_of_file"]
    monkeypatch.setattr("day0.release.damage.digest_of_file", lambda path: hashed.append(str(path)) or real(path))
    assert find_damage(VERDICT, needs_bundle=True) == []
    assert str(BUNDLE / "model.safetensors") not in hashed
    assert find_damage(VERDICT, full=True) == [] and str(BUNDLE / "model.safetensors") in hashed


def test_what_changed_but_its_bytes_is_no_damage(release):
    """Another hard link, a copy from a backup, a touch."""
    os.link(BUNDLE / "model.safetensors", "another")
    shutil.copy(BUNDLE / "config.json", "copy")
    os.replace("copy", BUNDLE / "config.json")
    os.utime(BUNDLE / "README.md")
    assert find_damage(VERDICT, needs_bundle=True) == []


def test_the_end_of_a_run_names_it_and_fails(release):
    Path("results.html").write_text("")
    options = ("--bundles", "--index", "results.html")
    assert by_hand(summarize, VERDICT, *options).returncode == 0
    keep_time(BUNDLE / "config.json", overwrite)
    done = by_hand(summarize, VERDICT, *options)
    assert done.returncode == 1 and "DAMAGED: m/fp8/release/config.json" in done.stdout, done.stdout
    assert "error: 1 files are no longer what was decided on" in done.stdout


def test_states_that_could_hide_a_change_are_not_kept(release):
    (BUNDLE / "config.json").write_text('{"model_type": "llama"}')  # its time is now: a second write might not show
    write_states(BUNDLE, {"config.json": "0" * 64})
    assert read_json(BUNDLE.with_name(STATES))["files"] == {}
