"""Who runs a trial, whether they are still there, and what becomes of the trials of those that are not.

A worker is one search in one folder; several may share a study through a database that all can reach. A
running trial belongs to its owner. It is given up when the owner is known to be dead: a process of this
machine that is gone, a former search of this folder (whose lock is ours now), or one whose heartbeats have
stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

CONFIG = "config_key"
"""User attribute of a trial: the key of its configuration."""

OWNER = "owner"
"""User attribute of a trial: the process that runs it; see ``owner``."""

QUEUED_BY = "queued by"
"""User attribute of a trial: the process that queued it, which mostly runs it too."""

RETRY_OF = "retry_of"
"""User attribute of a trial that repeats one that was cut off: that one's number."""

CUT_OFF = "times cut off"
"""User attribute of a retry: how many of its forerunners ended with the process that ran them.

A machine that was lost, or started anew, is nobody's fault and is counted apart.
"""

LOST = "times lost"
"""User attribute of a retry: how many of its forerunners ended with their machine, or on one of many."""

MOST_CUT_OFF, MOST_LOST = 5, 20
"""A trial in which the search has died so often is not run again: it may be what kills it."""

FAILED = "times failed"
"""User attribute of a retry: how many of its forerunners failed for reasons that may be the machine's."""

FAILED_AT = "last trial when it failed"
"""User attribute of a trial that failed so, and of its retries: the number of the last trial there was then.

Later ones tell whether the machine works; the clocks of several machines could not.
"""

DOUBLE = "double"
"""User attribute of a trial that was dropped at once: the number of the one that it would have repeated."""

BEAT_S, GRACE_S = 60, 600
"""A worker tells the database so often that it lives, and counts as dead when it has not for so long."""


class Owner(NamedTuple):
    """A process. start: ticks since boot. place: this boot's kernel and its pids. worker: of which folder.

    boot: the last start of its machine, whatever the container; empty where that is not known.
    """

    host: str
    pid: str = ""
    start: str = ""
    place: str = ""
    worker: str = ""
    boot: str = ""

    @classmethod
    def parse(cls, text: str) -> Owner:
        """What ``owner`` wrote, now or in an earlier version, which told no place, no worker and no boot."""
        return cls(*text.split(":")[:6])

    @property
    def gone(self) -> bool:
        """Whether it was a process of this machine, since its last start, that is no more."""
        if self.place and self.place != _place():
            return False
        here = self.host == socket.gethostname()
        return here and _process_start(int(self.pid or 0)) != self.start

    @property
    def elsewhere(self) -> bool:
        """Whether it was a process of another machine, or of this one before its last start."""
        return self.boot != "" and self.boot != _boot()


def owner(worker: str = "") -> str:
    """This process, told apart from a later one of its pid and from those of other machines."""
    pid = os.getpid()
    started = str(_process_start(pid))
    return ":".join(Owner(socket.gethostname(), str(pid), started, _place(), worker, _boot()))


