"""Stand-in: the folder's digests."""

import argparse
import json
from pathlib import Path

from day0.records.files import digest_of_files, list_files
from day0.records.source import FolderLocation, Source
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=json.loads)
parser.add_argument("--output", type=Path)
arguments = parser.parse_args()

called("source", arguments.model["model"])
path = arguments.model["path"]
files = list_files(Path(path))
Source(
    model=arguments.model["model"],
    location=FolderLocation(path=path),
    path=path,
    files=files,
    digest=digest_of_files(files),
    payload_bytes=32,
    parameters=16,
    dtypes={"BF16": 16},
    config={},
    trust_remote_code=False,
).write(arguments.output)
