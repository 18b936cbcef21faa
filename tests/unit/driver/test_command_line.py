"""Mistakes of --configfile and --config, said before Snakemake reads its Snakefile."""

from pathlib import Path

import pytest
import snakemake.api  # the order in which Snakemake itself imports its modules, which form a circle
import snakemake.cli
import snakemake.settings.types
import snakemake_logger_plugin_day0  # noqa: F401 installs what is tested
from snakemake.settings.types import ConfigSettings

MISTAKES = {
    "not closed": (b"releases:\n  - {model: a\n  b: [\n", ("does not parse", "line 3, column 4")),
    "tabs": (b"releases:\n\t- model: a\n", ("does not parse", "line 2, column 1")),
    "half a JSON": (b'{"releases": ', ("does not parse", "line 2, column 1")),
    "a list": (b"- model: a\n", ("expected a YAML mapping, found list",)),
    "a number": (b"1\n", ("expected a YAML mapping, found int",)),
    "empty": (b"", ("expected a YAML mapping, found nothing",)),
    "not UTF-8": (b"name: \xff\xfe\n", ("it is not in UTF-8",)),
    "missing": (None, ("cannot be read", "No such file or directory")),
    "deep": (b"[" * 5000, ("does not parse",)),
}


def settings_of(*files):
    return ConfigSettings(configfiles=[Path(file) for file in files])


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_file_that_is_no_configuration_is_named_with_the_place(tmp_path, kind):
    content, words = MISTAKES[kind]
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        settings_of(file)
    message = str(ended.value.code)
    assert message.startswith(f"error: --configfile {file}: ") and all(word in message for word in words), message


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(SystemExit, match=f"error: --configfile {tmp_path}: .*directory"):
        settings_of(tmp_path)


def test_sound_files_are_read_as_snakemake_reads_them(tmp_path):
    (tmp_path / "a.yaml").write_text("defaults: {suite: demo}\n")
    (tmp_path / "b.json").write_text('{"defaults": {"recipe": "fp8"}}')
    found = settings_of(tmp_path / "a.yaml", tmp_path / "b.json").overwrite_config
    assert found == {"defaults": {"suite": "demo", "recipe": "fp8"}}


@pytest.mark.parametrize("entry", ["verify", "1=2", "a=1", "=full", ""])
def test_a_setting_without_a_name_or_a_value_is_shown(entry):
    with pytest.raises(SystemExit, match=r"error: --config: found .*; expected NAME=VALUE") as ended:
        snakemake.cli.parse_config(["suite=demo", entry])
    assert repr(entry) in str(ended.value.code)


def test_sound_settings_are_read_as_snakemake_reads_them():
    assert snakemake.cli.parse_config(["verify=full", "mlflow={tracking_uri: a}"]) == {
        "verify": "full",
        "mlflow": {"tracking_uri": "a"},
    }
    assert snakemake.cli.parse_config(None) == {}
