"""Stages are given no secret of the driver's environment that nothing of the configuration needs."""

import json

GIVEN = {"HF_TOKEN": "hf_SecretOfTheHub0123456789", "ALL_PROXY": "socks5://user:SecretOfTheProxy@127.0.0.1:9"}
NOT_GIVEN = {
    "GITLAB_PAT": "SecretOfGitlab0123456789",
    "REGISTRY_AUTH": "SecretOfTheRegistry0123456789",
    "AWS_SECRET_ACCESS_KEY": "SecretOfAmazon0123456789",
    "MLFLOW_TRACKING_PASSWORD": "SecretOfMlflow0123456789",
    "MIRROR": "https://user:SecretOfTheMirror@mirror.example/simple",
}


def test_a_stage_gets_the_secrets_that_its_configuration_needs_and_no_others(equipped, monkeypatch):
    for name, value in (GIVEN | NOT_GIVEN | {"MIRROR_NAME": "near"}).items():
        monkeypatch.setenv(name, value)
    seen = {stage: equipped.folder / f"{stage}.json" for stage in ("quantize", "evaluate")}
    equipped.behave({stage: {"fp8": {"environment": str(file)}} for stage, file in seen.items()})
    run = equipped.snakemake("release")
    assert run.status == 0, run.output
    for file in seen.values():
        environment = json.loads(file.read_text())
        assert environment.keys() >= {"MIRROR_NAME", "PATH", "PWD", *GIVEN}
        assert not environment.keys() & NOT_GIVEN.keys()
    values = [value.encode() for value in (GIVEN | NOT_GIVEN).values()]
    for path in equipped.folder.rglob("*"):
        if path.is_file() and path not in seen.values():
            content = path.read_bytes()
            assert not [value for value in values if value in content], path
