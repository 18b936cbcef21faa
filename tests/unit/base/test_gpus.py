"""Two stages on one machine never work on the same GPU; nvidia-smi is a stand-in, the locks are real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
PROGRAM = """
import os, sys, time
from pathlib import Path
from day0.base import gpus
gpus.PATIENCE_SECONDS = 0.05
count = int(sys.argv[1]) or None
found = gpus.reserve_gpus(count, lambda text: print(text, flush=True), Path(sys.argv[2]))
print("has", *found, "of", os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"), flush=True)
time.sleep(60)
"""


@pytest.fixture
def machine(tmp_path):
    """Start a stage on a machine with some GPUs: (count, GPUs, visible ones) -> a process."""
    processes = []
    locks = tmp_path / "locks"
    locks.mkdir()

    def start(count, gpus=2, visible=None):
        listed = "".join(f"{number}, GPU-{number}{number}\\n" for number in range(gpus))
        binaries = tmp_path / f"bin{gpus}"
        binaries.mkdir(exist_ok=True)
        (binaries / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{listed}'\n")
        (binaries / "nvidia-smi").chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_")}
        environment |= {"PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(SCRIPTS)}
        environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(count), str(locks)], env=environment, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def told(process):
    return process.stdout.readline().strip()


def test_each_gets_another_one_and_the_third_waits_for_the_first_to_die(machine):
    first = machine(1)
    assert told(first) == "has 0 of 0 PCI_BUS_ID"
    second = machine(1)
    assert told(second) == "has 1 of 1 PCI_BUS_ID"
    third = machine(1)
    assert told(third) == "waits for 1 of 2 GPUs (0, 1): other stages hold them"
    second.kill()
    assert told(third) == "has 1 of 1 PCI_BUS_ID"


def test_several_are_taken_at_once_or_not_at_all(machine):
    one = machine(1, gpus=3)
    assert told(one) == "has 0 of 0 PCI_BUS_ID"
    all_of_them = machine(0, gpus=3)
    assert told(all_of_them).startswith("waits for 3 of 3")
    two = machine(2, gpus=3)  # what another waits for is not held by it
    assert told(two) == "has 1 2 of 1,2 PCI_BUS_ID"
    one.kill()
    two.kill()
    assert told(all_of_them) == "has 0 1 2 of 0,1,2 PCI_BUS_ID"


def test_what_the_user_or_slurm_made_visible_is_chosen_from(machine):
    assert told(machine(1, gpus=4, visible="2,3")) == "has 2 of 2 None"
    assert told(machine(1, gpus=4, visible="2,3")) == "has 3 of 3 None"
    assert told(machine(1, gpus=4, visible="2")).startswith("waits for 1 of 1 GPUs (2)")
    assert told(machine(1, gpus=4)) == "has 0 of 0 PCI_BUS_ID"
    assert told(machine(9, gpus=4, visible="1")) == "has 1 of 1 None"


def test_a_machine_without_a_gpu_is_left_as_it_is(machine):
    assert told(machine(1, gpus=0)) == "has of None None"
    assert told(machine(1, gpus=2, visible="")) == "has of  None"
