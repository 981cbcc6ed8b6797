"""What is done with a finished trial, in an order that a kill at any point leaves whole.

First its record goes to disk, then Optuna is told, then the mirror; models are deleted last. Whatever a dead
run left undone is done by ``catch_up`` at the next start.
"""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from search.abandon import abandon, left
from search.cli import printable
from search.keep import delete_others
from search.modelled import FAILURE, QUALITY, QUALITY_ERROR, SPEED
from search.progress import compression
from search.pruning import LOW
from search.records import (
    TrialRecord,
    best_first,
    forget_trial,
    load_trials,
    save_trial,
)
from search.retries import SECONDS, is_held, its_own, queue_again
from search.storage import STORAGE_ERRORS
from search.study import FINISHED, add_to_mirror, mirrored
from search.workers import (
    CONFIG,
    CUT_OFF,
    DOUBLE,
    FAILED,
    FAILED_AT,
    LOST,
    MOST_CUT_OFF,
    MOST_LOST,
    OWNER,
    RETRY_OF,
    Reaper,
    requeue,
)
from spaces import Space
from squeeze.errors import RETRIED
from squeeze.target import Target


@dataclass
class Past:
    """What a search knows of its finished trials: read once at the start, then added to by ``settle``.

    records: of this host, without their raw measurements. best: the first of them, best first; None while
    nothing is scored. mirrored: numbers of the trials in the mirror.
    """

    records: list[TrialRecord]
    best: TrialRecord | None
    mirrored: set[int]

    @classmethod
    def load(cls, study: optuna.Study, mirror: optuna.Study) -> Past:
        """Read it from the study's files and the mirror. Raises SetupError for an unreadable record."""
        records = load_trials(study.study_name)
        return cls(records, _best(records), mirrored(mirror))

    def add(self, record: TrialRecord) -> None:
        """A trial has ended."""
        light = record.model_copy(update={"measurement": None})
        self.records.append(light)
        self.best = _best([light] if self.best is None else [self.best, light])

    def drop(self, number: int) -> None:
        """A trial counts no more."""
        self.records = [record for record in self.records if record.number != number]
        self.best = _best(self.records)


def _best(records: list[TrialRecord]) -> TrialRecord | None:
    ranked = best_first(records)
    return ranked[0][0] if ranked else None


def settle(study: optuna.Study, mirror: optuna.Study, past: Past, record: TrialRecord) -> bool:
    """Save a trial's record, tell Optuna, fill the mirror, delete models that are not kept.

    Returns False, and leaves no record, when another worker has given the trial up and queued it again
    because our heartbeats did not arrive.
    """
    try:
        frozen = study.get_trials(deepcopy=False)[record.number]
    except STORAGE_ERRORS:
        save_trial(study.study_name, record)  # the next start tells the database
        raise
    if frozen.state.is_finished():
        return False
    save_trial(study.study_name, record)
    if not tell(study, record, frozen):
        forget_trial(study.study_name, record.number)
        return False
    past.add(record)
    add_to_mirror(mirror, record, frozen, past.mirrored)
    delete_others(study.study_name, past.records)
    return True


def tell(study: optuna.Study, record: TrialRecord, frozen: FrozenTrial) -> bool:
    """Tell Optuna what became of a running trial. frozen: that trial.

    A failed candidate is told as pruned and infeasible, so that the sampler learns to keep away from it. What
    may be the machine's fault is told as failed and tried again, see ``search.retries``. Returns False when
    another worker has given the trial up meanwhile.
    """
    try:
        _tell(study, record, frozen)
    except (UpdateFinishedTrialError, ValueError):  # Study.tell raises the latter
        if study.get_trials(deepcopy=False)[frozen.number].state != TrialState.FAIL:
            raise
        return False
    return True


def _tell(study: optuna.Study, record: TrialRecord, frozen: FrozenTrial) -> None:
    trial = optuna.Trial(study, frozen._trial_id)
    for name, value in _attributes(record).items():
        trial.set_user_attr(name, value)
    failure = record.failure
    again = failure in RETRIED and not gives_up(frozen) and not its_own(study, frozen, failure)
    trial.set_constraint("candidate failed", float(record.failure is not None))
    if record.state == "complete" and record.score is not None:
        study.tell(trial, record.score.value)
    elif again:
        at = len(study.get_trials(deepcopy=False)) - 1
        trial.set_user_attr(FAILED_AT, at)
        if FAILED not in frozen.user_attrs:
            queue_again(study, frozen, {FAILED_AT: at})  # first: a kill in between must not lose it
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, state=TrialState.PRUNED)


