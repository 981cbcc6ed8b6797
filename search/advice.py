"""Which trials to submit next to the contest's server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from search.keep import is_whole
from search.records import TrialRecord, model_folder

if TYPE_CHECKING:
    from search.calibration import Forecast

A_DAY = 3
"""Submissions that the contest takes in a day."""

FLAGGED, NO_MODEL = "flagged", "no model"

BARRED = {
    FLAGGED: "whose speed is doubtful (search.show tells)",
    NO_MODEL: "whose model is not kept or not whole (search.build makes it again)",
}
"""Why a trial is not advised, as a mark and in words."""


def barred_by(study: str, record: TrialRecord) -> list[str]:
    """Why a trial is not one to submit, of ``BARRED``: it talks, or there is nothing to export."""
    found = [FLAGGED] if record.final and record.final.flags else []
    return found if is_whole(model_folder(study, record.number)) else [*found, NO_MODEL]


def next_trials(forecasts: Mapping[int | None, Forecast]) -> list[int]:
    """Trials by the upper end of what the server would say, highest first.

    So a wide interval counts for a trial: what the server says of it teaches most.
    """
    numbers = [number for number in forecasts if number is not None]
    return sorted(numbers, key=lambda number: (-forecasts[number].high, number))


def advice(ranked: Sequence[int], barred: Mapping[int, Sequence[str]], entered: int) -> tuple[list[int], str]:
    """The trials to submit today, and in a line what to submit next and why.

    ranked: of ``next_trials``. barred: trial -> why it is passed over, if it is. entered: pairs, today.
    """
    if not ranked:
        return [], "submit next: nothing, every trial with a Score was submitted; run more trials"
    left = max(0, A_DAY - entered)
    able = [number for number in ranked if not barred[number]][: left or A_DAY]
    # Told of those that would have been named.
    passed = [number for number in ranked[: left or A_DAY] if barred[number]]
    why = "; ".join(f"{number}, {' and '.join(BARRED[one] for one in barred[number])}" for number in passed)
    passed_over = f"; passed over: {why}" if passed else ""
    if not able:
        return [], f"submit next: nothing of what was not submitted{passed_over}"
    trials = f"trial {', '.join(map(str, able))}, of the highest upper ends"
    day = f"a day takes {A_DAY}; entered today, UTC, in all studies: {entered}"
    if not left:
        return [], f"submit next: nothing today, and then {trials} ({day}){passed_over}"
    return able, f"submit next: {trials}, since a submission is also information ({day}){passed_over}"
