"""Where the teacher's distribution comes from: the model itself at each step, or what was kept of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch  # noqa: TID253  only processes that train import this module

from squeeze.config import digest
from squeeze.errors import ConfigError
from squeeze.training import checkpoint, packed
from squeeze.training.loss import Dense, Sparse
from squeeze.training.packed import Batch
from squeeze.training.text import IGNORED, Rows

_CHUNK = 1 << 25


@dataclass(frozen=True)
class Answer:
    """What a teacher says of a batch.

    target: its distribution at the supervised positions. layers: for each watched layer its output at the
    supervised positions, [supervised, hidden].
    """

    target: Dense | Sparse
    layers: tuple[torch.Tensor, ...] = ()


class Teacher(Protocol):
    """Anything that can say what the student should."""

    def answer(self, batch: Batch) -> Answer: ...


class Live:
    """A model that is run at each step.

    model: a transformers causal LM on the device of the batches. watch: layers (0-based) whose outputs the
    student's hidden states are compared with. precision: see ``squeeze.training.learner.Learner``.
    """

    def __init__(self, model: Any, watch: Sequence[int] = (), precision: torch.dtype | None = None) -> None:
        packed.attach(model)
        self.model = model.eval().requires_grad_(False)
        self.watch = tuple(watch)
        self.precision = precision

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def answer(self, batch: Batch) -> Answer:
        """Its whole distribution."""
        with (
            packed.at_precision(batch.ids.device.type, self.precision),
            layer_outputs(self.model, self.watch, batch.places) as layers,
        ):
            states = packed.hidden_states(self.model, batch)[batch.places]
        states = states.to(self.precision) if self.precision else states
        return Answer(Dense(states, self.model.get_output_embeddings().weight), tuple(layers))


@contextlib.contextmanager
def layer_outputs(model: Any, watch: Sequence[int], places: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs of those decoder layers at those places, [places, hidden] each, in their order."""
    found: list[torch.Tensor] = []
    thread = threading.get_ident()

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        if threading.get_ident() == thread:  # the model may be at work for other batches too
            found.append((output[0] if isinstance(output, tuple) else output)[0][places])

    layers = model.get_decoder().layers
    hooks = [layers[index].register_forward_hook(hook) for index in watch]
    try:
        yield found
    finally:
        for one in hooks:
            one.remove()


class Kept:
    """A few tokens of the teacher's distribution at each supervised position of some rows.

    tables: rows' key -> ids int32 and weights float32 of all positions one after another, and where each
    position's begin, int64 [positions + 1].
    """

    def __init__(self, tables: Mapping[str, Mapping[str, torch.Tensor]], rows: Sequence[Rows]) -> None:
        self.tables = tables
        self.starts = {part.key: _row_starts(part) for part in rows}

    def answer(self, batch: Batch) -> Answer:
        """The kept tokens, padded with weights of 0 to the most that a position of the batch has."""
        table, starts = self.tables[batch.rows.key], self.starts[batch.rows.key]
        positions = torch.cat([torch.arange(starts[row], starts[row + 1]) for row in batch.indices])
        begins, ends = table["begins"][positions], table["begins"][positions + 1]
        most = int((ends - begins).max())
        places = begins[:, None] + torch.arange(most)
        there = places < ends[:, None]
        places = places.where(there, torch.zeros_like(places))
        device = batch.ids.device
        ids = table["ids"][places].long().to(device, non_blocking=True)
        weights = (table["weights"][places] * there).to(device, non_blocking=True)
        return Answer(Sparse(ids, weights))


