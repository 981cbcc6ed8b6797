"""Is a Score's interval as wide as it should be? The same two candidates, measured again and again.

    python benchmarks/interval.py --out interval --repeats 20

One candidate is the unchanged embedded model itself, the other has fewer layers and a narrower FFN. Each
repeat measures both with the search's own code: fresh processes, the baseline beside them, the workload
``demo``, questions drawn anew, so that a repeat has all the luck that a trial of a search has. The pooled
value of a candidate is its Score from all repeats together: all their questions, all their passes.

Every measurement is stored under --out as soon as it is made, and what is there is not made again: the same
command goes on, or judges again what is there. --minutes ends it early, with what there is. --quick: two
repeats with few questions.

The last line on stdout is JSON. coverage: the share of the stated 90 % intervals of Score that hold the
pooled value, over both candidates; by_candidate: each one's, of Score, PerfNorm (questions alone) and
SpeedNorm (times, and lengths of answers). aa_speed_norm_median: the median of |SpeedNorm| of the unchanged
model, which has none; aa_speed_norm: its median with the sign, a bias if it is not 0 within its error
aa_speed_norm_error. deviation: the standard deviation of the logarithm of the time ratio from repeat to
repeat, and within what of it the passes of one process account for. by_place: the median time ratio of the
unchanged model by pass and benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from math import log, sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from objectives import competition
from search.records import read_measurement, write_whole
from squeeze.bench.measure import Bench
from squeeze.bench.quality import perf_interval
from squeeze.bench.resolved import versions
from squeeze.bench.stats import BETWEEN, Between, speed_interval, time_ratio
from squeeze.bench.workload import Workload, choose
from squeeze.cache import Cache
from squeeze.config import CompressionConfig, parse_config
from squeeze.decoder import Decoder
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.pipeline import build_in_child
from squeeze.records import Measurement, Score
from squeeze.target import Target

CANDIDATES = {"unchanged": {}, "smaller": {"depth": {"layers": 7}, "width": {"width": 768}}}
"""Name -> configuration."""

QUICK = {"kmmlu_redux": 8, "kmmlu_pro": 8, "ko_longrag": 4, "komt_bench": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("interval"), help="where measurements are kept")
    options.add_argument("--repeats", type=int, default=20, help="of each candidate (default: 20)")
    options.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after them")
    options.add_argument("--quick", action="store_true", help="two repeats with few questions")
    arguments = options.parse_args(argv)
    out, repeats = (arguments.out / "quick", 2) if arguments.quick else (arguments.out, arguments.repeats)
    workload = choose("demo", None, MODEL_DIR).model_dump() | {"name": "interval", "divergence": None}
    if arguments.quick:
        workload |= {"questions": QUICK, "probes": 1}
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * arguments.minutes
    baseline = known_baseline(out, workload)
    for repeat in range(repeats):
        for name in CANDIDATES:
            path = out / f"{name}-{repeat:03d}.json"
            if read_measurement(path) is None and time.monotonic() < ends:
                measured = measure(name, Workload.model_validate(workload | {"draw": repeat}), baseline, out)
                write_whole(path, measured.model_dump_json(indent=1))
                score = competition.score(measured, baseline)
                say(f"{path.stem}: {score.value:.4f} ({score.low:.4f} to {score.high:.4f}), {spoken(score)}")
    print(json.dumps(judged(out, baseline)))
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def spoken(score: Score) -> str:
    return f"PerfNorm {score.perf_norm:.3f}, SpeedNorm {score.speed_norm:+.4f}"


def known_baseline(out: Path, workload: dict[str, Any]) -> Measurement:
    """The baseline's answers to all questions, asked once: they are greedy. Its time is taken beside each
    candidate."""
    path = out / "baseline.json"
    found = read_measurement(path)
    if found is None:
        every = {name: None for name in workload["questions"]}
        asking = Workload.model_validate(workload | {"questions": every, "repeats": 1})
        with bench(asking, out) as one:
            found = one.measure_baseline()
        write_whole(path, found.model_dump_json(indent=1))
    return found


def bench(workload: Workload, out: Path) -> Bench:
    return Bench(workload, MODEL_DIR, Target.here(Decoder.read(MODEL_DIR)), log=out / "baseline.log")


def measure(name: str, workload: Workload, baseline: Measurement, out: Path) -> Measurement:
    """A candidate, in an engine of its own, with the baseline's beside it, both started for it."""
    with bench(workload, out) as one:
        one.baseline = baseline
        *_, measured = one.measure(built(name, out), log=out / f"{name}.log")
    return measured


