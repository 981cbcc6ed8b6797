"""The loop that all trainings share: steps, looks at text kept apart, checkpoints, and going on from them.

Use it so::

    text = prepare(source, part.text, context.data)
    learner = Learner(model, trainable, teacher, mix)
    notes = fit(
        learner, part, text, stage="distill", key=digest([...]), state=context.state, tell=context.tell
    )

and then take the trained values from ``learner.trainable``. ``key`` must name everything that the training
depends on beside ``part`` and ``text``: the content of the source folder and of the teacher.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  only processes that train import this module

from squeeze.config import Training, digest
from squeeze.errors import CandidateError
from squeeze.training import packed
from squeeze.training.crew import Crew
from squeeze.training.learner import Learner
from squeeze.training.optimizer import Optimizer, make
from squeeze.training.schedule import Schedule, cut_short, plan, rows_a_step, stalled
from squeeze.training.text import Rows, Text, stream
from squeeze.training.trunk import Checkpoints

CHECKPOINT_S = 120.0
"""Seconds between checkpoints."""

_TELL_S = 5.0
_RISEN = 2.0
_RISEN_BY = 0.5


@dataclass
class Progress:
    """Where a training is: what a checkpoint holds beside tensors.

    step: steps done. losses: mean loss of each. looks: of the trunk, loss on the text kept apart every
    ``validate_every`` steps, the first before any step.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)


