"""From samples to training arrays: tokens and what is to be learned, packed into rows."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from squeeze.demo import stream
from squeeze.demo.world import World, make_world

Ids = npt.NDArray[np.int16]
IGNORED = -100


@dataclass(frozen=True)
class Shape:
    """One part of a step: rows of a length, filled with short or long samples."""

    name: str
    rows: int
    length: int


@dataclass(frozen=True)
class Source:
    """What a worker needs to make any chunk: the world's seed and size, and the tokenizer's text."""

    seed: int
    people: int
    tokenizer: str


class _Maker:
    def __init__(self, source: Source) -> None:
        self.seed = source.seed
        self.world: World = make_world(source.seed, source.people)
        self.tokenizer = Tokenizer.from_str(source.tokenizer)

    def chunk(self, shape: Shape, index: int) -> tuple[Ids, Ids]:
        """Chunk number ``index``: inputs and labels, int16 [rows, length], labels shifted by one."""
        seed = f"{self.seed}-{shape.name}-{index}"
        samples = (
            stream.short_samples(self.world, seed) if shape.name == "short" else stream.long_samples(seed)
        )
        ids = np.zeros((shape.rows, shape.length + 1), np.int16)
        labels = np.full((shape.rows, shape.length + 1), IGNORED, np.int16)
        row, used = 0, 0
        while row < shape.rows:
            batch = list(itertools.islice(samples, 64))
            texts = [text for pieces in batch for text, _ in pieces]
            encoded = iter(self.tokenizer.encode_batch(texts, add_special_tokens=False))
            for pieces in batch:
                tokens: list[int] = []
                learn: list[int] = []
                for _, learned in pieces:
                    part = next(encoded).ids
                    tokens += part
                    learn += part if learned else [IGNORED] * len(part)
                if used and used + len(tokens) > shape.length + 1:
                    row, used = row + 1, 0
                    if row == shape.rows:
                        break
                tokens, learn = tokens[: shape.length + 1], learn[: shape.length + 1]
                ids[row, used : used + len(tokens)] = tokens
                labels[row, used : used + len(tokens)] = learn
                used += len(tokens)
        return ids[:, :-1], labels[:, 1:]


_maker: _Maker | None = None


def _start(source: Source) -> None:
    global _maker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _maker = _Maker(source)


def _work(job: tuple[Shape, int]) -> tuple[Ids, Ids]:
    assert _maker is not None
    return _maker.chunk(*job)


def chunks(source: Source, shapes: tuple[Shape, ...], steps: int, workers: int) -> Iterator[tuple[Ids, Ids]]:
    """For each step one chunk of each shape, in order; the same whatever the number of workers."""
    jobs = ((shape, step) for step in range(steps) for shape in shapes)
    if workers < 1:
        maker = _Maker(source)
        yield from (maker.chunk(*job) for job in jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _start, (source,)) as pool:
        window = 8 * workers
        waiting = []
        for job in jobs:
            waiting.append(pool.apply_async(_work, (job,)))
            if len(waiting) > window:
                yield waiting.pop(0).get()
        for result in waiting:
            yield result.get()
