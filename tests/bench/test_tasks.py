"""The benchmarks: what is asked, and how strictly answers are read."""

from __future__ import annotations

import pytest

from squeeze.bench import mcqa, tasks
from squeeze.bench.tasks.ko_longrag import token_f1
from squeeze.data.sets import load_rows
from squeeze.demo import DATA_DIR
from squeeze.errors import ConfigError


@pytest.mark.parametrize(
    ("answer", "options", "chosen"),
    [
        ("차근차근 풀면\n정답: B", 4, 1),
        ("정답: A 아니, 정답: c", 4, 2),
        ("정답：3", 4, 2),
        ("Answer: (D)", 4, 3),
        ("생각해 보면\n(B).", 4, 1),
        ("정답: E", 4, None),
        ("정답: E", 5, 4),
        ("정답: Apple", 4, None),
        ("정답은 B입니다", 4, None),
        ("B\n그래서 그렇다", 4, None),
        ("", 4, None),
    ],
)
def test_an_answer_is_read_strictly_and_never_guessed(answer: str, options: int, chosen: int | None) -> None:
    assert mcqa.parse(answer, options) == chosen


def test_a_prompt_letters_the_options_and_drops_their_own_numbers() -> None:
    text = mcqa.prompt({"question": "무엇?", "options": ["1) 하나", "(2) 둘", "3. 셋"], "solution": "2"})
    assert text.endswith("A. 하나\nB. 둘\nC. 셋")
    assert "ABC 중 하나" in text


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("김철수", "김철수", 1.0),
        ("김철수 입니다", "김철수", 2 / 3),
        ("이영희", "김철수", 0.0),
        ("", "김철수", 0.0),
    ],
)
def test_long_context_answers_are_scored_by_token_f1(answer: str, reference: str, f1: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize("name", tasks.names())
def test_every_benchmark_asks_and_scores_its_own_rows(name: str) -> None:
    task = tasks.load(name)
    row = load_rows(name, str(DATA_DIR), limit=1)[0]
    answers: tuple[str, ...] = ()
    for turn in range(task.TURNS):
        messages = task.messages(row, answers)
        assert [message["role"] for message in messages] == ["user", "assistant"] * turn + ["user"]
        assert all(message["content"] for message in messages)
        answers += ("모르겠습니다",)
    score = task.score(row, answers)
    assert score is None if name == "komt_bench" else score == 0.0


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="kmmlu_pro"):
        tasks.load("no_such")
