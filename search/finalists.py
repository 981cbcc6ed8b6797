"""The finalists of a search are measured again before one is called best.

The highest of many Scores is high by luck too. The leading trials are therefore measured a second time, in
fresh processes, in turn with the baseline, with one more repeat and on questions that were not asked before
(``Workload.final``), and only those that were can be best.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from search.keep import refuse_damaged
from search.records import (
    Confirmation,
    TrialRecord,
    best_first,
    load_baseline,
    load_measurement,
    model_folder,
    save_again,
    save_trial,
    study_folder,
)
from squeeze.errors import CandidateError
from squeeze.records import Measurement

if TYPE_CHECKING:
    import optuna

    from objectives import Objective
    from search.prepare import Search
    from search.progress import Progress
    from search.trial import Plan
    from squeeze.bench.measure import Bench

CONFIRMED = "confirmed"
"""User attribute of a study: what its finalists came to, for readers of the dashboard."""


def confirm(search: Search, records: list[TrialRecord], progress: Progress, count: int, ends: float) -> None:
    """Measure finalists again until none is left, or the monotonic clock is at ``ends``.

    records: of the study; confirmed ones take the place of theirs. Each is stored as soon as it is measured,
    so the next start goes on where this one ended. One that fails stays unconfirmed, which is told; the next
    start tries it again.
    """
    if next_finalist(search.name, records, count) and time.monotonic() < ends:
        with progress.live(), search.measuring(progress, final=True) as (plan, bench):
            _confirm_each(records, plan, bench, progress, count, ends, search.baseline_key)
    _show_in_dashboard(search.study, records)


def _confirm_each(
    records: list[TrialRecord],
    plan: Plan,
    bench: Bench,
    progress: Progress,
    count: int,
    ends: float,
    first_key: str,
) -> None:
    failed: set[int] = set()
    while (record := next_finalist(plan.study, records, count, failed)) and time.monotonic() < ends:
        progress.begin(f"trial {record.number} again")
        try:
            confirmed = measure_again(record, plan, bench, progress, first_key)
        except CandidateError as error:
            failed.add(record.number)
            progress.say(f"trial {record.number} stays unconfirmed: {error.kind} in {error.stage}: {error}")
        else:
            records[records.index(record)] = confirmed
            progress.confirm(confirmed, best_first(records)[0][0])


def next_finalist(
    study: str, records: list[TrialRecord], count: int, failed: Collection[int] = ()
) -> TrialRecord | None:
    """The next trial to measure again, best first; None when the best is known as well as it will be.

    count: so many of the highest final Scores whose models are on disk are looked at, and of these the ones
    that may be the best after all: their interval is not wholly below the best's. failed: numbers of trials
    that are left out.
    """
    ranked = best_first([record for record in records if record.number not in failed])
    kept = [(record, score) for record, score in ranked if model_folder(study, record.number).is_dir()]
    leading = sorted(kept, key=lambda pair: -pair[1].value)[:count]
    for record, score in leading:
        if record.confirmation is None and score.high >= ranked[0][1].low:
            return record
    return None


def measure_again(
    record: TrialRecord, plan: Plan, bench: Bench, progress: Progress, first_key: str
) -> TrialRecord:
    """Measure a trial's model a second time and store what it says. Returns the confirmed record.

    first_key: of the baseline's measurement that goes with first measurements of this machine and engine.
    Raises CandidateError when the model cannot be measured or is no longer what was built.
    """
    folder = model_folder(plan.study, record.number)
    refuse_damaged(folder)
    pooled_with = record.baseline if record.baseline in (first_key, plan.baseline_key) else None
    first = load_pair(plan.study, record.number, pooled_with)
    log = study_folder(plan.study) / "logs" / f"{record.number:04d}-again.log"
    # The first measurement's probe and divergence serve again: they decide nothing here.
    *_, again = bench.measure(folder, log=log, tell=progress.tell, known=first[0] if first else None)
    confirmation = judge(first, again, plan.baseline_key, plan.baseline, plan.objective)
    if first:
        confirmation = confirmation.model_copy(update={"first_baseline": pooled_with})
    confirmed = record.model_copy(update={"confirmation": confirmation})
    save_again(plan.study, record.number, again)
    save_trial(plan.study, confirmed)
    return confirmed


def load_pair(study: str, number: int, baseline_key: str | None) -> tuple[Measurement, Measurement] | None:
    """A trial's first measurement and the baseline's of that key; None where one is missing."""
    if baseline_key is None:
        return None
    first, baseline = load_measurement(study, number), load_baseline(study, baseline_key)
    return (first, baseline) if first is not None and baseline is not None else None


def judge(
    first: tuple[Measurement, Measurement] | None,
    again: Measurement,
    baseline_key: str,
    baseline: Measurement,
    objective: Objective,
) -> Confirmation:
    """Score the second measurement alone and together with the first.

    first: the first and the baseline's that goes with it; None where that is of another engine or machine,
    whose passes do not go together. Of questions that both asked the second's answers count, by which the
    trial was not chosen.
    """
    alone = objective.score(again, baseline)
    if first is None:
        return Confirmation(baseline=baseline_key, again=alone, pooled=alone)
    asked = {
        name: {question.index for question in questions} for name, questions in first[0].questions.items()
    }
    return Confirmation(
        baseline=baseline_key,
        again=alone,
        pooled=objective.score(first[0].joined(again), first[1].joined(baseline)),
        held_out={
            name: sum(question.index not in asked.get(name, ()) for question in questions)
            for name, questions in again.questions.items()
        },
    )


def _show_in_dashboard(study: optuna.Study, records: list[TrialRecord]) -> None:
    """Tell the study: the attributes of a finished trial are fixed (github.com/optuna/optuna/issues/3251)."""
    said = {
        f"trial {record.number}": f"{score.value:.4f} ({score.low:.4f} to {score.high:.4f})"
        for record, score in best_first(records)
        if record.confirmed
    }
    told = study.user_attrs.get(CONFIRMED, {})
    mine = {f"trial {record.number}" for record in records}
    said |= {name: value for name, value in told.items() if name not in mine}  # what other workers found
    if said != told:
        study.set_user_attr(CONFIRMED, said)
