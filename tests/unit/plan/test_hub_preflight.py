"""What preflight finds of a model on the hub before anything of its size is fetched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
from model_headers import llama_like, write_model

ROOT = Path(__file__).parents[3]
NAME, TOKEN = "org/name", "token"
TEMPLATE = json.dumps({"chat_template": "{{ messages }}"}).encode()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of a sound model in two shards, with a chat template."""
    tensors = list(llama_like().items())
    found, weight_map = {}, {}
    for number, part in enumerate((tensors[:10], tensors[10:]), 1):
        shard, first = f"model-{number:05}-of-00002.safetensors", part[0][1].start
        folder = tmp_path_factory.mktemp("model") / "part"
        write_model(folder, {name: one._replace(start=one.start - first) for name, one in part})
        found[shard] = (folder / "model.safetensors").read_bytes()
        found["config.json"] = (folder / "config.json").read_bytes()
        weight_map |= dict.fromkeys(dict(part), shard)
    found["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return found | {"tokenizer.json": b"{}", "tokenizer_config.json": TEMPLATE}


@pytest.fixture
def hub(files):
    state, address, stop = hub_server.serve(TOKEN)
    state.address = address
    state.repositories[NAME] = {"main": dict(files)}
    yield state
    stop()


class Machine:
    """A machine with a cache of its own."""

    def __init__(self, folder, hub):
        self.folder, self.hub = folder, hub

    def preflight(self, request, **environment):
        """Run scripts/preflight.py; returns whether it passed, its class, the details of failed checks, all details."""
        output = self.folder / "preflight.json"
        known = {"HF_ENDPOINT": self.hub.address, "HF_HOME": str(self.folder / "home"), "HF_TOKEN": TOKEN}
        command = [sys.executable, ROOT / "scripts" / "preflight.py", "--request", json.dumps(request)]
        done = subprocess.run(
            [*map(str, command), "--output", str(output)],
            env={**os.environ, **known, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(output.read_text())
        failed = "; ".join(check["detail"] for check in found["checks"] if not check["pass"])
        return found["pass"], found["failure_class"], failed, found["detail"]

    def location(self):
        return {"hub": NAME, "revision": hub_server.head_of(self.hub.repositories[NAME]["main"])}

    def model(self, **settings):
        return self.preflight({"model": "m", **self.location(), **settings.pop("request", {})}, **settings)

    def cached(self):
        return {path.name for path in (self.folder / "home").rglob("*") if path.is_symlink()}


@pytest.fixture
def machine(tmp_path, hub):
    return Machine(tmp_path, hub)


def test_a_sound_model_passes_and_no_weights_are_fetched(machine):
    passed, _, _, detail = machine.model()
    assert passed and "GB of weights" in detail and "needed for the download" in detail
    assert "config.json" in machine.cached() and not any(
        "safetensors" in n for n in machine.cached() if "index" not in n
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model-00002-of-00002.safetensors": None}, "lacks model-00002-of-00002.safetensors of 2 shards"),
        ({"tokenizer.json": None}, "holds no tokenizer"),
        ({"config.json": None}, "holds no config.json"),
        (dict.fromkeys(("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")), "no *.safetensors"),
        ({"config.json": b'{"auto_map": {"AutoModel": "m.M"}}'}, "names Python code of its own (auto_map)"),
    ],
    ids=["shard", "tokenizer", "config", "weights", "code"],
)
def test_what_a_commit_lacks_is_found(machine, change, words):
    held = machine.hub.repositories[NAME]["main"]
    for name, content in change.items():
        held.pop(name)
        if content is not None:
            held[name] = content
    passed, failure_class, failed, _ = machine.model()
    assert (passed, failure_class) == (False, "USER_CONFIG_ERROR") and words in failed and NAME in failed, failed


def test_a_repository_that_is_not_there_is_the_users_mistake_and_a_silent_hub_the_machines(machine):
    passed, failure_class, failed, _ = machine.model(request={"hub": "org/other"})
    assert (passed, failure_class) == (False, "USER_CONFIG_ERROR") and "org/other" in failed
    passed, failure_class, failed, _ = machine.model(HF_ENDPOINT="http://127.0.0.1:9")
    assert (passed, failure_class) == (False, "SYSTEMIC") and "does not answer" in failed


def test_a_config_alone_in_the_cache_is_no_model_in_the_cache(machine):
    assert machine.model()[0]  # fetches it
    passed, failure_class, failed, _ = machine.model(HF_HUB_OFFLINE="1")
    assert (passed, failure_class) == (False, "USER_CONFIG_ERROR") and "in full; fetch it first" in failed
    passed, failure_class, failed, _ = machine.model(HF_ENDPOINT="http://127.0.0.1:9")
    assert (passed, failure_class) == (False, "SYSTEMIC") and "not cached" in failed


def test_a_suite_that_asks_through_a_chat_template_needs_one_on_the_hub(machine):
    task = {"harness": "lm-eval", "judge": None, "simulator": None, "context_length": None, "task": "x"}
    task |= {"metric": "m", "apply_chat_template": None}
    settings = {"tasks": {"x": task}, "data_files": [], "context_length": 16, "apply_chat_template": True}
    settings |= {"include_path": None}
    request = {"model": "m", "location": machine.location(), "suite": "s", "settings": settings, "asked": True}
    request |= {"accelerator": "cpu"}
    assert machine.preflight(request)[0]
    machine.hub.repositories[NAME]["main"]["tokenizer_config.json"] = b"{}"
    request["location"] = machine.location()
    passed, _, failed, _ = machine.preflight(request)
    assert not passed and f"x need a chat template, {NAME} at" in failed


def test_a_recipe_is_held_against_the_headers_that_the_hub_shows(machine):
    request = {"model": "m", "recipe": "r", "calibration": {}, "accelerator": "cpu", "location": machine.location()}
    passed, _, _, detail = machine.preflight({**request, "definition": {"preset": "fp8"}})
    assert passed and "linear layers" in detail and "not known" not in detail, detail
    passed, failure_class, failed, _ = machine.preflight({**request, "definition": {"preset": "nvfp4_experts_only"}})
    assert (passed, failure_class) == (False, "MODEL_UNSUPPORTED") and "quantize none" in failed
    assert not any(name.endswith(".safetensors") for name in machine.cached())
