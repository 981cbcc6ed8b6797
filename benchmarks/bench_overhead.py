"""What our way of asking costs: tokens per second of a whole benchmark against raw generation in vLLM.

Example: ``python benchmarks/bench_overhead.py --quick``

Three sides take turns, benchmark by benchmark, on the same prompts. Ours: one ``Generate`` over the whole
benchmark, from the parent's request to the scored answers in the parent, so with all that this adds: the
pipe, collecting garbage, the chat's prompts, scoring. Raw: the ``vllm.LLM`` of the same process, asked as
vLLM's own throughput benchmark (``vllm bench throughput``) asks, on the same token ids, for as many tokens as
our answers have. Apart: the same in a process of its own, made as that benchmark makes it.

The last line on stdout is JSON. ratio: ours over raw, in tokens per second over all benchmarks; the median of
the rounds. ratio_apart: ours over apart. ratio_clock: as ratio, with the time that a Score counts instead of
the parent's. rounds: each round's. first: the ratio of the first time, when prompts are rendered; it counts
among none of the others. --quick takes less than a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from overhead_sides import Both, Describe, Plain, Work

from squeeze.bench.engine import Generate, Start, Started
from squeeze.bench.workload import Workload, choose
from squeeze.child import Child
from squeeze.demo import MODEL_DIR
from squeeze.errors import SqueezeError
from squeeze.records import Timing
from squeeze.server import PRELOADED, preload

BENCHMARKS = ("kmmlu_redux", "kmmlu_pro", "ko_longrag")
"""Those of one turn: raw generation knows no second turn that depends on the first."""

SAME = ("max_model_len", "max_num_seqs", "enforce_eager", "enable_prefix_caching", "seed", "dtype")
"""Arguments that the plain engine gets as ours resolved them."""

PATIENCE_S = 1200
SHARE = 0.4
"""Of a GPU's memory, for each of the two engines."""

Round = dict[str, dict[str, Timing]]
"""Side -> benchmark -> what it took."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = parse(argv)
    try:
        print(json.dumps(measure(options)))
    except SqueezeError as error:
        say(f"error: {' '.join(str(error).split())}")
        return error.exit_code
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds; the figures."""
    workload = workload_of(options)
    preload([name for name in PRELOADED if name != "llmcompressor"])
    model = str(Path(options.model).resolve())
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        log = Path(folder) / "log"
        with Child(partial(Both, model, workload), stage="engine", log=log) as ours:
            started: Started = ours.call(Start(), deadline_s=PATIENCE_S)
            arguments = {name: started.engine[name] for name in SAME}
            arguments["gpu_memory_utilization"] = workload.engine.gpu_memory_utilization
            plain = partial(Plain, model, arguments, workload.engine.kv_cache_gib)
            with Child(plain, stage="plain engine", log=log) as apart:
                found, first = rounds(ours, apart, started.counts, options.rounds)
    clocks = [ratio(one, "clock", "raw") for one in found]
    ratios = [ratio(one, "ours", "raw") for one in found]
    others = [ratio(one, "ours", "apart") for one in found]
    return {
        "ratio": round(median(ratios), 4),
        "ratio_apart": round(median(others), 4),
        "ratio_clock": round(median(clocks), 4),
        "rounds": [round(one, 4) for one in ratios],
        "rounds_apart": [round(one, 4) for one in others],
        "first": round(ratio(first, "ours", "raw"), 4),
        "by_benchmark": {
            name: round(median(ratio(one, "ours", "raw", [name]) for one in found), 4)
            for name in started.counts
        },
        "tokens_per_s": {
            side: round(median(speed(one, side) for one in found), 1) for side in ("ours", "raw", "apart")
        },
        "questions": dict(started.counts),
        "tokens": {
            side: sum(timing.tokens for timing in found[0][side].values())
            for side in ("ours", "raw", "apart")
        },
        "model": str(options.model),
        "versions": started.engine["versions"],
        "machine": {
            "python": platform.python_version(),
            "device": started.engine["device"],
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
        "date": time.strftime("%Y-%m-%d"),
    }


def rounds(ours: Child, apart: Child, counts: Mapping[str, int], wanted: int) -> tuple[list[Round], Round]:
    """So many rounds, and the one before them in which everything is new."""
    works: dict[str, Work] = {}

    def turns(name: str, taken: Round) -> list[Callable[[], None]]:
        return [
            partial(ask_ours, ours, name, counts[name], taken),
            lambda: taken["raw"].update({name: ours.call(works[name], deadline_s=PATIENCE_S)}),
            lambda: taken["apart"].update({name: apart.call(works[name], deadline_s=PATIENCE_S)}),
        ]

    found: list[Round] = []
    for number in range(wanted + 1):
        taken: Round = {side: {} for side in ("ours", "clock", "raw", "apart")}
        for place, name in enumerate(counts):
            sides = turns(name, taken)
            # Whose turn is first changes, so that what one leaves behind meets all alike.
            first = (number + place) % len(sides) if number else 0
            for side in (*sides[first:], *sides[:first]):
                side()
                if name not in works:
                    works[name] = ours.call(Describe(name), deadline_s=PATIENCE_S)
        found.append(taken)
        told = ", ".join(f"{side} {speed(taken, side):.0f}" for side in ("ours", "raw", "apart"))
        say(f"{number}/{wanted}: tokens/s: {told}; ratio {ratio(taken, 'ours', 'raw'):.3f}")
    return found[1:], found[0]


def ask_ours(child: Child, name: str, count: int, taken: Round) -> None:
    """Our path over the whole benchmark, as the parent sees it."""
    began = time.perf_counter()
    _, timing = child.call(Generate(name, 0, count), deadline_s=PATIENCE_S)
    taken["ours"][name] = Timing(seconds=time.perf_counter() - began, tokens=timing.tokens)
    taken["clock"][name] = timing


def speed(one: Round, side: str, names: Sequence[str] = ()) -> float:
    """Tokens per second over those benchmarks (default: all)."""
    timings = [timing for name, timing in one[side].items() if not names or name in names]
    return sum(timing.tokens for timing in timings) / sum(timing.seconds for timing in timings)


def ratio(one: Round, side: str, other: str, names: Sequence[str] = ()) -> float:
    """Tokens per second of one side over another's."""
    return speed(one, side, names) / speed(one, other, names)


def workload_of(options: argparse.Namespace) -> Workload:
    """The model's own workload, of the benchmarks of one turn, with memory for two engines."""
    workload = choose(None, options.data, Path(options.model))
    names = BENCHMARKS[:1] if options.quick else BENCHMARKS
    return workload.model_copy(
        update={
            "questions": dict.fromkeys(names, options.questions),
            "max_tokens": options.max_tokens or workload.max_tokens,
            "divergence": None,
            "engine": workload.engine.model_copy(update={"gpu_memory_utilization": SHARE}),
        }
    )


def say(line: str) -> None:
    """Talk."""
    print(line, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; what was not given depends on --quick."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a run of less than a minute: one benchmark")
    parser.add_argument("--model", default=str(MODEL_DIR), help="a model folder (default: the embedded one)")
    parser.add_argument("--data", help="a folder with the sets (default: the model's own)")
    parser.add_argument("--questions", type=int, help="of each benchmark (default: all; quick: 128)")
    parser.add_argument("--max-tokens", type=int, help="of an answer (default: the workload's)")
    parser.add_argument("--rounds", type=int, help="default: 9; quick: 5")
    options = parser.parse_args(argv)
    if options.quick:
        options.questions = options.questions or 128
    options.rounds = options.rounds or (5 if options.quick else 9)
    return options


if __name__ == "__main__":
    sys.exit(main())
