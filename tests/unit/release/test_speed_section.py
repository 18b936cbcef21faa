"""What the pages show of speed: report, page over all releases, table and model card."""

import csv
import json
from pathlib import Path

import pytest
from accepted_release import bundle, make_accepted_release
from decided_release import run_script

from day0.base.artefacts import read_json
from day0.release.overview_page import Decided, index_rows
from day0.release.speed_section import ratio_of_speed, speed_section

RATES = ([1000, 1010, 990], [1500, 1520, 1480])
EMULATED = "The quantized format was emulated."


@pytest.fixture
def verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_accepted_release(tmp_path, rates=RATES)
    return read_json("m/fp8/verdict.json")


def emulated(speed):
    return speed | {"is_native": False, "emulation": EMULATED, "sentence": f"No speedup of the format. {EMULATED}"}


def test_the_section_has_a_row_for_each_measure_and_each_kind_of_memory(verdict):
    section = speed_section(verdict["speed"])
    names = [row["name"] for row in section["rows"]]
    assert names[0] == "Output tokens per second" and "Memory at rest, GPUs" in names and len(names) == 6
    first = section["rows"][0]
    assert first["baseline"] == "1,000.0 (990.0 to 1,010.0)" and first["ratio"].startswith("1.5 (1.4")
    assert section["rows"][-1] | {"name": ""} == {
        "name": "",
        "baseline": "16.00 GB",
        "candidate": "16.00 GB",
        "ratio": "1",
    }
    assert speed_section(None) is None and ratio_of_speed({}) == (None, None)


def test_a_side_that_was_not_measured_leaves_a_sentence(verdict):
    section = speed_section({"sentence": "No ratio of speed: the baseline's failed.", "is_native": False})
    assert section["rows"] == [] and "No ratio" in section["sentence"]


def test_the_report_the_page_over_all_releases_and_the_card_show_it(verdict):
    done = run_script("report.py", "--verdict", "m/fp8/verdict.json", "--output", "m/fp8/report.html")
    assert done.returncode == 0, done.stderr
    page = Path("m/fp8/report.html").read_text()
    assert "Speed under a fixed load" in page and "1,500.0 (1,480.0 to 1,520.0)" in page
    done = run_script("index.py", "m/fp8/verdict.json", "--output", "index.html", "--table", "t.csv")
    assert done.returncode == 0, done.stderr
    assert "Speed under a fixed load" in Path("index.html").read_text()
    (row,) = csv.DictReader(Path("t.csv").read_text().splitlines())
    assert row["speed_ratio"].startswith("1.5") or row["speed_ratio"].startswith("1.49")
    assert row["speed_is_native"] == "True"
    done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    card = Path("m/fp8/release/README.md").read_text()
    assert "1.5 times the baseline's output tokens per second" in card


def test_no_page_calls_an_emulated_ratio_a_speedup(verdict):
    content = verdict | {"speed": emulated(verdict["speed"])}
    Path("m/fp8/verdict.json").write_text(json.dumps(content))
    comparison = read_json("m/fp8/comparison.json")
    Path("m/fp8/comparison.json").write_text(json.dumps(comparison | {"speed": content["speed"]}))
    for script, output in (("report.py", "report.html"), ("index.py", "index.html")):
        arguments = ["m/fp8/verdict.json"] if script == "index.py" else ["--verdict", "m/fp8/verdict.json"]
        assert run_script(script, *arguments, "--output", output).returncode == 0
        page = Path(output).read_text()
        assert EMULATED in page and "No speedup of the format" in page
        assert "<td>yes</td>" not in page
    (row,) = index_rows([Decided(content, None, None, "configured")])
    assert row["speed_ratio"] == pytest.approx(1.5, rel=1e-2) and row["speed_is_native"] is False


def test_a_release_without_a_load_has_no_section_on_speed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_accepted_release(tmp_path)
    assert run_script("index.py", "m/fp8/verdict.json", "--output", "index.html").returncode == 0
    assert "Speed under a fixed load" not in Path("index.html").read_text()
