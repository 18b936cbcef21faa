"""Stages in images, with the real enroot and pyxis; skipped where these are not installed.

PYXIS names spank_pyxis.so where it lies in none of Slurm's usual folders.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slurm_cluster import ROOT, SITE, Driver, jobs_of, releases, running_cluster

pytestmark = pytest.mark.slurm
PASSED, EVALUATION = ("fp8/validation.ok", "baseline/demo/run.ok"), "evaluate_run:tiny-llama/baseline/demo"
PLACES = ["/usr/local/lib/slurm", "/usr/lib/slurm", "/usr/lib64/slurm", "/usr/lib/x86_64-linux-gnu/slurm-wlm"]


@pytest.fixture(scope="module")
def pyxis_cluster(tmp_path_factory):
    """A cluster whose srun knows --container-image."""
    plugins = [Path(place) / "spank_pyxis.so" for place in PLACES]
    plugin = os.environ.get("PYXIS") or next((str(path) for path in plugins if path.is_file()), None)
    missing = [name for name in ("enroot", "mksquashfs") if not shutil.which(name)]
    if plugin is None or missing:
        pytest.skip(f"found no {' and no '.join([*missing, *([] if plugin else ['spank_pyxis.so (PYXIS)'])])}")
    folder = tmp_path_factory.mktemp("enroot")
    places = {f"ENROOT_{name}_PATH": str(folder / name) for name in ("DATA", "CACHE", "RUNTIME", "TEMP")}
    for place in places.values():
        Path(place).mkdir()
    with running_cluster(PYXIS=plugin, **places) as made:
        yield made


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """An image with nothing in it but the places where this machine's system is mounted."""
    root = tmp_path_factory.mktemp("image") / "root"
    for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "run", "root", "var/tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    (root / "etc" / "os-release").write_text("NAME=day0-image\nID=day0\n")
    made = root.with_suffix(".sqsh")
    subprocess.run(["mksquashfs", str(root), str(made), "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    return made


@pytest.mark.parametrize("runtime", ["pyxis", "enroot"])
def test_a_model_is_quantized_and_served_within_images(pyxis_cluster, workspace, image, runtime):
    # A model of its own: the embedded one would be trained anew by another image.
    shutil.copytree(workspace.folder / "results/demo/model", workspace.folder / "model")
    workspace.configure(model={"path": "model"}, releases=releases("fp8"))
    workspace.ask(100)
    environments = (ROOT / ".envs").resolve()
    images = {}
    for stage in ("quantize", "serve"):
        # The environment's interpreter as it is seen within the image, after a note of where that is.
        python = workspace.folder / f"{stage}-python"
        note = f'grep -h ^NAME= /etc/os-release >> "{workspace.folder}/ran-{stage}"'
        python.write_text(f'#!/bin/sh\n{note}\nexec {environments}/{stage}.cpu/bin/python "$@"\n')
        python.chmod(0o755)
        images[stage] = {"image": str(image), "python": str(python)}
    containers = {"runtime": runtime, "mounts": ["/usr", sys.base_prefix, str(environments)], **images}
    (workspace.folder / "config" / "site.yaml").write_text(yaml.safe_dump({"cluster": SITE, "containers": containers}))

    driver = Driver(pyxis_cluster, workspace.folder, *(f"results/tiny-llama/{path}" for path in PASSED))
    assert driver.wait(600) == 0, driver.output[-8000:]
    assert all((workspace.results / path).exists() for path in PASSED)
    for stage in images:
        assert set((workspace.folder / f"ran-{stage}").read_text().splitlines()) == {"NAME=day0-image"}
    assert [job["state"] for job in jobs_of(pyxis_cluster, workspace, EVALUATION)] == ["COMPLETED"]
