"""What the columns of a row must hold, and which rows do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""One example of a data set: column name -> value."""

Check = Callable[[Any, Row], str | None]
"""What a column of a row must hold, where it does not."""

PLACEHOLDERS = ("titles", "context", "question")
"""Columns of Ko-LongRAG that its column prompt has a place for, each in braces."""


@dataclass(frozen=True)
class Misfit:
    """A row that cannot be asked or scored, by its first wrong column. row: counted from 1."""

    row: int
    column: str
    rule: str
    value: Any

    def __str__(self) -> str:
        return f"row {self.row}, {self.column}: must be {self.rule}; got {_shown(self.value)}"


def misfits(columns: Mapping[str, Check], rows: Sequence[Row]) -> list[Misfit]:
    """The rows that break the rule of some column, in order. A column that a row lacks is None there."""
    found = []
    for number, row in enumerate(rows, 1):
        for column, check in columns.items():
            value = row.get(column)
            rule = check(value, row)
            if rule is not None:
                found.append(Misfit(number, column, rule, value))
                break
    return found


def text(value: Any, row: Row) -> str | None:
    """Text that is not blank, and that can be encoded: a lone surrogate, legal in JSON, cannot."""
    if not isinstance(value, str) or not value.strip():
        return "text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "text of valid Unicode"
    return None


def number(value: Any, row: Row) -> str | None:
    """A whole number."""
    return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"


def label(value: Any, row: Row) -> str | None:
    """A whole number or text."""
    return number(value, row) and text(value, row) and "text or a whole number"


def texts(value: Any, row: Row) -> str | None:
    """A list of texts, at least one."""
    return None if value and _texts(value) else "a list of texts"


def options(value: Any, row: Row) -> str | None:
    """The options of a multiple-choice question: 4 or 5 texts."""
    return None if _texts(value) and len(value) in (4, 5) else "a list of 4 or 5 texts"


def solution(value: Any, row: Row) -> str | None:
    """The number of the right option, counted from 1, as text or as a number."""
    count = len(row["options"])
    told = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    fits = re.fullmatch(r"[1-5]", told) and int(told) <= count
    return None if fits else f"the number of an option, 1 to {count}"


def two_turns(value: Any, row: Row) -> str | None:
    """Both questions of a conversation."""
    return None if _texts(value) and len(value) == 2 else "a list of 2 texts"


def references(value: Any, row: Row) -> str | None:
    """What a judge may compare with, for each turn; none at all is allowed."""
    fits = value is None or (isinstance(value, list) and all(one is None or _text(one) for one in value))
    return None if fits else "a list of texts, which may be empty"


def wording(value: Any, row: Row) -> str | None:
    """A template with a place for each of ``PLACEHOLDERS``."""
    missing = [f"{{{name}}}" for name in PLACEHOLDERS if f"{{{name}}}" not in str(value)]
    return text(value, row) or (f"text that holds {' and '.join(missing)}" if missing else None)


def words(value: Any, row: Row) -> str | None:
    """Text with a letter or a digit in it: against one without, F1 would reward an answer of nothing."""
    return text(value, row) or (None if re.search(r"[^\W_]", value) else "text with a letter or a digit")


def _text(value: Any) -> bool:
    return text(value, {}) is None


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(_text(one) for one in value)


def _shown(value: Any) -> str:
    """A value on one line, short."""
    if value is None:
        return "nothing"
    if isinstance(value, list) and _texts(value):
        return f"a list of {len(value)}"
    told = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return told if len(told) <= 60 else f"{told[:60]}…"
