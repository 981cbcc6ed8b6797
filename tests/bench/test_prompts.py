"""Prompts fit what a model reads, and are filled with exactly what the row says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze.bench import tasks
from squeeze.bench.prompts import Prompts, without_middle
from squeeze.bench.tasks.ko_longrag import token_f1
from squeeze.data.sets import load_rows
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.versions import load_tokenizer

PLACES = st.sampled_from(["{question}", "{context}", "{titles}", "{", "}", "\\1", "\\g<0>", "글"])
TEXTS = st.lists(PLACES, max_size=6).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL_DIR)


@settings(deadline=None)
@given(titles=TEXTS, context=TEXTS, question=TEXTS)
def test_what_a_column_holds_is_never_taken_for_a_place(titles: str, context: str, question: str) -> None:
    row = {
        "titles": [titles],
        "context": context,
        "question": question,
        "prompt": "<{titles}|{context}|{question}|{context}|{other}>",
    }
    (message,) = tasks.load("ko_longrag").messages(row)
    assert message["content"] == f"<{titles}|{context}|{question}|{context}|{{other}}>"


def test_a_prompt_that_fits_is_whole(tokenizer: Any) -> None:
    row = load_rows("ko_longrag", str(DATA_DIR), 1)[0]
    prompt = Prompts(tokenizer, 2048, 64)("ko_longrag", [(0, row)], [()])[0]
    assert not prompt.shortened
    assert row["context"] in tokenizer.decode(prompt.tokens)


@pytest.mark.parametrize(("context", "answer", "room"), [(512, 64, 448), (512, 400, 256), (512, 9999, 256)])
def test_a_prompt_that_does_not_fit_loses_its_middle_and_leaves_room_for_the_answer(
    tokenizer: Any, context: int, answer: int, room: int
) -> None:
    row = dict(load_rows("ko_longrag", str(DATA_DIR), 1)[0])
    row["context"] = " ".join(f"{number}번째 문장이다." for number in range(2000))
    prompts = Prompts(tokenizer, context, answer)
    prompt = prompts("ko_longrag", [(0, row)], [()])[0]
    assert prompt.shortened and len(prompt.tokens) == room == prompts.room("ko_longrag")
    text = tokenizer.decode(prompt.tokens)
    assert row["question"] in text and row["titles"][0] in text
    assert "[|user|]" in text and text.rstrip().endswith("</think>")
    assert "0번째 문장이다." in text and "1999번째 문장이다." in text and "1000번째" not in text


def test_prompts_are_those_of_the_chat_template_and_each_is_rendered_once(tokenizer: Any) -> None:
    rows = list(enumerate(load_rows("kmmlu_redux", str(DATA_DIR), 6)))
    task = tasks.load("kmmlu_redux")
    prompts = Prompts(tokenizer, 2048, 64)
    some = prompts("kmmlu_redux", rows[1:4], [(), (), ()])
    every = prompts("kmmlu_redux", rows, [()] * 6)
    wanted = [
        tokenizer.apply_chat_template(
            task.messages(row, ()), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        for _, row in rows
    ]
    assert [one.tokens for one in every] == wanted
    assert every[1] is some[0] and every[3] is some[2]
    assert prompts("kmmlu_redux", [], []) == []


def test_second_turns_have_the_answers_to_the_first_ones(tokenizer: Any) -> None:
    rows = list(enumerate(load_rows("komt_bench", str(DATA_DIR), 3)))
    answers = [("하나",), ("둘",), ("셋 넷 다섯",)]
    found = Prompts(tokenizer, 2048, 64)("komt_bench", rows, answers)
    for (_, row), said, prompt in zip(rows, answers, found, strict=True):
        messages = tasks.load("komt_bench").messages(row, said)
        assert [message["role"] for message in messages] == ["user", "assistant", "user"]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt.tokens == tokenizer.encode(text, add_special_tokens=False)
        assert said[0] in tokenizer.decode(prompt.tokens)


@settings(deadline=None)
@given(count=st.integers(0, 50), room=st.integers(1, 60))
def test_what_is_left_are_both_ends(count: int, room: int) -> None:
    tokens = list(range(count))
    if room < count:
        left = without_middle(tokens, room)
        assert len(left) == room
        assert left == sorted(left) and left[-1] == tokens[-1]


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("김철수", "김철수", 1.0),
        ("  김철수.\n", "「김철수」", 1.0),
        ("김철수 입니다", "김철수", 2 / 3),
        ("김철수는", "김철수", 0.0),
        ("ＬＧ 전자", "lg 전자", 1.0),
        ("알 수 없음", "알 수 없음", 1.0),
        ("서울", "알 수 없음", 0.0),
        ("북 북 북", "북", 1 / 2),
        ("이영희", "김철수", 0.0),
        ("", "김철수", 0.0),
        ("**", "김철수", 0.0),
    ],
)
def test_long_context_answers_are_scored_by_token_f1(answer: str, reference: str, f1: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)


@settings(deadline=None)
@given(one=st.text(), other=st.text())
def test_token_f1_is_a_share_and_the_same_both_ways(one: str, other: str) -> None:
    assert 0.0 <= token_f1(one, other) == token_f1(other, one) <= 1.0
    assert token_f1(one, one) == 1.0


@pytest.mark.parametrize(
    ("category", "temperature"),
    [("writing", 0.7), ("roleplay", 0.7), ("stem", 0.1), ("humanities", 0.1), ("math", 0.0), ("기타", 0.0)],
)
def test_the_category_decides_how_freely_a_conversation_is_answered(
    category: str, temperature: float
) -> None:
    from squeeze.bench.tasks import komt_bench

    assert komt_bench.temperature({"category": category}) == temperature