def catch_up(study: optuna.Study, mirror: optuna.Study, past: Past, reaper: Reaper) -> list[int]:
    """Finish what dead workers left: tell recorded trials, queue the others again.

    Returns the numbers of the trials that are queued again.
    """
    queued = reap(study, past, reaper)
    records = {record.number: record for record in past.records}
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    repeated = _repeated(trials)
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.number in records:
            add_to_mirror(mirror, records[trial.number], trial, past.mirrored)
        if trial.state == TrialState.FAIL:
            record = records.get(trial.number)
            # Given up by another worker while this one was away; what is measured stays until that is again.
            if record is None or (record.failure not in RETRIED and trial.number in repeated):
                forget_trial(study.study_name, trial.number)
                if record is not None:
                    past.drop(trial.number)
            if trial.number not in retried and DOUBLE not in trial.user_attrs and not is_held(trial):
                requeue(study, trial)  # whoever gave it up died before it was queued
    return queued


def _repeated(trials: list[FrozenTrial]) -> set[int]:
    """The numbers of the trials that were done again, whatever came in between, and did not fail then."""
    found: set[int] = set()
    for trial in trials:
        if trial.state in FINISHED and FAILURE not in trial.user_attrs:
            number = trial.user_attrs.get(RETRY_OF)
            while number is not None:
                found.add(number)
                number = trials[number].user_attrs.get(RETRY_OF)
    return found


def reap(study: optuna.Study, past: Past, reaper: Reaper) -> list[int]:
    """Give up the running trials of workers that are dead. Returns the numbers of those queued again."""
    records = {record.number: record for record in past.records}
    queued = []
    for trial in reaper.gone():
        if trial.number in records:
            tell(study, records[trial.number], trial)
        else:
            abandon(study, trial, counts=trial.number != left(study.study_name))
            queued.append(trial.number)
    return [*queued, *reaper.stale()]


def better_elsewhere(study: optuna.Study, records: list[TrialRecord]) -> str | None:
    """Which trial of another worker beat ours at its first measurement, in a line; None when none did."""
    mine = {record.number for record in records}
    others = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.number not in mine and trial.value is not None
    ]
    best = max(others, key=lambda trial: trial.value or 0.0, default=None)
    own = max((record.score.value for record in records if record.score), default=0.0)
    if best is None or best.value is None or best.value <= own:
        return None
    return (
        f"another worker has trial {best.number} with Score {best.value:.4f}; its record and model are in "
        f"that worker's folder, on {best.user_attrs.get(OWNER, '').partition(':')[0] or 'another machine'}"
    )


def gives_up(trial: FrozenTrial | optuna.Trial) -> bool:
    """Whether a trial is not to be run: the search has died in it too often."""
    said = trial.user_attrs
    return bool(said.get(CUT_OFF, 0) >= MOST_CUT_OFF or said.get(LOST, 0) >= MOST_LOST)


def given_up(trial: optuna.Trial, space: Space, target: Target) -> TrialRecord:
    """The record of such a trial, with its configuration, so that it is not proposed anew."""
    config = space.suggest(trial, target)
    return TrialRecord(
        number=trial.number,
        state="failed",
        params=trial.params,
        config=config,
        reason="killed in search: the search has died in this trial too often",
        failure="killed",
    )


def _attributes(record: TrialRecord) -> dict[str, str | float]:
    """What a reader of the dashboard wants beside the value."""
    attributes: dict[str, str | float] = {
        "compression": compression(record),
        "result": record.state,
        CONFIG: record.config.key,
        SECONDS: round(sum(record.seconds.values()), 1),
    }
    if record.reason:
        attributes["reason"] = printable(record.reason)
    if record.failure:
        attributes["failure"] = record.failure
    if record.artifact:
        attributes["size_mb"] = round(record.artifact.size_bytes / 1e6, 1)
    if record.estimates:
        said = list(record.estimates.values())[-1]
        attributes[SPEED] = said.speed_norm
        if said.perf_norm is not None and said.perf_error is not None:
            attributes |= {QUALITY: said.perf_norm, QUALITY_ERROR: said.perf_error}
    if record.score:
        attributes[LOW] = record.score.low
        attributes["PerfNorm"] = record.score.perf_norm
        attributes["SpeedNorm"] = record.score.speed_norm
        attributes["Score interval"] = f"{record.score.low:.4f} to {record.score.high:.4f}"
        attributes.update(record.score.parts)
        if record.score.flags:
            attributes["flagged"] = "; ".join(record.score.flags)
    return attributes
