"""Only a sound, accepted bundle leaves the house, once, whole, and never with the token in sight."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hub_server
import huggingface_hub
import pytest

import publish as publish_script
import verify_release
from day0.base.cli import UnusableInput, run_cli
from day0.release import damage
from day0.release.damage import write_states

SCRIPT = Path(__file__).parents[3] / "scripts" / "publish.py"
TOKEN = "hf_a-secret-that-stays-here"


@pytest.fixture
def release(bundled_copy, monkeypatch):
    """A copy of an accepted release with its bundle, in the working directory."""
    monkeypatch.setattr(damage, "SETTLED_NS", -(10**18))  # what was just written counts as settled
    return bundled_copy / "m" / "fp8"


@pytest.fixture
def hub():
    state, address, stop = hub_server.serve(TOKEN)
    state.address = address
    yield state
    stop()


def publish(destination, *options, folder="m/fp8/release", **environment):
    """Run the command line in this process, which spares its imports."""
    out, err = io.StringIO(), io.StringIO()
    arguments = ["--bundle", folder, "--destination", json.dumps(destination), "--output", "published.json", *options]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["publish.py", *arguments])
        # The hub's client reads these once, when it is imported; its Xet protocol needs a service of its own.
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(Path.cwd() / "cache"))
        for name, value in environment.items():
            patch.delenv(name, raising=False)
            if value is not None:
                patch.setenv(name, value)
        run_cli(publish_script.main)
    done = SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())
    assert TOKEN not in done.stdout + done.stderr
    return done


def to_hub(hub, *options, token=TOKEN, repository="org/m-fp8", **settings):
    environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": token}
    return publish({"hub": repository, **settings}, *options, **environment)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_sends_nothing_and_says_what_it_would_send(release, hub):
    done = to_hub(hub, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dry run" in done.stdout and "model.safetensors" in done.stdout and "repository is made" in done.stdout
    assert hub.repositories == {} and not Path("published.json").exists()
    assert "not set" not in done.stdout and "HF_TOKEN is not set" in to_hub(hub, "--dry-run", token=None).stdout


def test_the_repository_holds_the_bundle_and_nothing_is_sent_twice(release, hub):
    done = to_hub(hub)
    assert done.returncode == 0, done.stdout + done.stderr
    held = hub.repositories["org/m-fp8"]["main"]
    assert {name: held[name] for name in held if name != ".gitattributes"} == files_of(release / "release")
    assert hub.created == [("org/m-fp8", True, None)] or hub.created[0][2] == "private"
    assert len(hub.commits) == 1 and hub.commits[0].startswith("m fp8: ACCEPT")
    record = json.loads(Path("published.json").read_text())
    assert record["url"] == f"{hub.address}/org/m-fp8/tree/{record['commit']}"
    sent = list(hub.uploads)
    assert sent
    again = to_hub(hub)
    assert again.returncode == 0 and "0 of" in again.stdout
    assert len(hub.commits) == 1 and hub.uploads == sent
    assert json.loads(Path("published.json").read_text())["commit"] == record["commit"]
    assert "keep" in to_hub(hub, "--dry-run").stdout
    shown = subprocess.run([sys.executable, str(SCRIPT), "--show", "published.json"], capture_output=True, text=True)
    assert record["url"] in shown.stdout
    assert all(TOKEN.encode() not in content for content in files_of(Path.cwd()).values())


def test_an_interrupted_upload_goes_on_where_it_stopped(release, hub):
    hub.failures = 1
    done = to_hub(hub)
    assert done.returncode != 0 and not Path("published.json").exists() and hub.commits == []
    before = set(hub.uploads)
    done = to_hub(hub)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(hub.uploads) == len(set(hub.uploads)) and before <= set(hub.uploads)


def test_a_later_release_replaces_an_earlier_one_whole(release, hub):
    assert to_hub(hub).returncode == 0
    held = hub.repositories["org/m-fp8"]["main"]
    held["old.safetensors"] = b"old"
    held["SHA256SUMS"] += b"0" * 64 + b"  old.safetensors\n"
    assert "delete" in to_hub(hub, "--dry-run").stdout
    done = to_hub(hub)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "old.safetensors" not in hub.repositories["org/m-fp8"]["main"]
    assert json.loads(Path("published.json").read_text())["deleted"] == ["old.safetensors"]


def test_a_repository_with_foreign_content_is_left_alone(release, hub):
    hub.repositories["org/m-fp8"] = {"main": {"README.md": b"mine", "model.gguf": b"theirs"}}
    done = to_hub(hub)
    assert done.returncode == 2 and "no release brought there (2, such as README.md)" in done.stderr
    assert hub.repositories["org/m-fp8"]["main"] == {"README.md": b"mine", "model.gguf": b"theirs"}


def test_another_model_of_the_same_file_names_is_left_alone(release, hub):
    hub.repositories["org/m-fp8"] = {"main": {"model.safetensors": b"theirs"}}
    done = to_hub(hub)
    assert done.returncode == 2 and "such as model.safetensors" in done.stderr
    assert hub.repositories["org/m-fp8"]["main"] == {"model.safetensors": b"theirs"}


def test_a_branch_is_made_where_it_is_asked_for(release, hub):
    assert to_hub(hub).returncode == 0
    done = to_hub(hub, branch="candidate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(hub.repositories["org/m-fp8"]) == {"main", "candidate"}


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_no_or_a_wrong_token_is_said_plainly(release, hub, token):
    done = to_hub(hub, token=token)
    assert done.returncode == 2 and "error:" in done.stderr
    assert ("HF_TOKEN: not set" if token is None else "org/m-fp8") in done.stderr
    assert not Path("published.json").exists()


def test_a_hub_that_cannot_be_reached_may_be_tried_again(release, hub):
    hub.address = "http://127.0.0.1:9"
    done = to_hub(hub)
    assert done.returncode == 1 and "cannot be reached" in done.stdout, done.stdout + done.stderr


def test_a_folder_holds_the_bundle_and_nothing_is_copied_twice(release, tmp_path):
    target = tmp_path / "shared" / "m-fp8"
    destination = {"folder": str(target)}
    assert "the folder is made" in publish(destination, "--dry-run").stdout and not target.exists()
    done = publish(destination)
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_of(target) == files_of(release / "release") and verify_release.verify(target)[0] == []
    written = (target / "model.safetensors").stat().st_ino
    assert publish(destination).returncode == 0
    assert (target / "model.safetensors").stat().st_ino == written
    assert [path.name for path in target.parent.iterdir()] == ["m-fp8"]


@pytest.mark.parametrize(("options", "times"), [((), 2), (("--verify", "full"), 3)])
def test_what_was_hashed_for_the_bundle_is_not_hashed_again(release, tmp_path, monkeypatch, options, times):
    """The weights are read to be copied, and their copy to be checked; a check of the bundle would be a third time."""
    hashed = []
    digest = verify_release._digest
    monkeypatch.setattr(verify_release, "_digest", lambda path, size: hashed.append(path) or digest(path, size))
    bundle = Path("m/fp8/release")
    write_states(bundle, dict(line.split("  ")[::-1] for line in (bundle / "SHA256SUMS").read_text().splitlines()))
    done = publish({"folder": str(tmp_path / "shared")}, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(path.name == "model.safetensors" for path in hashed) == times - 1


def test_a_change_with_its_times_kept_is_found_before_anything_is_sent(release, tmp_path, monkeypatch):
    bundle = Path("m/fp8/release")
    weights = bundle / "model.safetensors"
    weights.chmod(0o644)
    write_states(bundle, dict(line.split("  ")[::-1] for line in (bundle / "SHA256SUMS").read_text().splitlines()))
    before, content = weights.stat(), weights.read_bytes()
    weights.write_bytes(content[:-1] + b"~")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = publish({"folder": str(tmp_path / "shared")})
    assert done.returncode == 1 and "model.safetensors: changed" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "shared").exists()


def test_an_interrupted_copy_goes_on_and_an_earlier_release_is_replaced(release, tmp_path):
    target = tmp_path / "shared" / "m-fp8"
    shutil.copytree(release / "release", target)
    (target / "README.md").write_text("an earlier card")
    half = target.with_name(".m-fp8.unfinished")
    half.mkdir()
    shutil.copy2(release / "release" / "model.safetensors", half)
    (half / "README.md").write_text("half a ca")
    (half / "of-another-release.json").write_text("")
    done = publish({"folder": str(target)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_of(target) == files_of(release / "release") and not half.exists()


def test_a_folder_with_foreign_content_is_left_alone(release, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    done = publish({"folder": str(tmp_path / "home")})
    assert done.returncode == 2 and "thesis.tex" in done.stderr and (tmp_path / "home" / "thesis.tex").exists()


@pytest.mark.parametrize("path", ["model.safetensors", "evidence/comparison.json", "SHA256SUMS"])
def test_a_broken_bundle_does_not_leave(release, tmp_path, path):
    file = release / "release" / path
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content + b" ")
    done = publish({"folder": str(tmp_path / "target")})
    assert done.returncode == 1 and path in done.stdout and not (tmp_path / "target").exists()


def test_only_an_accepted_bundle_leaves(release, tmp_path):
    path = release / "release" / "evidence" / "verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decision": "REGRESSION"}))
    done = publish({"folder": str(tmp_path / "target")})
    assert done.returncode == 2 and "only an accepted release is published" in done.stderr


def test_a_destination_is_one_of_hub_and_folder(release):
    for destination in ({}, {"hub": "a/b", "folder": "c"}):
        done = publish(destination)
        assert done.returncode == 2 and "expected one of hub and folder" in done.stderr


@pytest.mark.parametrize(
    ("folder", "quoted"),
    [
        ("file/below", "file/below: cannot be read or written"),
        ("m/fp8/release", "is the bundle itself or within it"),
        ("m/fp8/release/below", "is the bundle itself or within it"),
    ],
)
def test_a_folder_that_cannot_be_is_said_plainly(release, folder, quoted):
    Path("file").write_text("")
    before = files_of(release / "release")
    done = publish({"folder": folder})
    assert done.returncode == 2 and quoted in done.stderr, done.stderr
    assert files_of(release / "release") == before


def test_a_record_of_something_else_is_not_shown(tmp_path):
    (tmp_path / "published.json").write_text("{}")
    with pytest.raises(UnusableInput, match=r"published\.json: url: missing"):
        publish_script.show_published(tmp_path / "published.json")


def test_the_command_line_alone_publishes_to_the_hub(release, hub):
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "MY_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    destination = json.dumps({"hub": "org/m-fp8", "token_variable": "MY_TOKEN"})
    command = [sys.executable, str(SCRIPT), "--bundle", "m/fp8/release", "--destination", destination]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and TOKEN not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "SHA256SUMS" in hub.repositories["org/m-fp8"]["main"]
