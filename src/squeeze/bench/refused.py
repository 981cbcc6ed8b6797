"""What ends a model's measurement: other prompts or questions than the baseline's, answers without text."""

from __future__ import annotations

from collections.abc import Mapping

from squeeze.bench.served import Served
from squeeze.errors import CandidateError, SetupError
from squeeze.records import Measurement, Question


def refuse_other_questions(served: Served, baseline: Measurement) -> None:
    """Raise unless a model is asked what the baseline was asked, in the same tokens.

    Raises SetupError when the data has changed since, and CandidateError when the model's tokenizer or
    context makes other prompts of it.
    """
    data = baseline.engine.get("data", {})  # a measurement of before has none
    changed = [name for name, rows in data.items() if served.engine["data"][name]["rows"] != rows["rows"]]
    if changed:
        raise SetupError(
            f"a study must ask the same questions throughout; the rows of {', '.join(changed)} have changed "
            f"since the baseline was measured; give another --study, or --data with the rows of before"
        )
    expected = baseline.engine.get("prompts")  # a measurement of before has none
    if expected is not None and served.engine["prompts"] != expected:
        raise CandidateError(
            "a candidate must be asked the baseline's prompts; its tokenizer, chat template or context "
            "length differs; give it the baseline's",
            stage="engine",
            kind="load",
        )


def refuse_empty(benchmark: str, answers: Mapping[int, Question]) -> None:
    """Raise CandidateError when more than half of a benchmark's answers so far have no text."""
    empty = sum(question.empty for question in answers.values())
    if 2 * empty > len(answers):
        raise CandidateError(
            f"at most half of the answers may be empty; {empty} of {len(answers)} are in {benchmark}",
            stage="questions",
            kind="empty_output",
        )
