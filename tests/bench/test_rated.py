"""What a candidate's rungs become beside a judge, over a real HTTP server and without an engine."""

from __future__ import annotations

from typing import Any, cast

import pytest
from judge_server import RATED, Server, fault

from squeeze.bench.judge import Judge
from squeeze.bench.judged import rated_candidate
from squeeze.bench.served import Served, silent
from squeeze.errors import CandidateError
from squeeze.records import Measurement, Question, Rung


class Asked:
    """Of an engine that has answered, the rows."""

    def rows(self, benchmark: str) -> dict[int, dict[str, Any]]:
        return {0: {"question_id": 81, "category": "writing", "turns": ["하나", "둘"], "reference": []}}


SERVED = cast("Served", Asked())


def measured(rung: Rung, score: float | None = None) -> Measurement:
    question = Question(index=0, answers=("가", "나"), tokens=4, score=score)
    return Measurement(
        model="m",
        workload="w",
        engine={},
        complete=rung == "repeats",
        rung=rung,
        questions={"komt_bench": (question,)},
        passes=(),
    )


BASELINE = measured("repeats", score=0.5)


def test_conversations_are_rated_once_all_are_answered(judge: Judge, server: Server) -> None:
    rungs = [measured("block"), measured("rest"), measured("repeats")]
    block, rest, repeats = rated_candidate(judge, BASELINE, SERVED, rungs, silent)
    assert "komt_bench" not in block.accuracy
    assert rest.accuracy == repeats.accuracy == {"komt_bench": RATED.score}
    assert len(server.asked) == 1


@pytest.mark.parametrize("last", ["rest", "repeats"])
def test_what_a_judge_fails_to_rate_is_handed_over_unrated_before_the_candidate_fails(
    judge: Judge, server: Server, last: Rung
) -> None:
    server.answer = lambda asked: fault(403, "no credit")
    found = rated_candidate(judge, BASELINE, SERVED, [measured("block"), measured(last)], silent)
    assert next(found).rung == "block"
    unrated = next(found)
    assert (unrated.complete, len(unrated.questions["komt_bench"]), unrated.accuracy) == (False, 1, {})
    with pytest.raises(CandidateError, match="1 of 1 are not") as caught:
        next(found)
    assert caught.value.kind == "judge"


def test_without_a_judge_or_a_rated_baseline_nothing_is_asked(judge: Judge, server: Server) -> None:
    rungs = [measured("rest")]
    assert list(rated_candidate(None, BASELINE, SERVED, rungs, silent)) == rungs
    assert list(rated_candidate(judge, measured("repeats"), SERVED, rungs, silent)) == rungs
    assert server.asked == []