def fit(
    learner: Learner,
    part: Training,
    text: Text,
    *,
    stage: str,
    key: str,
    state: Path | None = None,
    tell: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Train ``learner.trainable`` in place and return notes.

    stage: for messages. key: see above. state: a folder for checkpoints, which later and longer trainings go
    on from; None: none are kept. Another process that trains with the same state and key is waited for.
    On a CPU the outcome is the same to the last bit whether the training was interrupted, or went on from
    a shorter one, or not (for models of ``crew.SMALL`` parameters or more: with the same number of threads).

    Notes: steps, epochs (passes made), tokens and supervised (trained on), loss_first and loss_last (means of
    the first and last ten steps), validation_first, _best, _last, stopped_early, resumed_from (a step or
    None), optimizer, tokens_per_s (documents' tokens of this process, looks and checkpoints included).

    Raises CandidateError of kind diverged when a loss is not a number, or the loss on the text kept apart is
    more than twice the first and more than 0.5 above the best.
    """
    learner.model.train()
    optimizer = make(learner.trainable, learner.device)
    kept = {name: value for name, value in part.model_dump(mode="json").items() if name not in _MAY_DIFFER}
    whole = digest([stage, key, kept, text.train.key, text.validation.key, optimizer.name])
    folder = state / whole if state else None
    with _alone(folder):
        checkpoints = Checkpoints(folder, aside=learner.device != "cpu") if folder else None
        return _Run(learner, part, text, stage, tell, optimizer, checkpoints).run()


_MAY_DIFFER = ("epochs", "steps", "decay", "text", "gradient_checkpointing", "compile")
"""What two trainings may differ in and still share their trunk; the text is known by its content."""


class _Run:
    """One training, from where it can go on to its end."""

    def __init__(
        self,
        learner: Learner,
        part: Training,
        text: Text,
        stage: str,
        tell: Callable[[Mapping[str, Any]], None],
        optimizer: Optimizer,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.learner, self.part, self.text, self.stage, self.tell = learner, part, text, stage, tell
        self.optimizer = optimizer
        self.checkpoints = checkpoints
        self.planned = plan(part, len(text.train), text.train.length)
        self.schedule = self.planned
        self.progress = Progress()
        self.found: int | None = None
        self.rows = rows_a_step(part, text.train.length)
        self.crew = Crew(learner)
        self.copying = 0.0
        self.told = self.saved = self.started = time.monotonic()

    def run(self) -> dict[str, Any]:
        resumed = self._resume()
        begun = self.progress.step
        self.saved = self.started = time.monotonic()
        try:
            self._trunk()
            self._save("branch", force=True)
            last = self._decay()
        finally:
            self.crew.close()
            if self.checkpoints:
                self.checkpoints.close()
        spent = time.monotonic() - self.started
        if self.checkpoints:
            self.checkpoints.forget_decay(self.planned.steps)
        return self._notes(resumed, begun, spent, last)

    def _trunk(self) -> None:
        part, progress = self.part, self.progress
        while True:
            due = progress.step // part.validate_every + 1
            if progress.step % part.validate_every == 0 and len(progress.looks) < due:
                progress.looks.append(self._look(self.text.validation))
                self._refuse_risen()
            if progress.step >= self.schedule.branch:
                return
            if stalled(progress.looks, part.patience):
                self.schedule = cut_short(self.planned, progress.step, part)
                return
            self._step()
            self._save("trunk")

    def _decay(self) -> float:
        while self.progress.step < self.schedule.steps:
            self._save("decay")
            self._step()
        last: float = self._look(self.text.validation)
        if not math.isfinite(last):
            self._diverged(f"the loss at step {self.progress.step} is {last}")
        return last

    def _step(self) -> None:
        step, train = self.progress.step, self.text.train
        # Whatever draws at random (dropout, stochastic rounding) depends on the step alone, so there is no
        # generator's state to keep.
        torch.manual_seed(int(digest([self.part.text.seed, step]), 16) >> 1)
        picked = stream(len(train), self.part.text.seed, step * self.rows, self.rows)
        value = self.crew.gradients(packed.batches(train, picked, self.crew.tokens, self.learner.device))
        if not math.isfinite(value):
            self._diverged(f"the loss at step {step} is {value}")
        self.optimizer.step(self.schedule.learning_rate(step, self.part))
        self.progress.step += 1
        self.progress.losses.append(value)
        now = time.monotonic()
        if now - self.told > _TELL_S:
            self.told = now
            self.tell(
                {"stage": self.stage, "step": step + 1, "steps": self.schedule.steps, "loss": round(value, 4)}
            )

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _look(self, rows: Rows) -> float:
        self.learner.model.eval()
        batches = packed.batches(rows, range(len(rows)), self.crew.tokens, self.learner.device)
        total = self.crew.losses(batches)
        self.learner.model.train()
        return total / max(1, rows.supervised)

    def _refuse_risen(self) -> None:
        looks = self.progress.looks
        now, best = looks[-1], min(looks)
        if not math.isfinite(now) or (now > _RISEN * looks[0] and now > best + _RISEN_BY):
            self._diverged(
                f"the loss on text kept apart went from {looks[0]:.4g} to {now:.4g} by step "
                f"{self.progress.step}"
            )

    def _diverged(self, what: str) -> None:
        raise CandidateError(
            f"training must not diverge; {what}; lower learning_rate {self.part.learning_rate:g} or raise "
            f"warmup {self.part.warmup}",
            stage=self.stage,
            kind="diverged",
        )

    def _resume(self) -> int | None:
        """Go on from the newest checkpoint that fits and is whole. Returns its step."""
        if self.checkpoints is None:
            return None
        for saved in self.checkpoints.newest(self.planned):
            facts = saved.facts
            try:
                prefix = "optimizer:"
                self.optimizer.restore(
                    {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
                )
                with torch.no_grad():
                    for name, value in self.learner.trainable.items():
                        value.copy_(saved.tensors[f"parameter:{name}"])
            except (KeyError, RuntimeError):
                continue  # of another optimizer's making
            self.progress = Progress(facts["step"], list(facts["losses"]), list(facts["looks"]))
            self.found = self.progress.step if facts["kind"] == "branch" else None
            if facts["kind"] == "decay":
                self.schedule = Schedule(facts["steps"], facts["branch"])
            return self.progress.step
        return None

    def _save(self, kind: str, force: bool = False) -> None:
        if self.checkpoints is None or (self.checkpoints.busy and not force):
            return
        self.checkpoints.settle()
        # What takes long to copy or to write is written less often, once an hour at the least.
        slow = max(20 * self.copying, 3 * self.checkpoints.writing_s)
        apart = max(CHECKPOINT_S, min(slow, 30 * CHECKPOINT_S))
        if not force and time.monotonic() - self.saved < apart:
            return
        if kind == "branch" and self.progress.step == self.found:
            return  # it is there already: never replace what a kill now would lose
        if kind == "branch" and self.progress.step > self.schedule.branch:
            return  # resumed in the decay
        tensors = {f"parameter:{name}": value for name, value in self.learner.trainable.items()}
        tensors |= {f"optimizer:{name}": value for name, value in self.optimizer.state().items()}
        facts = {
            "kind": kind,
            "step": self.progress.step,
            "losses": list(self.progress.losses),
            "looks": list(self.progress.looks),
            "planned": self.planned.steps,
            "steps": self.schedule.steps,
            "branch": self.schedule.branch,
        }
        began = time.monotonic()
        self.checkpoints.save(tensors, facts)
        self.saved = time.monotonic()
        self.copying = self.saved - began

    def _notes(self, resumed: int | None, begun: int, spent: float, last: float) -> dict[str, Any]:
        progress, train = self.progress, self.text.train
        picked = stream(len(train), self.part.text.seed, 0, progress.step * self.rows)
        lengths = [sum(one) for one in train.lengths]
        labelled = (train.labels >= 0).sum(axis=1).tolist()
        fresh = picked[begun * self.rows :]
        looks = [*progress.looks, last]
        return {
            "steps": progress.step,
            "epochs": round(len(picked) / len(train), 4),
            "tokens": sum(lengths[row] for row in picked),
            "supervised": sum(labelled[row] for row in picked),
            "loss_first": _mean(progress.losses[:10]),
            "loss_last": _mean(progress.losses[-10:]),
            "validation_first": round(looks[0], 6),
            "validation_best": round(min(looks), 6),
            "validation_last": round(last, 6),
            "stopped_early": self.schedule != self.planned,
            "resumed_from": resumed,
            "optimizer": self.optimizer.name,
            "tokens_per_s": round(sum(lengths[row] for row in fresh) / spent) if fresh and spent else None,
        }


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


@contextlib.contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Hold the folder's lock; whoever holds it now is waited for. The kernel frees it when a process dies."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
