from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.pruning import LOW, OptimisticPruner, to_beat
from search.records import TrialRecord, audits
from search.speeds import Speeds
from search.trial import Plan, _Findings, _hopeless
from squeeze.config import CompressionConfig, DepthConfig
from squeeze.decoder import Decoder
from squeeze.demo import MODEL_DIR
from squeeze.records import Estimate, Measurement
from squeeze.target import Target


@pytest.mark.parametrize(("bound", "pruned"), [(0.54, True), (0.55, False), (0.60, False)])
def test_a_trial_is_pruned_only_when_it_cannot_reach_the_best(bound: float, pruned: bool) -> None:
    study = optuna.create_study(direction="maximize", pruner=OptimisticPruner())
    study.add_trial(optuna.trial.create_trial(value=0.5))
    study.add_trial(optuna.trial.create_trial(value=0.55))
    trial = study.ask()
    trial.report(bound, 0)
    assert trial.should_prune() is pruned


def test_a_trial_must_reach_what_the_best_surely_has() -> None:
    study = optuna.create_study(direction="maximize", pruner=OptimisticPruner())
    assert to_beat(study) == -inf
    for value, low in ((0.55, 0.50), (0.54, 0.52)):  # the luckier one is known less well
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs={LOW: low}))
    assert to_beat(study) == 0.52
    trial = study.ask()
    trial.report(0.53, 0)
    assert not trial.should_prune()


def test_the_last_report_counts_not_the_best_one() -> None:
    study = optuna.create_study(direction="maximize", pruner=OptimisticPruner())
    study.add_trial(optuna.trial.create_trial(value=0.55))
    trial = study.ask()
    trial.report(0.9, 0)
    trial.report(0.5, 1)
    assert trial.should_prune()


def test_nothing_is_pruned_before_the_first_complete_trial() -> None:
    study = optuna.create_study(direction="maximize", pruner=OptimisticPruner())
    trial = study.ask()
    assert not trial.should_prune()
    trial.report(0.0, 0)
    assert not trial.should_prune()


class Hopeless:
    """An objective by which nothing can reach 0.3."""

    @staticmethod
    def optimistic(measurement: Measurement, baseline: Measurement, ceiling: float = inf) -> float:
        return 0.3

    @staticmethod
    def estimate(measurement: Measurement, baseline: Measurement) -> Estimate:
        return Estimate(speed_norm=-0.4)


@pytest.mark.parametrize("audit", [0.0, 1.0])
def test_a_prune_that_is_audited_goes_on_and_is_remembered(audit: float) -> None:
    nothing = Measurement(model="m", workload="w", engine={}, complete=True, questions={}, passes=())
    study = optuna.create_study(direction="maximize", pruner=OptimisticPruner())
    study.add_trial(optuna.trial.create_trial(value=0.55))
    plan = Plan(
        study="s",
        base=Path(),
        data="hub",
        cache=None,
        space=Any,
        objective=Hopeless,  # type: ignore[arg-type]
        target=Target.contest(Decoder.read(MODEL_DIR)),
        baseline=nothing,
        baseline_key="b",
        speeds=Speeds(Path()),
        audit=audit,
    )
    found = _Findings()
    reason = _hopeless("speed", nothing, study.ask(), plan, found)
    told = reason if audit == 0 else found.audit
    assert told == "after speed: at best 0.3000, to beat 0.5500"
    assert (reason is None, found.audit is None) == ((False, True) if audit == 0 else (True, False))
    assert found.audit_best == (None if audit == 0 else 0.55)


def test_about_the_share_asked_for_is_audited_and_the_same_trials_at_every_start() -> None:
    target = Target.contest(Decoder.read(MODEL_DIR))
    plan = Plan("s", Path(), "hub", None, Any, Any, target, Any, "b", Speeds(Path()), audit=0.1, seed=1)  # type: ignore[arg-type]
    configs = [CompressionConfig(depth=DepthConfig(layers=layers)) for layers in range(1, 2000)]
    drawn = [config for config in configs if plan.audits(config)]
    assert 140 < len(drawn) < 260
    assert drawn == [config for config in configs if plan.audits(config)]


def test_a_failed_trials_bound_is_not_taken_for_the_best_score() -> None:
    study = optuna.create_study(direction="maximize", pruner=OptimisticPruner())
    study.add_trial(optuna.trial.create_trial(value=0.55))
    failed = study.ask()
    failed.report(0.7, 0)
    study.tell(failed, state=optuna.trial.TrialState.PRUNED)
    assert to_beat(study) == 0.55


def test_wrong_prunes_are_counted_among_the_audited_ones(scored: Callable[..., TrialRecord]) -> None:
    right = scored(0, 0.5).model_copy(update={"audit": "after speed", "audit_best": 0.55})
    wrong = scored(1, 0.6).model_copy(update={"audit": "after block", "audit_best": 0.55})
    failed = right.model_copy(update={"score": None})
    assert audits([right, wrong, failed, scored(2, 0.9)]) == (2, 1)
