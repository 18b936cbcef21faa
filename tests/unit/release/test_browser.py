"""The pages in a real browser: no error in its console, nothing loaded, every figure seen, every part on paper."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from decided_release import make_release, run_script

from day0.base.artefacts import read_json, write_json
from day0.records.failure_class import Decision

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PDFTOTEXT = shutil.which("pdftotext")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and PDFTOTEXT) and os.environ.get("CI") != "true",
    reason="needs chromium and pdftotext (Debian: chromium, poppler-utils), which `make test` installs as root",
)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--hide-scrollbars",
]
# Measures the page from within and leaves the result in its title.
PROBE = """<script>addEventListener("load", () => {
  const figures = [...document.querySelectorAll("figure")].map((figure) => {
    const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.getBoundingClientRect().width > 1);
    const inside = texts.every((text) => text.getBoundingClientRect().right <= box.right + 2);
    return {id: figure.id, width: box.width, height: box.height, texts: texts.length, inside,
            caption: figure.querySelector("figcaption").textContent.trim().length};
  });
  const loaded = [...document.querySelectorAll("[src], link[href], image")].map((element) => element.outerHTML);
  const overflow = document.documentElement.scrollWidth - innerWidth;
  document.title = "PROBE" + JSON.stringify({figures, loaded, overflow});
});</script>"""
PARTS = {
    "ACCEPT": {"Tasks", "Paired evidence", "Comparability", "External check", "Runs"},
    "REGRESSION": {"Tasks", "Paired evidence", "Samples that flipped", "Comparability", "Runs"},
    "ANOMALOUS": {"Tasks", "Runs"},
    "INFEASIBLE": {"Tasks", "Checks"},
}
ALWAYS = {"Why", "Next action", "Checkpoint", "Timeline", "Environment", "Evidence", "Reproduce"}


def browse(page, folder, *options):
    """Open a page; returns (what it prints, its console's lines)."""
    profile = folder / "profile"
    done = subprocess.run(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", *options, page.resolve().as_uri()],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probe(page, folder, width):
    """Measures of a page at a width in pixels, and its console's lines."""
    watched = folder / f"probed-{page.name}"
    watched.write_text(page.read_text().replace("</head>", f"{PROBE}</head>"))
    dom, console = browse(watched, folder, f"--window-size={width},1200", "--dump-dom")
    found = re.search(r"<title>PROBE(.*?)</title>", dom, re.DOTALL)
    assert found, dom[:2000]
    return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")), console


def printed(page, folder):
    """The text of a page as it is printed."""
    target = folder / "page.pdf"
    browse(page, folder, f"--print-to-pdf={target}")
    done = subprocess.run([PDFTOTEXT, "-layout", str(target), "-"], capture_output=True, text=True, check=True)
    return re.sub(r"\s+", " ", done.stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Reports of all four decisions, with every part that evidence may bring, and the page over them."""
    root = tmp_path_factory.mktemp("site")
    results = []
    for decision in Decision:
        verdict = make_release(root / "evidence" / decision, decision)
        content = read_json(verdict)
        if decision == "ACCEPT":
            path = Path(content["evidence"]["comparison"]["path"])
            entry = {
                "task": "addition",
                "score": 0.99,
                "expected": 0.98,
                "difference": 0.01,
                "source": "a",
                "notes": "b",
            }
            external = {"status": "verified", "entries": [{**entry, "status": "verified"}]}
            write_json(path, read_json(path) | {"external": external, "baseline_precision": "BF16"})
        if decision == "INFEASIBLE":
            path = Path(content["evidence"]["validation"]["path"])
            runs = [[0, 3, "BF16", 4], [4, 35, "NVFP4", 32]]
            rows = [{"module": f"model.layers.*.{name}", "runs": runs} for name in ("mlp.up_proj", "self_attn.q_proj")]
            write_json(path, read_json(path) | {"layer_map": rows})
        page = root / "tiny" / decision.lower() / "report.html"
        assert run_script("report.py", "--verdict", verdict, "--output", page).returncode == 0
        results.append(page.with_name("verdict.json"))
        write_json(results[-1], content | {"release": decision.lower()})
        os.utime(page)
    assert run_script("index.py", *results, "--output", root / "index.html").returncode == 0
    return root


def test_the_probe_sees_errors_and_what_is_loaded(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><html><head></head><body><div style='width: 3000px'>x</div><img src='none.png'>"
        "<script>console.error('a mistake'); missing()</script></body></html>"
    )
    found, console = probe(page, tmp_path, 1280)
    assert any("a mistake" in line for line in console) and any("missing is not defined" in line for line in console)
    assert found["overflow"] > 1000 and found["loaded"] == ['<img src="none.png">']


@pytest.mark.parametrize("decision", Decision)
def test_a_report_is_whole_on_screen_and_on_paper(site, tmp_path, decision):
    page = site / "tiny" / decision.lower() / "report.html"
    found, console = probe(page, tmp_path, 1280)
    assert console == [] and found["loaded"] == [] and found["overflow"] <= 0
    expected = {"figure-timeline", "figure-precisions" if decision == "INFEASIBLE" else "figure-drops"}
    assert {figure["id"] for figure in found["figures"]} == expected
    for figure in found["figures"]:
        assert figure["width"] > 600 and figure["height"] > 80 and figure["texts"] >= 4 and figure["caption"], figure
        assert figure["inside"], figure
    text = printed(page, tmp_path)
    for part in {decision} | PARTS[decision] | ALWAYS:
        assert part in text, part
    assert "1 of " in text, "pages are numbered"


def test_a_report_fits_a_small_screen(site, tmp_path):
    found, console = probe(site / "tiny" / "regression" / "report.html", tmp_path, 500)
    assert console == [] and found["overflow"] <= 0


def test_the_index_is_whole_on_screen_and_on_paper(site, tmp_path):
    found, console = probe(site / "index.html", tmp_path, 1280)
    assert console == [] and found["loaded"] == [] and found["overflow"] <= 0
    (figure,) = found["figures"]
    assert figure["width"] > 600 and figure["texts"] >= 6 and figure["inside"]
    text = printed(site / "index.html", tmp_path)
    for part in (*Decision, "Size and accuracy", "Next:", "source", "accept", "regression"):
        assert part in text, part
