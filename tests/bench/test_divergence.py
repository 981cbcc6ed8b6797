"""The estimate of the divergence, on distributions whose divergence is known."""

from __future__ import annotations

import math
import random

import pytest

from squeeze.bench.divergence import _turns, _waves, divergence
from squeeze.errors import CandidateError
from squeeze.records import Sampled


def _said(tokens: int, log_p: float = 0.0) -> Sampled:
    return Sampled(benchmark="b", place=0, tokens=(0,) * tokens, log_p=(log_p,) * tokens)


def test_the_estimate_comes_to_the_divergence_of_two_known_distributions() -> None:
    p, q = (0.7, 0.2, 0.1), (0.5, 0.3, 0.2)
    known = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    chance = random.Random(0)
    said, log_q = [], []
    for _ in range(2000):
        tokens = chance.choices(range(3), p, k=10)
        log_p = tuple(math.log(p[token]) for token in tokens)
        said.append(Sampled(benchmark="b", place=0, tokens=tuple(tokens), log_p=log_p))
        log_q.append(tuple(math.log(q[token]) for token in tokens))
    found = divergence(said, log_q)
    assert found.tokens == 20_000
    assert 0 < found.error < 0.01
    assert abs(found.mean - known) < 4 * found.error


def test_the_same_likelihoods_are_no_divergence() -> None:
    said = [_said(3, -0.5), _said(2, -1.0)]
    assert divergence(said, [one.log_p for one in said]).mean == 0.0


def test_an_impossible_token_is_far_and_finite_and_a_nan_is_the_candidates_failure() -> None:
    said = [_said(1), _said(1)]
    assert 1 < divergence(said, [(-math.inf,), (0.0,)]).mean < 100
    with pytest.raises(CandidateError, match="NaN") as caught:
        divergence(said, [(math.nan,), (0.0,)])
    assert caught.value.kind == "diverged"


def test_questions_come_a_few_of_each_benchmark_at_a_time_without_long_ones_and_over_again() -> None:
    turns = _turns({"a": 10, "b": 2}, lambda *where: [0] * (5000 if where == ("a", 1) else 5), 1024)
    first, second, third = next(turns), next(turns), next(turns)
    assert first == [("a", place) for place in (0, 2, 3, 4, 5, 6, 7)] + [("b", 0), ("b", 1)]
    assert second == [("a", 8), ("a", 9)]
    assert third == first
    assert not list(_turns({"a": 3}, lambda *_: [0] * 100, 99))  # all too long


def test_likelihoods_are_asked_for_in_waves_that_bound_memory() -> None:
    said = [_said(300) for _ in range(5)] + [_said(2000)]
    waves = list(_waves(said, lambda *_: [0] * 100))
    assert [[len(one.tokens) for one in wave] for wave in waves] == [[300, 300], [300, 300], [300], [2000]]
