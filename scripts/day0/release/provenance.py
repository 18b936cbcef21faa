"""The provenance of a bundle: an in-toto statement about its files with a SLSA provenance predicate.

The statement is not signed: sign SHA256SUMS or this file with the tool of your organisation where receivers ask for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

from day0.records.provenance import (
    BuildDefinition,
    Builder,
    BuildMetadata,
    Descriptor,
    ExternalParameters,
    InternalParameters,
    Predicate,
    ReleaseParameters,
    RunDetails,
    Statement,
)
from day0.records.quantization import Quantization
from day0.records.recipe import Calibration, ResolvedRecipe
from day0.records.source import HubLocation, Source
from day0.records.verdict import Verdict


def make_statement(
    subjects: Mapping[str, str],
    verdict: Verdict,
    record: Quantization,
    source: Source,
    *,
    materials: Mapping[str, str],
    byproducts: Mapping[str, str],
    commands: Mapping[str, str],
    builder: str,
    started: str,
    finished: str,
) -> Statement:
    """The statement of a bundle.

    Args:
        subjects: name of each file of the bundle to its sha256 as hexadecimal digits.
        verdict, record, source: of the release.
        materials: paths of the suite, calibration data and lock files to their sha256.
        byproducts: names of what was made on the way and is no part of the bundle, such as samples, to their sha256.
        commands: what was run, by stage.
        builder: URI of who ran the graph.
        started, finished: RFC 3339 timestamps.
    """
    return Statement(
        subject=_descriptors(subjects),
        predicate=Predicate(
            build_definition=BuildDefinition(
                external_parameters=ExternalParameters(
                    release=ReleaseParameters(
                        model=verdict.model,
                        release=verdict.release,
                        recipe=verdict.recipe,
                        suite=verdict.suite,
                        policy=verdict.policy,
                    ),
                    source=source.location,
                    calibration=record.calibration,
                ),
                internal_parameters=InternalParameters(
                    commands=dict(commands), seed=record.seed, device=record.device, versions=record.versions
                ),
                resolved_dependencies=[
                    *_workflow(verdict.git_commit),
                    *_source(source),
                    _recipe(record.recipe),
                    *_calibration(record.calibration, materials),
                    *_descriptors(materials),
                ],
            ),
            run_details=RunDetails(
                builder=Builder(id=builder),
                metadata=BuildMetadata(
                    invocation_id=f"{verdict.model}/{verdict.release}@{verdict.created}",
                    started_on=started,
                    finished_on=finished,
                ),
                byproducts=_descriptors(byproducts),
            ),
        ),
    )


def _descriptors(files: Mapping[str, str]) -> list[Descriptor]:
    return [Descriptor(name=name, digest={"sha256": digest}) for name, digest in sorted(files.items())]


def _workflow(commit: str | None) -> list[Descriptor]:
    if not commit:
        return []
    changed = {"modified": "the working tree differed from this commit"} if commit.endswith("-dirty") else None
    return [Descriptor(name="workflow", digest={"gitCommit": commit.removesuffix("-dirty")}, annotations=changed)]


def _source(source: Source) -> list[Descriptor]:
    entries = _descriptors({f"source/{name}": entry.sha256 for name, entry in source.files.items()})
    if not isinstance(source.location, HubLocation):
        return entries
    base, revision = f"https://huggingface.co/{source.location.hub}", source.location.revision
    for entry in entries:
        entry.uri = f"{base}/resolve/{revision}/{entry.name.removeprefix('source/')}"
    repository = Descriptor(name="source", uri=f"{base}/tree/{revision}", digest={"gitCommit": revision})
    return [repository, *entries]


def _recipe(recipe: ResolvedRecipe) -> Descriptor:
    """The recipe's definition itself, as sorted JSON, with the digest that the evidence knows it by."""
    text = json.dumps(recipe.definition, sort_keys=True, ensure_ascii=False).encode()
    return Descriptor(
        name=f"recipe {recipe.name}",
        digest={"sha256": hashlib.sha256(text).hexdigest()},
        content=base64.b64encode(text).decode(),
        media_type="application/json",
        annotations={"recipe_digest": str(recipe.digest)},
    )


def _calibration(calibration: Calibration | None, materials: Mapping[str, str]) -> list[Descriptor]:
    """The calibration data where it is no local file, whose digest is among the materials."""
    dataset = calibration.dataset if calibration is not None else None
    if not dataset or dataset in materials:
        return []
    return [Descriptor(name="calibration", uri=f"https://huggingface.co/datasets/{dataset}")]
