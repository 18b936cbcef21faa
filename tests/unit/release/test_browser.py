"""The pages in a real browser: no error in its console, nothing loaded, every figure seen, every part on paper."""

import html
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from decided_release import make_release, run_script

from bundle import without_questions
from day0.base.artefacts import read_json, write_json
from day0.records.failure_class import Decision
from day0.release.figures import Stage, pareto_chart, timeline_chart
from day0.release.portfolio import Candidate

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
# Measures the page from within, and says what it found to whom it lies in, else by its title. It stands before the
# page's own policy, which lets no script run that the page does not name.
PROBE = """<script>addEventListener("load", () => {
  const figures = [...document.querySelectorAll("figure")].map((figure) => {
    const svg = figure.querySelector("svg"), box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.getBoundingClientRect().width > 1);
    const boxes = texts.map((text) => text.getBoundingClientRect());
    const collisions = [];
    boxes.forEach((one, place) => boxes.slice(0, place).forEach((other, before) => {
      const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      if (wide > 1 && high > 0.35 * Math.min(one.height, other.height))
        collisions.push(texts[place].textContent + " / " + texts[before].textContent);
    }));
    const inside = boxes.every((text) => text.right <= box.right + 2);
    return {id: figure.id, width: box.width, height: box.height, texts: texts.length, inside, collisions,
            caption: figure.querySelector("figcaption").textContent.trim().length};
  });
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => [red, green, blue].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = channels(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  let read = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || !element.getClientRects().length) continue;
    if (element.closest("script, style, title, desc")) continue;
    read += 1;
    const svg = element.closest("svg");
    const color = channels(svg ? style.fill : style.color);
    let under = behind(element);
    if (svg) { // a text within a bar
      const box = element.getBoundingClientRect(), x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
      for (const shape of svg.querySelectorAll("path")) {
        const edge = shape.getBoundingClientRect(), fill = getComputedStyle(shape).fill;
        if (fill !== "none" && edge.left <= box.left && edge.right >= box.right && edge.top <= y && edge.bottom >= y)
          under = channels(fill);
      }
    }
    const found = ratio(light(color), light(under));
    if (found < 4.5) faint.add(`${found.toFixed(2)} ${node.data.trim().slice(0, 40)}`);
  }
  const loaded = [...document.querySelectorAll("[src], link[href], image")].map((element) => element.outerHTML)
    .concat(performance.getEntriesByType("resource").map((entry) => entry.name));
  const overflow = document.documentElement.scrollWidth - innerWidth;
  const said = {figures, loaded, overflow, faint: [...faint], read, width: innerWidth, alerted: window.alerted || 0,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, done: window.steps ? window.steps() : null};
  if (parent === window) document.title = "PROBE" + JSON.stringify(said);
  else parent.postMessage(said, "*");
});</script>"""
# A window of the browser is at least 500 pixels wide; a frame within it may be narrower.
FRAME = """<!DOCTYPE html><html><head><script>addEventListener("message", (event) => {
  document.title = "PROBE" + JSON.stringify(event.data);
});</script></head><body style="margin: 0"><iframe style="width: %dpx; height: 2000px; border: 0"></iframe>
<script>document.querySelector("iframe").src = %s</script></body></html>"""
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


def probe(page, folder, width, dark=False, steps=""):
    """Measures of a page at a width in pixels, and its console's lines.

    Args:
        steps: the body of a function in JavaScript that the page runs first; what it returns is ``done``.
    """
    watched = folder / f"probed-{page.name}"
    before = f"<script>window.steps = () => {{{steps}}}</script>" if steps else ""
    watched.write_text(page.read_text().replace("<head>", f"<head>{before}{PROBE}", 1))
    shown = watched
    if width < 500:
        shown = folder / f"frame-{page.name}"
        shown.write_text(FRAME % (width, json.dumps(watched.resolve().as_uri())))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom, console = browse(shown, folder, f"--window-size={max(width, 500)},1200", scheme, "--dump-dom")
    found = re.search(r"<title>PROBE(.*?)</title>", dom, re.DOTALL)
    assert found, dom[:2000]
    measured = json.loads(html.unescape(found[1]))
    assert (measured["width"], measured["dark"]) == (width, dark)
    return measured, console


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


