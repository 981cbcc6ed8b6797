"""Multiple-choice questions: the prompt, and a strict reading of the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from squeeze.data.sets import Row

LETTERS = "ABCDE"

_NUMBERING = re.compile(r"^\s*\(?[1-5][).]\s*")
_MARKED = re.compile(r"(?:정답|Answer)\s*[:\uff1a]\s*(?:\(?)([A-Ea-e1-5])(?![A-Za-z0-9])")
_LONE = re.compile(r"^\s*\(?([A-Ea-e])\)?[.。]?\s*$")


def prompt(row: Row) -> str:
    """The question with its options lettered, asking for steps and a last line ``정답: X``."""
    options = [_NUMBERING.sub("", str(option)) for option in row["options"]]
    letters = LETTERS[: len(options)]
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    return (
        f"다음 문제를 단계적으로 풀고, 마지막 줄에 '정답: X'라고 쓰세요. X는 {letters} 중 하나입니다.\n\n"
        f"문제: {row['question']}\n" + "\n".join(lines)
    )


def parse(answer: str, options: int) -> int | None:
    """The 0-based option that an answer names, or None: never guessed.

    The last ``정답: X`` (or ``Answer: X``) counts, X a letter or a 1-based number; without one, a last
    line that is a single letter.
    """
    marked = _MARKED.findall(answer)
    if marked:
        choice = marked[-1]
    else:
        lines = [line for line in answer.splitlines() if line.strip()]
        lone = _LONE.match(lines[-1]) if lines else None
        if lone is None:
            return None
        choice = lone.group(1)
    index = int(choice) - 1 if choice.isdigit() else LETTERS.index(choice.upper())
    return index if index < options else None


def score(row: Row, answers: Sequence[str]) -> float:
    """1.0 when the answer names the row's ``solution`` (a 1-based number in a string), else 0.0."""
    chosen = parse(answers[0], len(row["options"]))
    return float(chosen is not None and chosen == int(str(row["solution"])) - 1)
