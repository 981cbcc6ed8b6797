"""Why the time per token of one model in one process differs from repeat to repeat, and what makes it less.

Example: ``python benchmarks/gpu/spread.py --minutes 4`` (a GPU; EXAONE-4.0-1.2B's shape, random weights)

One engine, the product's, answers the same batches (64 and 256 short prompts, 128 tokens an answer) again and
again, under settings that take turns, so that a spell of the machine meets all of them: as it is; without
turning tokens into text; with Python's threads taking turns every 0.1 ms instead of 5; without garbage
collection; with the thread that schedules on a core of its own, before all others. A second engine, in
another process, schedules each step only when the last one is over (``async_scheduling`` off).

The last line on stdout is JSON. settings: name -> batch -> us (microseconds per token of each repeat), spread
(their standard deviation over their mean), least, middle, and what went with each repeat in the mean: step_ms
(median step), stalls (share of the time in steps of more than 1.5 times the median), cpu (seconds of
processor a second of this process), stolen (share of all cores' time that the host took away), switched
(times that the scheduling thread was put aside, a second), gc (share of the time), sm_mhz. correlation: batch
-> of a repeat's time with what went with it, over all settings, each setting's mean taken off. a_a: batch ->
repeats a side -> estimate -> median error of one side's time against the other's, over random halves of the
repeats of one setting; estimates: the median repeat, the least, and the sum of the least that each step took
over the repeats. --quick takes the embedded model, on a CPU too.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import correlation, mean, median, pstdev
from typing import Any

from parts import SHORT, Book, about, make_models, make_questions, mixed, say, shared_options, with_places
from settings import SETTINGS

from squeeze.bench.clocks import look_nvml
from squeeze.bench.engine import Engine, Generate, Start
from squeeze.bench.workload import Workload

BATCHES = (64, 256)
TOKENS = 128
ONE_AFTER_THE_OTHER = "steps one after the other"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = parse(argv)
    ends = time.time() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    base = make_models(options.work, options.quick, {"base": 1.0})["base"]
    workload = mixed(make_questions(options.work / "data"), options.quick)
    for alone in (True, False):  # an engine each, in processes of their own; the one with less to do first
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(base, workload, options, alone, ends)
        )
        process.start()
        process.join()
        if process.exitcode:
            say(f"an engine ended (exit {process.exitcode})")
    print(json.dumps(report(Book(options.out).found, options), ensure_ascii=False))
    return 0


def measure(base: Path, workload: Workload, options: argparse.Namespace, alone: bool, ends: float) -> None:
    """One engine and its settings, in turn. alone: the engine that schedules no step ahead."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if alone:
        import vllm

        vllm.LLM = functools.partial(vllm.LLM, async_scheduling=False)
    engine = Engine(str(base), workload)
    engine(Start(), lambda event: None)
    steps = Steps(engine._llm.llm_engine)
    settings = {ONE_AFTER_THE_OTHER: contextlib.nullcontext} if alone else SETTINGS
    batches = [batch for batch in BATCHES if batch <= (workload.questions[SHORT] or 0)] or [8]
    asked = {
        batch: Generate(SHORT, 0, batch, answers=False, exact=16 if options.quick else TOKENS)
        for batch in batches
    }
    for request in asked.values():
        engine(request, lambda event: None)
    book = Book(options.out)
    for number in range(options.repeats):
        for name, setting in settings.items():
            for batch, request in asked.items():
                label = f"{name} | {batch} | {number}"
                if label in book.found or time.time() > ends:
                    continue
                with setting():
                    book.add(label, one(engine, request, steps))
    say(f"{'one after the other' if alone else 'ahead'}: {len(book.found)} repeats so far")


def one(engine: Engine, request: Generate, steps: Steps) -> dict[str, Any]:
    """A repeat, with what the process, the host and the GPU did meanwhile."""
    steps.taken.clear()
    collected = Collected()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw, time.process_time(), host_ticks()
    began = time.perf_counter()
    _, timing = engine(request, lambda event: None)
    wall = time.perf_counter() - began
    switched, cpu, ticks = (
        resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - before[0],
        time.process_time() - before[1],
        [now - then for now, then in zip(host_ticks(), before[2], strict=True)],
    )
    collected.close()
    middle = median(steps.taken)
    clock = look_nvml()
    return {
        "us": round(1e6 * timing.seconds / timing.tokens, 3),
        "steps": len(steps.taken),
        "step_ms": round(1e3 * middle, 4),
        "stalls": round(sum(step for step in steps.taken if step > 1.5 * middle) / sum(steps.taken), 4),
        "longest_ms": round(1e3 * max(steps.taken), 2),
        "cpu": round(cpu / wall, 3),
        "stolen": round(ticks[1] / max(1, ticks[0]), 5),
        "busy_cores": round((ticks[0] - ticks[2]) / max(1, ticks[0]), 4),
        "switched": round(switched / wall, 1),
        "gc": round(collected.seconds / wall, 4),
        "each_ms": [round(1e3 * step, 3) for step in steps.taken],
        "sm_mhz": clock.sm_mhz if clock else None,
    }


