"""Stand-in: the folder's digests."""

import argparse
import json
from pathlib import Path

from day0.base.artefacts import digest_of_inventory, inventory, write_json
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=json.loads)
parser.add_argument("--output", type=Path)
arguments = parser.parse_args()

called("source", arguments.model["model"])
files = inventory(arguments.model["path"])
write_json(
    arguments.output,
    {
        "model": arguments.model["model"],
        "path": arguments.model["path"],
        "location": {"path": arguments.model["path"]},
        "files": files,
        "digest": digest_of_inventory(files),
        "parameters": 16,
        "license": None,
    },
)
