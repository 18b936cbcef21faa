"""A command line ends with a status and a sentence, and with a traceback only for what is a fault of its own."""

import errno
import os

import pytest

from day0.base.cli import EXIT_TRANSIENT, EXIT_UNUSABLE_INPUT, UnusableInput, run_cli


def run(main):
    with pytest.raises(SystemExit) as end:
        run_cli(main)
    return end.value.code


def failing(number, *files):
    def main():
        raise OSError(number, os.strerror(number), *files)

    return main


@pytest.mark.parametrize(
    ("number", "files", "place"),
    [
        (errno.ENOSPC, ["results/run.json"], "results/run.json"),
        (errno.EROFS, ["results/.x", None, "results/run.json"], "results/run.json"),
        (errno.EDQUOT, [], "the output"),
    ],
)
def test_a_disk_that_takes_nothing_more_is_said_and_counts_as_transient(capsys, number, files, place):
    assert run(failing(number, *files)) == EXIT_TRANSIENT
    said = capsys.readouterr().err
    assert said.startswith(f"error: {place}: {os.strerror(number)}; free some space") and said.count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EIO])
def test_another_error_of_the_system_is_a_fault(number):
    with pytest.raises(OSError, match=os.strerror(number)):
        run_cli(failing(number, "x"))


def test_the_status_of_main_is_that_of_the_command_and_unusable_input_is_said(capsys):
    assert run(lambda: None) == 0 and run(lambda: 1) == 1

    def refuse():
        raise UnusableInput("config.json: found a list")

    assert run(refuse) == EXIT_UNUSABLE_INPUT
    assert capsys.readouterr().err == "error: config.json: found a list\n"