class Steps:
    """The seconds of each step of an engine."""

    def __init__(self, engine: Any) -> None:
        self.taken: list[float] = []
        step = engine.step

        def timed() -> Any:
            began = time.perf_counter()
            try:
                return step()
            finally:
                self.taken.append(time.perf_counter() - began)

        engine.step = timed


class Collected:
    """Seconds of Python's garbage collection since it was made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        gc.callbacks.append(self._hear)

    def _hear(self, phase: str, _: Mapping[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        else:
            self.seconds += now - self._began

    def close(self) -> None:
        """Hear no more."""
        gc.callbacks.remove(self._hear)


def host_ticks() -> tuple[int, int, int]:
    """Of all cores together since boot: ticks in all, those that the host took away, those without work."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(ticks[:8]), ticks[7], ticks[3] + ticks[4]


def report(found: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The JSON object."""
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for label, repeat in found.items():
        name, batch, _ = label.split(" | ")
        grouped.setdefault(name, {}).setdefault(batch, []).append(repeat)
    told = {
        name: {batch: summary(repeats) for batch, repeats in batches.items()}
        for name, batches in grouped.items()
    }
    by_batch: dict[str, dict[str, float | None]] = {}
    for batch in {batch for batches in grouped.values() for batch in batches}:
        sets = [batches[batch] for batches in grouped.values() if batch in batches]
        by_batch[batch] = {f"with_{what}": together(sets, what) for what in ("stolen", "stalls", "switched")}
    return {
        "a_a": {
            batch: halves([one[batch] for one in grouped.values() if batch in one]) for batch in by_batch
        },
        "settings": told,
        "correlation": by_batch,
        "model": "embedded" if options.quick else "EXAONE-4.0-1.2B's shape, random weights",
        **about(),
    }


def summary(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the repeats of one batch under one setting come to."""
    us = [one["us"] for one in repeats]
    what = ("step_ms", "stalls", "longest_ms", "cpu", "stolen", "busy_cores", "switched", "gc", "sm_mhz")
    return {
        "us": us,
        "spread": round(pstdev(us) / mean(us), 4),
        "least": min(us),
        "middle": round(median(us), 2),
        **{
            name: round(mean(one[name] for one in repeats), 4)
            for name in what
            if all(one[name] is not None for one in repeats)
        },
    }


def halves(sets: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Repeats a side -> estimate -> median of |one side's time over the other's - 1|, over random halves."""
    draw = random.Random(42)
    found: dict[str, dict[str, float]] = {}
    for side in (2, 3, 4, 6, 8):
        errors: dict[str, list[float]] = {name: [] for name in ESTIMATES}
        for repeats in sets:
            count = median(len(one["each_ms"]) for one in repeats)
            alike = [one["each_ms"] for one in repeats if len(one["each_ms"]) == count]
            for _ in range(200 if len(alike) >= 2 * side else 0):
                drawn = draw.sample(alike, 2 * side)
                for name, estimate in ESTIMATES.items():
                    errors[name].append(abs(estimate(drawn[:side]) / estimate(drawn[side:]) - 1))
        if errors["median"]:
            found[str(side)] = {name: round(median(values), 5) for name, values in errors.items()}
    return found


ESTIMATES: Mapping[str, Callable[[Sequence[Sequence[float]]], float]] = {
    "median": lambda repeats: median(map(sum, repeats)),
    "least": lambda repeats: min(map(sum, repeats)),
    "least of each step": lambda repeats: sum(map(min, zip(*repeats, strict=True))),
}


def together(sets: Sequence[Sequence[Mapping[str, Any]]], what: str) -> float | None:
    """The correlation of the repeats' times with a thing, the means of each set taken off."""
    times, things = [], []
    for repeats in sets:
        middle, usual = mean(one["us"] for one in repeats), mean(one[what] for one in repeats)
        times += [one["us"] / middle for one in repeats]
        things += [one[what] - usual for one in repeats]
    if len(times) < 3 or pstdev(times) == 0 or pstdev(things) == 0:
        return None
    return round(correlation(times, things), 3)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = shared_options(__doc__, minutes=10)
    parser.add_argument("--repeats", type=int, default=12, help="of each batch under each setting")
    options = with_places(parser.parse_args(argv), "spread")
    if options.quick:
        options.repeats = 8
    return options


if __name__ == "__main__":
    sys.exit(main())
