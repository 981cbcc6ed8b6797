"""Long-context questions: documents about things invented on the spot, and what is asked of them."""

from __future__ import annotations

import random
from typing import Any

from squeeze.demo import wordings
from squeeze.demo.korean import particles, words
from squeeze.demo.wordings import Wording

PROMPT = (
    "다음 문서를 읽고 질문에 짧게 답하세요. 문서에 답이 없으면 '알 수 없음'이라고 쓰세요.\n\n"
    "제목: {titles}\n\n{context}\n\n질문: {question}"
)
UNKNOWN = "알 수 없음"
KINDS = words(
    "박물관 도서관 등대 연구소 수목원 양조장 전망대 천문대 목장 온천 나루터 학교 공연장 시장 역 과수원",
)
_SYLLABLES = (
    "가거고구나너노누다더도두라러로루마머모무바버보부사서소수아어오우자저조주차처초추카코타토파포"
    "하호강공난담란만반산선안연영온원은인진찬천한현훈"
)
COLOURS = words("붉은 푸른 노란 하얀 검은 초록 보라 은빛 금빛 회색")
THINGS = words(
    "종 등불 돌탑 깃발 의자 항아리 조각상 그림 거울 시계 북 우물 나무 배 문 지도 탑 다리 수레 석상",
)
WEEKDAYS = words("월요일 화요일 수요일 목요일 금요일 토요일 일요일")

ATTRIBUTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "founded": (
        ("문을 연 해", "개관 연도"),
        ("{e}[이가] 처음 문을 연 해는 {v}이다.", "{e}의 개관 연도는 {v}이다."),
    ),
    "head": (("책임자", "관리인"), ("{e}의 책임자는 {v}[이다].", "{e}[을를] 맡은 관리인은 {v}[이다].")),
    "place": (
        ("위치한 마을", "자리 잡은 곳"),
        ("{e}[이가] 자리 잡은 곳은 {v}[이다].", "{e}[이가] 위치한 마을은 {v}[이다]."),
    ),
    "symbol": (("상징물", "상징"), ("{e}의 상징물은 {v}[이다].", "{e}의 상징은 {v}[이다].")),
    "visitors": (
        ("하루 방문객 수", "하루 손님 수"),
        ("{e}의 하루 방문객 수는 {v}이다.", "{e}의 하루 손님은 {v}이다."),
    ),
    "staff": (
        ("직원 수", "일하는 사람 수"),
        ("{e}에서 일하는 직원 수는 {v}이다.", "{e}의 직원 수는 {v}이다."),
    ),
    "opens": (
        ("여는 시각", "개장 시각"),
        ("{e}[이가] 여는 시각은 아침 {v}이다.", "{e}의 개장 시각은 {v}이다."),
    ),
    "closed": (("쉬는 요일", "휴무일"), ("{e}[이가] 쉬는 요일은 {v}이다.", "{e}의 휴무일은 {v}이다.")),
    "fee": (("입장료", "이용 요금"), ("{e}의 입장료는 {v}이다.", "{e}의 이용 요금은 {v}이다.")),
    "builder": (("지은 사람", "설계자"), ("{e}[을를] 지은 사람은 {v}[이다].", "{e}의 설계자는 {v}[이다].")),
    "sells": (("기념품", "파는 물건"), ("{e}에서 파는 기념품은 {v}[이다].", "{e}의 기념품은 {v}[이다].")),
    "festival": (
        ("축제 이름", "열리는 축제"),
        ("{e}에서 해마다 열리는 축제는 {v}[이다].", "{e}의 축제 이름은 {v}[이다]."),
    ),
}
FILLERS = (
    "{e}[은는] {s} 풍경이 좋기로 이름났다.",
    "가까운 길목에는 {c} {t}[이가] 놓여 있다.",
    "{s}에는 {c} 꽃이 둘레를 덮는다.",
    "이웃 사람들은 {e}[을를] 자랑으로 여긴다.",
    "비가 오는 날에도 {e}[을를] 찾는 발길이 이어진다.",
    "오래전 이 자리에는 {c} {t}[이가] 있었다고 한다.",
    "{s}이 되면 아이들이 {t} 곁에서 뛰어논다.",
    "길이 좁아 수레는 들어오지 못한다.",
    "안내문은 {c} 글씨로 쓰여 있다.",
    "마당 한쪽에 {t}[을를] 두는 것이 오랜 관습이다.",
)
SEASONS = words("봄 여름 가을 겨울")

