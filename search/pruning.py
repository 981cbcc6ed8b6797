"""When a trial is stopped: as soon as even an optimistic finish could not reach what the best surely has.

After each rung the loop reports the highest Score that the trial could still reach, as the objective works it
out from what is known by then. No margin is needed here: the optimism is in the reported value.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from optuna.study import Study

LOW = "Score at least"
"""User attribute of a complete trial: the lower end of its Score's interval."""

RUNGS = ("shape", "speed", "divergence", "divergence_more", "block", "rest")
"""The steps of the reports, cheapest first."""


class OptimisticPruner(BasePruner):
    """Prune a trial whose last report, its highest possible value, is below what is ``to_beat``.

    That is looked up once a trial: a long study is gone through for it.
    """

    def __init__(self) -> None:
        self._best: tuple[int, float] | None = None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now. Never before its first report or the first complete trial."""
        if trial.last_step is None:
            return False
        if self._best is None or self._best[0] != trial.number:
            self._best = trial.number, to_beat(study)
        return trial.intermediate_values[trial.last_step] < self._best[1]


def to_beat(study: Study) -> float:
    """What a trial must still be able to reach: the highest lower end of a complete trial's interval.

    Of a trial that tells none, its value; minus infinity before the first complete one.
    """
    # A pruned trial's value is its last report, a bound and not a Score.
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max((one.user_attrs.get(LOW, one.value) or 0.0 for one in complete), default=-inf)
