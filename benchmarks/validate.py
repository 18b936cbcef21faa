"""Speed of the checkpoint gate on synthetic checkpoints: seconds, peak memory and bytes read, by sparse files.

The models have the tensors of an 8 B and a 405 B dense Llama and of a 671 B mixture of experts (60 layers of 512
experts, 160 shards), quantized to NVFP4; only headers and scalar scales are written, the weights are holes. Each is
judged by ``scripts/gate_ptq.py`` as from the shell, the start of Python included, and again without the comparison of
values. ``--python`` names an interpreter that has safetensors and torch: with it the 8 B one is compared with loading
every tensor, as a ratio. ``--deep`` is compared with ``cat`` of the files of a checkpoint and its
source, of real bytes, from the disk (dropped from the page cache before either) and from the page cache; from the disk
it must reach 70 % by the median. The headers and indexes of the 671 B one are also read and decoded alone by typed
msgspec, into an object for each tensor: without the values the gate may take 1.2 times the CPU time of that, and the
values may add 30 % to it. Exits 1 where it misses one of the three.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
WRITTEN = ("F32", "BF16", "F8_E4M3", "U8")  # the order of types in a file that safetensors wrote
ITEM = {"BF16": 2, "U8": 1, "F8_E4M3": 1, "F32": 4}
SIZES = {
    "8b": {"layers": 32, "hidden": 4096, "inner": 14336, "kv": 1024, "vocabulary": 128256, "shards": 4},
    "405b": {"layers": 126, "hidden": 16384, "inner": 53248, "kv": 1024, "vocabulary": 128256, "shards": 86},
    "671b": {"layers": 61, "hidden": 7168, "inner": 18432, "kv": 1024, "vocabulary": 129280, "shards": 160}
    | {"dense": 1, "experts": 512, "expert_inner": 1024},
}
# Most wall time without the values, as a multiple of a process that imports the same libraries, reads the headers and
# indexes and decodes them, and most CPU time with the values, as a multiple of that without them.
MOST_OF_FLOOR, MOST_WITH_VALUES = 1.2, 1.3
Entry = tuple[str, str, list[int]]


def linears(size: dict) -> Iterator[tuple[str, int, int]]:
    """Name, out-features and in-features of every linear layer that the recipe quantizes."""
    hidden = size["hidden"]
    for layer in range(size["layers"]):
        place = f"model.layers.{layer}"
        for leaf, out in (("q", hidden), ("k", size["kv"]), ("v", size["kv"]), ("o", hidden)):
            yield f"{place}.self_attn.{leaf}_proj", out, hidden
        if layer < size.get("dense", size["layers"]):
            blocks = [(f"{place}.mlp", size["inner"])]
        else:
            blocks = [(f"{place}.mlp.experts.{e}", size["expert_inner"]) for e in range(size["experts"])]
            blocks.append((f"{place}.mlp.shared_experts", size["expert_inner"]))
        for block, inner in blocks:
            yield f"{block}.gate_proj", inner, hidden
            yield f"{block}.up_proj", inner, hidden
            yield f"{block}.down_proj", hidden, inner


def plain(size: dict) -> Iterator[Entry]:
    hidden = size["hidden"]
    yield "model.embed_tokens.weight", "BF16", [size["vocabulary"], hidden]
    yield "lm_head.weight", "BF16", [size["vocabulary"], hidden]
    yield "model.norm.weight", "BF16", [hidden]
    for layer in range(size["layers"]):
        for leaf in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{leaf}.weight", "BF16", [hidden]
        if layer >= size.get("dense", size["layers"]):
            yield f"model.layers.{layer}.mlp.gate.weight", "BF16", [size["experts"], hidden]


def quantized(size: dict) -> Iterator[list[Entry]]:
    for name, out, inputs in linears(size):
        yield [
            (f"{name}.weight", "U8", [out, inputs // 2]),
            (f"{name}.weight_scale", "F8_E4M3", [out, inputs // 16]),
            (f"{name}.weight_scale_2", "F32", []),
            (f"{name}.input_scale", "F32", []),
        ]


def write_shards(folder: Path, groups: list[list[Entry]], count: int, is_scattered: bool) -> None:
    """Write shards of about equally many tensors, all scalars of value 1.

    The tensors of a shard are in the order in which safetensors writes them: wide types first, then by name. With
    ``is_scattered`` those of a module follow one another, so that each module's scalars lie apart.
    """
    weight_map, per_shard = {}, -(-len(groups) // count)
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        header, scalars, end = {}, [], 0
        entries = [entry for group in groups[number * per_shard :][:per_shard] for entry in group]
        if not is_scattered:
            entries.sort(key=lambda entry: (WRITTEN.index(entry[1]), entry[0]))
        for name, dtype, shape in entries:
            bytes_ = ITEM[dtype]
            for extent in shape:
                bytes_ *= extent
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes_]}
            if not shape:
                scalars.append(end)
            end += bytes_
            weight_map[name] = file
        text = json.dumps(header, separators=(",", ":")).encode()
        with open(folder / file, "wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for place in scalars:
                stream.seek(8 + len(text) + place)
                stream.write(b"\x00\x00\x80\x3f")
            stream.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def make(folder: Path, size: dict, is_scattered: bool = False) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": size["layers"], "tie_word_embeddings": False}
    routers = [f"model.layers.{n}.mlp.gate" for n in range(size.get("dense", size["layers"]), size["layers"])]
    excluded = ["lm_head", "model.embed_tokens", *routers]
    declared = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": excluded, "kv_cache_quant_algo": None}
    others = [[entry] for entry in plain(size)]
    for side in ("source", "checkpoint"):
        (folder / side).mkdir(parents=True)
        is_source = side == "source"
        groups = [[(f"{n}.weight", "BF16", [out, i])] for n, out, i in linears(size)] if is_source else quantized(size)
        write_shards(folder / side, [*others, *groups], size["shards"], is_scattered)
        inner = (
            {}
            if is_source
            else {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": excluded}}
        )
        (folder / side / "config.json").write_text(json.dumps(config | inner))
    (folder / "checkpoint" / "hf_quant_config.json").write_text(json.dumps({"quantization": declared}))
    cfg = {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}
    patterns = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": cfg},
        {"quantizer_name": "*input_quantizer", "cfg": cfg},
        *({"quantizer_name": name, "enable": False} for name in ("*lm_head*", "*mlp.gate.*", "*router*", "*embed*")),
    ]
    from day0.records.quantization import ModelOptConfiguration, Quantization, RecordedRecipe
    from day0.records.recipe import Calibration

    recipe = {"name": "nvfp4", "kind": "preset", "definition": {"preset": "nvfp4"}, "digest": "0" * 64}
    Quantization.begun(
        model="synthetic",
        source_digest=None,
        recipe=RecordedRecipe(**recipe, quant_cfg=ModelOptConfiguration(quantize={"quant_cfg": patterns})),
        kv_cache=None,
        calibration=Calibration(),
        seed=0,
        device="cpu",
        versions={},
    ).write(folder / "record.json")


WITHOUT_VALUES = """
import runpy, sys
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
import day0.checkpoint.assess
day0.checkpoint.assess.compare_contents = lambda *_, **__: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


