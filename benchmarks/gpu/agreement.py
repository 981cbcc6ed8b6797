"""How far the same model agrees with itself, in one process and between processes: what a timing is worth.

Example: ``python benchmarks/gpu/agreement.py --processes 8 --out agreement.jsonl`` (a GPU; random weights)

The unchanged model of EXAONE-4.0-1.2B's shape is served in fresh processes, one after the other; each
answers the same questions several times (a pass: 256 short prompts with answers of 128 tokens in one go,
then 32 long ones with answers of 32). Half of the processes have vLLM's engine in the process that asks
(``inside``), half in one of its own, as ``vllm.LLM`` has it by itself and the contest's server therefore
too (``own``), in turn.

The last line on stdout is JSON, for each kind: us (process -> microseconds per token of each pass, pooled),
within (standard deviation of a pass, relative, the first left out), between (of a process's median), first
(the first pass over the others' median), and a_a: protocol -> median and 90th percentile of |SpeedNorm| of
the model against itself, over all pairs of disjoint groups of the processes measured. A protocol is so many
processes a side, by the median of their passes, the first dropped or not. clocks and reasons of every process
are there too. in_turn: SpeedNorm of a copy of the model, measured as a search measures a candidate, in fresh
processes each time (on a GPU with room for two engines: timed in turn with the unchanged model), by the
seconds of a turn (``--turns``; ``inf``: whole passes, as wide as the questions of a benchmark, on the same
one core drawn for both as in turns); deviation: the standard deviation of the ratio's logarithm. ``--of``
measures a candidate of shapes.py instead, whose SpeedNorm is not 0: it tells whether turns agree with whole
passes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from math import ceil, log
from pathlib import Path
from statistics import mean, median, pstdev, stdev
from typing import Any

from parts import (
    LONG,
    SHORT,
    Book,
    about,
    linked,
    make_models,
    make_questions,
    mixed,
    say,
    shared_options,
    with_places,
)
from shapes import candidates
from watch import Watch

from squeeze import server
from squeeze.bench import turns
from squeeze.bench.measure import Bench
from squeeze.bench.served import Served, Slice
from squeeze.bench.stats import between, time_ratio
from squeeze.bench.workload import Workload
from squeeze.decoder import Decoder
from squeeze.demo import DATA_DIR
from squeeze.pipeline import build_in_child
from squeeze.target import Target

COPY = "copy"
KINDS = {"inside": "0", "own": "1"}
"""Kind -> VLLM_ENABLE_V1_MULTIPROCESSING."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = parse(argv)
    ends = time.monotonic() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    base = make_models(options.work, options.quick, {"base": 1.0})["base"]
    workload = mixed(make_questions(options.work / "data"), options.quick)
    counts = workload.questions
    asked = [
        Slice(SHORT, 0, counts[SHORT] or 0, exact=16 if options.quick else 128),
        Slice(LONG, 0, counts[LONG] or 0, exact=32),
    ]
    book = Book(options.out)
    for number in range(options.processes):
        for kind in options.kinds:
            name = f"{kind} {number}"
            if name in book.found or time.monotonic() > ends:
                continue
            book.add(name, one(base, workload, asked, kind, options))
            say(f"{name}: {json.dumps(book.found[name], ensure_ascii=False)}")
    in_turn(base, workload, book, ends, options)
    found = {kind: judged(book, kind) for kind in options.kinds if f"{kind} 1" in book.found}
    found["in_turn"] = {}
    for turn in options.turns:
        ratios = [one for name, one in book.found.items() if name.startswith(f"{options.of} in turn {turn} ")]
        if ratios:
            found["in_turn"][str(turn)] = {
                "speed_norms": [round(1 - one["ratio"], 5) for one in ratios],
                "deviation": round(pstdev([log(one["ratio"]) for one in ratios]), 5),
                "median": round(median([abs(1 - one["ratio"]) for one in ratios]), 5),
                "signed_median": round(median([1 - one["ratio"] for one in ratios]), 5),
                "errors_told": [one["error"] for one in ratios],
                "benchmarks": {
                    name: [round(1 - median_ratio(one, name), 5) for one in ratios] for name in (SHORT, LONG)
                },
            }
    print(
        json.dumps(
            {
                **found,
                "processes": book.found,
                "model": "embedded" if options.quick else "EXAONE-4.0-1.2B's shape, random weights",
                **about(),
            },
            ensure_ascii=False,
        )
    )
    return 0


def other(base: Path, options: argparse.Namespace) -> Path:
    """What is measured beside the model."""
    found: Path = options.work / options.of.replace(" ", "-").replace(",", "")
    if options.of == COPY:
        return linked(base, found)
    if not found.exists():
        config = candidates(Decoder.read(base))[options.of]
        data = str(DATA_DIR if options.quick else options.work / "data")
        build_in_child(config, base, found, data, log=options.work / "logs" / "build.log", deadline_s=1200)
    return found