def built(name: str, out: Path) -> Path:
    """The model folder of a candidate, made once."""
    config: CompressionConfig = parse_config(CANDIDATES[name], "the benchmark")
    if not config.parts:
        return MODEL_DIR
    folder = out / "models" / name
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        log = out / f"{name}.log"
        build_in_child(
            config, MODEL_DIR, folder, str(DATA_DIR), log=log, deadline_s=600, cache=Cache(out / "cache")
        )
    return folder


def judged(out: Path, baseline: Measurement) -> dict[str, Any]:
    """The figures, from all measurements that are there."""
    by, covered, figures = {}, [], {}
    for name in CANDIDATES:
        found = [read_measurement(path) for path in sorted(out.glob(f"{name}-[0-9]*.json"))]
        measured = [one for one in found if one is not None]
        if len(measured) < 2:
            continue
        by[name], holds = coverage(measured, baseline)
        covered += holds
        by[name]["repeats"] = len(measured)
        by[name] |= spread(measured)
        if name == "unchanged":
            figures = against_itself(measured, baseline)
    return {
        "coverage": round(fmean(covered), 3) if covered else None,
        "aa_speed_norm_median": None,
        **figures,
        "by_candidate": by,
        "assumed": {device: known._asdict() for device, known in BETWEEN.items()},
        "versions": versions(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": [round(one, 2) for one in os.getloadavg()],
    }


def coverage(measured: Sequence[Measurement], baseline: Measurement) -> tuple[dict[str, Any], list[bool]]:
    """How often the intervals hold the pooled values: of Score, PerfNorm and SpeedNorm."""
    together = measured[0]
    for one in measured[1:]:
        together = together.joined(one)
    pooled = competition.score(together, baseline)
    holds: dict[str, list[bool]] = {"coverage": [], "perf_coverage": [], "speed_coverage": []}
    widths = []
    for one in measured:
        score = competition.score(one, baseline)
        low, _, high = perf_interval(one, baseline, competition.WEIGHTS, competition.CONFIDENCE)
        fast, _, slow = speed_interval(one, baseline, competition.CONFIDENCE)
        holds["coverage"].append(score.low <= pooled.value <= score.high)
        holds["perf_coverage"].append(low <= pooled.perf_norm <= high)
        holds["speed_coverage"].append(fast <= 1 - pooled.speed_norm <= slow)
        widths.append((score.high - score.low) / 2)
    told = {kind: round(fmean(one), 3) for kind, one in holds.items()}
    pooled_told = {
        "score": round(pooled.value, 4),
        "low": round(pooled.low, 4),
        "high": round(pooled.high, 4),
        "perf_norm": round(pooled.perf_norm, 4),
        "speed_norm": round(pooled.speed_norm, 4),
    }
    return {**told, "half_width": round(median(widths), 4), "pooled": pooled_told}, holds["coverage"]


def spread(measured: Sequence[Measurement]) -> dict[str, float]:
    """The deviation of the time ratio's logarithm from repeat to repeat, and what passes account for."""
    nothing = Between(0.0, 1.0)
    ratios = [time_ratio(one.passes, one.reference, nothing) for one in measured]
    return {
        "deviation": round(stdev(log(ratio) for ratio, _, _ in ratios), 4),
        "within": round(sqrt(fmean(error**2 for _, error, _ in ratios)), 4),
    }


def against_itself(measured: Sequence[Measurement], baseline: Measurement) -> dict[str, Any]:
    """What the unchanged model's SpeedNorm is, which should be 0, and where it comes from."""
    norms = [competition.score(one, baseline).speed_norm for one in measured]
    places = {
        f"{name}, pass {place}": round(
            median(
                one.passes[place].timings[name].seconds / one.reference[place].timings[name].seconds
                for one in measured
            ),
            4,
        )
        for place in range(len(measured[0].passes))
        for name in measured[0].passes[place].timings
    }
    return {
        "aa_speed_norm_median": round(median(abs(one) for one in norms), 4),
        "aa_speed_norm": round(median(norms), 4),
        "aa_speed_norm_error": round(stdev(norms) / sqrt(len(norms)), 4),
        "aa_speed_norms": [round(one, 4) for one in norms],
        "by_place": places,
    }


if __name__ == "__main__":
    sys.exit(main())
