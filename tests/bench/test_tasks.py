"""The benchmarks, one by one."""

from __future__ import annotations

import pytest

from squeeze.bench import tasks
from squeeze.data.sets import load_rows
from squeeze.demo import DATA_DIR
from squeeze.errors import ConfigError


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