FLOOR = """
import gc, os, sys
from pathlib import Path
import msgspec, numpy
from pydantic import BaseModel
gc.disable()
class Entry(msgspec.Struct, gc=False):
    dtype: str = ""
    shape: tuple[int, ...] = ()
    data_offsets: tuple[int, int] = (0, 0)
class Index(msgspec.Struct):
    weight_map: dict[str, str]
held = []
for side in ("source", "checkpoint"):
    folder = Path(sys.argv[1], side)
    held.append(msgspec.json.decode((folder / "model.safetensors.index.json").read_bytes(), type=Index))
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as stream:
            text = stream.read(int.from_bytes(stream.read(8), "little"))
        held.append(msgspec.json.decode(text, type=dict[str, Entry]))
os._exit(0)
"""


def floor_of(folder: Path) -> float:
    """Wall seconds of a process that reads and decodes the headers and indexes of a checkpoint and its source.

    It imports the libraries that the check stands on, decodes into typed objects and decides nothing.
    """
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", FLOOR, str(folder)], check=True)
    return time.perf_counter() - start


def run_gate(folder: Path, deep: bool = False, engine: bool = True, values: bool = True, record: bool = True) -> dict:
    """Run scripts/gate_ptq.py as from the shell; what the whole process took, its start included."""
    command = [sys.executable, *([] if values else ["-c", WITHOUT_VALUES]), str(ROOT / "scripts" / "gate_ptq.py")]
    for name in ("checkpoint", "source"):
        command += [f"--{name}", str(folder / name)]
    command += [*(["--record", str(folder / "record.json")] if record else [])]
    command += ["--output", str(folder / "validation.json")]
    command += [*(["--deep"] if deep else []), *(["--engine", "vllm"] if engine else [])]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - start
    counters = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
    _, _, usage = os.wait4(process.pid, 0)
    validation = json.loads((folder / "validation.json").read_text())
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "bytes_read": int(counters["rchar"]),
        "layers": validation["layer_precision_counts"],
        "pass": validation["pass"],
        "detail": validation["detail"][:300],
        "validation_bytes": (folder / "validation.json").stat().st_size,
    }


