"""A chat template is rendered before any server starts, in lm-eval's own environment."""

import shutil
from pathlib import Path

import pytest

from day0.plan.preflight import check_template
from day0.records.preflight import ModelLocation, SuiteRequest
from evaluate_stage import HARNESS, ROOT

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ messages[0].content }}"
)


def check(folder, template, tokenizer=None):
    model = ROOT / "results" / "demo" / "model"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy2(model / name, folder)
    Path(folder, "chat_template.jinja").write_text(template)
    if tokenizer:
        Path(folder, "tokenizer.json").write_text(tokenizer)
    task = {"harness": "lm-eval", "apply_chat_template": True, "system_prompt": None, "context_length": None}
    tasks = {
        "plain": task,
        "asked": {**task, "system_prompt": "Be brief."},
        "bare": {**task, "apply_chat_template": False},
    }
    settings = {"tasks": tasks, "context_length": 64}
    location = ModelLocation(path=str(folder))
    request = SuiteRequest(model="m", suite="s", location=location, settings=settings, asked=True, accelerator="cpu")
    return check_template(HARNESS, request, ["lm-eval"])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (LOOP, "it does not end within 10 CPU seconds"),
        ("{{ 'x' * 10**11 }}", "it takes more than 2 GiB of memory"),
        (NO_SYSTEM, "cannot be rendered for plain, asked: TemplateError: System role not supported"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ '1' * 70 }}", "task plain: 70 of 64; task asked: 70 of 64 tokens"),
    ],
)
def test_a_template_that_would_fail_on_the_server_is_found(project, tmp_path, template, words):
    found = check(tmp_path, template)
    assert found.failure_class == "USER_CONFIG_ERROR" and words in found.detail, found.detail
    assert str(tmp_path) in found.detail


def test_a_sound_template_passes_with_its_tokens(project, tmp_path):
    found = check(tmp_path, "{{ messages[-1].content }}={{ messages | length }}")
    assert found.failure_class is None and "tokens of a short question" in found.detail, found.detail


def test_a_tokenizer_that_cannot_be_loaded_here_is_left_to_the_server(project, tmp_path):
    found = check(tmp_path, "x", tokenizer="{}")
    assert found.failure_class is None and "the tokenizer cannot be loaded here" in found.detail, found.detail
