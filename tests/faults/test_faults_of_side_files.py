"""What lies in a model folder and must not travel: it stays behind and is named; what a model needs comes along."""

import os

import pytest

import verify_release
from day0.base.cli import UnusableInput
from day0.plan.contents import missing_of_model
from day0.records.files import CARRIED, DISGUISED
from day0.source.imported_checkpoint import carried_files, files_of_checkpoint
from day0.source.side_files import carry_side_files, left_behind, side_files

X = "aB3dE5gH7jK9mN1pQ3sT5vW7y"
TRAVELS = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "qwen.tiktoken",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "params.json",
    "sentencepiece.bpe.model",
    "LICENSE",
    "LICENSE.txt",
    "LICENCE.md",
    "NOTICE",
    "NOTICE.txt",
    "USE_POLICY.md",
    "COPYING",
    "additional_chat_templates/tool.jinja",
]
STAYS = {
    "no kind of file": [
        "run.sh",
        "setup.cfg",
        "a.exe",
        "libx.so",
        "data.pickle",
        "a.npy",
        "a.npz",
        "x.tar.gz",
        "x.zip",
        "a.ipynb",
        "a.c",
        "train.log",
        "requirements.txt",
        "notes.txt",
        "results.csv",
        "a.parquet",
        "image.png",
        "Makefile",
        "Dockerfile",
        "a.whl",
        "a.class",
        "a.js",
        "a.html",
        "cert.pem",
        "server.key",
        "LICENSE.sh",
        "LICENSE.py.bak",
        "vocab.txt.sh",
        "recipe.yaml",
        "a.pyc",
        "a.joblib",
        "a.dill",
    ],
    "code, which trust_remote_code does not allow": ["modeling.py", "LICENSE.py", "below/code.py", "tokenizer.json.py"],
    "named like a secret": [
        "credentials.json",
        "id_rsa.pub",
        "secrets.json",
        "token.json",
        "hf_token.json",
        "service-account.json",
        "service_account.json",
        "private.json",
        "api_key.json",
        "api-keys.json",
        "access_key.json",
        "auth.json",
        "password.json",
        "id_rsa.json",
        "aws.credentials.json",
        "keys.json",
    ],
    "hidden": [".env", ".netrc", ".git/config.json", "below/.ssh/config.json", ".cache/tokenizer.json"],
}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