def keep(
    live: Callable[[], Live],
    teacher_key: str,
    rows: Sequence[Rows],
    device: str,
    *,
    method: str,
    draws: int,
    temperature: float,
    seed: int,
    shared: Path | None,
) -> tuple[Kept, bool]:
    """What is kept of a teacher on those rows, made now or found under ``shared``, and whether it was found.

    live: makes the teacher; called only when nothing is found. teacher_key: of its content. method:
    ``sampled`` draws ``draws`` tokens from the distribution at that temperature, with replacement, and
    weighs each by how often it came: by expectation the distribution itself (Random Sampling KD,
    arXiv:2503.16870). ``top`` keeps the most likely ones, scaled to a sum of 1: biased, for what is left out
    is taught to be impossible.
    """
    if method not in ("sampled", "top"):
        raise ConfigError(f"what is kept of a teacher must be sampled or top; got {method}")
    facts = [teacher_key, [part.key for part in rows], method, draws, temperature]
    key = digest([*facts, seed if method == "sampled" else None])

    def build() -> dict[str, torch.Tensor]:
        teacher = live()
        made: dict[str, torch.Tensor] = {}
        for part in rows:
            table = _table(teacher, part, device, method, draws, temperature, seed)
            made.update({f"{part.key}/{name}": value for name, value in table.items()})
        return made

    def as_tables(tensors: Mapping[str, torch.Tensor]) -> Kept:
        names = ("ids", "weights", "begins")
        return Kept(
            {part.key: {name: tensors[f"{part.key}/{name}"] for name in names} for part in rows}, rows
        )

    if shared is None:
        return as_tables(build()), False
    folder = shared / "teachers"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds it made
        found = checkpoint.read(folder / key)
        if found is not None:
            os.utime(folder / key)  # used now
            return as_tables(found.tensors), True
        tensors = build()
        checkpoint.write(folder / key, tensors, {"facts": facts})
    return as_tables(tensors), False


@torch.no_grad()  # type: ignore[untyped-decorator]
def _table(
    teacher: Live, rows: Rows, device: str, method: str, draws: int, temperature: float, seed: int
) -> dict[str, torch.Tensor]:
    ids, weights, counts = [], [], []
    generator = torch.Generator(device).manual_seed(seed)
    for row in range(len(rows)):
        target = teacher.answer(packed.batch(rows, [row], device)).target
        assert isinstance(target, Dense)
        size = max(1, _CHUNK // len(target.head))
        head = target.head.to(target.hidden.dtype)
        for start in range(0, len(target.hidden), size):
            logits = (target.hidden[start : start + size] @ head.T).float() / temperature
            p = torch.softmax(logits, dim=-1)
            some_ids, some_weights, some_counts = (
                sampled(p, draws, generator) if method == "sampled" else top(p, draws)
            )
            ids.append(some_ids.cpu())
            weights.append(some_weights.cpu())
            counts.append(some_counts.cpu())
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)])
    return {"ids": torch.cat(ids), "weights": torch.cat(weights), "begins": begins}


def sampled(
    p: torch.Tensor, draws: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw ``draws`` tokens of each row of ``p`` [positions, vocabulary] with replacement.

    Returns the different ones, int32, one position after another; how often each came / draws, float32; and
    how many different ones each position has, int64.
    """
    drawn, _ = torch.multinomial(p, draws, replacement=True, generator=generator).sort(dim=-1)
    row = torch.arange(len(p), device=p.device)[:, None].expand_as(drawn)
    pairs, times = torch.unique_consecutive(row * p.shape[1] + drawn, return_counts=True)
    counts = torch.bincount(pairs // p.shape[1], minlength=len(p))
    return (pairs % p.shape[1]).int(), times.float() / draws, counts


def top(p: torch.Tensor, draws: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The most likely tokens, in the form of ``sampled``; their probabilities scaled to a sum of 1."""
    values, ids = p.topk(min(draws, p.shape[1]), dim=-1)
    values = values / values.sum(-1, keepdim=True)
    counts = torch.full((len(p),), values.shape[1], dtype=torch.int64, device=p.device)
    return ids.int().flatten(), values.flatten(), counts


def _row_starts(rows: Rows) -> list[int]:
    """Where each row's supervised positions begin among all of them, and where the last one's end."""
    starts = [0]
    for count in (rows.labels != IGNORED).sum(axis=1):
        starts.append(starts[-1] + int(count))
    return starts
