"""One trial, from parameters to its record: suggest, refuse, build, measure rung by rung, score."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import optuna

from objectives import Objective
from search.gate import Gate
from search.keep import refuse_damaged
from search.progress import Progress
from search.pruning import RUNGS, to_beat
from search.records import TrialRecord, model_folder, study_folder
from search.speeds import Shape, Speeds, fast_enough, too_slow
from spaces import Space
from squeeze.bench.measure import Bench
from squeeze.cache import Cache
from squeeze.config import CompressionConfig
from squeeze.deadlines import COPY_S, Deadlines
from squeeze.errors import CandidateError
from squeeze.failures import log_tail
from squeeze.pipeline import build_in_child
from squeeze.records import Artifact, Estimate, Measurement, Score
from squeeze.secret import hidden
from squeeze.target import Target


@dataclass(frozen=True)
class Plan:
    """What stays the same over a search.

    base: the base model's folder. data: where the data sets are. cache: of the outputs of stages.
    baseline_key: of ``baseline``. speeds: of shapes, added to. gate: bounds quality by divergence, added
    to. deadlines: of stages, added to. audit: share of prunes that are measured to the end all the same.
    """

    study: str
    base: Path
    data: str
    cache: Cache | None
    space: Space
    objective: Objective
    target: Target
    baseline: Measurement
    baseline_key: str
    speeds: Speeds
    gate: Gate = field(default_factory=Gate)
    deadlines: Deadlines = field(default_factory=Deadlines)
    audit: float = 0.0
    seed: int = 42

    def bound(self, measurement: Measurement, config: CompressionConfig | None = None) -> float:
        """The highest Score that is still possible. config: the candidate's, to compare it with other trials.

        A search that stops nothing (``audit`` 1) compares nothing: what it records depends on no order.
        """
        ceiling = inf if config is None or self.audit >= 1 else self.gate.ceiling(config, measurement)
        return self.objective.optimistic(measurement, self.baseline, ceiling)

    def audits(self, config: CompressionConfig) -> bool:
        """Whether a prune of that configuration is not carried out but checked; the same at every start."""
        return random.Random(f"{self.seed} {config.key}").random() < self.audit


@dataclass
class _Findings:
    """What a trial has come to so far; becomes its record however it ends."""

    config: CompressionConfig = field(default_factory=CompressionConfig)
    artifact: Artifact | None = None
    measurement: Measurement | None = None
    score: Score | None = None
    bounds: dict[str, float] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    reached: dict[str, float] = field(default_factory=dict)
    audit: str | None = None
    audit_best: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def run_trial(trial: optuna.Trial, plan: Plan, bench: Bench, progress: Progress) -> TrialRecord:
    """Run one trial to its end: complete, pruned or failed.

    Of the errors only CandidateError is caught; it becomes a failed record with its class.
    """
    found = _Findings()
    try:
        reason = _work(trial, plan, bench, progress, found)
        return _record(trial, plan, found, state="pruned" if reason else "complete", reason=reason)
    except CandidateError as error:
        reason = hidden(f"{error.kind} in {error.stage}: {error}")
        tail = log_tail(_log(plan, trial))
        return _record(trial, plan, found, state="failed", reason=reason, failure=error.kind, log_tail=tail)
    finally:
        plan.gate.learn(found.config, found.estimates)


def _work(trial: optuna.Trial, plan: Plan, bench: Bench, progress: Progress, found: _Findings) -> str | None:
    """Fill ``found``. Returns why the trial was pruned, or None when it is complete."""
    found.config = plan.space.suggest(trial, plan.target)
    broken = plan.target.refuse(found.config)
    if broken:
        raise CandidateError(broken[0], stage="target", kind="kernel")
    log = _log(plan, trial)
    out = model_folder(plan.study, trial.number)

    def build(config: CompressionConfig) -> Artifact:
        if out.exists():  # of a run that died after building it, or of the shape alone
            shutil.rmtree(out)
        limits = plan.deadlines.stages(config)
        built = build_in_child(
            config,
            plan.base,
            out,
            plan.data,
            log=log,
            deadline_s=COPY_S + sum(limits.values()),
            limits=limits,
            tell=progress.tell,
            cache=plan.cache,
        )
        plan.deadlines.learn(built)
        return built

    shape = Shape.of(found.config, plan.target.decoder)
    speed = plan.speeds.known.get(shape)
    if speed is None:
        bounds, best = plan.speeds.bounds(plan.bound), to_beat(trial.study)
        if reason := _slower_than_known(shape, bounds, best, trial, plan, found):
            return reason
        if found.config != found.config.untrained and not fast_enough(shape, bounds, best):
            started = time.monotonic()
            build(found.config.untrained)
            speed = bench.probe(out, log=log, tell=progress.tell)
            plan.speeds.save(shape, speed)
            found.seconds["shape"] = time.monotonic() - started
    if speed is not None and (reason := _hopeless("shape", speed, trial, plan, found)):
        return reason
    found.artifact = build(found.config)
    found.seconds.update(found.artifact.seconds)
    started = time.monotonic()
    refuse_damaged(out)
    with contextlib.closing(bench.measure(out, log=log, tell=progress.tell, known=speed)) as measurements:
        for measurement in measurements:
            found.measurement = measurement
            found.seconds["measure"] = found.reached[measurement.rung] = time.monotonic() - started
            if measurement.rung == "speed" and speed is None:
                plan.speeds.save(shape, measurement)
            if measurement.complete:
                break
            if reason := _hopeless(measurement.rung, measurement, trial, plan, found):
                return reason
    assert found.measurement is not None
    found.estimates[found.measurement.rung] = plan.objective.estimate(found.measurement, plan.baseline)
    found.score = plan.objective.score(found.measurement, plan.baseline)
    return None


def _log(plan: Plan, trial: optuna.Trial) -> Path:
    return study_folder(plan.study) / "logs" / f"{trial.number:04d}.log"


def _slower_than_known(
    shape: Shape,
    bounds: Mapping[Shape, float],
    best: float,
    trial: optuna.Trial,
    plan: Plan,
    found: _Findings,
) -> str | None:
    """Why a shape that was never probed is too slow: a known one within it is. None when none is."""
    known = too_slow(shape, bounds, best)
    if known is None:
        return None
    other, bound = known
    reason = f"after shape: no faster than {other.name}, at best {bound:.4f}, to beat {best:.4f}"
    ended = _unless_audited(reason, best, plan, found)
    if ended is not None:  # else the shape's own bound is still to come
        found.bounds["shape"] = bound
        trial.report(bound, RUNGS.index("shape"))
    return ended


def _unless_audited(reason: str, best: float, plan: Plan, found: _Findings) -> str | None:
    if plan.audits(found.config):
        found.audit, found.audit_best = reason, best
        return None
    return reason


def _hopeless(
    rung: str, measurement: Measurement, trial: optuna.Trial, plan: Plan, found: _Findings
) -> str | None:
    """Report the highest Score still possible. Returns why the trial ends, or None when it goes on."""
    bound = plan.bound(measurement, found.config)
    found.bounds[rung] = bound
    found.estimates[rung] = plan.objective.estimate(measurement, plan.baseline)
    trial.report(bound, RUNGS.index(rung))
    if found.audit is not None or not trial.should_prune():
        return None
    best = to_beat(trial.study)
    reason = f"after {rung}: at best {bound:.4f}, to beat {best:.4f}"
    return _unless_audited(reason, best, plan, found)


def _record(trial: optuna.Trial, plan: Plan, found: _Findings, **ending: Any) -> TrialRecord:
    params: Mapping[str, Any] = trial.params
    return TrialRecord(
        number=trial.number,
        params=params,
        config=found.config,
        artifact=found.artifact,
        measurement=found.measurement,
        score=found.score,
        baseline=plan.baseline_key,
        bounds=found.bounds,
        estimates=found.estimates,
        reached=found.reached,
        seconds=found.seconds,
        audit=found.audit,
        audit_best=found.audit_best,
        **ending,
    )
