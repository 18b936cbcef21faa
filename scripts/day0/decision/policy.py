"""Read a policy from whatever is given as one.

Reading never raises: what is wrong becomes a problem of class USER_CONFIG_ERROR, and a comparison with a problem is
never an ACCEPT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from day0.base.mistakes import mistakes_of
from day0.decision.quoting import printable, short
from day0.records.failure_class import FailureClass
from day0.records.policy import Policy, Scale

POLICY_KEYS = tuple(Policy.model_fields)

Problem = tuple[FailureClass, str]  # with the sentence that says what is wrong


def assumed_scale(*scores: float) -> Scale:
    """The scale of a task that declares none: up to 1 where all its scores lie in [0, 1], else up to 100."""
    return Scale(max=1.0 if all(0 <= score <= 1 for score in scores) else 100.0)


def read_policy(raw: Any) -> tuple[Policy, list[Problem]]:
    """A policy from a mapping with the keys ``POLICY_KEYS``, and a problem for each mistake in it.

    Args:
        raw: the policy's content; a key that is None counts as left out, except for the threshold.

    Returns:
        (policy, problems); with problems the policy is the default one.
    """
    if not isinstance(raw, Mapping):
        return Policy(), [(FailureClass.USER_CONFIG_ERROR, f"policy: expected a mapping, found {short(raw)}")]
    given = {key: value for key, value in raw.items() if value is not None or key == "threshold"}
    if isinstance(given.get("scales"), list | tuple | str) and not given["scales"]:
        del given["scales"]  # no scale, as the original design takes it, whatever it is written as
    try:
        policy = Policy.model_validate(given)
    except ValidationError as error:
        lines = mistakes_of(error, Policy, "policy")
        return Policy(), [(FailureClass.USER_CONFIG_ERROR, printable(line)) for line in lines]
    for name in (*policy.scales, *policy.tiers, *policy.thresholds.tasks):
        if name != printable(name):
            return Policy(), [(FailureClass.USER_CONFIG_ERROR, f"policy: {name!r} is no name of a task")]
    return policy, []


def with_declared(raw: Mapping[str, Any], **declared: Mapping[str, Any]) -> dict[str, Any]:
    """A raw policy with what the runs declare of their tasks (scales, tiers) where it says nothing of them itself."""
    settings = dict(raw)
    for key, found in declared.items():
        given = settings.get(key)
        if given is None or isinstance(given, Mapping):
            settings[key] = {**found, **(given or {})}
    return settings
