"""Each fault fails the one check that it should, by the right class and name; each harmless change fails none."""

import shutil
from dataclasses import replace

import pytest
import value_faults  # noqa: F401  adds its faults to the same lists
from judging import complaints, judge_fault, run_gate

from faults import FAULTS, HARMLESS, Copy

pytestmark = pytest.mark.e2e


@pytest.fixture
def copy(exports, tmp_path):
    """Make a copy of an export that may be broken; hard links need one file system, so it lies beside the exports."""
    folder = exports.folder / f"copy-{tmp_path.name}"

    def make(name):
        return Copy(exports.folder / name, exports.source(name), folder)

    yield make
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_caught_named_and_nothing_else_fails(copy, fault):
    assert complaints(fault, judge_fault(fault, copy(fault.base))) == []


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if f.check in ("values", "unquantized") and not f.is_deep], ids=lambda fault: fault.name
)
def test_what_some_rows_show_reading_everything_shows_too(copy, fault):
    fault = replace(fault, is_deep=True)
    assert complaints(fault, judge_fault(fault, copy(fault.base))) == []


@pytest.mark.parametrize("name,base,change", HARMLESS, ids=[name for name, _, _ in HARMLESS])
def test_harmless_change_passes(copy, name, base, change):
    changed = copy(base)
    change(changed)
    status, validation, _ = run_gate(changed.checkpoint, changed.source, record=changed.record, deep=True)
    assert status == 0 and validation["pass"], validation["detail"]


def test_library_is_as_large_as_it_claims():
    assert len(FAULTS) >= 40 and len({fault.name for fault in FAULTS}) == len(FAULTS)
