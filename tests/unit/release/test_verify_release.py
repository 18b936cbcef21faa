"""A receiver sees every change to a bundle, and is told where it is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accepted_release import make_bundled_release
from hypothesis import given, settings
from hypothesis import strategies as st

import verify_release
from day0.base.artefacts import digest_of_file, digest_of_inventory
from day0.decision.verdict import STAGES
from day0.records.provenance import PREDICATE_TYPE, STATEMENT_TYPE

SCRIPT = Path(__file__).parents[3] / "scripts" / "verify_release.py"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound bundle, not to be changed."""
    return make_bundled_release(tmp_path_factory.mktemp("release")) / "release"


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "copy")


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(*arguments):
    # -I -S: nothing but the standard library can be imported.
    command = [sys.executable, "-I", "-S", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def reseal(folder):
    """Make SHA256SUMS and the provenance's subjects fit the files, as a forger would."""
    path = folder / "provenance.json"
    statement = json.loads(path.read_text())
    sealed = [name for name in names(folder) if name not in ("SHA256SUMS", "provenance.json")]
    statement["subject"] = [{"name": name, "digest": {"sha256": digest_of_file(folder / name)}} for name in sealed]
    path.write_text(json.dumps(statement))
    lines = [f"{digest_of_file(folder / name)}  {name}\n" for name in sorted([*sealed, "provenance.json"])]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_a_sound_bundle_passes_with_the_standard_library_alone(sound):
    done = run(sound)
    assert done.returncode == 0, done.stdout + done.stderr
    digest = digest_of_file(sound / "SHA256SUMS")
    assert f"sound, {len(names(sound))} files" in done.stdout and digest in done.stdout
    assert run(sound, "--sha256", digest).returncode == 0
    other = run(sound, "--sha256", "0" * 64)
    assert other.returncode == 1 and "the publisher's" in other.stdout
    assert run(sound, "--sha256", "0" * 63).returncode == 2


def test_the_types_are_those_that_the_bundle_is_made_with():
    assert (verify_release.STATEMENT_TYPE, verify_release.PREDICATE_TYPE) == (STATEMENT_TYPE, PREDICATE_TYPE)
    assert verify_release.STAGES == STAGES


@settings(max_examples=150)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_named(sound, data):
    name = data.draw(st.sampled_from(names(sound)))
    path = sound / name
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    inode = path.stat().st_ino
    try:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        problems, _ = verify_release.verify(sound)
    finally:
        path.write_bytes(content)
    assert path.stat().st_ino == inode
    assert any(name in problem for problem in problems), (name, place, bit, problems)
    assert not verify_release.verify(sound)[0]


def test_every_file_is_watched(copy):
    everything = names(copy)
    assert len(everything) > 15
    for name in everything:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        problems, _ = verify_release.verify(copy)
        assert any(name in problem for problem in problems), name
        (copy / name).unlink()
        problems, _ = verify_release.verify(copy)
        assert f"{name}: missing" in "\n".join(problems), (name, problems)
        (copy / name).write_bytes(content)
    assert run(copy).returncode == 0


def test_a_file_that_was_added_is_named_but_not_what_a_hub_adds(copy):
    (copy / ".gitattributes").write_text("*.safetensors filter=lfs")
    (copy / ".cache" / "huggingface").mkdir(parents=True)
    (copy / ".cache" / "huggingface" / "x.metadata").write_text("")
    assert run(copy).returncode == 0
    (copy / "modeling.py").write_text("")
    done = run(copy)
    assert done.returncode == 1 and "modeling.py: not part of the release" in done.stdout


def test_what_is_no_file_is_named_and_never_waited_for(copy):
    (copy / "below" / "more").symlink_to("/etc")
    (copy / "dangling").symlink_to("nowhere")
    os.mkfifo(copy / "pipe")
    done = run(copy)
    assert done.returncode == 1
    assert {line.partition(":")[0] for line in done.stdout.splitlines()[:-1]} == {"below/more", "dangling", "pipe"}


def test_files_may_be_links_as_a_hubs_cache_has_them(copy):
    weights = copy / "model.safetensors"
    weights.rename(copy.parent / "blob")
    weights.symlink_to(copy.parent / "blob")
    assert run(copy).returncode == 0


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("model.safetensors", None, "model.safetensors: is not the file that was quantized"),
        ("evidence/verdict.json", {"decision": "REGRESSION"}, "its decision is 'REGRESSION'"),
        ("evidence/validation.json", {"pass": False}, "evidence/validation.json: is not the file that the verdict"),
        ("evidence/comparison.json", {"baseline_sha256": "0"}, "was made from another baseline_run.json"),
        ("evidence/candidate_run_results.yml", None, "is not the file that candidate_run.json assessed"),
        ("evidence/quantization.json", {"source_digest": "0"}, "the source's digest is not the same"),
        ("evidence/quantization.json", {"checkpoint_digest": "0"}, "the checkpoint's digest is not the same"),
        ("modeling.py", None, "modeling.py: is part of neither"),
    ],
)
def test_a_forged_bundle_breaks_the_chain_of_evidence(copy, file, change, expected):
    path = copy / file
    if change is None:
        path.write_text("forged")
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    reseal(copy)
    done = run(copy)
    assert done.returncode == 1 and expected in done.stdout, done.stdout


def test_the_digest_of_the_checkpoint_is_that_of_the_workflow():
    files = {"b": {"sha256": "2"}, "ü": {"sha256": "1"}}
    text = json.dumps(sorted((n, e["sha256"]) for n, e in files.items()), ensure_ascii=False, separators=(",", ":"))
    assert verify_release.hashlib.sha256(text.encode()).hexdigest() == digest_of_inventory(files)


def test_what_is_no_bundle_is_unusable_input(tmp_path):
    (tmp_path / "README.md").write_text("")
    for folder in (tmp_path / "none", tmp_path):
        done = run(folder)
        assert done.returncode == 2 and "error:" in done.stderr and "Traceback" not in done.stderr
