"""A few questions to a model, in a child: what check, doctor and verify call "it answers"."""

from __future__ import annotations

import json
import os
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Literal

from squeeze.errors import SetupError

EngineName = Literal["vllm", "transformers"]

LONGEST, LONGEST_SAFE = 2048, 1024
"""Tokens of context: enough for a question, and cheap to reserve."""

START_S = 900
ANSWER_S = 300

_BENCHMARK = "kmmlu_redux"
QUESTIONS = [
    {"question": f"다음 중 {one} 뜻하는 것은?", "options": ["하나", "둘", "셋", "넷"], "solution": one[0]}
    for one in ("1을", "2를", "3을", "4를")
]
"""Rows of a benchmark: what is asked."""


def one_answer(path: Path, tokens: int = 16) -> tuple[str, float]:
    """The answer of a model folder, or of the model in a checked submission; and the seconds it all took.

    tokens: the most tokens it may have. Raises CandidateError when the model does not load or answer,
    SetupError without vLLM or room to unpack. The child's log is kept only when something went wrong.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="squeeze-") as name:
        answer = answers(_model_folder(path, Path(name)), count=1, tokens=tokens)[0]
    return answer, time.monotonic() - began


def answers(
    folder: Path, *, engine: EngineName = "vllm", safe: bool = False, count: int = 4, tokens: int = 32
) -> list[str]:
    """The answers of a model to the first ``count`` of ``QUESTIONS``, by its chat template, greedy.

    safe: the engine takes as little as it can: one question at a time, eager, a short context, no more memory
    than the weights ask for; transformers stays on the CPU. Raises as ``one_answer``; a CandidateError of
    kind ``diverged`` when the model's probabilities are no numbers.
    """
    from squeeze.server import PRELOADED, preload

    preload([name for name in PRELOADED if name != "llmcompressor"])
    descriptor, name = tempfile.mkstemp(prefix="squeeze-", suffix=".log")
    os.close(descriptor)
    log = Path(name)
    ask = _ask_vllm if engine == "vllm" else _ask_transformers
    found = ask(folder.absolute(), log, safe, count, tokens)
    log.unlink()
    return found


def _model_folder(path: Path, place: Path) -> Path:
    """The folder with config.json: as it is, inside ``model/``, or unpacked into ``place``."""
    if path.is_dir():
        return path if (path / "config.json").exists() else path / "model"
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(place)
    except OSError as error:
        raise SetupError(
            f"checking needs room to unpack {path} in {place.parent}; {error.strerror}; set TMPDIR"
        ) from error
    return place / "model"


def _ask_vllm(folder: Path, log: Path, safe: bool, count: int, tokens: int) -> list[str]:
    from squeeze.bench.divergence import divergence
    from squeeze.bench.engine import Engine, Generate, Start, Weigh
    from squeeze.bench.workload import EngineArguments, Workload
    from squeeze.child import Child
    from squeeze.decoder import read_config
    from squeeze.records import Sampled

    longest = LONGEST_SAFE if safe else LONGEST
    longest = min(longest, int(read_config(folder).get("max_position_embeddings", longest)))
    arguments = EngineArguments(max_model_len=longest, kv_cache_gib=1)
    if safe:
        careful = {"max_num_seqs": 1, "enforce_eager": True, "gpu_memory_utilization": _share(folder)}
        arguments = arguments.model_copy(update=careful)
    # Any tokens do: a model whose weights are no numbers gives none of them a probability.
    some = Sampled(benchmark=_BENCHMARK, place=0, tokens=(1, 2), log_p=(0.0, 0.0))
    with tempfile.TemporaryDirectory(prefix="squeeze-") as data:
        lines = [json.dumps(question, ensure_ascii=False) for question in QUESTIONS]
        (Path(data) / f"{_BENCHMARK}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        workload = Workload(
            name="check",
            data=data,
            questions={_BENCHMARK: len(QUESTIONS)},
            max_tokens=tokens,
            engine=arguments,
        )
        with Child(partial(Engine, str(folder), workload), stage="engine", log=log) as child:
            child.call(Start(), deadline_s=START_S)
            divergence([some], child.call(Weigh((some,)), deadline_s=ANSWER_S))
            questions, _ = child.call(Generate(_BENCHMARK, 0, count), deadline_s=ANSWER_S)
    return [str(question.answers[0]) for question in questions]


def _share(folder: Path) -> float:
    """The share of the device's memory that the weights and a little work take."""
    from squeeze.decoder import Decoder
    from squeeze.folder import size_bytes
    from squeeze.target import Target

    needed = 1.5 * size_bytes(folder) + 2 * 2**30
    return min(0.9, needed / Target.here(Decoder.read(folder)).memory_bytes)


def _ask_transformers(folder: Path, log: Path, safe: bool, count: int, tokens: int) -> list[str]:
    from squeeze.bench import tasks
    from squeeze.bench.plain import Ask, Plain
    from squeeze.child import Child

    task = tasks.load(_BENCHMARK)
    chats = tuple(task.messages(question, ()) for question in QUESTIONS[:count])
    with Child(partial(Plain, folder, cpu=safe), stage="engine", log=log) as child:
        found: list[str] = child.call(Ask(chats, tokens), deadline_s=START_S + ANSWER_S)
    return found
