"""Seconds from asking for an engine to its first answer, cold and warm, and where they go.

Example: ``python benchmarks/gpu/startup.py`` (EXAONE-4.0-1.2B's shape, random weights, a GPU)

Every engine is a child of the product's own fork server and asked as a search asks: start, warm up, answer.
One after the other, all with one new folder for vLLM's cache:

- cold: the server has yet to import, nothing is compiled; through a slot (``squeeze.bench.slot``)
- slot: a copy of the model in another folder, through the same slot
- no slot: that copy, served by its own path
- graphs, first and graphs: through the slot, with the product's CUDA graphs for 48 questions at once
- new shape: another feed-forward width, likewise

The first three have all of vLLM's graphs, as the product has where more questions are asked than are answered
at once.

Some of these engines also time batches of the same question, with all graphs and with the product's.

The last line on stdout is JSON. starts: case -> seconds, and seconds of its parts (from the times at which
vLLM's log has the words that end them). per_token_us: graphs -> batch -> microseconds of each repeat, by
engine. ratio: the product's graphs over all, of medians over all repeats. --quick serves the embedded model,
on a CPU too, where nothing is compiled or captured: it shows that the program works. Answers are of
``TOKENS`` tokens whatever the model says, so that random weights do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from parts import about, linked, make_models, say

from squeeze.bench.engine import Engine, Generate, Start, Started
from squeeze.bench.served import Served, Slice
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.child import Child
from squeeze.demo import DATA_DIR

BENCHMARK = "kmmlu_redux"
TOKENS = 64
BATCHES = (1, 5, 17, 41, 48)
"""Answered at once for the times per token; 48 is the largest of the workload with 64 questions."""

PARTS = (
    ("engine set-up", "world size 1 is assigned"),
    ("weights", "Model loading took"),
    ("compile or load what is compiled", "Initial profiling/warmup run took"),
    ("profile", "GPU KV cache size"),
    ("kernel warm-up and graphs", "Graph capturing finished"),
)
"""Part -> the words of vLLM's log that end it, in their order; one that is not there is part of the next."""


@dataclass
class Launch:
    """One engine's start. seconds: in all. parts: what of it was spent where. sizes: graphs captured."""

    seconds: float
    parts: Mapping[str, float]
    sizes: Sequence[int]


@dataclass
class Times:
    """Microseconds per token, batch -> engine -> repeats."""

    repeats: int
    taken: dict[int, list[list[float]]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})

    def take(self, served: Served) -> None:
        """Time every batch some times, after once to warm up."""
        for batch, engines in self.taken.items():
            asked = Slice(BENCHMARK, 0, batch, exact=TOKENS)
            served.time(asked)
            repeats = [served.time(asked) for _ in range(self.repeats)]
            engines.append([1e6 * one.seconds / one.tokens for one in repeats])

    def middle(self, batch: int) -> float:
        """The median over all repeats of all engines."""
        return median(one for repeats in self.taken[batch] for one in repeats)


class Stamps:
    """When a log first had the words that end a part; looks every 20 ms."""

    def __init__(self, log: Path) -> None:
        self.found: dict[str, float] = {}
        self._log = log
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            text = self._log.read_text(errors="replace") if self._log.exists() else ""
            for part, words in PARTS:
                if words in text:
                    self.found.setdefault(part, time.perf_counter())

    def close(self) -> None:
        """Look no more."""
        self._done.set()
        self._thread.join()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="startup-", dir=options.work) as folder:
        work = Path(folder)
        logs = Path(options.logs) if options.logs else work / "logs"
        os.environ["VLLM_CACHE_ROOT"] = str(work / "cache")
        os.environ.pop("TRITON_CACHE_DIR", None)
        models = prepare(work, options.quick)
        data = questions(work / "data")
        every, few = workload("every", data, 600), workload("few", data, 64)
        found: dict[str, Launch] = {}
        times = {name: Times(1 if options.quick else 7) for name in ("all", "product")}

        def start(case: str, model: str, asks: Workload, through_slot: bool = True, **timed: Times) -> None:
            log = logs / f"{case.replace(' ', '-').replace(',', '')}-{len(list(logs.glob('*')))}.log"
            one = serve(models[model], asks, log, through_slot, **timed)
            found.setdefault(case, one)  # later ones are for the times per token
            say(f"{case}: {one.seconds:.1f} s; {json.dumps(one.parts)}")

        if not options.product:
            start("cold", "one", every, times=times["all"])
            start("slot", "two", every, times=times["all"])
            start("no slot", "two", every, through_slot=False)
        start("graphs, first", "one", few, times=times["product"])
        start("graphs", "two", few, times=times["product"])
        start("new shape", "narrow", few)
        for _ in range(options.again):
            if not options.product:
                start("slot", "one", every, times=times["all"])
            start("graphs", "one", few, times=times["product"])
    print(json.dumps(report(found, times, options)))
    return 0


