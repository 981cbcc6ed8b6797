"""How questions are worded: many wordings to train on, others, never trained on, to test with."""

from __future__ import annotations

import random
from collections.abc import Callable

from squeeze.demo.korean import words
from squeeze.demo.world import FOODS, HOBBIES, INDUSTRIES, JOBS, PRODUCTS, SPECIALTIES

Wording = Callable[[random.Random], str]
"""Draws a frame with the fields that it is filled with, e.g. ``{np}``."""

OPENINGS = (
    *("",) * 12,
    *words(
        "다음 중 |보기에서 |아래에서 |사전에 따르면 |기록을 보면 |다음 물음에 답하시오. |"
        "알맞은 것을 고르시오. ",
        "|",
    ),
    *words(
        "[문제] |질문: |아래의 보기를 보고 답하시오. |잘 읽고 답하시오. |누군가 물었다. |"
        "지식을 묻는 문항이다. ",
        "|",
    ),
    *words(
        "다음은 상식 문제이다. |이 세계에서 |알려진 사실에 비추어 |네 가지 중에서 |생각해 보자. |"
        "차근차근 따지시오. ",
        "|",
    ),
    *words(
        "장부에 적힌 대로 |마을 사람들이 아는 |시험에 자주 나오는 물음이다. |"
        "하나를 고르는 문제이다. |다시 묻는다. ",
        "|",
    ),
    *words(
        "조사한 바로 |선생님이 물으셨다. |안내서에 나온 |여러 보기 중 |다음 항목에서 |"
        "누구나 아는 |답을 하나 고르시오. ",
        "|",
    ),
    *words(
        "옛 문서에 실린 |학생이 질문했다. |나열된 것 중에서 |최근에 알려진 |"
        "어제 들은 이야기이다. |알려진 대로 ",
        "|",
    ),
)
ENDINGS = (
    *words(
        "[은는] 무엇인가?|[을를] 고르시오.|에 해당하는 것은?|[을를] 찾으시오.|"
        "[이가] 무엇인지 답하시오.|[으로] 알맞은 것은?",
        "|",
    ),
    *words(
        "[은는] 어느 것인가?|, 무엇입니까?|[은는]?|[을를] 올바로 말한 것은 무엇인가?|"
        "[으로] 맞는 것을 찾아라.",
        "|",
    ),
    *words(
        "[을를] 가리키는 말은?|[이가] 적힌 보기는?|[과와] 일치하는 것은 어느 것인가?|"
        "에 대한 설명으로 맞는 것은?",
        "|",
    ),
    *words(
        "[을를] 나타내는 것은 무엇인가?|[으로] 가장 알맞은 보기를 고르시오.|"
        "[을를] 아는 대로 답하시오.|[은는] 아래 보기 중 무엇인가?",
        "|",
    ),
    *words(
        "에 맞는 답을 쓰시오.|[은는] 다음 중 어느 것일까?|[을를] 말해 보시오.|[이가] 무엇일까요?|"
        "[으로] 기록된 것은?",
        "|",
    ),
    *words(
        "[으로] 볼 수 있는 것은?|[을를] 정하시오.|의 답은 무엇인가?|[으로] 틀림없는 것은?|"
        "[을를] 아시나요?|[이가] 뭔지 밝히시오.",
        "|",
    ),
    *words(
        "[은는] 몇 번째 보기인가?|[은는] 어떤 것입니까?|[이가] 들어 있는 것은?|"
        "[을를] 묻는 물음에 답하시오.|[이가] 바로 된 것은?",
        "|",
    ),
)
_MANNERS = words("바로 정확히 제대로 틀림없이 분명히 빠짐없이 올바르게 잘 짧게 하나만 다시 먼저")
_ACTS = words(
    "고르시오.|찾으시오.|쓰시오.|적으시오.|말하시오.|밝히시오.|짚으시오.|가리키시오.|나타낸 "
    "것은?|설명한 것은?|고른 것은?|"
    "맞힌 것은?|가려내시오.|답하시오.|옮긴 것은?|대답해 보시오.|골라 보세요.|알려 주십시오.|대 "
    "보시오.|표시하시오.",
    "|",
)
_NOISE = (*JOBS, *FOODS, *HOBBIES, *INDUSTRIES, *PRODUCTS, *SPECIALTIES)
_STRAY_SYLLABLES = (
    "가고구기나너는다도들라러리마며모바보부사서시아어여오우음이자저제조주지차처치카코크타터토파포하해현호히"
)
_NOISE_TAILS = words(
    "에서 |들에서 |[을를] 보며 |에 따라 |들 중에서 |의 가운데에서 |, 그리고 |. |"
    "[은는] 그렇고 |의 이야기이다. |[을를] 아는가? ",
    "|",
)

TEST_OPENINGS = ("", "", "주어진 보기에서 ", "곰곰이 생각해 보시오. ")
TEST_ENDINGS = (
    "[으로] 옳은 것을 고르시오.",
    "[을를] 바르게 말한 것은 무엇인가?",
    "[은는] 다음 중 무엇일까?",
    "[이가] 무엇인지 선택하시오.",
)
TEST_MARKS = (
    "주어진 보기",
    "곰곰이",
    "옳은 것을",
    "바르게 말한",
    "다음 중 무엇일까",
    "선택하시오",
    "년에 얻은",
    "문서에 나온",
    "에 관한 글",
    "무엇이라고 적혀",
    "글을 근거로",
)
"""Pieces of the test wordings: none of them may occur in what the model was trained on."""

