"""A private Slurm cluster on this machine: real daemons, all below a temporary folder, loopback only."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DAEMONS = ("slurmctld", "slurmd", "munged", "sbatch")
os.environ["PATH"] += os.pathsep + "/usr/sbin"
SITE = {"partition": "cpu", "gpu_partition": "gpu", "gpu_type": "a100", "cpus_per_gpu": 1, "max_runtime": 30}


def load_graph_tests():
    """tests/graph/conftest.py, whose stand-in project is used here too."""
    specification = importlib.util.spec_from_file_location("graph_conftest", ROOT / "tests" / "graph" / "conftest.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["graph_conftest"] = module
    specification.loader.exec_module(module)
    return module


graph = load_graph_tests()


def free_ports(count, start=26800, stop=32000):
    """First port of a block that is free on the loopback interface, below the ephemeral range."""
    base = start + (os.getpid() * 40) % (stop - start - count)
    while True:
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return base
            except OSError:
                base = base + count if base + 2 * count < stop else start


class Cluster:
    """The running cluster."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, environment

    def run(self, *command, check=True):
        """Output of a Slurm command."""
        done = subprocess.run(command, env=self.environment, check=check, timeout=60, text=True, capture_output=True)
        return done.stdout

    def jobs(self):
        """All jobs that the controller knows, as dictionaries."""
        names = ("id", "state", "name", "comment", "partition", "node", "mb", "folder")
        lines = self.run("squeue", "-h", "--states=all", "-o", "%i|%T|%j|%k|%P|%N|%m|%Z").splitlines()
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines]

    def kill_node(self, node):
        """Let a node die with all that runs on it, and tell the controller."""
        subprocess.run([str(HERE / "kill-node.sh"), str(self.folder), node], check=True)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def start_node(self, node):
        """Bring a node back."""
        subprocess.run([str(HERE / "start-node.sh"), str(self.folder), node], check=True)


class Driver:
    """A snakemake process on the cluster, in a project's folder."""

    def __init__(self, cluster, folder, *arguments, profile="slurm", environment=(), log=None):
        logs = log or folder
        self.log = logs / f"driver-{len(list(logs.glob('driver-*')))}.log"
        # The profile's own settings, but that a node which dies without a word is noticed sooner.
        quick = ["--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "5"]
        on_slurm = ["--profile", profile, *quick] if profile != "none" else []
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "snakemake", *on_slurm, *arguments],
                cwd=folder,
                env={**cluster.environment, **dict(environment)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # A shell starts what it puts into the background with SIGINT ignored, and so would pytest.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def output(self):
        return self.log.read_text()

    def wait(self, seconds=400):
        """The exit status; a driver that does not end is stopped, and the test fails with its output."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            pytest.fail(f"the driver did not end within {seconds} s\n{self.output[-6000:]}")

    def stop(self):
        """End it with its jobs; it would ask for them for ever, once the cluster is gone."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.kill()


class Workspace:
    """A copy of the project with the real stages, in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.results = folder, folder / "results" / "tiny-llama"

    def ask(self, questions):
        """Ask only so many of each task."""
        path = self.folder / "config" / "suites" / "demo.yaml"
        suite = yaml.safe_load(path.read_text())
        suite["tasks"] = {name: task | {"limit": questions} for name, task in suite["tasks"].items()}
        path.write_text(yaml.safe_dump(suite))

    def configure(self, model=(), **changes):
        """Change keys of config/config.yaml and of its model, whose jobs get what two side by side leave them."""
        path = self.folder / "config" / "config.yaml"
        configuration = {"defaults": {"suite": "demo"}} | yaml.safe_load(path.read_text()) | changes
        configuration["models"]["tiny-llama"] |= {"resources": {"mem_mb": 6000}, **dict(model)}
        path.write_text(yaml.safe_dump(configuration))

    def stored_answers(self):
        """How many answers of the baseline are stored."""
        store = self.results / "baseline/demo/cache"
        return sum(len(file.read_text().splitlines()) for file in store.glob("*.jsonl")) if store.is_dir() else 0


def wait_until(condition, what, seconds=240, driver=None):
    """The first true answer of a condition."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            if driver:
                driver.stop()
            pytest.fail(f"not within {seconds} s: {what}\n{driver.output[-6000:] if driver else ''}")
        time.sleep(0.2)
    return answer


def releases(*recipes):
    """Releases of the embedded model, for the configuration."""
    return [{"model": "tiny-llama", "recipe": recipe} for recipe in recipes]


def calls_of(project, call):
    """How often a stand-in was called so far."""
    path = project.folder / "calls.log"
    return path.read_text().splitlines().count(call) if path.exists() else 0


def jobs_of(cluster, project, name):
    """The jobs of that name which the project submitted, in order."""
    mine = [job for job in cluster.jobs() if job["name"] == name and job["folder"] == str(project.folder)]
    return sorted(mine, key=lambda job: int(job["id"]))


def start_cluster(folder, **settings):
    """Start a cluster below a folder; its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    environment |= {"BASE_PORT": str(free_ports(20)), "CPUS": "4", "MEM": "16000", **settings}
    with (folder / "start.out").open("w") as stream:
        started = subprocess.run(
            [str(HERE / "start-cluster.sh"), str(folder)],
            env=environment,
            timeout=120,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    if started.returncode:
        pytest.fail("Slurm did not start:\n" + (folder / "start.out").read_text())
    environment["SLURM_CONF"] = str(folder / "etc/slurm.conf")
    environment["PATH"] = f"{folder}/bin{os.pathsep}{environment['PATH']}"
    return Cluster(folder, environment)


@contextlib.contextmanager
def running_cluster(daemons=DAEMONS, **settings):
    """A cluster, or a skipped test where its daemons are not installed (in CI: a failed one)."""
    missing = [name for name in daemons if not shutil.which(name)]
    if missing:
        sentence = f"found no {', '.join(missing)}; apt-get install slurmctld slurmd slurm-client munge"
        if os.environ.get("CI") == "true" and daemons == DAEMONS:
            pytest.fail(sentence)
        pytest.skip(sentence)
    # A short path: names of unix sockets are limited to 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    try:
        yield start_cluster(folder, **settings)
    finally:
        subprocess.run([str(HERE / "stop-cluster.sh"), str(folder)], timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