LOAD = """
import sys, time, glob
start = time.perf_counter()
from safetensors import safe_open
count = 0
for file in sorted(glob.glob(sys.argv[1] + "/*.safetensors")):
    with safe_open(file, framework="pt") as handle:
        for name in handle.keys():
            count += handle.get_tensor(name).clone().numel()
print(time.perf_counter() - start)
"""


def make_deep(folder: Path, gigabytes: float) -> None:
    """Write a checkpoint in FP8 and its source, of real bytes: one matrix of 8192 x 8192 after another."""
    import numpy

    sys.path.insert(0, str(ROOT / "scripts"))
    from day0.checkpoint.dequantize import decode, open_files

    rows = 8192
    count = max(int(gigabytes * 1e9 / (3 * rows * rows)), 1)
    names = [f"model.layers.{n}.mlp.up_proj" for n in range(count)]
    codes = numpy.random.default_rng(1).integers(1, 127, rows * rows, dtype=numpy.uint8)
    with open_files() as files:
        values = (decode("F8_E4M3", codes, files).view(numpy.uint32) >> 16).astype("<u2")
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": count, "tie_word_embeddings": False}
    for side in ("source", "checkpoint"):
        (folder / side).mkdir(parents=True)
        header, end = {}, 0
        for name in names:
            forms = [("weight", "BF16", [rows, rows])]
            if side == "checkpoint":
                forms = [("input_scale", "F32", []), ("weight_scale", "F32", []), ("weight", "F8_E4M3", [rows, rows])]
            for leaf, dtype, shape in forms:
                size = ITEM[dtype] * (rows * rows if shape else 1)
                header[f"{name}.{leaf}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
                end += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # as safetensors writes it, so that the payload is aligned
        with open(folder / side / "model.safetensors", "wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for _ in names:
                stream.write(values.tobytes() if side == "source" else b"\x00\x00\x80\x3f" * 2 + codes.tobytes())
        declared = {"quant_algo": "FP8", "exclude_modules": []}
        inner = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": []} if side == "checkpoint" else None
        plain = config if inner is None else config | {"quantization_config": inner}
        (folder / side / "config.json").write_text(json.dumps(plain))
    (folder / "checkpoint" / "hf_quant_config.json").write_text(json.dumps({"quantization": declared}))


def drop_from_cache(file: str) -> None:
    """Have the next read come from the disk."""
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def compare_deep(folder: Path, gigabytes: float, rounds: int) -> float:
    """Speed of --deep, less what the same gate takes without reading, against cat of both files; median from disk."""
    # In a process of its own: what this one once held would count as the peak of those that it starts.
    making = multiprocessing.Process(target=make_deep, args=(folder, gigabytes))
    making.start()
    making.join()
    files = [str(folder / side / "model.safetensors") for side in ("checkpoint", "source")]
    size = sum(os.path.getsize(file) for file in files)
    medians = {}
    for cache in ("cold", "warm"):
        ratios = []
        for _ in range(rounds):
            for file in files if cache == "cold" else ():
                drop_from_cache(file)
            start = time.perf_counter()
            subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)
            plain_cat = time.perf_counter() - start
            flat = run_gate(folder, engine=False, values=False, record=False)
            for file in files if cache == "cold" else ():
                drop_from_cache(file)
            deep = run_gate(folder, deep=True, engine=False, record=False)
            reading = max(deep["seconds"] - flat["seconds"], 1e-9)
            ratios.append(plain_cat / reading)
            print(
                f"deep, {cache} cache: {size / 1e9:.2f} GB, cat {plain_cat:.2f} s, --deep {deep['seconds']:.2f} s of "
                f"which {reading:.2f} s reading: {ratios[-1]:.0%} of cat; peak {deep['peak_bytes'] / 2**20:.0f} MiB "
                f"(headers alone {flat['peak_bytes'] / 2**20:.0f}), pass {deep['pass']}",
                flush=True,
            )
        medians[cache] = sorted(ratios)[len(ratios) // 2]
        print(f"deep, {cache} cache: median {medians[cache]:.0%} of cat's speed")
    return medians["cold"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--python", help="interpreter with safetensors and torch, for the comparison on the 8 B model")
    parser.add_argument("--deep", action="store_true", help="compare --deep with cat, too")
    parser.add_argument("--gigabytes", type=float, default=2, help="bytes of the comparison with cat")
    parser.add_argument(
        "--scattered", action="store_true", help="each module's scalars beside its weights, as no exporter writes them"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to make the checkpoints; must keep sparse files sparse")
    arguments = parser.parse_args()
    missed: list[str] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for size in arguments.sizes:
            folder = Path(name) / size
            make(folder, SIZES[size], arguments.scattered)
            runs = [(run_gate(folder), run_gate(folder, values=False)) for _ in range(arguments.rounds)]
            best = min((run for run, _ in runs), key=lambda figures: figures["seconds"])
            ratio = sorted(run["cpu_seconds"] / alone["cpu_seconds"] for run, alone in runs)[len(runs) // 2]
            compared = ""
            if size == "671b":
                floors = [floor_of(folder) for _ in runs]
                ratios = sorted(alone["seconds"] / floor for (_, alone), floor in zip(runs, floors, strict=True))
                of_floor = ratios[len(runs) // 2]
                compared = (
                    f"; without them {min(alone['seconds'] for _, alone in runs):.2f} s "
                    f"({min(alone['cpu_seconds'] for _, alone in runs):.2f} s of CPU), {of_floor:.2f} times the "
                    f"{min(floors):.2f} s of a process that reads and decodes headers and indexes"
                )
                missed += [f"{size}: {of_floor:.2f} times reading"] if of_floor > MOST_OF_FLOOR else []
                missed += [f"{size}: the values add {ratio - 1:.0%}"] if ratio > MOST_WITH_VALUES else []
            print(
                f"{size}: {best['seconds']:.2f} s ({best['cpu_seconds']:.2f} s of CPU), "
                f"peak {best['peak_bytes'] / 2**20:.0f} MiB, {best['bytes_read'] / 1e6:.1f} MB read, "
                f"layers {best['layers']}, pass {best['pass']}, "
                f"validation.json {best['validation_bytes'] / 1e3:.0f} kB, values add {ratio - 1:.0%} of CPU{compared}"
                + ("" if best["pass"] else best["detail"]),
                flush=True,
            )
            if size == "8b" and arguments.python:
                command = [arguments.python, "-c", LOAD, str(folder / "checkpoint")]
                seconds = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                print(f"8b: loading every tensor {seconds:.2f} s, {seconds / best['seconds']:.0f} times as long")
            shutil.rmtree(folder)
        if arguments.deep:
            speed = compare_deep(Path(name) / "deep", arguments.gigabytes, arguments.rounds)
            missed += [f"--deep from the disk: {speed:.0%} of cat"] if speed < 0.7 else []
    print("; ".join(missed) or "within its limits")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
