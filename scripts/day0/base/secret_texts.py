"""Secrets in texts that people write: known by the name of a variable, or by the look of a value."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_NAME = re.compile(
    r"(^|[_.-])(TOKENS?|KEYS?|SECRETS?|PASS(WORD|WD|PHRASE)?|PWD|CREDENTIALS?|PATS?|AUTH(ORIZATION)?|BEARER|COOKIE|PRIVATE|JWT)([_.-]|$)"
    r"|(APIKEY|ACCESSKEY|SECRETKEY|TOKEN|PASSWORD|PASSWD|SECRET)S?\d*$",
    re.IGNORECASE,
)
# The forms that issuers give their secrets, so that a scanner finds them; each with what it is.
_VALUES = {
    "a token of the Hugging Face hub": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a token of GitHub": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})"),
    "a token of GitLab": re.compile(r"\bglpat-[\w-]{16,}"),
    "a key of an API": re.compile(r"\b(sk|nvapi|xox[abpr])-[\w-]{16,}"),
    "a key of AWS": re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a key of Google": re.compile(r"\bAIza[\w-]{35}"),
    "a key of Azure": re.compile(r"\b(AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{20,}"),
    "a token of Databricks": re.compile(r"\bdapi[0-9a-f]{32}\b"),
    "a JSON web token": re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in an address": re.compile(
        r"(?<![:\w/])//[^/\s@:]+:[^/\s@]*@|[a-z][a-z0-9+.-]*://[^/\s@:]*:?[^/\s@]*@", re.IGNORECASE
    ),
    "a secret in an address": re.compile(
        r"://\S*[?&;#]([\w-]*[_-])?(token|key|api_?key|sig|signature|secret|password|passwd|auth|credential)=[^&\s]",
        re.IGNORECASE,
    ),
    "a value of an authorization header": re.compile(r"\b(Bearer|Basic) [A-Za-z0-9+/._~-]{12,}"),
}


# What gives a process access to the model hub, and to a network behind a proxy, whose address may hold a password.
HUB_VARIABLES = frozenset({"HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"})
PROXY_VARIABLES = frozenset({f"{kind}_proxy" for kind in ("http", "https", "ftp", "all")})
PROXY_VARIABLES |= {name.upper() for name in PROXY_VARIABLES}


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable says that it holds a secret."""
    return _NAME.search(name) is not None


def secrets_in(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables that hold a secret, by their names or by their values."""
    # PWD, by which others mean a password, is the working directory.
    return [
        name for name, value in environment.items() if name != "PWD" and (is_secret_name(name) or kind_of_secret(value))
    ]


def without_secrets(environment: Mapping[str, str], needed: Collection[str] = ()) -> dict[str, str]:
    """The variables of a process that needs none of its caller's secrets but those named."""
    secret = set(secrets_in(environment)) - set(needed)
    return {name: value for name, value in environment.items() if name not in secret}


def kind_of_secret(text: str) -> str | None:
    """What a text looks like, or holds, if that is a secret."""
    return next((kind for kind, form in _VALUES.items() if form.search(text)), None)


def find_secrets(content: Any) -> Iterator[tuple[str, str]]:
    """Place and kind of each text of a configuration that looks like a secret; the text itself is not repeated."""
    for place, text in _texts(content):
        if kind := kind_of_secret(text):
            yield place, kind


def find_unwritable(content: Any) -> Iterator[str]:
    """Place of each text of a configuration that cannot be an argument of a command: it holds a NUL."""
    return (place for place, text in _texts(content) if "\0" in text)


def _texts(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Place and content of each text within, keys included."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(key, str):
                yield f"a key of {place or 'the configuration'}", key
            yield from _texts(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _texts(value, f"{place}[{number}]")
