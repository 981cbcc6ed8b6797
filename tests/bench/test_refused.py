"""What ends a measurement: other questions or prompts than the baseline's, answers without text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from squeeze.bench.refused import refuse_empty, refuse_other_questions
from squeeze.bench.served import Served
from squeeze.errors import CandidateError, SetupError
from squeeze.records import Measurement, Question

ENGINE = {"prompts": "p", "data": {"kmmlu_pro": {"rows": "r", "revision": "1"}}}


def asked(engine: dict[str, Any], **then: Any) -> None:
    """A candidate whose engine said ``then`` beside a baseline whose engine said ``engine``."""
    baseline = Measurement(model="m", workload="w", engine=engine, complete=True, questions={}, passes=())
    refuse_other_questions(cast("Served", SimpleNamespace(engine=ENGINE | then)), baseline)


def test_rows_that_changed_since_the_baseline_end_the_command_and_a_revision_alone_does_not() -> None:
    asked(ENGINE, data={"kmmlu_pro": {"rows": "r", "revision": "2"}})
    asked({})  # a baseline of before
    with pytest.raises(SetupError, match="rows of kmmlu_pro have changed"):
        asked(ENGINE, data={"kmmlu_pro": {"rows": "s", "revision": "1"}})


def test_other_prompts_are_the_candidates_failure() -> None:
    with pytest.raises(CandidateError, match="tokenizer") as caught:
        asked(ENGINE, prompts="q")
    assert caught.value.kind == "load"


def test_more_than_half_of_the_answers_without_text_is_a_failure() -> None:
    def answers(*texts: str) -> dict[int, Question]:
        return {at: Question(index=at, answers=(text,), tokens=1, score=0.0) for at, text in enumerate(texts)}

    refuse_empty("kmmlu_pro", answers("가", " "))
    with pytest.raises(CandidateError, match="2 of 3 are in kmmlu_pro"):
        refuse_empty("kmmlu_pro", answers("가", " ", ""))
