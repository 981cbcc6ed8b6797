"""Korean text: particles chosen by the word before them, and word lists written as one string."""

from __future__ import annotations

import re

_PARTICLE = re.compile(r"(.)\[(은는|이가|을를|과와|으로|이다|아야)\]", re.S)
_FORMS = {
    "은는": ("은", "는"),
    "이가": ("이", "가"),
    "을를": ("을", "를"),
    "과와": ("과", "와"),
    "으로": ("으로", "로"),
    "이다": ("이다", "다"),
    "아야": ("아", "야"),
}
_DIGIT_FINALS = {"0": 21, "1": 8, "3": 16, "6": 1, "7": 8, "8": 8}
_RIEUL = 8


def words(text: str, separator: str | None = None) -> tuple[str, ...]:
    """The words of a text, cut at spaces or at a separator."""
    return tuple(text.split(separator))


def particles(text: str) -> str:
    """Replace each ``[은는]``-like mark by the form that the character before it asks for."""

    def choose(match: re.Match[str]) -> str:
        last, kind = match.group(1), match.group(2)
        final = _final(last)
        closed = final != 0 and not (kind == "으로" and final == _RIEUL)
        return last + _FORMS[kind][0 if closed else 1]

    return _PARTICLE.sub(choose, text)


def _final(character: str) -> int:
    """The index of the final consonant of a Hangul syllable or a digit's reading; 0 is none."""
    code = ord(character) - 0xAC00
    if 0 <= code < 11172:
        return code % 28
    return _DIGIT_FINALS.get(character, 0)
