"""Wrap a container image as the environment of a stage: an interpreter on the host that runs the image's own.

ENVIRONMENT/bin/python becomes a script that starts the image with the project's folder, /tmp and further folders
mounted, in the working directory it was called in, with the caller's environment and GPUs, and hands its arguments to
the interpreter within; signals and exit status pass through. A node without the runtime or the image is named, exit 75:
another may have them. The runtime is ``enroot start`` of a squashfs file, ``apptainer exec`` of a .sif file, or pyxis:
a step of the Slurm job that the stage runs in, by ``srun --container-image`` of a squashfs file. What a stage writes
beside its mounts, such as caches, is forgotten with it; in Apptainer only the caller's home, which it mounts, can be
written to. The marker (``--output``) holds the image's sha256: another image redoes the stages that run in it.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from day0.base.artefacts import digest_of_file, write_text
from day0.base.build_place import check_places
from day0.base.cli import EXIT_TRANSIENT, UnusableInput, run_cli
from day0.records.environment import ImageEnvironment
from day0.serving.container import NAMES_VARIABLE, image_command
from day0.serving.multinode import JOB_ID_VARIABLE

# Variables of the caller that take precedence over the image's own, and which enroot passes on by name only.
PASSED_ON = (
    "VLLM|HF|HUGGINGFACE|TRANSFORMERS|TORCH[A-Z]*|CUDA|NVIDIA|NCCL|GLOO|OMP|MKL|UV|XDG|PYTHON[A-Z]*|DO_NOT_TRACK|TMPDIR"
)
# What a job step, and enroot's hooks for PyTorch in it, say about a task's rank; a stage is none.
ALONE = (
    "unset RANK LOCAL_RANK NODE_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT "
    r"""$(env | sed -n -E "s/^((SLURM|PMI|PMIX|OMPI)_[A-Za-z0-9_]*)=.*/\1/p")"""
)


def make_launcher(runtime: str, image: str, python: str, mounts: Sequence[str]) -> str:
    """The text of the interpreter's script.

    Args:
        runtime: ``pyxis``, ``enroot`` or ``apptainer``.
        image: squashfs or .sif file.
        python: interpreter within the image.
        mounts: HOST or HOST:INSIDE.
    """
    pairs = [mount if ":" in mount else f"{mount}:{mount}" for mount in ("/tmp", *mounts)]
    image, python = shlex.quote(image), shlex.quote(python)
    found = f"command -v {runtime} > /dev/null"
    if runtime == "pyxis":
        found = "srun --help 2>&1 | grep -q -e --container-image"
        mounts = shlex.quote(",".join(pairs))
        command = (
            f"""job=${{{JOB_ID_VARIABLE}:?containers.runtime pyxis starts images by srun, within a Slurm job only}}\n"""
            f"""alone='{ALONE}'\neval "$alone"\n"""
            """exec srun --jobid="$job" --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --mem=0 \\\n"""
            f"""    --cpu-bind=none --container-writable --container-image={image} \\\n"""
            f"""    --container-mounts={mounts},"$PWD" --container-env="$(echo $names | tr ' ' ,)" \\\n"""
            f"""    --container-workdir="$PWD" sh -c "$alone"'; exec "$0" "$@"' {python} "$@"\n"""
        )
    elif runtime == "enroot":
        options = " ".join(f"--mount {shlex.quote(pair)}" for pair in pairs)
        command = (
            f"""exec enroot start --rw {options} --mount "$PWD:$PWD" $(printf ' --env %s' $names) {image} \\\n"""
            f"""    sh -c 'cd "$0" && exec "$@"' "$PWD" {python} "$@"\n"""
        )
    else:
        options = " ".join(f"--bind {shlex.quote(pair)}" for pair in pairs)
        command = (
            """for name in $names; do export "APPTAINERENV_$name=$(printenv "$name")"; done\n"""
            "gpu=; command -v nvidia-smi > /dev/null && gpu=--nv\n"
            f"""exec apptainer exec $gpu {options} --bind "$PWD" --pwd "$PWD" {image} {python} "$@"\n"""
        )
    return (
        "#!/bin/sh\n# Made by scripts/wrap_image.py.\n"
        f"""missing() {{ echo "error: found no $1 on $(hostname); $2" >&2; exit {EXIT_TRANSIENT}; }}\n"""
        f"""{found} || missing {runtime} 'install it there, or set containers.runtime to what is'\n"""
        f"""[ -r {image} ] || missing {image} 'put the image of containers on a file system that the nodes share'\n"""
        # Packages in the caller's home, where that is mounted, would come before the image's.
        "export PYTHONNOUSERSITE=1\n"
        f"""names="$(env | sed -n -E 's/^(({PASSED_ON})(_[A-Za-z0-9_]*)?)=.*/\\1/p') ${NAMES_VARIABLE}"\n{command}"""
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=("pyxis", "enroot", "apptainer"), required=True)
    parser.add_argument("--image", type=Path, required=True, help="squashfs or .sif file (apptainer)")
    parser.add_argument("--python", default="python3", help="interpreter within the image")
    parser.add_argument("--mount", nargs="*", default=[], metavar="HOST[:INSIDE]", help="further folders to mount")
    parser.add_argument(
        "--output", type=Path, required=True, help="marker FOLDER/NAME.json; the environment is FOLDER/NAME"
    )
    arguments = parser.parse_args()

    if not arguments.image.is_file():
        how = image_command(arguments.runtime, arguments.image)
        raise UnusableInput(f"--image: found no file {arguments.image}; make it with {how}")
    python = arguments.output.with_suffix("") / "bin" / "python"
    check_places(arguments.output.with_suffix(""), arguments.output)
    python.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.unlink(missing_ok=True)
    image = str(arguments.image.resolve())
    write_text(python, make_launcher(arguments.runtime, image, arguments.python, arguments.mount))
    python.chmod(0o755)
    ImageEnvironment(
        image=image,
        image_sha256=digest_of_file(arguments.image),
        runtime=arguments.runtime,
        python=arguments.python,
        mounts=arguments.mount,
    ).write(arguments.output)
    return 0


if __name__ == "__main__":
    run_cli(main)