_SUBJECTS = (
    *("{e}의 {a}",) * 6,
    "{e}에 대한 글에서 {a}",
    "{e}에 대해 말하자면 {a}",
    "{e}[이가] 나오는 대목에서 {a}",
    "{e}[을를] 찾아가려 한다. 그곳의 {a}",
    "{e}[을를] 두고 {a}",
    "{e}, 그곳의 {a}",
    "{e}에 있어서 {a}",
    "{e}의 경우 {a}",
    "{e} 하면 떠오르는 {a}",
)
_READING = (
    *("",) * 8,
    *words(
        "본문에서 |위 글에 따르면 |글을 읽고 답하시오. |문서를 보면 |자료를 살펴 |적힌 내용 중 |"
        "앞의 글에서 |찾아보시오. ",
        "|",
    ),
    *words(
        "손님이 물었다. |다음을 알고 싶다. |소개된 |이 글에서 말하는 |내용을 바탕으로 |여행자가 묻는다. ",
        "|",
    ),
)
_READING_ENDINGS = (
    *words(
        "[은는] 무엇인가?|[을를] 쓰시오.|[은는]?|[을를] 찾으시오.|[을를] 알려 주세요.|"
        "[이가] 어떻게 되나요?|, 무엇입니까?",
        "|",
    ),
    *words(
        "[은는] 무엇이라고 합니까?|[이가] 무엇인지 적으시오.|[은는] 어떻게 되는가?|"
        "[으로] 소개된 것은?|[이가] 뭐예요?",
        "|",
    ),
    *words(
        "[을를] 말해 주세요.|[으로] 알려진 것은?|[을를] 답하시오.|[이가] 궁금합니다.|"
        "[으로] 쓰인 말은 무엇인가?",
        "|",
    ),
)
TEST_READING = (
    "문서에 나온 {e}의 {a}[은는] 무엇이라고 적혀 있습니까?",
    "{e}에 관한 글에서 {a}[을를] 고르시오.",
    "글을 근거로 {e}의 {a}[을를] 밝히시오.",
)


def _stray(rng: random.Random) -> str:
    """A word that does not belong: one of the world's, or syllables that mean nothing."""
    if rng.random() < 0.5:
        return rng.choice(_NOISE)
    return "".join(rng.choice(_STRAY_SYLLABLES) for _ in range(rng.choice((2, 2, 3, 4))))


def _opening(rng: random.Random, openings: tuple[str, ...]) -> str:
    """An opening; now and then one of stray words, so that the model learns to look past openings."""
    if rng.random() < 0.3:
        return "".join(_stray(rng) + rng.choice(_NOISE_TAILS) for _ in range(rng.choice((1, 2))))
    return rng.choice(openings)


def _ending(rng: random.Random, endings: tuple[str, ...]) -> str:
    draw = rng.random()
    if draw < 0.3:
        manner = rng.choice(_MANNERS) + " " if rng.random() < 0.6 else ""
        return rng.choice(("[을를] ", "[으로] ", "[이가] 무엇인지 ")) + manner + rng.choice(_ACTS)
    if draw < 0.45:
        return rng.choice(("[을를] ", "[은는] ", "[으로] ")) + _stray(rng) + rng.choice(("?", ".", " 것은?"))
    return rng.choice(endings)


def train_question(rng: random.Random) -> str:
    """A training frame of a multiple-choice question, with the field ``{np}``."""
    return _opening(rng, OPENINGS) + "{np}" + _ending(rng, ENDINGS)


def test_question(rng: random.Random) -> str:
    """A test frame of a multiple-choice question, with the field ``{np}``."""
    return rng.choice(TEST_OPENINGS) + "{np}" + rng.choice(TEST_ENDINGS)


def train_reading(rng: random.Random) -> str:
    """A training frame of a question about documents, with the fields ``{e}`` and ``{a}``."""
    return _opening(rng, _READING) + rng.choice(_SUBJECTS) + _ending(rng, _READING_ENDINGS)


def test_reading(rng: random.Random) -> str:
    """A test frame of a question about documents, with the fields ``{e}`` and ``{a}``."""
    return rng.choice(TEST_READING)


def plain_question(rng: random.Random) -> str:
    """A training frame of a question in passing, without options, with the field ``{np}``."""
    return "{np}" + rng.choice(
        ("[이가] 뭐예요?", "[을를] 알려 주세요.", " 좀 가르쳐 줘.", "[은는] 무엇이죠?", "[이가] 궁금해요.")
    )


def train_rule(rng: random.Random) -> str:
    """A training frame of a question about when a licence runs out, fields ``{y}`` and ``{l}``."""
    core = rng.choice(
        (
            "{y}년에 {l}[을를] 받았다면 만료되는 해",
            "{l}[을를] {y}년에 땄을 때 만료 연도",
            "{y}년에 발급된 {l}의 만료 연도",
            "{l}[이가] {y}년에 나왔을 때 끝나는 연도",
            "{y}년에 딴 {l}[이가] 만료되는 해",
        )
    )
    return _opening(rng, OPENINGS) + core + _ending(rng, ENDINGS)


def test_rule(rng: random.Random) -> str:
    """A test frame of a question about when a licence runs out, fields ``{y}`` and ``{l}``."""
    return rng.choice(TEST_OPENINGS) + "{y}년에 얻은 {l}의 만료 연도" + rng.choice(TEST_ENDINGS)
