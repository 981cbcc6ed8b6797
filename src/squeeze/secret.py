"""Secrets in the environment: told by name or form, and given to those children alone that need them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Literal
from urllib.parse import unquote

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

HUB = ("HF_TOKEN", "HF_ENDPOINT", *_PROXIES, *map(str.lower, _PROXIES))
"""What loading from the hub needs: gated data sets open to a token, and a way there may have a password."""

SHORTEST = 6
"""Characters of a value from which it is taken for a secret in a text; shorter ones are words."""


_NAME = re.compile(
    r"((KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)S?|(^|_)(PASS|PAT)|_PWD)(_ID|_?\d+)?$", re.IGNORECASE
)
_LOGIN = re.compile(r"://[^\s:/@]*:([^\s@/]+)@")
_USER = re.compile(r"[^:]*(?:://[^:]*)?+:")
_ARGUMENT = re.compile(r"([?&]\w{0,40}(?:pass|pwd|secret|token|key)\w{0,40}=)[^\s&]+", re.IGNORECASE)


def is_secret(name: str, value: str = "") -> bool:
    """Whether an environment variable is taken to hold a secret: by its name, or as a URL with a password."""
    return _NAME.search(name) is not None or _LOGIN.search(value) is not None


def without_secrets() -> dict[str, str]:
    """The environment of this process less what holds a secret."""
    return {name: value for name, value in os.environ.items() if not is_secret(name, value)}


def forget(names: Sequence[str]) -> None:
    """Take these out of the environment of this process, and so of what it starts."""
    for name in names:
        os.environ.pop(name, None)


def hub_token() -> str | Literal[False]:
    """The hub's token of the environment; False: none, also where a login left one on this machine."""
    return os.environ.get("HF_TOKEN") or False


def hidden(text: str, *, typed: bool = False) -> str:
    """A text without the values of secret variables, passwords in URLs, and what looks like a hub's token.

    typed: somebody typed what it may repeat, and a URL may have been mistyped: of a word with an ``@``,
    whatever comes after a user's name and a colon may be a password, up to the last ``@``.
    """
    known = [value for name, value in os.environ.items() if _NAME.search(name)]
    for password in (found[1] for value in os.environ.values() for found in _LOGIN.finditer(value)):
        known += [password, unquote(password)]
    for value in sorted(known, key=len, reverse=True):
        if len(value) >= SHORTEST:
            text = text.replace(value, "***")
    text = re.sub(r"(://[^\s:/@]*:)[^\s@/]+@", r"\1***@", _ARGUMENT.sub(r"\1***", text))
    if typed:
        text = re.sub(r"\S+", _without_login, text)
    return re.sub(r"\b(hf_|sk-)[A-Za-z0-9_-]{8,}", r"\1***", text)


def _without_login(word: re.Match[str]) -> str:
    login, _, place = word[0].rpartition("@")
    user = _USER.match(login)
    return f"{user[0]}***@{place}" if user else word[0]
