"""How likely a served model finds text that it did not write: perplexity of the assistant's words."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

from squeeze.bench.divergence import likelihoods
from squeeze.bench.stats import mean_and_error
from squeeze.errors import CandidateError
from squeeze.records import Perplexity, Sampled

LONGEST = 1024
"""Tokens that a conversation is cut to; the engine holds that many times the vocabulary."""


def perplexity(llm: Any, conversations: Sequence[list[dict[str, str]]]) -> Perplexity | None:
    """The perplexity of the assistant's turns, each token given all before it; None without any.

    llm: a ``vllm.LLM``. The text is what the chat template makes of a conversation, and what counts are the
    assistant's tokens through the end of each turn, as in training. Raises CandidateError when the model's
    probabilities are no numbers.
    """
    from squeeze.training.text import IGNORED, tokenized

    room = llm.llm_engine.vllm_config.model_config.max_model_len - 1
    heads: list[list[int]] = []
    said: list[Sampled] = []
    counted: list[list[bool]] = []
    for document in tokenized(llm.get_tokenizer(), iter(conversations), min(LONGEST, room)):
        if document is None:
            continue
        ids, labels = document
        first = next(place for place, label in enumerate(labels) if label != IGNORED) + 1
        heads.append(ids[:first])
        said.append(Sampled(benchmark="held out", place=len(said), tokens=tuple(ids[first:]), log_p=()))
        counted.append([label != IGNORED for label in labels[first - 1 : -1]])
    if not said:
        return None
    told = likelihoods(llm, said, lambda _, place: heads[place])
    pairs = (zip(*pair, strict=True) for pair in zip(told, counted, strict=True))
    return of([[q for q, counts in pair if counts] for pair in pairs])


def of(log_q: Sequence[Sequence[float]]) -> Perplexity:
    """The perplexity from the log-probabilities of each conversation's tokens; its error is over those.

    Of one conversation the error is the mean. Raises CandidateError when some are NaN.
    """
    if any(isnan(q) for told in log_q for q in told):
        raise CandidateError(
            "a model must give probabilities to tokens; it gives NaN", stage="perplexity", kind="diverged"
        )
    tokens = sum(map(len, log_q))
    mean = -sum(map(sum, log_q)) / tokens
    # Of a ratio of sums: conversations differ in length.
    _, error = mean_and_error([-sum(told) - mean * len(told) for told in log_q])
    return Perplexity(tokens=tokens, mean=mean, error=error * len(log_q) / tokens if len(log_q) > 1 else mean)
