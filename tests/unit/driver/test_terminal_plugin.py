"""What the terminal shows of recorded events, and what Snakemake needs of its plugin."""

import ast
import io
import json
import logging
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
import snakemake_logger_plugin_day0 as plugin
from snakemake.logging import LoggerManager
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase
from snakemake_interface_logger_plugins.tests import MockOutputSettings, TestLogHandlerBase
from snakemake_logger_plugin_day0 import Job, LogHandler
from snakemake_logger_plugin_day0.progress import Progress, about, last_words, span


class TestOfTheInterface(TestLogHandlerBase):
    """The interface's own tests of a plugin."""

    __test__ = True

    def get_log_handler_cls(self):
        return LogHandler

    def get_log_handler_settings(self):
        return None


def test_snakemake_finds_the_plugin_and_gives_it_the_terminal():
    handler = LoggerPluginRegistry().get_plugin("day0").log_handler
    assert handler is LogHandler
    settings = SimpleNamespace(
        skip_plugin_handlers=False, log_handler_settings={"day0": LogHandlerSettingsBase()}, log_level_override=None
    )
    for name in ("quiet", "debug_dag", "verbose", "dryrun", "printshellcmds", "show_failed_logs", "stdout", "nocolor"):
        setattr(settings, name, False)
    manager = LoggerManager(logging.getLogger("a test of the terminal"), settings)
    names = [handler.name for handler in manager.logger.handlers]
    manager.stop()
    assert "DefaultStreamHandler" not in names and isinstance(manager.plugin_handlers[0], LogHandler)


class Recorded:
    """A handler that is given recorded events."""

    def __init__(self, terminal=False, **settings):
        common = MockOutputSettings()
        for name, value in {"nocolor": True, "printshellcmds": False, **settings}.items():
            setattr(common, name, value)
        self.handler = LogHandler(common, None)
        self.handler.setFormatter(logging.Formatter("%(message)s"))
        self.stream = self.handler.stream = io.StringIO()
        if self.handler.plain:
            self.handler.plain.setStream(self.stream)
        self.handler.is_terminal = terminal

    def tell(self, event=None, message="", level=logging.INFO, **fields):
        record = logging.LogRecord("snakemake", level, "x.py", 1, message, (), None)
        record.event = event
        vars(record).update(fields)
        self.handler.emit(record)

    def begin(self, **stats):
        self.tell(LogEvent.RESOURCES_INFO, cores=2)
        self.tell(LogEvent.RUN_INFO, "Job stats: ...", stats={**stats, "total": sum(stats.values())})

    def start(self, number, message, rule="evaluate_run", **fields):
        self.tell(LogEvent.JOB_INFO, jobid=number, rule_msg=message, rule_name=rule, wildcards={}, **fields)

    def lines(self):
        return [
            line.partition("] ")[2] if line.startswith("[") else line for line in self.stream.getvalue().splitlines()
        ]


@pytest.fixture
def run():
    recorded = Recorded()
    yield recorded
    recorded.handler.close()


def test_short_jobs_take_no_line_and_long_ones_two(run):
    run.begin(assess_run=3, evaluate_run=1)
    for number in range(3):
        run.start(number, f"Assessing {number}", "assess_run")
        run.tell(LogEvent.JOB_FINISHED, job_id=number)
        run.tell(LogEvent.PROGRESS, done=number + 1, total=4)
    run.start(3, "Evaluating fp8")
    run.handler.look(time.monotonic() + 9)
    assert run.lines() == ["4 jobs, 2 cores"]
    run.handler.look(time.monotonic() + 11)
    run.handler.look(time.monotonic() + 12)
    run.tell(LogEvent.JOB_FINISHED, job_id=3)
    run.tell(LogEvent.PROGRESS, done=4, total=4)
    run.handler.close()
    assert run.lines() == ["4 jobs, 2 cores", "Evaluating fp8", "Evaluating fp8: done in 0 s", "done in 0 s"]


def test_a_decision_is_shown_when_it_is_made(run, tmp_path):
    verdict = tmp_path / "verdict.json"
    verdict.write_text(json.dumps({"model": "m", "release": "fp8", "decision": "REGRESSION"}))
    run.start(1, "Deciding on fp8", output=[str(verdict)])
    run.tell(LogEvent.JOB_FINISHED, job_id=1)
    assert run.lines() == ["m fp8: REGRESSION"]


def test_what_snakemake_says_of_itself_is_left_to_its_log_once_jobs_run(run):
    run.tell(None, "Building DAG of jobs...")
    run.begin(release=1)
    run.tell(None, "Using shell: bash")
    run.tell(None, "adopted", on_terminal=True)
    run.tell(None, "debug", logging.DEBUG)
    assert run.lines() == ["1 job, 2 cores", "adopted"]


