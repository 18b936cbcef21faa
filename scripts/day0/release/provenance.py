"""The provenance of a bundle: an in-toto statement about its files with a SLSA provenance predicate.

Formats: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and
https://slsa.dev/spec/v1.0/provenance. The statement is not signed: sign SHA256SUMS or this file with the tool of your
organisation where receivers ask for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:day0:release:v1"


def make_statement(
    subjects: Mapping[str, str],
    verdict: Mapping[str, Any],
    record: Mapping[str, Any],
    source: Mapping[str, Any],
    *,
    materials: Mapping[str, str],
    byproducts: Mapping[str, str],
    commands: Mapping[str, str],
    builder: str,
    started: str,
    finished: str,
) -> dict[str, Any]:
    """The statement of a bundle.

    Args:
        subjects: name of each file of the bundle to its sha256 as hexadecimal digits.
        verdict, record, source: verdict.json, quantization.json and source.json.
        materials: paths of the suite, calibration data and lock files to their sha256.
        byproducts: names of what was made on the way and is no part of the bundle, such as samples, to their sha256.
        commands: what was run, by stage.
        builder: URI of who ran the graph.
        started, finished: RFC 3339 timestamps.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": _descriptors(subjects),
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "release": {key: verdict.get(key) for key in ("model", "release", "recipe", "suite", "policy")},
                    "source": source.get("location"),
                    "calibration": record.get("calibration"),
                },
                "internalParameters": {
                    "commands": dict(commands),
                    "seed": record.get("seed"),
                    "device": record.get("device"),
                    "versions": record.get("versions"),
                },
                "resolvedDependencies": [
                    *_workflow(verdict.get("git_commit")),
                    *_source(source),
                    _recipe(record.get("recipe") or {}),
                    *_calibration(record.get("calibration") or {}, materials),
                    *_descriptors(materials),
                ],
            },
            "runDetails": {
                "builder": {"id": builder},
                "metadata": {
                    "invocationId": f"{verdict.get('model')}/{verdict.get('release')}@{verdict.get('created')}",
                    "startedOn": started,
                    "finishedOn": finished,
                },
                "byproducts": _descriptors(byproducts),
            },
        },
    }


def _descriptors(files: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())]


def _workflow(commit: Any) -> list[dict[str, Any]]:
    if not commit:
        return []
    entry = {"name": "workflow", "digest": {"gitCommit": str(commit).removesuffix("-dirty")}}
    dirty = str(commit).endswith("-dirty")
    return [entry | ({"annotations": {"modified": "the working tree differed from this commit"}} if dirty else {})]


def _source(source: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    location = source.get("location") or {}
    hub, revision = location.get("hub"), location.get("revision")
    files = {name: entry["sha256"] for name, entry in (source.get("files") or {}).items()}
    if not hub:
        return _descriptors({f"source/{name}": digest for name, digest in files.items()})
    base = f"https://huggingface.co/{hub}"
    repository = {"name": "source", "uri": f"{base}/tree/{revision}", "digest": {"gitCommit": revision}}
    entries = _descriptors({f"source/{name}": digest for name, digest in files.items()})
    uris = [f"{base}/resolve/{revision}/{name}" for name in sorted(files)]
    return [repository, *({**entry, "uri": uri} for entry, uri in zip(entries, uris, strict=True))]


def _recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's definition itself, as sorted JSON, with the digest that the evidence knows it by."""
    text = json.dumps(recipe.get("definition"), sort_keys=True, ensure_ascii=False).encode()
    return {
        "name": f"recipe {recipe.get('name')}",
        "digest": {"sha256": hashlib.sha256(text).hexdigest()},
        "content": base64.b64encode(text).decode(),
        "mediaType": "application/json",
        "annotations": {"recipe_digest": str(recipe.get("digest"))},
    }


def _calibration(calibration: Mapping[str, Any], materials: Mapping[str, str]) -> list[dict[str, Any]]:
    """The calibration data where it is no local file, whose digest is among the materials."""
    dataset = calibration.get("dataset")
    if not dataset or dataset in materials:
        return []
    return [{"name": "calibration", "uri": f"https://huggingface.co/datasets/{dataset}"}]
