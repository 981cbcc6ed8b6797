"""Whatever a model writes, a multiple-choice answer is read by the same few rules, and never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze.bench import mcqa

MARKS = st.sampled_from(["정답:", "정답 :", "정답：", "정답\n: ", "Answer:", "Answer：\t"])
LETTERS = st.sampled_from("ABCDEabcde")
# Ends a letter: nothing that could make it part of a word.
ENDS = st.sampled_from(["", "\n", " ", ".", ")", "**", "입니다", "번", "。", "\u200b", "가"])
PLAIN = st.text().filter(lambda text: "정답" not in text and "Answer" not in text)
PIECES = [*"ABCDEFabcdef123456789. ()*:：\n\t\r\u2028\u00a0\0Ａé", "정답", "Answer", "정답: ", "Answer: "]
ADVERSARIAL = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@settings(deadline=None)
@given(before=st.text(), mark=MARKS, letter=LETTERS, end=ENDS, after=PLAIN, options=st.sampled_from([4, 5]))
def test_the_letter_after_the_last_mark_counts_whatever_stands_before(
    before: str, mark: str, letter: str, end: str, after: str, options: int
) -> None:
    index = "ABCDE".index(letter.upper())
    read = mcqa.parse(f"{before}{mark}{letter}{end}\n{after}", options)
    assert read == (index if index < options else None)


@settings(deadline=None)
@given(letters=st.lists(LETTERS, min_size=2, max_size=6), mark=MARKS)
def test_of_several_marked_letters_the_last_counts_also_one_that_no_option_has(
    letters: list[str], mark: str
) -> None:
    text = "\n".join(f"{mark}{letter}" for letter in letters)
    last = "ABCDE".index(letters[-1].upper())
    assert mcqa.parse(text, 4) == (last if last < 4 else None)


@settings(deadline=None)
@given(letter=LETTERS, digits=st.lists(st.integers(1, 5), min_size=1, max_size=4), first=st.booleans())
def test_a_marked_letter_goes_before_marked_digits_and_of_those_the_last_counts(
    letter: str, digits: list[int], first: bool
) -> None:
    numbered = "\n".join(f"정답: {digit}" for digit in digits)
    assert mcqa.parse(numbered, 5) == digits[-1] - 1
    both = f"정답: {letter}\n{numbered}" if first else f"{numbered}\n정답: {letter}"
    assert mcqa.parse(both, 5) == "ABCDE".index(letter.upper())


@settings(deadline=None)
@given(before=PLAIN, letter=LETTERS, blank=st.sampled_from(["", "\n", "  \n\n", "\r\n"]))
def test_without_a_mark_a_last_line_that_is_one_letter_counts(before: str, letter: str, blank: str) -> None:
    assert mcqa.parse(f"{before}\n {letter} {blank}", 5) == "ABCDE".index(letter.upper())


@settings(deadline=None)
@given(text=PLAIN, options=st.sampled_from([4, 5]))
def test_without_a_mark_and_without_such_a_line_nothing_is_read(text: str, options: int) -> None:
    lines = text.strip().split("\n")
    if lines[-1].strip() not in tuple("ABCDEabcde"):
        assert mcqa.parse(text, options) is None


@settings(deadline=None)
@given(text=ADVERSARIAL, options=st.sampled_from([4, 5]))
def test_any_text_gives_an_option_that_there_is_or_none_and_only_what_it_says(
    text: str, options: int
) -> None:
    read = mcqa.parse(text, options)
    assert read is None or 0 <= read < options
    if read is not None:
        letter = "ABCDE"[read]
        assert any(said in text for said in (letter, letter.lower(), str(read + 1)))


@pytest.mark.parametrize(
    ("answer", "options", "chosen"),
    [
        ("차근차근 풀면\n정답: B", 4, 1),
        ("정답: A 아니, 정답: c", 4, 2),
        ("**정답: B**", 4, 1),
        ("정답：3", 4, 2),
        ("정답: 3번", 4, 2),
        ("정답: E", 4, None),
        ("정답: 5", 4, None),
        ("정답: A\n정답: E", 4, None),
        ("정답: F", 5, None),
        ("정답: 0", 5, None),
        ("정답: 12", 5, None),
        ("정답: 3.14", 5, None),
        ("정답: Apple", 4, None),
        ("정답: A4 용지", 4, None),
        ("정답: (B)", 4, None),
        ("정답: **B**", 4, None),
        ("정답: Ｂ", 4, None),
        ("정답은 B입니다", 4, None),
        ("답: B", 4, None),
        ("B\n그래서 그렇다", 4, None),
        ("생각해 보면\n(B).", 4, None),
        ("생각해 보면\nB", 4, 1),
        ("생각해 보면\n2", 4, None),
        ("생각해 보면\nAB", 4, None),
        ("문제에 '정답: C라고 쓰라'고 적혀 있지만\n정답: A", 4, 0),
        ("", 4, None),
        (" \n\t", 4, None),
    ],
)
def test_an_answer_is_read_strictly(answer: str, options: int, chosen: int | None) -> None:
    assert mcqa.parse(answer, options) == chosen


@pytest.mark.parametrize("options", [4, 5])
def test_a_prompt_offers_the_letters_of_its_options_and_asks_for_steps(options: int) -> None:
    row = {"question": "무엇?", "options": [f"보기{number}" for number in range(options)], "solution": "1"}
    text = mcqa.prompt(row)
    letters = "ABCDE"[:options]
    assert f"X는 {letters} 중 하나" in text and "단계적으로" in text and "정답: X" in text
    assert text.endswith("\n".join(f"{letter}. 보기{number}" for number, letter in enumerate(letters)))


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["1) 하나", "2) 둘", "3) 셋", "4) 넷"], ["하나", "둘", "셋", "넷"]),
        (["(1) 하나", "(2)둘", "3. 셋", " 4)  넷"], ["하나", "둘", "셋", "넷"]),
        (["1.5배", "2.5배", "3.5배", "4.5배"], ["1.5배", "2.5배", "3.5배", "4.5배"]),
        (["2) 하나", "1) 둘", "3) 셋", "4) 넷"], ["2) 하나", "1) 둘", "3) 셋", "4) 넷"]),
        (["1) 하나", "둘", "셋", "넷"], ["1) 하나", "둘", "셋", "넷"]),
        (["3. 1 운동", "둘", "셋", "넷"], ["3. 1 운동", "둘", "셋", "넷"]),
        (["1)", "2)", "3)", "4)"], ["1)", "2)", "3)", "4)"]),
    ],
)
def test_numbers_of_the_options_own_go_only_if_each_has_that_of_its_place(
    options: list[str], shown: list[str]
) -> None:
    text = mcqa.prompt({"question": "무엇?", "options": options, "solution": "1"})
    assert text.endswith("\n".join(f"{letter}. {told}" for letter, told in zip("ABCD", shown, strict=True)))


@pytest.mark.parametrize("solution", ["2", 2])
def test_the_right_option_counts_one_and_all_else_nothing(solution: str | int) -> None:
    row = {"question": "무엇?", "options": ["가", "나", "다", "라"], "solution": solution}
    assert mcqa.score(row, ["풀이\n정답: B"]) == 1.0
    assert mcqa.score(row, ["풀이\n정답: A"]) == 0.0
    assert mcqa.score(row, ["잘 모르겠습니다"]) == 0.0
