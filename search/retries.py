"""Failures that may be the machine's or the judge's: what is tried again and when, and what ends a search.

A candidate that fails so is queued once more at once. Failing again it is held back until a trial of the same
worker has shown that the machine works; only a failure right after that is the candidate's own. A machine
that does not work thus spoils no candidate, however often the search is started, and a candidate that always
fails so is in nobody's way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.modelled import FAILURE
from search.workers import DOUBLE, FAILED, FAILED_AT, OWNER, RETRY_OF, Owner, requeue
from squeeze.errors import RETRIED

SECONDS = "seconds"
"""User attribute of a trial: what its stages and its measuring took; 0 where nothing had to be done."""


MOST_FAILED = 5
"""Failing once more after so many times is taken for the candidate's own fault, whatever the machine: where
there is nothing else left to try, nothing else can tell."""


def shows_working(trial: FrozenTrial, failure: str) -> bool:
    """Whether a trial shows that the cause of such failures is gone: it was measured, for a judge rated."""
    if trial.state == TrialState.COMPLETE:
        return True
    measured = FAILURE not in trial.user_attrs and trial.user_attrs.get(SECONDS, 0) > 0
    return trial.state == TrialState.PRUNED and measured and failure != "judge"


def works(trials: Sequence[FrozenTrial], me: str, failed: FrozenTrial, failure: str) -> bool:
    """Whether the last trial that a worker ended since a candidate failed shows that; False where none was.

    me: any ``workers.owner()`` of that worker. failed: the trial that failed, or its retry.
    """
    last = max(
        (
            trial.number
            for trial in trials
            if trial.number > failed.user_attrs.get(FAILED_AT, len(trials))
            and trial.state.is_finished()
            and (trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or FAILURE in trial.user_attrs)
            and _worker(trial.user_attrs.get(OWNER, "")) == _worker(me)
        ),
        default=None,
    )
    return last is not None and shows_working(trials[last], failure)


def its_own(study: optuna.Study, trial: FrozenTrial, failure: str) -> bool:
    """Whether a failure of a running trial is the candidate's: it is not the first, and the machine works."""
    times = trial.user_attrs.get(FAILED, 0)
    if not times or times >= MOST_FAILED:
        return bool(times)
    return works(study.get_trials(deepcopy=False), trial.user_attrs.get(OWNER, ""), trial, failure)


def is_held(trial: FrozenTrial) -> bool:
    """Whether a trial's parameters were not queued at once when it failed, because they had failed before."""
    said = trial.user_attrs
    failed = trial.state == TrialState.FAIL and said.get(FAILURE) in RETRIED
    return failed and said.get(FAILED, 0) > 0 and DOUBLE not in said


def held_back(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials whose parameters are yet to be queued again."""
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return [trial for trial in trials if is_held(trial) and trial.number not in retried]


def ready(trials: Sequence[FrozenTrial], held: Sequence[FrozenTrial], me: str) -> list[FrozenTrial]:
    """Those of ``held_back`` that this worker may try now."""
    return [one for one in held if works(trials, me, one, one.user_attrs[FAILURE])]


def queue_again(study: optuna.Study, trial: FrozenTrial, counts: Mapping[str, int] | None = None) -> None:
    """Queue the parameters of a trial that failed, and that it did so. counts: further ones, of the retry."""
    requeue(study, trial, {FAILED: trial.user_attrs.get(FAILED, 0) + 1, **(counts or {})})


class Streak:
    """Failures of the machine and the judge one after the other, nothing between them that shows it works.

    The first two tries of a candidate count once, as it may be its fault; a judge's failure hardly ever is.
    """

    def __init__(self) -> None:
        self._failed: dict[str, str] = {}

    def add(self, trial: FrozenTrial, key: str) -> int:
        """A trial has ended. key: of its configuration. Returns how many failures there are in a row now."""
        failure = trial.user_attrs.get(FAILURE)
        if failure in RETRIED:
            alone = failure == "judge" or trial.user_attrs.get(FAILED, 0) > 1
            self._failed[str(trial.number) if alone else key] = failure
        elif failure is not None:
            self._failed.clear()
        else:
            self._failed = {
                what: failed for what, failed in self._failed.items() if not shows_working(trial, failed)
            }
        return len(self._failed)


def _worker(owner: str) -> tuple[str, str]:
    told = Owner.parse(owner)
    return told.host, told.worker
