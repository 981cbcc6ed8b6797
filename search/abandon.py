"""Giving up a trial that was cut off: what is left of it, and whose fault that was."""

from __future__ import annotations

import contextlib
import errno

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.records import forget_trial, study_folder, write_whole
from search.storage import STORAGE_ERRORS
from search.workers import cut_off, requeue
from squeeze.errors import SetupError

_OF_THE_MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENOTCONN),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)
"""Errors of the operating system that are no trial's fault."""

LEFT = "left"
"""The file of a study's folder with the number of a trial whose end, nobody's fault, no database was told."""


def abandon(study: optuna.Study, trial: FrozenTrial, *, counts: bool) -> None:
    """Fail a trial, queue its parameters again, and delete the model it may have built.

    counts: whether it may be the trial's fault that its worker ended; see ``CUT_OFF``.
    """
    forget_trial(study.study_name, trial.number)
    requeue(study, trial, cut_off(trial) if counts else None)
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def leave(study: optuna.Study, number: int, error: BaseException) -> None:
    """Abandon the trial that this worker runs, because of an error that ends the search.

    A user, a machine and a database end any trial; what else does may be this one's fault. The database may
    be what broke: then the next start abandons the trial, and finds in the study's folder what to count.
    """
    counts = not isinstance(error, (KeyboardInterrupt, SetupError, *STORAGE_ERRORS))
    counts = counts and getattr(error, "errno", None) not in _OF_THE_MACHINE
    try:
        abandon(study, study.get_trials(deepcopy=False)[number], counts=counts)
    except Exception:
        if not counts:
            with contextlib.suppress(SetupError):
                write_whole(study_folder(study.study_name) / LEFT, str(number))


def left(study: str) -> int | None:
    """The number of the trial that ``leave`` could not abandon last; None where there is none."""
    try:
        return int((study_folder(study) / LEFT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
