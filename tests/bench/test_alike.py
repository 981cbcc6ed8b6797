"""How alike answers are: on texts whose likeness is worked out by hand."""

from __future__ import annotations

import time

import pytest

from squeeze.bench.alike import WORDS, alike, similarity
from squeeze.records import Measurement, Question


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("정답은 A 이다", "정답은 A 이다", 1.0),
        ("정답은 A 이다", "정답은 B 이다", 2 * 2 / 6),
        ("a b c d", "c d a b", 2 * 2 / 8),  # one block of two words, in order
        ("a b", "x y", 0.0),
        ("", "a", 0.0),
        (" \n", "", 1.0),
    ],
)
def test_similarity_is_twice_the_words_of_matching_blocks_over_all_words(
    one: str, other: str, expected: float
) -> None:
    assert similarity(one, other) == pytest.approx(expected)


def test_two_long_loops_are_compared_in_moderate_time() -> None:
    began = time.process_time()
    found = similarity("가 나 " * 20_000, "나 가 " * 20_000)
    assert pytest.approx(found) == 2 * (WORDS - 1) / (2 * WORDS)
    assert time.process_time() - began < 20


def measured(**answers: tuple[str, ...]) -> Measurement:
    """One benchmark, ``b``; q0, q1, … -> the answers of each turn."""
    questions = tuple(
        Question(index=int(name[1:]), answers=texts, tokens=1, score=None) for name, texts in answers.items()
    )
    return Measurement(
        model="m", workload="w", engine={}, complete=True, questions={"b": questions}, passes=()
    )


def test_only_questions_that_both_were_asked_count_turn_by_turn() -> None:
    mine = measured(q0=("같다", "다르다 가"), q1=("없다",), q2=("하나",))
    base = measured(q2=("하나 ",), q0=("같다", "다르다 나"))
    found = alike(mine, base)["b"]
    assert found.answers == 3
    assert found.exact == pytest.approx(2 / 3)
    assert found.similarity == pytest.approx((1 + 0.5 + 1) / 3)


def test_without_common_questions_there_is_nothing_to_compare() -> None:
    assert alike(measured(q0=("a",)), measured(q1=("a",))) == {}