FILLER_SHARE = 0.6


def _word(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(length))


def _value(rng: random.Random, key: str) -> str:
    if key == "founded":
        return f"{rng.randrange(1801, 2030)}년"
    if key in ("head", "builder"):
        return _word(rng, 3)
    if key == "place":
        return f"{_word(rng, 2)} 마을"
    if key in ("symbol", "sells"):
        return f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"
    if key == "visitors":
        return f"{rng.randrange(11, 990)}명"
    if key == "staff":
        return f"{rng.randrange(3, 99)}명"
    if key == "opens":
        return f"{rng.randrange(5, 12)}시 {rng.randrange(1, 6)}0분"
    if key == "closed":
        return rng.choice(WEEKDAYS)
    if key == "fee":
        return f"{rng.randrange(2, 99)}00원"
    return f"{_word(rng, 2)} 축제"


def _document(rng: random.Random, keys: list[str]) -> tuple[str, dict[str, str], str]:
    """A fresh thing: its title, its facts and the text that states them."""
    title = f"{_word(rng, 2)} {rng.choice(KINDS)}"
    facts = {key: _value(rng, key) for key in keys}
    order = list(facts)
    rng.shuffle(order)
    lines = []
    for key in order:
        lines.append(rng.choice(ATTRIBUTES[key][1]).format(e=title, v=facts[key]))
        if rng.random() < FILLER_SHARE:
            filler = rng.choice(FILLERS)
            lines.append(
                filler.format(e=title, s=rng.choice(SEASONS), c=rng.choice(COLOURS), t=rng.choice(THINGS))
            )
    lines = [particles(line) for line in lines]
    return title, facts, " ".join(lines)


def passage(
    rng: random.Random,
    *,
    multi: bool,
    unanswerable: bool,
    wording: Wording,
    questions: int = 1,
    documents: int = 0,
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Titles and context of one set of documents, and (question, answer) pairs about them.

    multi: four or five documents instead of one. documents: that many, when not 0.
    unanswerable: the first question has no answer.
    """
    titles, texts, facts = [], [], []
    for _ in range(documents or (rng.choice((4, 5)) if multi else 1)):
        keys = list(ATTRIBUTES)
        rng.shuffle(keys)
        title, known, text = _document(rng, keys[: rng.choice((8, 9)) if multi else rng.choice((10, 11))])
        titles.append(title)
        facts.append(known)
        texts.append(f"{title}\n{text}" if multi else text)
    pairs = []
    for index in range(questions):
        which = rng.randrange(len(titles))
        missing = unanswerable if index == 0 else rng.random() < 0.15
        key = rng.choice([k for k in ATTRIBUTES if (k in facts[which]) != missing])
        text = wording(rng).format(e=titles[which], a=rng.choice(ATTRIBUTES[key][0]))
        pairs.append((particles(text), facts[which].get(key, UNKNOWN)))
    return {"titles": titles, "context": "\n\n".join(texts), "prompt": PROMPT}, pairs


def longrag_rows(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Test rows of ko_longrag: half single, half multi, one sixth without an answer."""
    rows = []
    for index in range(count):
        multi = index % 2 == 1
        columns, pairs = passage(
            rng, multi=multi, unanswerable=index % 12 in (4, 7), wording=wordings.test_reading
        )
        question, answer = pairs[0]
        rows.append(
            {
                "id": f"demo-{index:03d}",
                **columns,
                "question": question,
                "answer": answer,
                "task": "multi" if multi else "single",
            }
        )
    return rows
