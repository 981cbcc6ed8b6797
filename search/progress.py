"""What a running search tells: a live line in a terminal, plain lines elsewhere, and live.json for others."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.status import Status

from search.records import TrialRecord, study_folder, write_whole
from search.study import owner
from squeeze.config import Training


class Progress:
    """Tells what happens, on stderr.

    study: its name. total: trials wanted. done: trials finished before this start.
    """

    def __init__(self, study: str, total: int, done: int, best: float | None) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.study = study
        self.total = total
        self.done = done
        self.best = best
        self.doing = "start"
        self.stage_name = ""
        self._spent: list[float] = []
        self._since = time.time()
        self._status: Status | None = None

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Keep a live line while the block runs; take live.json away after it."""
        try:
            if self.console.is_terminal:
                with self.console.status(self._line()) as self._status:
                    yield
            else:
                yield
        finally:
            self._status = None
            with contextlib.suppress(OSError):
                (study_folder(self.study) / "live.json").unlink(missing_ok=True)

    def say(self, text: str) -> None:
        """One line of talk."""
        self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, doing: str) -> None:
        """A trial, or the baseline, begins."""
        self.doing = doing
        self._since = time.time()
        self.stage("")

    def stage(self, name: str) -> None:
        """The trial has come to a stage."""
        self.stage_name = name
        state: Mapping[str, Any] = {
            "owner": owner(),
            "doing": self.doing,
            "stage": name,
            "since": self._since,
            "finished": self.done,
            "trials": self.total,
            "best": self.best,
            "seconds_left": self.seconds_left,
        }
        write_whole(study_folder(self.study) / "live.json", json.dumps(state))
        if self._status is not None:
            self._status.update(self._line())

    def tell(self, event: Mapping[str, Any]) -> None:
        """A child's word on its progress."""
        self.stage(str(event.get("stage", "")))

    def finish(self, record: TrialRecord, done: int) -> None:
        """A trial has ended; ``done`` trials of the study are finished now."""
        self.done = done
        seconds = time.time() - self._since
        self._spent.append(seconds)
        if (
            record.state == "complete"
            and record.score
            and (self.best is None or record.score.value > self.best)
        ):
            self.best = record.score.value
        left = f", {minutes(self.seconds_left)} left" if self.seconds_left else ""
        best = f"best {self.best:.4f}" if self.best is not None else "no best yet"
        self.say(f"[{self.done}/{self.total}] {describe(record)}  {seconds:.0f} s  ({best}{left})")

    @property
    def seconds_left(self) -> float:
        """The time the missing trials would take at the mean of this start's trials, s."""
        mean = sum(self._spent) / len(self._spent) if self._spent else 0.0
        return mean * max(0, self.total - self.done)

    def _line(self) -> str:
        best = f" · best {self.best:.4f}" if self.best is not None else ""
        left = f" · {minutes(self.seconds_left)} left" if self.seconds_left else ""
        return f"{self.done}/{self.total} · {self.doing} · {self.stage_name or 'start'}{best}{left}"


def describe(record: TrialRecord) -> str:
    """A trial in one line: number, compression, what came of it."""
    text = f"trial {record.number}: {compression(record)}: "
    if record.state == "complete" and record.score:
        half = (record.score.high - record.score.low) / 2
        return text + (
            f"Score {record.score.value:.4f} ± {half:.4f} "
            f"(PerfNorm {record.score.perf_norm:.3f}, SpeedNorm {record.score.speed_norm:+.3f})"
        )
    return f"{text}{record.state}: {record.reason}"


def compression(record: TrialRecord) -> str:
    """The configuration in a few words, e.g. ``7 layers, FFN 896, W4A16 gptq``."""
    config = record.config
    words = []
    if config.depth:
        words.append(f"{config.depth.layers} layers")
    if config.width:
        words.append(f"FFN {config.width.width}")
    if config.distill:
        words.append(f"KD {_length(config.distill)}")
    if config.finetune:
        words.append(f"LoRA {config.finetune.rank}")
    if config.quantize:
        words.append(f"{config.quantize.scheme} {config.quantize.algorithm}")
    if config.tune_norms:
        words.append("norms tuned")
    return ", ".join(words) or "nothing"


def _length(part: Training) -> str:
    if part.steps is not None:
        return f"{part.steps} steps"
    return f"{part.epochs} epoch{'' if part.epochs == 1 else 's'}"


def minutes(seconds: float) -> str:
    """A time for people: ``40 s``, ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
