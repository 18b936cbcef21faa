"""What the documentation says is so: parts of configurations are valid, messages and files that it names exist."""

import ast
import re

import pytest
import yaml
from documentation import BLOCKS, MARKERS, PAGES, ROOT

from day0.plan.config import Config

LANGUAGES = {"sh", "text", "yaml", "json", "python"}
WHOLE = {"models": {"my-model": {"path": "models/my-model"}}, "releases": [{"model": "my-model", "recipe": "fp8"}]}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_says_what_it_holds(block):
    assert block.language in LANGUAGES
    if block.language == "sh":
        assert block.title is None or block.title in MARKERS
        assert block.commands()


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "yaml" and not b.title], ids=lambda block: block.place
)
def test_a_part_of_a_configuration_is_valid(block):
    content = yaml.safe_load(block.text)
    models = {name: {"path": "models/x", **settings} for name, settings in content.get("models", {}).items()}
    Config.model_validate({**WHOLE, **content, "models": {**WHOLE["models"], **models}})


def texts_of_the_code():
    """All texts of the scripts and rules; what is filled in is left out."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "rules").rglob("*.smk")]
    for file in (ROOT / "scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("\0".join(v.value for v in node.values if isinstance(v, ast.Constant)))
    return "\n".join(texts)


def test_the_messages_of_the_page_on_troubleshooting_are_those_of_the_code():
    code = texts_of_the_code()
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", page, re.MULTILINE)
    messages = [message for line in headings for message in re.findall("`([^`]+)`", line)]
    assert len(messages) > 30
    parts = {part.strip(" :;,") for message in messages for part in re.split("…", message)}
    assert sorted(part for part in parts if len(part) > 3 and part not in code) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_project_that_a_page_names_are_there(page):
    named = re.findall(r"`((?:scripts|rules|config|envs|tests|benchmarks|profiles|docs)/[\w./-]+)`", page.read_text())
    own = {block.title for block in BLOCKS} | {"config/site.yaml", "docs/generated"}
    missing = {path for path in named if not (ROOT / path).exists() and path not in own}
    assert {path for path in missing if "NAME" not in path and "FOLDER" not in path} == set()


def test_scripts_name_pages_that_are_there():
    for file in [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "scripts").rglob("*.jinja"), *ROOT.glob("rules/**/*.smk")]:
        for path in re.findall(r"\bdocs/[\w/-]+\.(?:md|rst|svg|dot)", file.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{file}: {path}"
