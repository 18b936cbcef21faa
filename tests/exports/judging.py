"""Run the gate on exports and broken copies of them, and say what became of each; as a script, as markdown tables.

``python tests/exports/judging.py FOLDER`` takes a folder that make_exports.py made.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import value_faults  # noqa: F401  adds its faults to the same lists

import gate_ptq
from faults import FAULTS, HARMLESS, Copy, Fault

Judgement = tuple[int, dict[str, Any], dict[str, Any]]


def run_gate(checkpoint: Path, source: Path, **options: Any) -> Judgement:
    """Run scripts/gate_ptq.py's main; its exit status, validation.json and the failed checks by name."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "validation.json"
        command = ["gate_ptq.py", "--checkpoint", checkpoint, "--source", source, "--output", output]
        for name, value in options.items():
            if value is not None and value is not False:
                command += [f"--{name}"] if value is True else [f"--{name}", value]
        with mock.patch.object(sys, "argv", list(map(str, command))), contextlib.redirect_stdout(io.StringIO()):
            status = gate_ptq.main()
        validation = json.loads(output.read_text())
    return status, validation, {check["name"]: check for check in validation["checks"] if not check["pass"]}


def judge_fault(fault: Fault, broken: Copy) -> Judgement:
    """Break a copy and run the gate on it."""
    fault.apply(broken)
    return run_gate(broken.checkpoint, broken.source, record=broken.record, deep=fault.is_deep, engine=fault.engine)


def complaints(fault: Fault, judgement: Judgement) -> list[str]:
    """What the gate got wrong about a fault; nothing where it was caught, named and told from all others."""
    status, validation, failed = judgement
    if status == 0 or validation["pass"]:
        return ["not caught"]
    found = []
    if set(failed) != {fault.check, *fault.also}:
        found.append(f"failed {', '.join(failed)}; expected {', '.join([fault.check, *fault.also])}")
    if validation["failure_class"] != fault.failure_class:
        found.append(f"class {validation['failure_class']}; expected {fault.failure_class}")
    if fault.check in failed:
        check = failed[fault.check]
        said = "\n".join([check["detail"], *map(str, check["offenders"])])
        if fault.must_name not in said:
            found.append(f"does not name {fault.must_name}")
        found += [f"names {other}, which is sound" for other in fault.must_not_name if other in said]
    return [*found, validation["detail"]] if found else []


def table_of_faults(folder: Path) -> None:
    sources = {entry["name"]: entry["source"] for entry in json.loads((folder / "exports.json").read_text())}
    place = folder / "copy-of-table"
    print("| fault | export | check that fails, alone | names | outcome |\n|---|---|---|---|---|")
    caught = 0
    for fault in FAULTS:
        shutil.rmtree(place, ignore_errors=True)
        judgement = judge_fault(fault, Copy(folder / fault.base, folder / "sources" / sources[fault.base], place))
        wrong = complaints(fault, judgement)
        caught += not wrong
        checks = " + ".join([fault.check, *fault.also])
        outcome = f"**{wrong[0]}**" if wrong else "caught"
        print(f"| {fault.name.replace('_', ' ')} | {fault.base} | {checks} | `{fault.must_name}` | {outcome} |")
    print(f"\n{caught} of {len(FAULTS)} caught by exactly the expected check.\n")
    for name, base, change in HARMLESS:
        shutil.rmtree(place, ignore_errors=True)
        copy = Copy(folder / base, folder / "sources" / sources[base], place)
        change(copy)
        status, validation, _ = run_gate(copy.checkpoint, copy.source, record=copy.record, deep=True)
        print(
            f"- harmless: {name.replace('_', ' ')}: {'passes' if status == 0 else '**' + validation['detail'] + '**'}"
        )
    shutil.rmtree(place, ignore_errors=True)


def table_of_exports(folder: Path) -> None:
    made = json.loads((folder / "exports.json").read_text())
    outcomes: dict[str, dict[str, list[str]]] = {}
    for entry in made:
        kv = f" + KV {entry['kv_cache']}" if entry["kv_cache"] else ""
        plain = ", as hf_ptq leaves it" if entry["is_plain"] else ""
        row = outcomes.setdefault(f"{entry['recipe']}{kv}{plain}", {})
        if entry["status"] != "done":
            outcome = "ModelOpt cannot export"
        else:
            checkpoint, source = folder / entry["name"] / "checkpoint", folder / "sources" / entry["source"]
            record = folder / entry["name"] / "quantization.json"
            _, _, failed = run_gate(checkpoint, source, record=record, deep=True, engine="vllm")
            outcome = f"fails {', '.join(failed)}" if failed else "passes"
        row.setdefault(outcome, []).append(entry["source"])
    print("| recipe | outcome with --deep --engine vllm |\n|---|---|")
    for recipe, row in outcomes.items():
        sentences = [f"{outcome}: {', '.join(names)}" for outcome, names in row.items()]
        print(f"| {recipe} | {'; '.join(sentences)} |")
    print()


if __name__ == "__main__":
    start = time.monotonic()
    table_of_exports(Path(sys.argv[1]))
    table_of_faults(Path(sys.argv[1]))
    print(f"\n{time.monotonic() - start:.1f} s")
