"""A bundle holds what was accepted, byte for byte, or it is not made."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from accepted_release import FILES, RECIPE, bundle, change_verdict, make_accepted_release
from google.protobuf import json_format
from huggingface_hub import ModelCard
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

import bundle as bundle_script
from day0.base.artefacts import digest_of_file, read_json, write_json
from day0.records.card import CardSettings
from day0.records.quantization import Quantization
from day0.records.source import Source
from day0.records.validation import Validation
from day0.records.verdict import Verdict
from day0.release.model_card import render_model_card, serving_arguments


@pytest.fixture
def release(tmp_path, monkeypatch):
    """An accepted release, as the graph leaves it."""
    monkeypatch.chdir(tmp_path)
    return make_accepted_release(tmp_path)


def test_the_bundle_is_whole_and_its_sums_cover_every_file(release):
    done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    folder = release / "release"
    check = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert check.returncode == 0
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert listed == there - {"SHA256SUMS"}
    assert {"README.md", "below/vocab.txt", "evidence/verdict.json", "evidence/baseline_run_results.yml"} <= listed


@pytest.mark.parametrize("can_clone", [False, True])
def test_a_write_through_one_name_of_a_shared_file_is_prevented(release, monkeypatch, can_clone):
    """By its mode where it has two names; a file system that clones makes them two files (here: by a copy)."""
    monkeypatch.setattr(bundle_script, "clone", lambda source, target: can_clone and bool(shutil.copy2(source, target)))
    for name in ("model.safetensors", "below/vocab.txt"):
        quantized, bundled = release / "checkpoint" / name, release / "shared" / name
        bundle_script.share_or_copy(quantized, bundled)
        assert quantized.samefile(bundled) is not can_clone and quantized.read_bytes() == bundled.read_bytes()
        assert bool(bundled.stat().st_mode & 0o222) is can_clone


def test_a_clone_is_whole_or_not_there(release):
    quantized = release / "checkpoint" / "model.safetensors"
    is_cloned = bundle_script.clone(quantized, release / "cloned")
    assert is_cloned is (release / "cloned").exists()
    assert not is_cloned or (release / "cloned").read_bytes() == quantized.read_bytes()


def test_the_mode_of_anothers_file_stays_as_it_is(release):
    """A checkpoint that was made elsewhere is a folder of links to its files; so is the source's licence another's."""
    elsewhere = release / "elsewhere.safetensors"
    elsewhere.write_bytes(b"x")
    elsewhere.chmod(0o664)
    (release / "checkpoint" / "link").symlink_to(elsewhere)
    bundle_script.share_or_copy(release / "checkpoint" / "link", release / "shared" / "link")
    assert elsewhere.stat().st_mode & 0o777 == 0o664 and not (release / "shared" / "link").is_symlink()
    licence = Path("models/m/LICENSE")
    mode, links = licence.stat().st_mode, licence.stat().st_nlink
    (release / "checkpoint" / "link").unlink()
    assert bundle().returncode == 0
    assert (licence.stat().st_mode, licence.stat().st_nlink) == (mode, links)


def test_the_model_card_has_the_front_matter_of_the_hub(release):
    bundle()
    _, front, text = (release / "release" / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(front)
    assert (found["license"], found["tags"]) == ("mit", ["quantized", "modelopt", "fp8", "vllm"])
    for words in (
        "1,234,567 parameters",
        "50.0 %",
        "21 FP8, 2 BF16",
        "| addition | exact_match | 1.0000 | 0.9950 | +0.0050 | 0.0100 | -0.0059 to +0.0159 |",
        "vllm serve PATH_OF_THIS_FOLDER --max-model-len 64\n",
        "The licence of the source, `mit`, holds",
    ):
        assert words in text, words


@pytest.fixture
def made_elsewhere(tmp_path, monkeypatch):
    """An accepted release of a checkpoint that was made elsewhere."""
    monkeypatch.chdir(tmp_path)
    recipe = RECIPE | {"name": "unknown", "kind": "imported", "definition": {"checkpoint": "/data/made"}}
    unknown = {"calibration": None, "seed": None, "device": None, "versions": {"compressed-tensors": "0.19.0"}}
    return make_accepted_release(tmp_path, recipe=recipe, **unknown)


def test_the_card_of_a_checkpoint_made_elsewhere_makes_nothing_up(made_elsewhere):
    release = made_elsewhere
    done = bundle(recipe="unknown")
    assert done.returncode == 0, done.stdout + done.stderr
    _, front, text = (release / "release" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["quantized", "compressed-tensors", "fp8", "vllm"]
    for words in (
        "# m, quantized\n",
        "Quantized elsewhere with compressed-tensors 0.19.0 and evaluated",
        "| recipe | not known |",
        "| KV cache | as the checkpoint declares |",
        "| calibration | not known |",
    ):
        assert words in text, words
    assert "ModelOpt" not in text
    predicate = json.loads((release / "release" / "provenance.json").read_text())["predicate"]
    assert predicate["buildDefinition"]["externalParameters"]["calibration"] is None


def test_the_hub_reads_every_score_from_the_card(release):
    source = json.loads(Path("m/source.json").read_text())
    write_json("m/source.json", source | {"location": {"hub": "org/m", "revision": "0" * 40}})
    assert bundle().returncode == 0
    card = ModelCard.load(release / "release" / "README.md", ignore_metadata_errors=False)
    assert (card.data.base_model, card.data.base_model_relation, card.data.license) == ("org/m", "quantized", "mit")
    (score,) = card.data.eval_results
    found = (score.dataset_name, score.metric_type, score.metric_value, score.task_type)
    assert found == ("addition", "exact_match", 0.995, "text-generation")


@pytest.mark.parametrize(
    ("config", "library", "sentence"),
    [
        ({"quantization_config": {"quant_method": "modelopt"}}, "Model Optimizer", "Not with `transformers`: it skips"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors"}},
            "transformers",
            "package `compressed-tensors`",
        ),
        ({"quantization_config": {"quant_method": "strange"}}, None, "Whether `transformers` reads it is not known."),
        ({}, None, "Whether `transformers` reads it is not known."),
    ],
)
def test_the_card_names_the_library_that_reads_the_checkpoint(tmp_path, monkeypatch, config, library, sentence):
    monkeypatch.chdir(tmp_path)
    release = make_accepted_release(tmp_path, {"config.json": config})
    done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    card = ModelCard.load(release / "release" / "README.md", ignore_metadata_errors=False)
    assert card.data.library_name == library and sentence in card.text


def test_modelopts_own_file_alone_names_the_library_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    release = make_accepted_release(tmp_path, {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}})
    assert bundle().returncode == 0
    assert ModelCard.load(release / "release" / "README.md").data.library_name == "Model Optimizer"


@pytest.mark.parametrize(
    ("source", "tag"),
    [
        ({}, "text-generation"),
        ({"config": {"vision_config": {"depth": 2}}}, "image-text-to-text"),
        ({"config": {"audio_config": {"depth": 2}}}, "audio-text-to-text"),
        ({"config": {"vision_config": {"depth": 2}}, "card": {"pipeline_tag": "any-to-any"}}, "any-to-any"),
    ],
)
def test_the_pipeline_tag_is_that_of_the_models_kind(release, source, tag):
    write_json("m/source.json", json.loads(Path("m/source.json").read_text()) | source)
    assert bundle().returncode == 0
    card = ModelCard.load(release / "release" / "README.md")
    assert card.data.pipeline_tag == tag and card.data.eval_results[0].task_type == tag


@pytest.mark.parametrize(
    ("source", "settings", "expected", "sentence"),
    [
        (
            {"license": ["mit", "apache-2.0"]},
            {},
            {"license": ["mit", "apache-2.0"]},
            "source, `mit`, `apache-2.0`, holds",
        ),
        (
            {"license": "other", "license_name": "acme", "license_link": "https://acme.example/licence"},
            {},
            {"license": "other", "license_name": "acme", "license_link": "https://acme.example/licence"},
            "source, `acme` (https://acme.example/licence), holds",
        ),
        ({}, {}, {}, "The source names no licence"),
        ({"license": "mit"}, {"license": "apache-2.0"}, {"license": "apache-2.0"}, "- Licence: `apache-2.0`."),
        ({}, {"license_text": "Ask the legal team."}, {}, "- Ask the legal team."),
    ],
)
def test_the_licence_is_the_sources_or_the_configurations(release, source, settings, expected, sentence):
    write_json("m/source.json", json.loads(Path("m/source.json").read_text()) | {"card": source})
    done = bundle("--card", json.dumps(settings))
    assert done.returncode == 0, done.stdout + done.stderr
    card = ModelCard.load(release / "release" / "README.md", ignore_metadata_errors=False)
    found = {key: getattr(card.data, key) for key in ("license", "license_name", "license_link")}
    assert {key: value for key, value in found.items() if value} == expected and sentence in card.text


def test_what_the_configuration_says_of_the_card_stands_there(release, tmp_path):
    own = {"base_model": "org/origin", "tags": ["acme", "fp8"], "quantized_by": "acme-team"}
    assert bundle("--card", json.dumps(own)).returncode == 0
    card = ModelCard.load(release / "release" / "README.md", ignore_metadata_errors=False)
    found = card.data.base_model, card.data.base_model_relation, card.data.to_dict()["quantized_by"]
    assert found == ("org/origin", "quantized", "acme-team")
    assert card.data.tags == ["quantized", "modelopt", "fp8", "vllm", "acme"]


def test_ones_own_template_stands_below_the_front_matter(release, tmp_path):
    (tmp_path / "own.jinja").write_text("# Ours\n{{ model }}: {{ decision }} on {{ suite }}\n")
    assert bundle("--card", json.dumps({"template": "own.jinja"})).returncode == 0
    assert (release / "release" / "README.md").read_text().endswith("---\n# Ours\nm: ACCEPT on s\n")


@pytest.mark.parametrize("text", ["{{ nothing }}", "{% if %}", "{{ size_ratio | thousands_ }}"])
def test_a_template_that_cannot_be_filled_in_makes_no_bundle(release, tmp_path, text):
    (tmp_path / "own.jinja").write_text(text)
    done = bundle("--card", json.dumps({"template": "own.jinja"}))
    assert done.returncode == 2 and "own.jinja: cannot be rendered as a model card" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not (release / "release").exists()


def test_the_card_says_how_each_task_was_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metadata = {
        "datasets": {"addition": [{"path": "org/numbers", "name": "main", "split": "test"}]},
        "fingerprint": {
            "addition": {
                "harness": "lm-eval 0.4.13",
                "task": "numbers",
                "num_fewshot": 5,
                "repeats": 4,
                "sampling": {"temperature": 0.6, "top_p": 0.95, "until": ["x"]},
                "apply_chat_template": True,
            }
        },
    }
    release = make_accepted_release(tmp_path, metadata=metadata)
    done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    card = ModelCard.load(release / "release" / "README.md", ignore_metadata_errors=False)
    (score,) = card.data.eval_results
    found = score.dataset_type, score.dataset_name, score.dataset_config, score.dataset_split, score.dataset_args
    assert found == ("org/numbers", "addition", "main", "test", {"num_few_shot": 5})
    row = (
        "| addition | `org/numbers` main, test by lm-eval 0.4.13 | 5 | 4 | temperature 0.6, top_p 0.95, chat template |"
    )
    assert row in card.text


def card_of(release, **changes):
    """The model card of the release, with keys of its verdict changed; such a verdict has no bundle."""
    verdict = Verdict.model_validate(read_json(release / "verdict.json") | changes)
    validation = Validation.read(release / "validation.json")
    records = Quantization.read(release / "quantization.json"), Source.read("m/source.json")
    return ModelCard(render_model_card(verdict, *records, validation, {}, release / "checkpoint", CardSettings()))


EVIL = "<script>alert(1)</script> | x | [a](javascript:b) `c`\n# ACCEPT\n---\n\u2028| more | rows |"


def test_no_text_of_a_run_or_a_tool_makes_markup_of_the_card(release):
    """An imported run names metrics, an imported checkpoint the versions of its tools, a task file its data."""
    verdict = read_json(release / "verdict.json")
    task = verdict["tasks"]["addition"] | {"metric": EVIL}
    changes = {"tasks": {"addition": task}, "baseline_precision": EVIL, "evidence_sentence": EVIL}
    changes["warnings"] = [{"sentence": EVIL, "task": "addition"}]
    record = read_json(release / "quantization.json") | {"versions": {"nvidia-modelopt": EVIL}, "kv_cache": EVIL}
    asked = {"harness": EVIL, "task": EVIL, "sampling": {"temperature": EVIL}}
    metadata = {"fingerprint": {"addition": asked}, "server": {"engine_version": EVIL, "emulation": EVIL}}
    metadata["datasets"] = {"addition": [{"path": EVIL, "name": EVIL, "split": EVIL}]}
    source = read_json("m/source.json")
    source["card"] |= {"license": EVIL, "license_name": EVIL, "license_link": EVIL}

    def render(verdict, record, source, metadata):
        records = Verdict.model_validate(verdict), Quantization.model_validate(record), Source.model_validate(source)
        validation = Validation.read(release / "validation.json")
        return render_model_card(*records, validation, metadata, release / "checkpoint", CardSettings())

    sound = json.loads(json.dumps([verdict | changes, record, source, metadata]).replace(json.dumps(EVIL), '"x"'))
    expected, found = ModelCard(render(*sound)), ModelCard(render(verdict | changes, record, source, metadata))
    assert found.data.license == EVIL
    # Line by line the same marks and cells, and nothing that is shown as HTML, code or a link.
    shapes = [
        [(line[:1] if line[:1] in "#|-" else "", line.replace(r"\|", "").count("|")) for line in card.text.splitlines()]
        for card in (found, expected)
    ]
    assert shapes[0] == shapes[1]
    assert "<" not in found.text and "`c`" not in found.text and not re.search(r"(?<!\\)\[a\]", found.text)
    assert found.text.count("alert(1)") >= 10


def test_an_advisory_task_without_a_result_has_an_empty_row(release):
    tasks = read_json(release / "verdict.json")["tasks"]
    nothing = tasks["addition"] | {"paired": tasks["addition"]["paired"] | {"interval": None, "detectable_drop": None}}
    lost = {"baseline": 0.5, "candidate": None, "drop": None, "limit": 0.01, "tier": "advisory", "metric": None}
    card = card_of(release, tasks={**tasks, "lost": nothing | lost})
    assert [result.dataset_name for result in card.data.eval_results] == ["addition"]
    assert "| lost (advisory) |  | 0.5000 |  |  | 0.0100 |  |  |" in card.text


def test_the_card_states_the_tokens_per_answer(release):
    numbers = {"baseline": 100, "candidate": 112.5, "ratio": 1.125, "interval": [1.1, 1.15], "answers": 9, "unknown": 0}
    tasks = read_json(release / "verdict.json")["tasks"]
    tokens = numbers | {"sentence": "112.5 tokens per answer, the baseline 100.0: +12.5%."}
    text = card_of(release, tasks={"addition": tasks["addition"] | {"tokens": tokens}}, tokens=tokens).text
    assert "| 112.5 (source 100.0) |" in text and "Over the suite: 112.5 tokens per answer" in text


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", []),
        ("python --model m --max-model-len 64 --dtype auto --port 0", ["--max-model-len 64"]),
        ("x --tensor-parallel-size 2 --kv-cache-dtype fp8", ["--tensor-parallel-size 2", "--kv-cache-dtype fp8"]),
        ("x --trust-remote-code --pipeline-parallel-size 1", ["--trust-remote-code"]),
    ],
)
def test_a_user_serves_with_what_the_evaluation_set(command, expected):
    assert serving_arguments(command) == expected


def test_the_licence_of_the_source_comes_along(release):
    assert bundle().returncode == 0
    assert (release / "release" / "LICENSE").read_text() == "Do as you like.\n"


def test_files_that_are_links_as_in_the_hubs_cache_come_along_as_files(release):
    for folder, name in ((Path("models/m"), "LICENSE"), (release / "checkpoint", "model.safetensors")):
        blob = Path("blobs") / name
        blob.parent.mkdir(exist_ok=True)
        (folder / name).rename(blob)
        (folder / name).symlink_to(os.path.relpath(blob, folder))
    done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(path.is_symlink() for path in (release / "release").rglob("*"))
    assert (release / "release" / "LICENSE").read_text() == "Do as you like.\n"


def test_the_provenance_is_a_statement_of_the_published_structure(release):
    done = bundle("--materials", "d.jsonl", "--builder", "https://builder.example/gpu")
    assert done.returncode == 0, done.stdout
    folder = release / "release"
    content = json.loads((folder / "provenance.json").read_text())
    message = json_format.ParseDict(content, StatementMessage())
    Statement.copy_from_pb(message).validate()
    predicate = json_format.ParseDict(content["predicate"], Provenance())
    subjects = {subject.name: subject.digest["sha256"] for subject in message.subject}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert subjects == {name: digest_of_file(folder / name) for name in there - {"provenance.json", "SHA256SUMS"}}
    dependencies = {entry.name: entry for entry in predicate.build_definition.resolved_dependencies}
    assert dependencies["workflow"].digest["gitCommit"] == "0123456789abcdef0123456789abcdef01234567"
    assert dependencies["d.jsonl"].digest["sha256"] == digest_of_file("d.jsonl")
    assert dependencies["source/model.safetensors"].digest["sha256"] == digest_of_file("models/m/model.safetensors")
    assert json.loads(dependencies["recipe fp8"].content) == {"preset": "fp8"}
    assert predicate.run_details.builder.id == "https://builder.example/gpu"
    assert predicate.run_details.metadata.started_on.seconds <= predicate.run_details.metadata.finished_on.seconds
    assert {entry.name for entry in predicate.run_details.byproducts} == {
        f"{side}/samples/addition.jsonl" for side in ("baseline", "candidate")
    }
    assert (
        predicate.build_definition.internal_parameters["commands"]["candidate_run, evaluate"]
        == "evaluate candidate_run"
    )


def test_a_hub_source_is_named_by_its_address_and_commit(release):
    source = json.loads(Path("m/source.json").read_text())
    write_json("m/source.json", source | {"location": {"hub": "org/m", "revision": "0" * 40}})
    assert bundle().returncode == 0
    content = json.loads((release / "release" / "provenance.json").read_text())
    entries = {entry["name"]: entry for entry in content["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert entries["source"]["digest"] == {"gitCommit": "0" * 40}
    assert entries["source/LICENSE"]["uri"] == f"https://huggingface.co/org/m/resolve/{'0' * 40}/LICENSE"
    json_format.ParseDict(content["predicate"], Provenance())


def test_a_second_bundle_replaces_the_first_whole(release):
    assert bundle().returncode == 0
    (release / "release" / "leftover").write_text("")
    assert bundle().returncode == 0
    assert not (release / "release" / "leftover").exists()


@pytest.mark.parametrize("decision", ["REGRESSION", "ANOMALOUS", "INFEASIBLE", None, "accept"])
def test_nothing_but_accept_is_bundled(release, decision):
    change_verdict(release, decision=decision)
    done = bundle()
    assert done.returncode == 2 and "only an accepted release is bundled" in done.stderr
    assert not (release / "release").exists()


@pytest.mark.parametrize(
    "path",
    ["checkpoint/model.safetensors", "checkpoint/new.json", "validation.json", "s/run.json", "quantization.json"],
)
def test_what_changed_since_the_verdict_is_named_and_not_bundled(release, path):
    if path == "quantization.json":
        record = json.loads((release / path).read_text())
        write_json(release / path, {**record, "checkpoint_digest": "0" * 64})
    else:
        (release / path).write_text("changed")
    done = bundle()
    assert done.returncode == 1 and Path(path).name in done.stdout, done.stdout + done.stderr
    assert not (release / "release").exists()


LARGE = 80 << 20  # bytes: more than what is hashed before anything is made


@pytest.fixture
def large_release(tmp_path, monkeypatch):
    """One whose weights are large."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(FILES, "model.safetensors", "weights!" * (LARGE // 8))
    return make_accepted_release(tmp_path)


def bytes_read():
    """What this process has read by system calls so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def test_large_weights_are_read_once(large_release):
    before = bytes_read()
    done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    # A copy, where a file system has no links, would be a second reading.
    assert os.path.samefile(large_release / "checkpoint/model.safetensors", large_release / "release/model.safetensors")
    assert LARGE <= bytes_read() - before < 1.2 * LARGE


def test_large_weights_that_changed_are_named_and_not_bundled(large_release):
    weights = large_release / "checkpoint/model.safetensors"
    before = weights.stat()
    with weights.open("r+b") as stream:
        stream.seek(LARGE // 2)
        stream.write(b"~")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = bundle()
    said = "chain of evidence is broken: m/fp8/checkpoint/model.safetensors has changed since it was quantized;"
    assert done.returncode == 1 and said in done.stdout, done.stdout + done.stderr
    assert not [path for path in large_release.iterdir() if "release" in path.name]