def serve(model: Path, asks: Workload, log: Path, through_slot: bool, times: Times | None = None) -> Launch:
    """Start an engine, have one question answered, and time batches with it if asked to."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stamps = Stamps(log)
    began = time.perf_counter()
    at: dict[str, float] = {}

    def tell(event: Mapping[str, Any]) -> None:
        at.setdefault(str(event["stage"]), time.perf_counter())

    if through_slot:
        with Served(model, asks, log) as served:
            served.wait(tell)
            ready = time.perf_counter()
            served.time(Slice(BENCHMARK, 0, 1, exact=TOKENS))
            ends = time.perf_counter()
            started = Started({}, served.engine, served.seconds)
            if times is not None:
                times.take(served)
    else:
        with Child(partial(Engine, str(model), asks), stage="engine", log=log) as child:
            started = child.call(Start(), deadline_s=asks.start_deadline_s, tell=tell)
            ready = time.perf_counter()
            child.call(Generate(BENCHMARK, 0, 1, answers=False, exact=TOKENS), deadline_s=60)
            ends = time.perf_counter()
    stamps.close()
    marks = {"import": at["data"], "questions": at["engine"], **stamps.found}
    marks["rest of the engine"] = ready - started.seconds["warm"]
    marks |= {"warm-up": ready, "first answer": ends}
    parts, before = {}, began
    for part, moment in marks.items():
        parts[part] = round(moment - before, 2)
        before = moment
    return Launch(round(ends - began, 2), parts, started.engine["cudagraph_capture_sizes"] or [])


def report(
    found: Mapping[str, Launch], times: Mapping[str, Times], options: argparse.Namespace
) -> dict[str, Any]:
    """The JSON object."""
    return {
        "starts": {
            case: {"seconds": one.seconds, "parts": one.parts, "graphs": len(one.sizes)}
            for case, one in found.items()
        },
        "graph_sizes": {case: list(found[case].sizes) for case in ("slot", "graphs") if case in found},
        "per_token_us": {
            name: {
                str(batch): [[round(one, 1) for one in repeats] for repeats in taken]
                for batch, taken in which.taken.items()
            }
            for name, which in times.items()
        },
        "ratio": {
            str(batch): round(times["product"].middle(batch) / times["all"].middle(batch), 4)
            for batch in BATCHES
            if times["all"].taken[batch]
        },
        "model": "embedded" if options.quick else "EXAONE-4.0-1.2B's shape, random weights",
        **about(),
    }


def prepare(work: Path, quick: bool) -> dict[str, Path]:
    """Model folders: ``one``, its copy ``two``, and ``narrow`` with another feed-forward width."""
    # Made by a process of its own, not the fork server, whose start is to be timed.
    models = make_models(work / "models", quick, {"one": 1.0, "narrow": 0.75})
    return {**models, "two": linked(models["one"], work / "models" / "two")}


def questions(folder: Path) -> Path:
    """A data folder with one question many times, so that batches of any workload are the same work."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    rows = pq.read_table(DATA_DIR / f"{BENCHMARK}.parquet")
    pq.write_table(pa.concat_tables([rows.slice(0, 1)] * 600), folder / f"{BENCHMARK}.parquet")
    return folder


def workload(name: str, data: Path, count: int) -> Workload:
    """So many questions, served as the contest's are but for a shorter context."""
    return Workload(
        name=name,
        data=str(data),
        questions={BENCHMARK: count},
        engine=EngineArguments(max_model_len=2048, kv_cache_gib=1),
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the embedded model, on a CPU too")
    parser.add_argument("--again", type=int, default=0, help="more pairs of engines for the times per token")
    parser.add_argument("--product", action="store_true", help="only engines with the product's graphs")
    parser.add_argument("--work", help="where models and caches are put for the while (default: TMPDIR)")
    parser.add_argument("--logs", help="keep the engines' logs there")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
