"""What a running search tells: a live line in a terminal, plain lines elsewhere, and live.json for others."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.status import Status

from search.cli import printable
from search.records import TrialRecord, best_first, standing, study_folder, write_whole
from search.workers import owner
from squeeze.config import Training
from squeeze.errors import SetupError
from squeeze.records import Score


class Progress:
    """Tells what happens, on stderr.

    study: its name. total: trials wanted. done: trials finished before this start. best: the best of them.
    """

    def __init__(self, study: str, total: int, done: int, best: TrialRecord | None) -> None:
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
        self.console.print(printable(text), markup=False, soft_wrap=True)

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
            "best": self._best_value,
            "seconds_left": self.seconds_left,
        }
        with contextlib.suppress(SetupError):  # a disk that is full for a moment ends no trial
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
        leading = [record] if self.best is None else [self.best, record]
        ranked = best_first(leading)
        self.best = ranked[0][0] if ranked else None
        left = f", {minutes(self.seconds_left)} left" if self.seconds_left else ""
        tie = ", a tie" if standing(leading).get(record.number) == "tie" else ""
        self.say(
            f"[{self.done}/{self.total}] {describe(record)}  {seconds:.0f} s  ({self._told()}{tie}{left})"
        )

    def confirm(self, record: TrialRecord, best: TrialRecord) -> None:
        """A finalist was measured again; ``best`` is the study's best now."""
        assert record.confirmation is not None
        self.best = best
        held = sum(record.confirmation.held_out.values())
        asked = f"{held} held-out questions" if held else "the same questions"
        told = "".join(f"; flagged: {one}" for one in record.confirmation.pooled.flags)
        self.say(
            f"trial {record.number} again, {asked}: {compression(record)}: "
            f"Score {plus_minus(record.confirmation.again)}, with the first "
            f"{plus_minus(record.confirmation.pooled)}{told}  "
            f"{time.time() - self._since:.0f} s  ({self._told()})"
        )

    @property
    def _best_value(self) -> float | None:
        return self.best.final.value if self.best and self.best.final else None

    def _told(self) -> str:
        if self._best_value is None:
            return "no best yet"
        return f"best {self._best_value:.4f}{', flagged' if self.best_flags else ''}"

    @property
    def best_flags(self) -> list[str]:
        """What makes the best's speed doubtful."""
        return list(self.best.final.flags) if self.best and self.best.final else []

    @property
    def seconds_left(self) -> float:
        """The time the missing trials would take at the mean of this start's trials, s."""
        mean = sum(self._spent) / len(self._spent) if self._spent else 0.0
        return mean * max(0, self.total - self.done)

    def _line(self) -> str:
        best = f" · {self._told()}" if self._best_value is not None else ""
        left = f" · {minutes(self.seconds_left)} left" if self.seconds_left else ""
        return f"{self.done}/{self.total} · {self.doing} · {self.stage_name or 'start'}{best}{left}"


def describe(record: TrialRecord) -> str:
    """A trial in one line: number, compression, what came of it."""
    text = f"trial {record.number}: {compression(record)}: "
    if record.state == "complete" and record.score:
        return (
            text
            + (
                f"Score {plus_minus(record.score)} "
                f"(PerfNorm {record.score.perf_norm:.3f}, SpeedNorm {record.score.speed_norm:+.3f})"
            )
            + "".join(f"; flagged: {one}" for one in record.score.flags)
        )
    return f"{text}{record.state}: {record.reason}"


def plus_minus(score: Score) -> str:
    """A Score with half the width of its interval, e.g. ``0.5427 ± 0.0361``."""
    return f"{score.value:.4f} ± {(score.high - score.low) / 2:.4f}"


def left_out_told(benchmark: str, why: str) -> str:
    """That a benchmark has no part in the quality, in a line."""
    return printable(f"{benchmark} counts for speed alone, the other benchmarks make up Perf: {why}")


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
