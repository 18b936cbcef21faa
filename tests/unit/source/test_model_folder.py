"""The source model is described as it lies, and fetched from a hub once, at its pinned commit."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from day0.base.cli import UnusableInput
from day0.records.source import FolderLocation
from day0.source import model_folder

SCRIPT = Path(__file__).parents[3] / "scripts" / "describe_source.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors(elements=8):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(2 * elements)


@pytest.fixture
def folder(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(safetensors())
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return model


def describe_source(folder, **options):
    source, _ = model_folder.describe_source(folder, "m", FolderLocation(path=str(folder)), **options)
    return source.as_plain()


def describe(model, output, **environment):
    command = [sys.executable, str(SCRIPT), "--model", json.dumps(model), "--output", str(output)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(command, capture_output=True, text=True, env={**inherited, **environment})


def test_a_folder_is_described_with_digests_and_precisions(folder):
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling.py").write_text("")
    source = describe_source(folder)
    assert sorted(source["files"]) == ["README.md", "config.json", "model.safetensors"]
    assert (source["parameters"], source["payload_bytes"], source["dtypes"]) == (8, 16, {"BF16": 8})
    assert (source["card"]["license"], source["config"]) == ("apache-2.0", {"model_type": "llama"})
    assert "modeling.py" in describe_source(folder, trust_remote_code=True)["files"]


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: mit", {"license": "mit"}),
        ("license: 'apache-2.0'  # quoted", {"license": "apache-2.0"}),
        ("license:\n- mit\n- apache-2.0", {"license": ["mit", "apache-2.0"]}),
        ("license: []", {}),
        ("license: 3", {}),
        (
            "license: other\nlicense_name: acme\nlicense_link: LICENSE",
            {"license": "other", "license_name": "acme", "license_link": "LICENSE"},
        ),
        ("language: en\npipeline_tag: image-text-to-text", {"languages": ["en"], "pipeline_tag": "image-text-to-text"}),
        ("language: [en, no, de]", {"languages": ["en", "de"]}),
        ("license: [", {}),
        ("- license", {}),
        ("license: !python/object:os.system mit", {}),
    ],
)
@pytest.mark.parametrize("form", ["---\n{}\n---\nx", "\ufeff---\n{}\n---\nx", "---\r\n{}\r\n---\r\n"])
def test_the_card_of_the_source_is_read_as_the_hub_reads_it(folder, form, front, expected):
    (folder / "README.md").write_text(form.format(front), encoding="utf-8", newline="")
    card = describe_source(folder)["card"]
    assert {key: value for key, value in card.items() if value} == expected


def test_a_source_without_a_card_names_no_licence(folder):
    (folder / "README.md").unlink()
    assert not any(describe_source(folder)["card"].values())


def test_a_source_is_opened_by_its_record_or_by_its_folder_alone(folder, tmp_path):
    by_folder = model_folder.open_source(folder)
    assert (by_folder.name, by_folder.folder, by_folder.digest, by_folder.trust_remote_code) == (
        "model",
        folder,
        None,
        False,
    )
    record = tmp_path / "source.json"
    source, _ = model_folder.describe_source(folder, "m", FolderLocation(path=str(folder)), trust_remote_code=True)
    source.write(record)
    by_record = model_folder.open_source(record)
    assert (by_record.name, by_record.folder, by_record.digest) == ("m", folder, source.digest)
    assert by_record.trust_remote_code
    (folder / "config.json").unlink()
    with pytest.raises(UnusableInput, match=r"'path': found .*expected the folder of the source model"):
        model_folder.open_source(record)


def test_one_changed_bit_changes_the_digest(folder):
    before = describe_source(folder)["digest"]
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert describe_source(folder)["digest"] != before


def test_a_broken_shard_is_named_and_nothing_is_written(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(safetensors()[:-3])
    done = describe({"model": "m", "path": str(folder)}, tmp_path / "source.json")
    assert done.returncode == 2 and "model.safetensors" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "source.json").exists()


class Hub(http.server.BaseHTTPRequestHandler):
    """A model hub of one repository, for as much of the protocol as huggingface_hub asks for."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/name/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            content = json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode()
            return self.send(content, body)
        if path.startswith("/api/models/org/name/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            return self.send(json.dumps(entries).encode(), body)
        name = path.removeprefix(f"/org/name/resolve/{COMMIT}/")
        if name not in self.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if "/org/name/" not in path else "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if body:
            self.requests.append(name)
        return self.send(self.files[name], body)

    def send(self, content, body):
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.wfile.write(content[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(folder):
    Hub.files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"pytorch_model.bin": b"pickle"}
    Hub.requests = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_and_then_offline(hub, tmp_path):
    model = {"model": "m", "hub": "org/name", "revision": COMMIT}
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    first = describe(model, tmp_path / "a.json", **environment)
    assert first.returncode == 0, first.stderr
    assert sorted(Hub.requests) == ["README.md", "config.json", "model.safetensors"]
    Hub.requests.clear()
    again = describe(model, tmp_path / "b.json", **environment)
    offline = describe(model, tmp_path / "c.json", **environment, HF_HUB_OFFLINE="1")
    assert again.returncode == offline.returncode == 0, again.stderr + offline.stderr
    assert Hub.requests == []
    records = [json.loads((tmp_path / f"{name}.json").read_text()) for name in "abc"]
    assert records[0] == records[1] == records[2] and records[0]["location"]["revision"] == COMMIT


def test_a_hub_that_does_not_know_the_model_is_a_plain_error(hub, tmp_path):
    model = {"model": "m", "hub": "org/other", "revision": COMMIT}
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    done = describe(model, tmp_path / "a.json", **environment)
    assert done.returncode == 2 and "org/other" in done.stderr and "Traceback" not in done.stderr


def test_offline_without_a_cache_is_a_plain_error(tmp_path):
    model = {"model": "m", "hub": "org/name", "revision": COMMIT}
    done = describe(model, tmp_path / "a.json", HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "cache" in done.stderr and "Traceback" not in done.stderr
