"""Secrets in the environment: told by their names, and given to those children alone that need them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

HUB = ("HF_TOKEN",)
"""What loading from the hub needs: gated data sets open to a token."""

SHORTEST = 6
"""Characters of a value from which it is taken for a secret in a text; shorter ones are words."""


def is_secret(name: str) -> bool:
    """Whether an environment variable of that name is taken to hold a secret."""
    return re.search(r"(KEY|TOKEN|SECRET|PASSWORD)S?$", name, re.IGNORECASE) is not None


def without_secrets() -> dict[str, str]:
    """The environment of this process less what holds a secret."""
    return {name: value for name, value in os.environ.items() if not is_secret(name)}


def forget(names: Sequence[str]) -> None:
    """Take these out of the environment of this process, and so of what it starts."""
    for name in names:
        os.environ.pop(name, None)


def hidden(text: str) -> str:
    """A text without the values of secret variables, passwords in URLs, and what looks like a hub's token."""
    for name, value in os.environ.items():
        if is_secret(name) and len(value) >= SHORTEST:
            text = text.replace(value, "***")
    text = re.sub(r"(://[^\s:/@]*:)[^\s@/]+@", r"\1***@", text)
    return re.sub(r"\b(hf_|sk-)[A-Za-z0-9_-]{8,}", r"\1***", text)
