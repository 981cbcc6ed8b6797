"""Multiple-choice questions: the prompt, and a strict reading of the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from squeeze.data.sets import Row

LETTERS = "ABCDE"

_NUMBERING = re.compile(r"\s*(?:\(?([1-5])\)|([1-5])\.(?!\d))\s*(?=\S)")
_MARK = r"(?:정답|Answer)\s*[:\uff1a]\s*"
# What a longer word or number begins with is no letter and no digit.
_LETTER = re.compile(_MARK + r"([A-Ea-e])(?![A-Za-z0-9])")
_DIGIT = re.compile(_MARK + r"([1-5])(?!\d|[.,]\d)")


def prompt(row: Row) -> str:
    """The question with its options lettered, asking for steps and a last line ``정답: X``."""
    options = _unnumbered([str(option) for option in row["options"]])
    letters = LETTERS[: len(options)]
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    return (
        f"다음 문제를 단계적으로 풀고, 마지막 줄에 '정답: X'라고 쓰세요. X는 {letters} 중 하나입니다.\n\n"
        f"문제: {row['question']}\n" + "\n".join(lines)
    )


def _unnumbered(options: Sequence[str]) -> list[str]:
    """Options without numbers of their own, such as ``1)``, if each has the one of its place.

    Else they are left: ``2) of those`` or ``1.5`` is what an option says.
    """
    found = [_NUMBERING.match(option) for option in options]
    numbers = [int(one[1] or one[2]) if one else 0 for one in found]
    if numbers != list(range(1, len(options) + 1)):
        return list(options)
    return [option[one.end() :] for option, one in zip(options, found, strict=True) if one]


def parse(answer: str, options: int) -> int | None:
    """The 0-based option that an answer names, or None: never guessed.

    The last letter A–E after ``정답:`` or ``Answer:`` counts; without any, the last digit 1–5 after one;
    without any, a last line that is a single letter. One that no option has is None too.
    """
    if letters := _LETTER.findall(answer):
        letter = letters[-1].upper()
    elif digits := _DIGIT.findall(answer):
        letter = LETTERS[int(digits[-1]) - 1]
    else:
        letter = answer.strip().rsplit("\n", 1)[-1].strip().upper()
    named = LETTERS[:options]
    return named.index(letter) if len(letter) == 1 and letter in named else None


def score(row: Row, answers: Sequence[str]) -> float:
    """1.0 when the answer names the row's ``solution`` (a 1-based number in a string), else 0.0."""
    chosen = parse(answers[0], len(row["options"]))
    return float(chosen is not None and chosen == int(str(row["solution"])) - 1)