def _boot() -> str:
    """The last start of this machine; empty where that is not told."""
    with contextlib.suppress(OSError):
        return _short(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"))
    return ""


def _place() -> str:
    """The boot of this machine and the numbering of processes that is ours: where a pid means something."""
    told = []
    with contextlib.suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"))
        told.append(os.readlink("/proc/self/ns/pid"))  # a container's processes have numbers of their own
    return _short("".join(told))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _process_start(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state == "Z" else rest[18]


def is_abandoned(trial: FrozenTrial, me: str) -> bool:
    """Whether a running trial's owner is known to be dead without asking for heartbeats.

    me: ``owner()`` of this process, which holds the lock of its worker's folder: whoever else ran there on
    this host has ended, also before a reboot.
    """
    told = _owner_of(trial)
    if not told or told == me:
        return False
    its, mine = Owner.parse(told), Owner.parse(me)
    return its.gone or (its.worker != "" and (its.host, its.worker) == (mine.host, mine.worker))


def _owner_of(trial: FrozenTrial) -> str:
    """Who runs a trial; before they could say so, who had queued it."""
    return str(trial.user_attrs.get(OWNER) or trial.user_attrs.get(QUEUED_BY) or "")


@contextlib.contextmanager
def beating(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Tell the database every ``BEAT_S`` seconds, as long as the block runs, that the trial is being run."""
    # Optuna beats in Study.optimize only: https://github.com/optuna/optuna/issues/3293
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            with contextlib.suppress(Exception):  # the next one counts too; the search finds out by itself
                record_heartbeat(study, trial._trial_id)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1)


def record_heartbeat(study: optuna.Study, trial_id: int) -> None:
    """Note in the database, by its own clock, that a trial is being run now."""
    beats = getattr(study._storage, "record_heartbeat", None)
    if beats is not None:  # a study in memory has none
        beats(trial_id)


class Reaper:
    """Looks for running trials of workers that are dead. me: ``owner()`` of this process."""

    def __init__(self, study: optuna.Study, me: str) -> None:
        self._study = study
        self.me = me
        self._seen: set[int] = set()

    def stale(self) -> list[int]:
        """Fail and queue again the trials whose heartbeats have stopped. Returns their numbers."""
        running = self.running()
        for trial in running:
            # Its owner may have died before the first beat, which would leave it running for ever.
            if OWNER not in trial.user_attrs and trial.number not in self._seen:
                self._seen.add(trial.number)
                record_heartbeat(self._study, trial._trial_id)
        if not running:
            return []
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            fail_stale_trials(self._study)
        left = {trial.number for trial in self.running()}
        trials = self._study.get_trials(deepcopy=False)
        numbers = [trial.number for trial in running if trial.number not in left]
        return [number for number in numbers if trials[number].state == TrialState.FAIL]

    def gone(self) -> list[FrozenTrial]:
        """The running trials whose owners are known to be dead without asking for heartbeats."""
        return [trial for trial in self.running() if is_abandoned(trial, self.me)]

    def running(self) -> list[FrozenTrial]:
        """All running trials of the study."""
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial whose worker has died; what Optuna calls for a trial without heartbeats.

    Optuna's own RetryHeartbeatStaleTrialCallback gives the new trial all attributes of the dead one, and of
    its parameters only those that had been asked for by then.
    """
    requeue(study, trial, cut_off(trial))


def cut_off(trial: FrozenTrial) -> dict[str, int]:
    """``CUT_OFF`` or, where its machine was lost, ``LOST`` of a trial whose worker died in it, one more."""
    which = LOST if Owner.parse(_owner_of(trial)).elsewhere else CUT_OFF
    return {which: trial.user_attrs.get(which, 0) + 1}


def requeue(study: optuna.Study, trial: FrozenTrial, counts: dict[str, int] | None = None) -> None:
    """Queue a trial's parameters again, once, whoever asks.

    counts: of the retry, in place of the trial's; besides counts it inherits its configuration's key alone.
    """
    # What was queued, which is all of it even where the trial was cut off while it asked for its parameters.
    params = trial.system_attrs.get("fixed_params") or trial.params
    others = study.get_trials(deepcopy=False)
    if params and all(other.user_attrs.get(RETRY_OF) != trial.number for other in others):
        inherited = (CONFIG, CUT_OFF, LOST, FAILED, FAILED_AT)
        kept = {name: trial.user_attrs[name] for name in inherited if name in trial.user_attrs}
        study.enqueue_trial(params, user_attrs={**kept, **(counts or {}), RETRY_OF: trial.number})


def doubled(study: optuna.Study, trial: FrozenTrial) -> int | None:
    """The number of an earlier trial that this one, just begun, would repeat; None when there is none.

    Two workers can queue the same at once; of two trials the one with the smaller number stays.
    """
    first = trial.user_attrs.get(RETRY_OF)
    for other in study.get_trials(deepcopy=False):
        if other.number == first:
            if other.state in (TrialState.COMPLETE, TrialState.PRUNED):
                return other.number
            continue  # about to be told failed, where it is not yet: its parameters are queued before that
        if other.number >= trial.number or other.state == TrialState.FAIL:
            continue
        if first is not None and other.user_attrs.get(RETRY_OF) == first:
            return other.number
        config = other.user_attrs.get(CONFIG)
        if config is not None and config == trial.user_attrs.get(CONFIG):
            return other.number
    return None
