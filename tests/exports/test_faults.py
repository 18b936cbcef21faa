"""Each fault fails the one check that it should, by the right class and name; each harmless change fails none."""

import shutil

import pytest
from faults import FAULTS, HARMLESS, Copy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("exports")]


@pytest.fixture
def copy(exports, tmp_path):
    """Make a copy of an export that may be broken; hard links need one file system, so it lies beside the exports."""
    made = []

    def make(name):
        folder = exports.folder / f"copy-{tmp_path.name}"
        shutil.rmtree(folder, ignore_errors=True)
        made.append(folder)
        return Copy(exports.folder / name, exports.source(name), folder)

    yield make
    for folder in made:
        shutil.rmtree(folder)


def names_in(check):
    """All that a check says: its sentence and the layers, tensors and files it names."""
    return "\n".join([check["detail"], *map(str, check["offenders"])])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_caught_named_and_nothing_else_fails(copy, gate, fault):
    broken = copy(fault.base)
    fault.apply(broken)
    status, validation, failed = gate(
        broken.checkpoint, broken.source, record=broken.record, deep=fault.is_deep, engine=fault.engine
    )
    assert status == 1 and not validation["pass"], "not caught"
    assert set(failed) == {fault.check, *fault.also}, validation["detail"]
    assert validation["failure_class"] == fault.failure_class
    assert fault.must_name in names_in(failed[fault.check]), validation["detail"]
    for other in fault.must_not_name:
        assert other not in names_in(failed[fault.check]), validation["detail"]


@pytest.mark.parametrize("name,base,change", HARMLESS, ids=[name for name, _, _ in HARMLESS])
def test_harmless_change_passes(copy, gate, name, base, change):
    changed = copy(base)
    change(changed)
    status, validation, _ = gate(changed.checkpoint, changed.source, record=changed.record, deep=True)
    assert status == 0 and validation["pass"], validation["detail"]


def test_library_is_as_large_as_it_claims():
    assert len(FAULTS) >= 40 and len({fault.name for fault in FAULTS}) == len(FAULTS)
