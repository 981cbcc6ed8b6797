"""Perplexity from likelihoods: figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from squeeze.bench.perplexity import of
from squeeze.errors import CandidateError
from squeeze.records import Perplexity


def test_a_model_that_guesses_among_eight_tokens_has_perplexity_eight() -> None:
    found = of([[math.log(1 / 8)] * 5, [math.log(1 / 8)] * 2])
    assert found.tokens == 7
    assert found.value == pytest.approx(8)
    assert found.error == pytest.approx(0)


def test_every_token_counts_alike_whatever_conversation_it_is_of() -> None:
    found = of([[-1.0], [-3.0, -3.0, -3.0]])
    assert found.mean == pytest.approx(2.5)
    assert found.error > 0


def test_nan_is_the_candidates_failure_and_what_is_impossible_is_infinite() -> None:
    with pytest.raises(CandidateError) as caught:
        of([[-1.0, math.nan]])
    assert (caught.value.stage, caught.value.kind) == ("perplexity", "diverged")
    assert Perplexity(tokens=1, mean=800.0, error=0.0).value == math.inf