def test_the_links_of_the_page_lead_to_the_reports_within_an_archive_of_snakemake(site, tmp_path):
    def links(page):
        found, console = browse(page, tmp_path, "--dump-dom")
        assert console == []
        return re.findall(r'<a href="([^"]+)" data-archived="([^"]*)">(report|bundle)</a>', found)

    here = links(site / "index.html")
    assert here and all((site / link).exists() for link, _, _ in here)
    archived = tmp_path / "report" / "data" / "raw" / ("0" * 16)
    archived.mkdir(parents=True)
    shutil.copy(site / "index.html", archived)
    found = links(archived / "index.html")
    assert len(found) == sum(kind == "report" for _, _, kind in here), "an archive holds no bundle"
    for link, folder, _ in found:
        assert link == f"../{folder}/report.html" and re.fullmatch("[0-9a-f]{16}", folder)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["index.html", *(f"tiny/{decision.lower()}/report.html" for decision in Decision)])
def test_a_page_is_read_on_a_phone_and_in_the_dark(site, tmp_path, name, dark):
    found, console = probe(site / name, tmp_path, 390, dark)
    assert console == [] and found["loaded"] == [] and found["overflow"] <= 0
    assert found["read"] > 100 and found["faint"] == []
    assert [figure["collisions"] for figure in found["figures"]] == [[] for _ in found["figures"]]


def test_the_probe_sees_faint_texts_and_colliding_ones(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><html><head></head><body style='background: #111'><p style='color: #333'>faint</p>"
        "<p style='color: #fff'>plain</p><figure><svg width='300' height='99'><text x='9' y='20' fill='#eee'>one</text>"
        "<text x='12' y='22' fill='#eee'>two</text></svg><figcaption style='color: #fff'>c</figcaption></figure>"
    )
    found, _ = probe(page, tmp_path, 390, dark=True)
    assert len(found["faint"]) == 1 and "faint" in found["faint"][0]
    assert found["figures"][0]["collisions"] == ["two / one"]


def test_the_index_is_whole_on_screen_and_on_paper(site, tmp_path):
    found, console = probe(site / "index.html", tmp_path, 1280)
    assert console == [] and found["loaded"] == [] and found["overflow"] <= 0
    (figure,) = found["figures"]
    assert figure["width"] > 600 and figure["texts"] >= 6 and figure["inside"]
    text = printed(site / "index.html", tmp_path)
    for part in (*Decision, "Size and accuracy", "Next:", "source", "accept", "regression"):
        assert part in text, part


SORT_AND_FILTER = """
  const column = (index) => [...document.querySelectorAll(".releases tbody")].map((one) =>
    one.rows[0].cells[index].textContent);
  const press = (name) => [...document.querySelectorAll(".releases th button")].find((one) =>
    one.textContent === name).click();
  const form = document.querySelector("form.desk");
  const shown = () => [...document.querySelectorAll("tbody[data-id]")].filter((one) => !one.hidden).map((one) =>
    one.textContent);
  const said = {before: [...document.querySelectorAll(".releases .mark")].map((one) => one.textContent)};
  press("Largest drop");
  said.rising = column(7);
  press("Largest drop");
  said.falling = column(7);
  press("Release");
  said.names = column(1);
  form.elements.text.value = "coverage_failure";
  form.dispatchEvent(new Event("input"));
  said.found = [form.querySelector("output").value, shown().length, shown().every((text) => /infeasible/i.test(text))];
  form.elements.text.value = "";
  for (const box of form.querySelectorAll("[name=decision]")) box.checked = box.value === "ACCEPT";
  form.dispatchEvent(new Event("input"));
  said.accepted = [form.querySelector("output").value, shown().filter((text) => !/accept/.test(text)).length];
  return said;
"""


def test_releases_are_sorted_and_filtered_in_every_table(site, tmp_path):
    done = probe(site / "index.html", tmp_path, 1280, steps=SORT_AND_FILTER)[0]["done"]
    assert sorted(done["before"]) == sorted(Decision)
    numbers = [[float(text.partition(" ")[0]) for text in done[way] if "%" in text] for way in ("rising", "falling")]
    assert numbers[0] == sorted(numbers[0]) and numbers[1] == sorted(numbers[0], reverse=True)
    assert numbers[0][0] < numbers[0][-1]
    assert [done[way][-1][0] for way in ("rising", "falling")] == ["–", "–"], "what is not known is last"  # noqa: RUF001
    assert done["names"] == sorted(done["names"])
    assert done["found"] == ["1 of 4", 1 + 1, True]  # among the releases and the costs; it has no score
    assert done["accepted"] == ["1 of 4", 0]


