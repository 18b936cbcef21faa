"""What a suite needs that its configuration, the environment or a model may not give; found before anything starts.

Suites are mappings with every default filled in.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.base.numbers import is_count, is_number, mapping_or_empty
from day0.suite.harness import lm_eval_scores, own_task_files
from day0.suite.score_names import canonical_score

HUB_TIMEOUT_SECONDS = 5.0
# vLLM 0.32, vllm/entrypoints/launchers/cli_args.py: tools are called only with the first, which needs the second.
TOOL_ARGUMENTS = ("--enable-auto-tool-choice", "--tool-call-parser")


def unallowed_code(suite: Mapping[str, Any], allowed: bool) -> list[str]:
    """A sentence on tasks that run generated code without the configuration's consent."""
    tasks = [task for task, settings in suite["tasks"].items() if settings["runs_generated_code"]]
    if allowed or not tasks:
        return []
    return [
        f"{', '.join(tasks)}: scoring runs code that the model wrote, on the machine that evaluates; use one on which "
        "that is acceptable and set allow_generated_code: true, or take these tasks out"
    ]


def missing_endpoints(suite: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Sentences on judges and simulators in use whose environment variables are not set."""
    problems = []
    for task, settings in suite["tasks"].items():
        for role in ("judge", "simulator"):
            judge = suite["judges"].get(settings[role]) if settings[role] else None
            variables = [judge["url_variable"], judge["key_variable"]] if judge else []
            missing = [variable for variable in variables if variable and not environment.get(variable)]
            if missing:
                problems.append(
                    f"task {task}: its {role} {settings[role]!r} needs the environment variable"
                    f"{'s' * (len(missing) > 1)} {' and '.join(missing)}; set and export what is missing"
                )
    return problems


def missing_tool_arguments(suite: Mapping[str, Any], arguments: Iterable[str]) -> list[str]:
    """A sentence on tasks that offer tools to a model whose server would not parse its calls: each would score 0.

    Args:
        arguments: of the server, ``serving.extra_arguments``.
    """
    tasks = [task for task, settings in suite["tasks"].items() if settings["calls_tools"]]
    given = {argument.partition("=")[0] for argument in arguments}
    missing = [argument for argument in TOOL_ARGUMENTS if argument not in given]
    if not tasks or not missing:
        return []
    return [
        f"{', '.join(tasks)}: the model is offered tools, but serving.extra_arguments lacks {' and '.join(missing)}; "
        "add both (the parser is the one of the model's chat template, such as hermes or qwen3_coder), or take these "
        "tasks out"
    ]


def context_limit(model: Mapping[str, Any]) -> int | None:
    """Tokens that a model can hold, from its config.json; None where that does not say.

    As vLLM derives it: max_position_embeddings of the text model, times the factor of a YaRN rope scaling from its
    original_max_position_embeddings; other scalings are included in max_position_embeddings already.
    """
    config = model.get("text_config")
    text: Mapping[str, Any] = mapping_or_empty(config)
    lengths = [
        value
        for part in (text, model)
        for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
        if is_count(value := part.get(key)) and value > 0
    ]
    if not lengths:
        return None
    scaling = next(
        (
            value
            for part in (text, model)
            for key in ("rope_scaling", "rope_parameters")
            if isinstance(value := part.get(key), Mapping)
        ),
        {},
    )
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    kind = scaling.get("rope_type", scaling.get("type"))
    return (
        max(lengths[0], int(original * factor))
        if kind == "yarn" and is_number(original) and is_number(factor)
        else lengths[0]
    )


def context_limit_of(location: Mapping[str, Any], root: Path = Path()) -> int | None:
    """``context_limit`` of a model by its location: path, or hub and revision.

    Of a model on the hub config.json alone is fetched, once. None where it cannot be read, which other checks report.
    """
    try:
        folder = root / location["path"] if location.get("path") else _fetched_config(location)
        return context_limit(read_json(folder / "config.json"))
    except (UnusableInput, ConnectionError):
        return None


def _fetched_config(location: Mapping[str, Any]) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    which = {"repo_id": location["hub"], "filename": "config.json", "revision": location["revision"]}
    cached = try_to_load_from_cache(**which)
    if isinstance(cached, str):
        return Path(cached).parent
    try:
        # One question without a retry: a plan made without a network must not wait for it.
        get_hf_file_metadata(hf_hub_url(**which), timeout=HUB_TIMEOUT_SECONDS)
        return Path(hf_hub_download(**which)).parent
    except Exception as error:  # every network library has its own family of connection errors
        raise ConnectionError(str(error)) from error


def context_problems(needs: Mapping[str, int], limit: int | None, served: int | None) -> list[str]:
    """Sentences on tasks that need more tokens than a model has, or than its server is given.

    Args:
        needs: tokens by task.
        limit: tokens that the model has; None: not known.
        served: the configured max_model_len; None: what the suite needs.
    """
    problems = []
    for task, needed in needs.items():
        if limit is not None and needed > limit:
            problems.append(
                f"task {task} needs {needed} tokens of context, the model has {limit}; take the task out, or give its "
                "context_length a smaller value if its prompts allow"
            )
        elif served is not None and needed > served:
            problems.append(
                f"task {task} needs {needed} tokens of context, serving.max_model_len is {served}; raise it"
            )
    return problems


def unknown_scores(suite: Mapping[str, Any], root: Path) -> list[str]:
    """Sentences on scores that a suite's own lm-eval task files do not give."""
    files: dict[str, tuple[Path, set[str]]] = {}
    for file, content in own_task_files(suite["include_path"], root).items():
        scores = lm_eval_scores(content)
        if isinstance(content.get("task"), str) and scores:
            files[content["task"]] = (file, scores)
    problems = []
    for name, task in suite["tasks"].items():
        path, scores = files.get(task["task"].rpartition(".")[2], (None, set()))
        if path is None or any(task["metric"] in (score, canonical_score(score)[0]) for score in scores):
            continue
        near = difflib.get_close_matches(task["metric"], scores, n=1)
        problems.append(
            f"task {name}: metric {task['metric']!r} is none of {path}; it has {', '.join(sorted(scores))}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    return problems