def in_turn(base: Path, workload: Workload, book: Book, ends: float, options: argparse.Namespace) -> None:
    """Measure a copy of the model, or another one, as a search measures a candidate, again and again."""
    if options.in_turn <= 0:
        return
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = KINDS["inside"]
    server.stop()
    candidate = other(base, options)
    asks = workload.model_copy(update={"max_tokens": 16 if options.quick else 128, "probe_tokens": 16})
    if options.quick:  # the embedded model has nothing to say to made-up text
        asks = asks.model_copy(update={"data": str(DATA_DIR)})
    log = options.work / "logs" / "in-turn.log"
    with Bench(asks, base, Target.here(Decoder.read(base)), log=log) as bench:
        began = time.perf_counter()
        bench.measure_baseline()
        say(f"baseline: {time.perf_counter() - began:.1f} s")
        for number in range(options.in_turn):
            turns.TURN_S = options.turns[number % len(options.turns)]
            name = f"{options.of} in turn {turns.TURN_S} {number}"
            if name in book.found:
                continue
            if time.monotonic() > ends:
                break
            began = time.perf_counter()
            with Watch() as watch:
                *_, measured = bench.measure(candidate, log=log, empty=True)
            ratio, error, _ = time_ratio(measured.passes, measured.reference, between(measured))
            book.add(
                name,
                {
                    "ratio": round(ratio, 5),
                    "error": round(error, 5),
                    "seconds": round(time.perf_counter() - began, 1),
                    "passes": [one.model_dump(mode="json")["timings"] for one in measured.passes],
                    "reference": [one.model_dump(mode="json")["timings"] for one in measured.reference],
                    "clocks": measured.clocks and measured.clocks.model_dump(mode="json"),
                    **watch.told(),
                },
            )
            say(f"{name}: SpeedNorm {1 - ratio:+.4f}, {book.found[name]['seconds']} s")


def median_ratio(found: Mapping[str, Any], benchmark: str) -> float:
    """The median over the passes of a benchmark's time over the time of the model beside it."""
    ratios: list[float] = [
        mine[benchmark]["seconds"] / other[benchmark]["seconds"]
        for mine, other in zip(found["passes"], found["reference"], strict=True)
    ]
    return median(ratios)


def one(
    base: Path, workload: Workload, asked: Sequence[Slice], kind: str, options: argparse.Namespace
) -> dict[str, Any]:
    """A fresh process: its start, and the time of each slice in each pass."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = KINDS[kind]
    server.stop()  # the fork server hands on the environment that it was started with
    began = time.perf_counter()
    with Watch() as watch, Served(base, workload, options.work / "logs" / f"{kind}.log") as served:
        served.wait()
        started = time.perf_counter() - began
        passes = []
        for _ in range(options.passes):
            timings = [served.time(part) for part in asked]
            passes.append([[round(one.seconds, 5), one.tokens] for one in timings])
    return {"start_s": round(started, 1), "passes": passes, **watch.told()}


def judged(book: Book, kind: str) -> dict[str, Any]:
    """What the processes of a kind say."""
    us = {
        name: [1e6 * sum(s for s, _ in timed) / sum(t for _, t in timed) for timed in found["passes"]]
        for name, found in book.found.items()
        if name.startswith(kind + " ")
    }
    later = [times[1:] for times in us.values()]
    medians = [median(times) for times in later]
    within = mean(stdev(times) / mean(times) for times in later) if len(later[0]) > 1 else None
    return {
        "us": {name: [round(one, 2) for one in times] for name, times in us.items()},
        "within": within and round(within, 5),
        "between": round(stdev(medians) / mean(medians), 5) if len(medians) > 1 else None,
        "first": round(mean(times[0] / median(times[1:]) for times in us.values()), 4),
        "spread_by_batch": {
            batch: round(
                mean(
                    pstdev([timed[place][0] for timed in found["passes"][1:]])
                    / mean([timed[place][0] for timed in found["passes"][1:]])
                    for name, found in book.found.items()
                    if name.startswith(kind + " ")
                ),
                5,
            )
            for place, batch in enumerate(("short", "long"))
        },
        "a_a": {
            f"{side} a side, {'first pass dropped' if drop else 'all passes'}": errors(
                [median(times[drop:]) for times in us.values()], side
            )
            for side in (1, 2, 3)
            for drop in (0, 1)
            if len(us) >= 2 * side
        },
    }


def errors(medians: Sequence[float], side: int) -> dict[str, float]:
    """|SpeedNorm| of the model against itself over all pairs of disjoint groups of ``side`` processes."""
    places = range(len(medians))
    found = []
    for mine in itertools.combinations(places, side):
        rest = [place for place in places if place not in mine]
        for other in itertools.combinations(rest, side):
            ratio = mean(medians[place] for place in mine) / mean(medians[place] for place in other)
            found.append(abs(1 - ratio))
    found.sort()
    return {
        "median": round(median(found), 5),
        "p90": round(found[ceil(0.9 * len(found)) - 1], 5),
        "pairs": len(found),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = shared_options(__doc__, minutes=30)
    parser.add_argument("--processes", type=int, default=10, help="of each kind")
    parser.add_argument("--passes", type=int, default=6, help="of each process")
    parser.add_argument("--in-turn", type=int, default=10, help="measurements of a copy beside the model")
    parser.add_argument("--turns", nargs="*", type=float, default=[turns.TURN_S], help="seconds, in turn")
    parser.add_argument("--of", default=COPY, help="what is measured in turn; a name as of shapes.py --only")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    options = with_places(parser.parse_args(argv), "agreement")
    if options.quick:
        options.processes, options.passes, options.in_turn = 2, 3, 2
    return options


if __name__ == "__main__":
    sys.exit(main())