EVIL = '<img src=x onerror="alerted=1"><script>alerted=1</script>"\'</style></script><!--/questions-->'


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Pages whose every text would be a program."""
    root = tmp_path_factory.mktemp("hostile")
    verdict = make_release(root / "evidence", "REGRESSION")
    content = read_json(verdict)
    run = Path(content["evidence"]["baseline_run"]["path"]).parent
    for folder in (run, Path(content["evidence"]["candidate_run"]["path"]).parent):
        for file in (folder / "samples").glob("*.jsonl"):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            for line in lines:
                line |= {"prompt": f"{line['id']} {EVIL}", "target": EVIL, "answer": f"{line['answer']} {EVIL}"}
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    evil = {"release": EVIL, "model": EVIL, "suite": EVIL, "detail": EVIL, "next_action": EVIL}
    past = {"created": EVIL, "decision": "ACCEPT", "failure_class": None, "detail": EVIL, "recipe": EVIL, "suite": EVIL}
    past |= {"size_ratio": None, "checkpoint_digest": None, "git_commit": EVIL, "verdict_sha256": "0" * 64}
    path = root / "results" / "m" / "r" / "verdict.json"
    write_json(path, content | evil)
    path.with_name("history.jsonl").write_text(json.dumps(past) + "\n{cut sho")
    page = path.with_name("report.html")
    assert run_script("report.py", "--verdict", path, "--output", page).returncode == 0
    assert run_script("index.py", path, "--output", root / "index.html").returncode == 0
    return root


@pytest.mark.parametrize("name", ["index.html", "results/m/r/report.html"])
def test_no_text_of_a_model_a_question_or_a_release_runs_in_a_page(hostile, tmp_path, name):
    found, console = probe(hostile / name, tmp_path, 390)
    assert console == [] and found["loaded"] == [] and found["alerted"] == 0 and found["overflow"] <= 0
    text = (hostile / name).read_text()
    assert "&lt;script&gt;alerted=1" in text and "<script>alerted" not in text and "<img" not in text


def test_the_policy_of_a_page_stops_what_escaping_would_let_through(hostile, tmp_path):
    page = tmp_path / "index.html"
    page.write_text((hostile / "index.html").read_text().replace("<main>", "<main><script>alerted=1</script>"))
    found, console = probe(page, tmp_path, 500)
    assert found["alerted"] == 0 and any("Content Security Policy" in line for line in console)


def test_the_questions_stand_beside_the_flipped_samples_and_not_in_a_bundle(hostile):
    text = (hostile / "results" / "m" / "r" / "report.html").read_text()
    assert text.count("<dt>Asked</dt>") == text.count("<dt>Expected</dt>") == text.count('<div class="flip">') > 5
    assert text.count("<!--questions-->") == text.count("<!--/questions-->") == 1
    public = without_questions(text)
    assert "<dt>Asked</dt>" not in public and "Candidate's answer" not in public and "Comparability" in public


def test_names_in_crowded_figures_lie_on_nothing(tmp_path):
    chance = random.Random(7)
    points = [
        Candidate(f"{'a-recipe-with-a-long-name-' * (n % 3 == 0)}r{n}", chance.choice(list(Decision)), size, score)
        for n in range(45)
        for size, score in [(0.2 + 0.7 * chance.random() ** 2, 0.97 + 0.03 * chance.random())]
    ]
    stages, start = [], 0.0
    for number in range(9):
        stages.append(Stage(f"stage {number}", start, 40.0, f"group {number % 6}"))
        start += 40.0 + (900.0 if number % 2 else 0.0) + 40 * (number % 3)
    drawn = {"pareto": pareto_chart("m on s", points, 0.996), "timeline": timeline_chart(stages)}
    page = tmp_path / "page.html"
    body = "".join(f"<figure id='{name}'>{svg}<figcaption>c</figcaption></figure>" for name, svg in drawn.items())
    page.write_text(f"<!DOCTYPE html><html><head></head><body>{body}</body></html>")
    found, _ = probe(page, tmp_path, 1000)
    assert [figure["collisions"] for figure in found["figures"]] == [[], []]
    assert all(figure["inside"] for figure in found["figures"]) and found["faint"] == []
    assert "names without room" in drawn["pareto"] and "idle" in drawn["timeline"]


def test_hundreds_of_releases_make_a_page_of_a_few_kilobytes_each(tmp_path):
    verdict = read_json(make_release(tmp_path / "evidence", "REGRESSION"))
    chance, paths = random.Random(1), []
    for number in range(200):
        paths.append(tmp_path / "results" / "m" / f"r{number}" / "verdict.json")
        changed = {"release": f"r{number}", "model": f"m{number % 3}", "size_ratio": 0.2 + chance.random() / 2}
        write_json(paths[-1], verdict | changed)
    assert run_script("index.py", *paths, "--output", tmp_path / "index.html").returncode == 0
    assert (tmp_path / "index.html").stat().st_size < 200 * 4_000
    found, console = probe(tmp_path / "index.html", tmp_path, 390)
    assert console == [] and found["overflow"] <= 0 and found["faint"] == []
