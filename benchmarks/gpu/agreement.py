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
processes a side, by the median of their passes, the first dropped or not. clocks and reasons of every
process are there too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, pstdev, stdev
from typing import Any

from parts import LONG, MIX, SHORT, Book, Watch, about, make_models, make_questions, middle, mixed, say

from squeeze import child
from squeeze.bench.served import Served, Slice

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
    found = {kind: judged(book, kind) for kind in options.kinds if f"{kind} 1" in book.found}
    print(
        json.dumps(
            {
                **found,
                "processes": book.found,
                "batches": list(MIX),
                "model": "embedded" if options.quick else "EXAONE-4.0-1.2B's shape, random weights",
                **about(),
            },
            ensure_ascii=False,
        )
    )
    return 0


def one(
    base: Path, workload: Any, asked: Sequence[Slice], kind: str, options: argparse.Namespace
) -> dict[str, Any]:
    """A fresh process: its start, and the time of each slice in each pass."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = KINDS[kind]
    child._stop()  # the fork server hands on the environment that it was started with
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
    medians = [middle(times) for times in later]
    within = mean(stdev(times) / mean(times) for times in later) if len(later[0]) > 1 else None
    return {
        "us": {name: [round(one, 2) for one in times] for name, times in us.items()},
        "within": within and round(within, 5),
        "between": round(stdev(medians) / mean(medians), 5) if len(medians) > 1 else None,
        "first": round(mean(times[0] / middle(times[1:]) for times in us.values()), 4),
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
                [middle(times[drop:]) for times in us.values()], side
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
        "median": round(middle(found), 5),
        "p90": round(found[int(0.9 * (len(found) - 1))], 5),
        "pairs": len(found),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the embedded model, on a CPU too")
    parser.add_argument("--out", type=Path, help="JSON lines of what is found (default: in --work)")
    parser.add_argument("--work", type=Path, help="models and logs (default: a new folder)")
    parser.add_argument("--minutes", type=float, default=30, help="begin nothing new after so many")
    parser.add_argument("--processes", type=int, default=10, help="of each kind")
    parser.add_argument("--passes", type=int, default=6, help="of each process")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args(argv)
    options.work = options.work or Path(tempfile.mkdtemp(prefix="agreement-"))
    options.out = options.out or options.work / "agreement.jsonl"
    if options.quick:
        options.processes, options.passes = 2, 3
    return options


if __name__ == "__main__":
    sys.exit(main())
