"""The processes of ``bench_overhead.py``: our engine, which can also be asked rawly, and a plain one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squeeze.bench.engine import Engine
from squeeze.child import Event
from squeeze.failures import classified
from squeeze.records import Timing


@dataclass(frozen=True)
class Work:
    """A benchmark as vLLM's throughput benchmark takes one: token ids, and how long each answer is to be."""

    prompts: tuple[list[int], ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Describe:
    """What our path asks in a benchmark, with the lengths of its answers. Its answer is ``Work``."""

    benchmark: str


class Both(Engine):
    """Our engine; a request that is ``Work`` goes to its ``vllm.LLM`` rawly. The answer is a Timing."""

    def __call__(self, request: Any, tell: Callable[[Event], None]) -> Any:
        if isinstance(request, Work):
            return raw(self._llm, request)
        if isinstance(request, Describe):
            places = range(len(self._rows[request.benchmark]))
            prompts = [self._question(request.benchmark, place) for place in places]
            return Work(tuple(prompts), lengths(self._llm, prompts, self._workload.max_tokens))
        return super().__call__(request, tell)


def lengths(llm: Any, prompts: Sequence[list[int]], most: int | None) -> tuple[int, ...]:
    """Tokens of the greedy answer to each prompt."""
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0.0, max_tokens=most)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedy, use_tqdm=False)
    return tuple(len(output.outputs[0].token_ids) for output in outputs)


class Plain:
    """``vllm.LLM`` as its own benchmark makes it: the engine's core in another process, nothing of ours.

    arguments: of ``vllm.LLM``, resolved as in our engine. Requests and answers are those of ``Both``'s raw
    side.
    """

    def __init__(self, model: str, arguments: Mapping[str, Any], kv_cache_gib: int) -> None:
        # vLLM's own default, where our children have the core in their own process.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib)
        os.environ["HF_HUB_OFFLINE"] = "1"
        from vllm import LLM

        try:
            self._llm = LLM(model=model, disable_log_stats=True, **arguments)
        except Exception as error:
            raise classified(error, "engine", otherwise="load") from error

    def __call__(self, request: Work, tell: Callable[[Event], None]) -> Timing:
        return raw(self._llm, request)


def raw(llm: Any, work: Work) -> Timing:
    """One call over all prompts, timed as ``_run_vllm_requests`` of vllm/benchmarks/throughput.py does it.

    One SamplingParams a request, end tokens ignored, so many tokens each, detokenized. Otherwise than there
    the choice is greedy, as our path's is (there the temperature is 1, which costs more), and no progress bar
    is drawn (it costs a little): both make this side faster.
    """
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": prompt} for prompt in work.prompts]
    params = [SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=length) for length in work.lengths]
    began = time.perf_counter()
    outputs: Sequence[Any] = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - began
    return Timing(seconds=seconds, tokens=sum(len(output.outputs[0].token_ids) for output in outputs))
