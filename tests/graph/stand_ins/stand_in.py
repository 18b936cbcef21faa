"""What all stand-ins share: they do as behaviour.json says, and leave a line in calls.log.

A behaviour may ask to crash in the first ``crashes`` calls, to refuse its input with what ``refuses`` says, to wait in
the n-th call for the n-th file of ``waits_for`` (an interrupt is said and ends it), to take ``bytes`` of memory and
keep it in the first ``overeats`` calls, and to write down its ``environment`` in a file.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def called(stage, subject):
    """Record a call; crash where the behaviour asks for it; return the behaviour of this stage and subject."""
    with open("calls.log", "a") as log:
        log.write(f"{stage} {subject}\n")
    behaviour = json.loads(Path("behaviour.json").read_text()).get(stage, {}).get(subject, {})
    crashes = behaviour.get("crashes", 0)
    calls = Path("calls.log").read_text().splitlines().count(f"{stage} {subject}")
    if calls <= crashes:
        print(f"{stage} {subject}: crashing in call {calls}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if calls <= behaviour.get("transient", 0):
        print(f"{stage} {subject}: transient in call {calls}", flush=True)
        sys.exit(75)
    if "refuses" in behaviour:
        print(f"error: {behaviour['refuses']}", file=sys.stderr)
        sys.exit(2)

    def interrupted(number, frame):
        time.sleep(1)  # as long as the cleaning up takes
        print(f"{stage} {subject}: interrupted", flush=True)
        sys.exit(75)

    if behaviour.get("waits_for"):
        signal.signal(signal.SIGINT, interrupted)
        print(f"{stage} {subject}: waits", flush=True)
    for path in behaviour.get("waits_for", [])[calls - 1 : calls]:
        deadline = time.monotonic() + 150
        while not Path(path).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    if calls <= behaviour.get("overeats", 0):
        block = bytearray(behaviour["bytes"])
        block[:: os.sysconf("SC_PAGE_SIZE")] = b"1" * len(block[:: os.sysconf("SC_PAGE_SIZE")])
        time.sleep(150)
    if "environment" in behaviour:
        Path(behaviour["environment"]).write_text(json.dumps(dict(os.environ)))
    return behaviour


def write_safetensors(path, tensors):
    """Write BF16 or U8 zeros: {name: (dtype, shape)}."""
    header, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = {"BF16": 2, "U8": 1, "F8_E4M3": 1, "F32": 4}[dtype]
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))