def put(folder, name, text="{}"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", TRAVELS)
def test_what_a_model_needs_travels(source, name):
    put(source, name)
    assert side_files(source, False) == [name] and left_behind(source, False) == {}
    assert name in files_of_checkpoint(source, False) and name in carried_files(source, False)[0]


@pytest.mark.parametrize(("why", "name"), [(why, name) for why, names in STAYS.items() for name in names])
def test_what_it_does_not_need_stays_and_is_named(source, tmp_path, why, name):
    put(source, name)
    assert why in left_behind(source, False)[name]
    checkpoint = tmp_path / "checkpoint"
    put(checkpoint, "config.json")
    carry_side_files(source, checkpoint, False)
    assert [path.name for path in checkpoint.rglob("*") if path.is_file()] == ["config.json"]
    assert name not in files_of_checkpoint(source, False) and why in carried_files(source, False)[1][name]


def test_code_travels_where_it_is_trusted(source):
    put(source, "modeling.py")
    assert side_files(source, True) == ["modeling.py"] == files_of_checkpoint(source, True)[-1:]


SECRETS = {
    "hub": f"hf_{X}",
    "github": f"ghp_{X}",
    "aws": "AKIAABCDEFGHIJKLMNOP",
    "key": "-----BEGIN RSA PRIVATE KEY-----",
    "address": "https://user:pass@example.org/x",
    "header": f"Bearer {X}",
}


@pytest.mark.parametrize("kind", sorted(SECRETS))
def test_a_secret_within_a_file_of_an_allowed_kind_stays(source, kind):
    put(source, "tokenizer_config.json", f'{{"note": "{SECRETS[kind]}"}}')
    why = left_behind(source, False)["tokenizer_config.json"]
    assert why.startswith("holds ") and SECRETS[kind] not in why
    assert carried_files(source, False)[1]["tokenizer_config.json"] == why


@pytest.mark.parametrize("kind", sorted(SECRETS))
@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json"])
def test_a_secret_within_what_every_checkpoint_has_is_refused(source, tmp_path, name, kind):
    put(source, name, f'{{"note": "{SECRETS[kind]}"}}')
    checkpoint = tmp_path / "checkpoint"
    put(checkpoint, "config.json")
    with pytest.raises(UnusableInput, match="would go into the release") as refused:
        carry_side_files(source, checkpoint, False)
    assert name in str(refused.value) and SECRETS[kind] not in str(refused.value)
    assert str(refused.value) in missing_of_model(source)


# Named as what travels.
DISGUISES = {
    "a program": b"\x7fELF\x02\x01\x01\0\0",
    "a program of Windows": b"MZ\x90\0\x03\0\0\0",
    "a script": b"#!/bin/sh\nid",
    "an archive": b"PK\x03\x04\x14\0",
    "a compressed file": b"\x1f\x8b\x08\0",
    "a pickle": b"\x80\x04\x95\x0b\0\0",
    "an old pickle": b"\x80\x02}q\0.",
}


@pytest.mark.parametrize("kind", sorted(DISGUISES))
@pytest.mark.parametrize("name", ["tokenizer.model", "LICENSE", "vocab.json", "chat_template.jinja", "merges.txt"])
def test_a_program_archive_or_pickle_stays_whatever_it_is_called(source, name, kind):
    (source / name).write_bytes(DISGUISES[kind])
    assert "whatever it is called" in left_behind(source, False)[name] and side_files(source, False) == []
    names, left = carried_files(source, False)
    assert "whatever it is called" in left[name] and name not in names


@pytest.mark.parametrize(
    "start", [b"#version: 0.2\n", b"\n\x0e\n\x05<unk>", b"%PDF-1.7", b"IQ== 0\n", b"", b"MZ a token\n"]
)
def test_how_tokenizers_and_licences_begin_is_no_disguise(start):
    assert DISGUISED.match(start) is None


def test_a_link_is_followed_within_the_folder_alone(source, tmp_path):
    outside, root = put(tmp_path, "outside/passwd"), source / "tokenizer.json"
    put(source, "below/vocab.json")
    for target in (outside, "/etc/passwd", os.path.relpath(outside, source)):
        root.symlink_to(target)
        assert "outside" in left_behind(source, False)["tokenizer.json"]
        assert "outside" in carried_files(source, False)[1]["tokenizer.json"]
        root.unlink()
    root.symlink_to("below/vocab.json")
    assert side_files(source, False) == ["below/vocab.json", "tokenizer.json"]


def test_the_links_of_the_hubs_cache_are_followed(tmp_path):
    cache = tmp_path / "models--org--name"
    put(cache, "blobs/5f2c")
    (cache / "snapshots" / "1").mkdir(parents=True)
    (cache / "snapshots" / "1" / "tokenizer.json").symlink_to("../../blobs/5f2c")
    assert side_files(cache / "snapshots" / "1", False) == ["tokenizer.json"]


@pytest.mark.parametrize("target", ["nowhere", "tokenizer.json", "/dev/zero", "/proc/self/mem", "."])
def test_a_link_to_no_file_is_not_waited_for(source, target):
    (source / "tokenizer.json").symlink_to(target)
    assert side_files(source, False) == []


def test_a_pipe_is_not_waited_for(source):
    os.mkfifo(source / "tokenizer.json")
    assert side_files(source, False) == []


def test_a_receiver_is_told_of_the_same_kinds():
    assert verify_release.CARRIED.pattern == CARRIED.pattern
    assert verify_release.DISGUISED.pattern == DISGUISED.pattern