def test_a_command_without_jobs_says_what_snakemake_says(run):
    run.tell(None, "Building DAG of jobs...")
    run.tell(None, "Nothing to be done (all requested files are present and up to date).")
    run.handler.close()
    assert run.lines() == [
        "Building DAG of jobs...",
        "Nothing to be done (all requested files are present and up to date).",
    ]


def test_the_end_of_a_failed_run_takes_a_line(run):
    run.begin(release=1)
    run.tell(None, "Exiting because a job execution failed. Look above", logging.ERROR, module="job_scheduler")
    run.tell(LogEvent.ERROR, "WorkflowError:\nAt least one job failed.", logging.ERROR, exception="WorkflowError")
    assert run.lines()[1:] == ["WorkflowError: At least one job failed."]


def test_a_mistake_before_the_jobs_is_shown_whole_and_alone(run):
    run.tell(None, "Building DAG of jobs...")
    run.tell(LogEvent.ERROR, "\n".join("abcdefgh"), logging.ERROR)
    run.handler.close()
    assert run.lines() == list("abcdefgh")


def test_a_failure_takes_three_lines_with_the_place_of_the_rest(run, tmp_path):
    log = tmp_path / "quantize.log"
    log.write_text("loading\nTraceback (most recent call last):\n  File x\nValueError: no layer\nnext: do this\n")
    run.begin(quantize_candidate=1)
    run.start(7, "Quantizing m by fp8", log=[str(log)])
    error = {"rule_name": "quantize_candidate", "jobid": 7, "log": [str(log)], "shellcmd": "a\nb\nc", "rule_msg": None}
    said = (
        "RuleException:\nCalledProcessError in file x:\nCommand 'set -eu; a\nb\nc' returned non-zero exit status 137."
    )
    run.tell(LogEvent.ERROR, said, logging.ERROR, exception="RuleException")
    run.tell(LogEvent.JOB_ERROR, "Error in rule quantize_candidate", logging.ERROR, **error)
    run.tell(None, "one\ntwo\nthree\nfour\nfive", logging.ERROR)
    run.start(7, "Quantizing m by fp8", log=[str(log)])
    assert run.lines()[1:4] == [
        "FAILED: Quantizing m by fp8, after 0 s (exit status 137)",
        "  ValueError: no layer",
        f"  all of it: {log}",
    ]
    assert len(run.lines()[4:-1]) == 3 and run.lines()[-1] == "tried again: Quantizing m by fp8"


@pytest.mark.parametrize(
    ("log", "message", "shown"),
    [
        ("a: REGRESSION: too low\nnext: mend it\n", None, "a: REGRESSION: too low"),
        ("error: f.json: found 1, expected 2\nnote: x\n", None, "error: f.json: found 1, expected 2"),
        ("Error: \x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2J\u202eend\x08\n", None, "Error: red end"),
        ("", "SLURM-job '12' failed,\nstatus TIMEOUT", "SLURM-job '12' failed, status TIMEOUT"),
        ("", None, "it ended with an exit status other than 0, and wrote no log"),
    ],
)
def test_the_telling_line_of_a_failure(run, tmp_path, log, message, shown):
    (tmp_path / "x.log").write_text(log)
    run.start(1, "Doing")
    logs = [str(tmp_path / "x.log")]
    run.tell(LogEvent.JOB_ERROR, level=logging.ERROR, rule_name="r", jobid=1, log=logs, rule_msg=message)
    assert run.lines()[1] == f"  {shown}"


def test_on_a_cluster_jobs_are_submitted_and_run_from_their_first_log_line(run, tmp_path):
    run.tell(LogEvent.RESOURCES_INFO, nodes=100)
    log = tmp_path / "evaluate.log"
    log.write_text("of an earlier attempt")
    os.utime(log, (1, 1))
    run.start(1, "Evaluating fp8 of m", log=[str(log)], local=False)
    run.start(2, "Gate", log=[str(tmp_path / "none.log")], local=True)
    now = time.monotonic()
    run.handler.look(now + 30)
    assert "1 wait in the queue" in run.handler.status(now)
    log.write_text("[10:00:00] addition 100/400 (10/s, 30 s left)\n")
    run.handler.look(now + 31)
    run.tell(LogEvent.JOB_FINISHED, job_id=1)
    assert run.lines()[0] == "submitted: Evaluating fp8 of m"
    assert "running: Evaluating fp8 of m" in run.lines() and "Evaluating fp8 of m: done in 0 s" in run.lines()


