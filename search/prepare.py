"""From the options of a search to everything it needs, checked, cheapest first."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna

import objectives
import spaces
from search.cli import judge_of
from search.gate import Gate
from search.progress import Progress, left_out_told
from search.records import (
    CACHE,
    MODELS,
    STUDIES,
    check_name,
    load_baseline,
    load_trials,
    save_baseline,
    study_folder,
    write_whole,
)
from search.speeds import Speeds
from search.storage import default_storage
from search.study import open_study
from search.trial import Plan
from squeeze.bench.judged import JUDGED, NO_JUDGE
from squeeze.bench.measure import Bench
from squeeze.bench.workload import Workload, choose
from squeeze.cache import Cache
from squeeze.config import Calibration
from squeeze.data.chat import check_source
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.errors import SetupError
from squeeze.folder import content_key
from squeeze.hub import fetch
from squeeze.records import Measurement
from squeeze.target import Target

UNSCORED = "unscored"
"""User attribute of a study: benchmarks without a part in its Scores, and why, as of its first baseline."""


@dataclass(frozen=True)
class Search:
    """An opened search: nothing has been measured yet."""

    name: str
    study: optuna.Study
    mirror: optuna.Study
    base: Path
    model_key: str
    workload: Workload
    target: Target
    cache: Cache | None
    space: spaces.Space
    objective: objectives.Objective
    audit: float
    seed: int

    def bench(self, workload: Workload) -> Bench:
        """What measures with that workload; nothing is started yet."""
        log = study_folder(self.name) / "logs" / "baseline.log"
        return Bench(workload, self.base, self.target, log=log, unscored=self.left_out or {})

    @property
    def left_out(self) -> Mapping[str, str] | None:
        """Benchmarks that have no part in the study's Scores, and why; None before its first baseline."""
        found: Mapping[str, str] | None = self.study.user_attrs.get(UNSCORED)
        return found

    @property
    def baseline_key(self) -> str:
        """The key of the baseline's measurement that trials are scored against here and now."""
        return self.bench(self.workload).baseline_key(self.model_key)

    @contextlib.contextmanager
    def measuring(self, progress: Progress, *, final: bool = False) -> Iterator[tuple[Plan, Bench]]:
        """Start the measuring side; measure the baseline unless that has been done with the same engine.

        final: with the questions that finalists are asked, see ``Workload.final``.
        """
        kept = self.left_out
        with self.bench(self.workload.final if final else self.workload) as bench:
            key = bench.baseline_key(self.model_key)
            baseline = load_baseline(self.name, key)
            if baseline is None:
                progress.begin("baseline again" if final else "baseline")
                baseline = bench.measure_baseline(tell=progress.tell, once=final)
                self._check_quality(_left_out(baseline))
                self.objective.score(baseline, baseline)  # what can be compared with nothing is refused here
                save_baseline(self.name, key, baseline)
                about = "baseline, for the finalists" if final else "baseline"
                progress.say(
                    f"{about}: {baseline.seconds_per_token * 1e6:.1f} µs per token, {baseline.accuracy}"
                )
            if kept is None:
                self.study.set_user_attr(UNSCORED, _left_out(baseline))
            for name, why in _left_out(baseline).items():
                progress.say(left_out_told(name, why))
            bench.baseline = baseline  # of an earlier start
            for remark in baseline.remarks:
                progress.say(remark)
            yield (
                Plan(
                    study=self.name,
                    base=self.base,
                    data=self.workload.data,
                    cache=self.cache,
                    space=self.space,
                    objective=self.objective,
                    target=self.target,
                    baseline=baseline,
                    baseline_key=key,
                    speeds=Speeds.load(self.name, key, baseline, self.target.decoder),
                    gate=Gate.of(load_trials(self.name), key),
                    audit=self.audit,
                    seed=self.seed,
                ),
                bench,
            )

    def _check_quality(self, left_out: Mapping[str, str]) -> None:
        """Raise SetupError when a judge was asked for and has not rated the baseline, or other benchmarks
        make up the quality than in the study so far."""
        kept, why = self.left_out, "; ".join(left_out.values())
        if kept is None and self.workload.judge is not None and JUDGED in left_out:
            raise SetupError(
                f"the judge that was asked for must rate the baseline's answers; {why}; mend that and run "
                f"the same command again, or leave the judge out"
            )
        if kept is not None and set(kept) != set(left_out):
            why = why or f"the study leaves out {', '.join(kept)}"
            raise SetupError(
                f"the Scores of a study must be made of the same benchmarks; with this baseline they would "
                f"not be: {why}; mend that and run the same command again, or give another --study"
            )


def _left_out(baseline: Measurement) -> dict[str, str]:
    """Benchmark -> why it has no part in the quality of a study with that baseline."""
    unscored = [name for name in baseline.questions if name not in baseline.accuracy]
    return {name: baseline.unscored.get(name, NO_JUDGE) for name in unscored}


def open_search(arguments: argparse.Namespace) -> Search:
    """Check the options and open the study. Raises ConfigError or SetupError before anything is changed."""
    embedded = arguments.model is None
    name = check_name(arguments.study or ("demo" if embedded else "exaone"))
    space = spaces.load(arguments.space)
    objective = objectives.load(arguments.objective)
    for folder in (STUDIES, MODELS):
        probe = folder / ".writable"
        write_whole(probe, "")
        probe.unlink(missing_ok=True)  # a search that starts at the same time has the same one
    base = fetch(str(MODEL_DIR) if embedded else arguments.model, MODELS)
    decoder = Decoder.read(base)
    target = Target.here(decoder)
    workload = choose(arguments.workload, arguments.data, base, judge_of(arguments))
    check_source(Calibration(), workload.data)
    model_key = content_key(base)
    study, mirror = open_study(
        name,
        default_storage(name) if arguments.storage is None else arguments.storage,
        {
            "model_key": model_key,
            "model": arguments.model or "the embedded model",
            "workload": workload.key,
            "space": arguments.space,
            "objective": arguments.objective,
            "schemes": list(target.schemes()),
        },
    )
    cache = Cache(MODELS / CACHE) if arguments.cache_gib else None
    return Search(
        name=name,
        study=study,
        mirror=mirror,
        base=base,
        model_key=model_key,
        workload=workload,
        target=target,
        cache=cache,
        space=space,
        objective=objective,
        audit=arguments.audit,
        seed=arguments.seed,
    )
