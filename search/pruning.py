"""When a trial is stopped: as soon as even an optimistic finish could not reach the best Score so far.

After each rung the loop reports the highest Score that the trial could still reach, as the objective works it
out from what is known by then. No margin is needed here: the optimism is in the reported value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from optuna.study import Study

RUNGS = ("shape", "speed", "divergence", "divergence_more", "block", "rest")
"""The steps of the reports, cheapest first."""


class OptimisticPruner(BasePruner):
    """Prune a trial whose last report, its highest possible value, is below the best complete value."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now. Never before its first report or the first complete trial."""
        if trial.last_step is None:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        best = max((other.value for other in complete if other.value is not None), default=None)
        return best is not None and trial.intermediate_values[trial.last_step] < best