def test_the_progress_of_a_stage_stands_in_the_line_of_progress(run, tmp_path):
    log = tmp_path / "evaluate.log"
    run.begin(evaluate_run=2)
    run.handler.progress.expect({"evaluate_run": 300.0})
    run.start(1, "Evaluating fp8", log=[str(log)])
    log.write_text("[10:00:00] addition 100/400 (10/s, 30 s left)  sorting done\n[10:00:01] canary: 'x'\n")
    run.handler.look(time.monotonic() + 61)
    expected = "0 of 2 jobs done, about 6 min left; Evaluating fp8: addition 100/400 (10/s, 30 s left)  sorting done"
    assert run.lines()[-1] == expected
    before = len(run.lines())
    run.handler.look(time.monotonic() + 62)
    assert len(run.lines()) == before, "a line a minute"


def test_on_a_terminal_the_status_is_a_line_that_is_replaced():
    run = Recorded(terminal=True)
    run.begin(evaluate_run=1, release=1)
    run.start(1, "Evaluating fp8", log=["none.log"])
    run.handler.look(time.monotonic())
    assert run.stream.getvalue().endswith("\r\x1b[K0 of 2 jobs done; Evaluating fp8: 0 s")
    run.tell(None, "careful", logging.WARNING)
    assert run.stream.getvalue().endswith("\r\x1b[Kcareful\n")
    run.handler.look(time.monotonic())
    run.start(2, "Printing the decisions", log=[])
    run.handler.look(time.monotonic())
    assert run.stream.getvalue().endswith("\r\x1b[K"), "the status gives way to a job that prints by itself"
    run.handler.close()


def test_verbose_shows_what_snakemake_shows_and_what_the_jobs_log(tmp_path):
    run = Recorded(verbose=True)
    log = tmp_path / "a.log"
    run.begin(evaluate_run=1)
    run.start(1, "Evaluating fp8", log=[str(log)])
    log.write_text("first\nhalf")
    run.handler.look(time.monotonic() + 70)
    log.write_text("first\nhalf a line\n")
    run.tell(LogEvent.JOB_FINISHED, "Finished jobid: 1", job_id=1)
    run.handler.close()
    text = run.stream.getvalue()
    assert "Job stats: ..." in text and "Finished jobid: 1" in text
    assert text.count("    evaluate_run: first\n") == 1 and text.count("    evaluate_run: half a line\n") == 1
    assert "jobs done" not in text and "done in" not in text


def test_a_dry_run_shows_what_snakemake_shows():
    run = Recorded(dryrun=True, stdout=True)
    run.tell(None, "Building DAG of jobs...")
    run.tell(LogEvent.JOB_INFO, "rule x", jobid=1, rule_name="x")
    run.handler.close()
    assert run.stream.getvalue() == "Building DAG of jobs...\n\nrule x\n" and not run.handler.running


def test_a_terminal_that_is_gone_ends_nothing(run):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    run.handler.stream = Gone()
    run.tell(None, "careful", logging.WARNING)
    assert run.handler.ended.is_set()


def test_a_job_without_a_message_is_named_by_its_rule():
    record = SimpleNamespace(rule_msg=None, rule_name="all", wildcards={"model": "m"})
    assert Job(record, 0.0, False).text == "all m"


def test_a_guess_is_rounded():
    assert [about(seconds) for seconds in (3, 44, 96, 121, 539, 7300)] == [
        "10 s",
        "40 s",
        "1 min 40 s",
        "2 min",
        "9 min",
        "2 h 2 min",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (250, "4 min 10 s"), (3599, "59 min"), (7500, "2 h 5 min")],
)
def test_a_time_in_words(seconds, words):
    assert span(seconds) == words


def test_last_words_of_an_empty_log_are_none():
    assert last_words("\n \n") is None and last_words("a\nb\n") == "b"


@pytest.mark.parametrize(
    ("log", "far"),
    [
        (
            "step 400  loss 0.1  right 98%  30 s, at most 12 s left\nsaved\n",
            "step 400  loss 0.1  right 98%  30 s, at most 12 s left",
        ),
        (
            "Calibrating:  25%|##   | 4/16 [00:30<01:30,  7.5s/it]\rCalibrating:  31%|##   | 5/16 [00:37<01:22]",
            "5 of 16 steps, 01:22 left",
        ),
        ("Calibrating:   0%|     | 0/16 [00:00<?, ?it/s]", "0 of 16 steps"),
        ("nothing of that kind", ""),
    ],
)
def test_progress_in_a_log(log, far):
    assert Progress.of_log(log) == far


def test_time_left_by_what_was_measured():
    progress = Progress()
    progress.plan({"evaluate_run": 3, "assess_run": 2})
    assert progress.left([("evaluate_run", 60.0, None)]) is None, "nothing is known yet"
    progress.expect({"evaluate_run": 100.0, "assess_run": 1.0})
    assert progress.left([("evaluate_run", 60.0, None)]) == 40 + 200 + 2
    progress.measured("evaluate_run", 200.0)
    assert progress.left([("evaluate_run", 60.0, None)]) == 140 + 200 + 2
    assert progress.left([("evaluate_run", 60.0, None), ("evaluate_run", 0.0, None)]) == (140 + 200 + 2) / 2


