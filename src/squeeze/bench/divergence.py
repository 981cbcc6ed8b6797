"""How far a served model's words are from the baseline's: KL divergence, from text that the baseline wrote.

The baseline answers questions at temperature 1, so what it says is drawn from its own distribution p. For a
candidate's q the divergence KL(p‖q) per token is then the mean of r − 1 − log r with r = q/p of each token
said: unbiased, never negative, of little variance (Schulman, "Approximating KL divergence", 2020, k3). Only
the likelihood of given tokens is asked for, which one prefill tells, so any engine and any quantization can
be asked: it is the served model that is judged, with its kernels and its rounded activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp, isnan
from typing import Any

from squeeze.bench.stats import mean_and_error
from squeeze.errors import CandidateError
from squeeze.records import Divergence, Sampled

ANSWER_TOKENS = 256
"""The most that is said to one question."""

PROMPT_TOKENS = 1024
"""Questions longer than this are not asked: reading them would cost more than what is said tells."""

AT_ONCE = 8
"""Questions of each benchmark that are asked in one go."""

WAVE_TOKENS = 1024
"""Tokens whose likelihoods are asked for in one go: the engine holds that many times the vocabulary."""

LEAST_LOG_RATIO, MOST_LOG_RATIO = -60.0, 20.0
"""Beyond these a token tells no more, and exp would overflow."""


def say(llm: Any, questions: Mapping[str, int], prompt: Prompt, tokens: int) -> list[Sampled]:
    """Draw answers from a model until they have so many tokens; with their likelihoods under the model.

    llm: a ``vllm.LLM``. questions: benchmark -> how many there are. prompt: (benchmark, place) -> token ids.
    """
    from vllm import SamplingParams

    room = llm.llm_engine.vllm_config.model_config.max_model_len
    answer = min(ANSWER_TOKENS, room // 4)
    # Without seeds of the requests: this is drawn once and kept, so that the engine's own seed is enough.
    params = SamplingParams(temperature=1.0, max_tokens=answer)
    said: list[Sampled] = []
    for asked in _turns(questions, prompt, min(PROMPT_TOKENS, room - answer - 1)):
        inputs = [{"prompt_token_ids": prompt(*where)} for where in asked]
        for (benchmark, place), output in zip(
            asked, llm.generate(inputs, params, use_tqdm=False), strict=True
        ):
            tokens_said = tuple(output.outputs[0].token_ids)
            said.append(Sampled(benchmark=benchmark, place=place, tokens=tokens_said, log_p=()))
        if sum(len(one.tokens) for one in said) >= tokens:
            break
    # Read back as a candidate's will be: what is said one token at a time has other rounding errors.
    told = likelihoods(llm, said, prompt)
    return [one.model_copy(update={"log_p": log_p}) for one, log_p in zip(said, told, strict=True)]


def likelihoods(llm: Any, said: Sequence[Sampled], prompt: Prompt) -> list[tuple[float, ...]]:
    """The natural logarithms of the probability that a model gives to each token of each answer."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    found: list[tuple[float, ...]] = []
    for wave in _waves(said, prompt):
        inputs = [{"prompt_token_ids": [*prompt(one.benchmark, one.place), *one.tokens]} for one in wave]
        for one, output in zip(wave, llm.generate(inputs, params, use_tqdm=False), strict=True):
            told = output.prompt_logprobs[len(output.prompt_token_ids) - len(one.tokens) :]
            found.append(tuple(told[at][token].logprob for at, token in enumerate(one.tokens)))
    return found


def divergence(said: Sequence[Sampled], log_q: Sequence[Sequence[float]]) -> Divergence:
    """The divergence of a candidate from likelihoods that it gives; its error is over whole answers.

    said: at least one answer; of one the error is the mean. log_q: as ``likelihoods`` gives them for
    ``said``. Raises CandidateError when the candidate's probabilities are no numbers.
    """
    if any(isnan(q) for told in log_q for q in told):
        raise CandidateError(
            "a model must give probabilities to tokens; it gives NaN", stage="questions", kind="diverged"
        )
    sums, total, tokens = [], 0.0, 0
    for one, told in zip(said, log_q, strict=True):
        gaps = [
            min(max(q - p, LEAST_LOG_RATIO), MOST_LOG_RATIO) for q, p in zip(told, one.log_p, strict=True)
        ]
        sums.append(sum(exp(gap) - 1.0 - gap for gap in gaps))
        total += sums[-1]
        tokens += len(gaps)
    mean = total / tokens
    _, error = mean_and_error(sums)
    return Divergence(tokens=tokens, mean=mean, error=error * len(sums) / tokens if len(sums) > 1 else mean)


Prompt = Callable[[str, int], Sequence[int]]
"""The token ids of a benchmark's question at a place of the drawn order."""


def _turns(questions: Mapping[str, int], prompt: Prompt, longest: int) -> Iterator[list[tuple[str, int]]]:
    """A few questions of each benchmark, then the next few, over and over; nothing when all are too long.

    longest: tokens of a question that is asked.
    """
    every = [(name, place) for name, count in questions.items() for place in range(count)]
    short = [one for one in every if len(prompt(*one)) <= longest]
    start = 0
    while short:
        turn = [one for one in short if start <= one[1] < start + AT_ONCE]
        if turn:
            yield turn
        start = start + AT_ONCE if start <= max(place for _, place in short) else 0


def _waves(said: Sequence[Sampled], prompt: Prompt) -> Iterator[list[Sampled]]:
    wave: list[Sampled] = []
    length = 0
    for one in said:
        long = len(prompt(one.benchmark, one.place)) + len(one.tokens)
        if wave and length + long > WAVE_TOKENS:
            yield wave
            wave, length = [], 0
        wave.append(one)
        length += long
    if wave:
        yield wave
