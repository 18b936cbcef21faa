"""The failure classes and decisions of a release, as every artefact names them."""

from __future__ import annotations

from enum import StrEnum


class Decision(StrEnum):
    """What is decided on a release."""

    ACCEPT = "ACCEPT"
    REGRESSION = "REGRESSION"
    ANOMALOUS = "ANOMALOUS"
    INFEASIBLE = "INFEASIBLE"


class FailureClass(StrEnum):
    """Why an assessment did not pass, the more severe first; what follows from each is in day0/decision/failures.py."""

    USER_CONFIG_ERROR = "USER_CONFIG_ERROR"
    MODEL_UNSUPPORTED = "MODEL_UNSUPPORTED"
    QUANT_COVERAGE_FAILURE = "QUANT_COVERAGE_FAILURE"
    DEPLOYMENT_HEALTH_FAILED = "DEPLOYMENT_HEALTH_FAILED"
    SYSTEMIC = "SYSTEMIC"
    INFRA_TRANSIENT = "INFRA_TRANSIENT"
    EVAL_JUDGE_FAILED = "EVAL_JUDGE_FAILED"
    SAMPLE_ACCOUNTING_FAILED = "SAMPLE_ACCOUNTING_FAILED"
    EXTERNAL_BASELINE_MISMATCH = "EXTERNAL_BASELINE_MISMATCH"
    NOT_COMPARABLE = "NOT_COMPARABLE"
    ANSWERS_MALFORMED = "ANSWERS_MALFORMED"
    SEARCH_SPACE_INFEASIBLE = "SEARCH_SPACE_INFEASIBLE"
    TOKEN_GROWTH = "TOKEN_GROWTH"
    TOO_SLOW = "TOO_SLOW"
    SEARCH_EXHAUSTED = "SEARCH_EXHAUSTED"
    SEARCH_BUDGET_SPENT = "SEARCH_BUDGET_SPENT"
    INSUFFICIENT_EVIDENCE = "INSUFFICIENT_EVIDENCE"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def of(cls, name: object) -> FailureClass:
        """The class of that name; UNKNOWN where there is none."""
        return cls(name) if isinstance(name, str) and name in cls.__members__ else cls.UNKNOWN