def test_what_a_job_says_counts_before_what_was_expected():
    progress = Progress()
    progress.plan({"evaluate_run": 2, "quantize_candidate": 1})
    progress.expect({"evaluate_run": 100.0, "quantize_candidate": 50.0})
    assert progress.left([("evaluate_run", 300.0, 600.0)]) == 600 + 900 + 50, "the next one is as slow"
    assert progress.left([("evaluate_run", 10.0, 20.0)]) == 20 + 100 + 50, "the next one may ask more"
    both = [("evaluate_run", 300.0, 600.0), ("quantize_candidate", 40.0, 4000.0)]
    assert progress.left(both) == 4000, "no sooner than the longest of them"


@pytest.mark.parametrize(
    ("log", "seconds"),
    [
        ("social-iqa 16/360 (2/s, 223 s left)  last-word 32/144 (0/s, 1035 s left)\n", 1035),
        ("social-iqa 16/360 (2/s, 223 s left)\nsocial-iqa 0/? (0/s)\n", None),
        (" 25%|##   | 1/4 [05:44<17:12, 344.0s/it]", 17 * 60 + 12),
        (" 25%|##   | 1/4 [1:05:44<1:17:12, 344.0s/it]", 77 * 60 + 12),
        ("  0%|     | 0/4 [00:00<?, ?it/s]", None),
        ("loading\n", None),
    ],
)
def test_the_time_that_a_log_says_is_left(log, seconds):
    assert Progress.said_left(log) == seconds


def test_the_plugin_imports_nothing_of_the_project_but_to_explain_a_mistake():
    """It is imported before a Snakefile puts scripts/ on the path, or for a workflow that uses this as a module."""
    allowed = {
        "snakemake",
        "snakemake_interface_common",
        "snakemake_interface_logger_plugins",
        "snakemake_logger_plugin_day0",
        *sys.stdlib_module_names,
    }
    for source in Path(plugin.__file__).parent.glob("*.py"):
        tree = ast.parse(source.read_text())
        (explains,) = [node for node in tree.body if getattr(node, "name", None) == "mistake_in"] or [ast.Pass()]
        nodes = set(ast.walk(tree)) - set(ast.walk(explains))
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert {name.partition(".")[0] for name in names} <= allowed


def page_of(folder):
    return (folder / "results" / "run.html").read_text()


def test_a_page_of_the_run_says_about_when_it_ends_and_then_how_it_ended(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    run.begin(evaluate_run=2, assess_run=1)
    run.tell(None, "about 10 minutes", on_terminal=True, seconds_by_rule={"evaluate_run": 600.0, "assess_run": 1.0})
    run.start(1, "Evaluating <script>alert(1)</script> of m")
    now = time.monotonic()
    run.handler.look(now + 100)
    run.handler.look(now + 300)
    assert any("0 of 3 jobs done, about" in line for line in run.lines())
    page = page_of(tmp_path)
    hour = {time.strftime("%H:%M", time.localtime(time.time() + 901 + shift)) for shift in (-60, 0, 60)}
    assert any(f"0 of 3 jobs done; it ends about {one}" in page for one in hour), page
    assert "<td>Evaluating &lt;script&gt;alert(1)&lt;/script&gt; of m</td><td>5 min</td>" in page
    assert 'http-equiv="refresh"' in page and "<script" not in page
    run.tell(LogEvent.JOB_FINISHED, job_id=1)
    run.tell(LogEvent.PROGRESS, done=1, total=3)
    run.handler.close()
    page = page_of(tmp_path)
    assert "jobs done, about" not in page, "how far it was is no event"
    assert "<h1>ended after 0 s, 1 of 3 jobs done</h1>" in page and 'http-equiv="refresh"' not in page
    assert "Evaluating &lt;script&gt;alert(1)&lt;/script&gt; of m: done in" in page


def test_the_page_of_a_run_whose_times_are_not_known_says_so(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    run.begin(evaluate_run=2)
    run.start(1, "Evaluating a")
    run.handler.look(time.monotonic() + 20)
    assert "0 of 2 jobs done; how long the rest takes is not known yet" in page_of(tmp_path)


@pytest.mark.parametrize("settings", [{"dryrun": True}, {}])
def test_no_page_is_made_by_a_dry_run_or_where_there_are_no_results(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    if settings:
        (tmp_path / "results").mkdir()
    recorded = Recorded(**settings)
    recorded.begin(evaluate_run=1)
    recorded.start(1, "Evaluating a")
    recorded.handler.look(time.monotonic() + 20)
    recorded.handler.close()
    assert not (tmp_path / "results" / "run.html").exists()
