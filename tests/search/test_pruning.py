from __future__ import annotations

import optuna
import pytest

from search.pruning import OptimisticPruner


@pytest.mark.parametrize(("bound", "pruned"), [(0.54, True), (0.55, False), (0.60, False)])
def test_a_trial_is_pruned_only_when_it_cannot_reach_the_best(bound: float, pruned: bool) -> None:
    study = optuna.create_study(direction="maximize", pruner=OptimisticPruner())
    study.add_trial(optuna.trial.create_trial(value=0.5))
    study.add_trial(optuna.trial.create_trial(value=0.55))
    trial = study.ask()
    trial.report(bound, 0)
    assert trial.should_prune() is pruned


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
