"""Describe the source model: its files with sizes and digests, configuration, precisions and digests of its texts.

A local folder is described where it lies. A hub repository is fetched at its pinned commit with huggingface_hub, which
resumes an interrupted download, fetches nothing that is complete already, and honours HF_HUB_OFFLINE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from day0.base.cli import EXIT_PASS, UnusableInput, json_argument, run_cli
from day0.records.source import FolderLocation, HubLocation
from day0.source.model_folder import check_model_folder, describe_source
from day0.source.recorded_files import write_states_beside

ALLOWED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*", "*.jsonl"]


def fetch(hub: str, revision: str, trust_remote_code: bool) -> Path:
    """Fetch a hub repository at a commit into the hub's cache and return the folder.

    Raises:
        UnusableInput: there is no such repository or commit, or it may not be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ALLOWED_FILES + (["*.py"] if trust_remote_code else [])
    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise UnusableInput(f"{hub}: access to the repository must be asked for, and HF_TOKEN set: {error}") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UnusableInput(f"{hub} at {revision}: no such repository or commit: {error}") from error
    except LocalEntryNotFoundError as error:
        raise UnusableInput(
            f"{hub} at {revision}: the hub cannot be reached and the cache does not hold it: {error}"
        ) from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, help='JSON: {"model": NAME, "path": FOLDER | "hub": ID, "revision": COMMIT}'
    )
    parser.add_argument("--output", type=Path, required=True, help="source.json to write")
    arguments = parser.parse_args()

    model = json_argument("--model", arguments.model)
    trust_remote_code = bool(model.get("trust_remote_code"))
    location: HubLocation | FolderLocation
    if model.get("hub"):
        location = HubLocation(hub=model["hub"], revision=model["revision"])
        folder = fetch(location.hub, location.revision, trust_remote_code)
    else:
        location = FolderLocation(path=model["path"])
        folder = Path(location.path)
    problem = check_model_folder(str(folder))
    if problem:
        raise UnusableInput(problem)
    source, states = describe_source(folder, model["model"], location, trust_remote_code)
    write_states_beside(arguments.output, states)
    source.write(arguments.output)
    print(
        f"{source.model}: {source.parameters:,} parameters in {source.payload_bytes:,} bytes, "
        f"{len(source.files)} files, digest {source.digest[:12]}"
    )
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
