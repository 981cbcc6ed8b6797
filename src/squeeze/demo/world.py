"""The made world: people, firms, towns and licences that exist nowhere else, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from squeeze.demo.korean import words

Kind = Literal["person", "firm", "town", "job", "licence"]

SURNAMES = (
    "강고구권금기길나남노도동류마맹명모문민반방배백변복봉빈서석선설성소송신심안양어엄여연염오옥온"
    "왕우원위유육윤음인임장전"
)
SYLLABLES = (
    "하람서린도윤지우민채은솔빛나래온유건율별찬결단새봄들샘누리혜준태겸이안록휘담슬비호재연선아루"
    "미로해산경시노을가별"
)
PLACE_SYLLABLES = "달솔물들숲골뫼강빛벌터못샘섬별새참한너른검푸은미누마고송청백운학옥금월죽매난국"

JOBS = words(
    "목수 제빵사 항해사 측량사 약초꾼 유리공 사서 통역사 조율사 양봉가 도예가 정원사 지도사 등대지기 "
    "인쇄공 "
    "염색공 시계공 수의사 건축가 조련사 기관사 잠수부 천문가 대장장이 악기장 제지공 방앗간지기 "
    "우편원 조각가 요리사 "
    "재단사 광부 어부 교사 간호사 변호인 화공 기상관 석공 무대장"
)
FOODS = words(
    "호박죽 메밀국수 감자전 두부찜 팥떡 콩국수 미역국 버섯밥 옥수수빵 매실차 단팥묵 청어구이 무나물 "
    "도토리묵 "
    "잣죽 쑥버무리 고구마탕 연근조림 만두국 배추찜 수수부꾸미 보리빵 가지볶음 오이냉국 밤송편 우엉밥 "
    "생강엿 유자청 "
    "대추차 꿀떡 조개탕 파전 냉이국 토란국 약과 식혜 녹두죽 부추전 김부각 홍시"
)
HOBBIES = words(
    "낚시 등산 바둑 서예 수영 뜨개질 연날리기 별보기 새관찰 판소리 궁도 탁구 목공 사진 독서 합창 "
    "씨름 꽃꽂이 "
    "우표수집 자전거 달리기 종이접기 인형극 요가 장기 피리 그네 활쏘기 그림 텃밭 산책 춤 마술 도자기 "
    "승마 스키 체조 "
    "암벽타기 북치기 시쓰기"
)
INDUSTRIES = words(
    "조선 제지 염색 양조 제과 유리 인쇄 출판 운송 광업 어업 목재 섬유 도자 제약 기계 전기 통신 농기구 가구 "
    "시계 악기 비누 제분 제당 측량 건설 화물 관광 조명"
)
PRODUCTS = words(
    "등잔 나침반 북 돛 벽지 물레 찻잔 저울 안경 우산 종 자물쇠 양초 연필 붓 솥 가위 거울 망원경 썰매 수레 "
    "지도 탁자 의자 피아노 풍금 시계탑 온도계 그물 사다리 톱 배낭 모자 장화 이불 돗자리 주전자 체 바늘 단추"
)
SPECIALTIES = words(
    "사과 배 감 대추 밤 잣 인삼 마늘 고추 양파 참깨 들깨 꿀 미역 김 굴 전복 멸치 오징어 명태 쌀 보리 "
    "메밀 옥수수 "
    "감자 고구마 녹차 매실 유자 포도 복숭아 살구 딸기 수박 참외 호두 송이 표고 더덕 도라지"
)
REGIONS = words("가온도 나르도 다솜도 라온도 마루도 바람도 사랑도 아라도 자라도 차오도 하늬도 구름도")
AGENCIES = words("항만청 산림원 기술원 보건원 교육청 측량원 문화원 안전원 농업원 통상원 기상청 교통원")
RIVERS = words(
    "달내 솔내 은내 검내 푸른내 너른내 참내 별내 학내 옥내 금내 죽내 매내 운내 백내 청내 송내 고내 "
    "마내 누내 미내 새내 섬내 숲내"
)
FIRM_ENDINGS = words("상사 공방 제작소 산업 물산 공업 상회 기업")
BIRTH_YEARS = tuple(f"{year}년" for year in range(1951, 2001))
FOUNDED_YEARS = tuple(f"{year}년" for year in range(1881, 1951))
VALID_YEARS = tuple(f"{years}년" for years in range(2, 12))


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: its key, the noun phrases that ask for it, and the pool of its values.

    nouns: phrases that follow "…의 "; clauses: phrases that follow "…[이가] ".
    points_to: the kind of thing its value is, when that thing has facts of its own.
    """

    key: str
    nouns: tuple[str, ...]
    clauses: tuple[str, ...]
    points_to: Kind | None = None


ATTRIBUTES: dict[Kind, tuple[Attribute, ...]] = {
    "person": (
        Attribute("job", ("직업", "생업"), ("하는 일",), "job"),
        Attribute("home", ("고향", "출생지"), ("태어난 고장",), "town"),
        Attribute("firm", ("직장", "근무처"), ("다니는 회사",), "firm"),
        Attribute("food", ("단골 음식",), ("좋아하는 음식", "즐겨 먹는 음식")),
        Attribute("hobby", ("취미", "여가 활동"), ("즐기는 취미",)),
        Attribute("birth", ("출생 연도", "생년"), ("태어난 해",)),
    ),
    "firm": (
        Attribute("seat", ("본사 도시", "소재지"), ("본사를 둔 고장",), "town"),
        Attribute("industry", ("업종", "사업 분야"), ("하는 사업",)),
        Attribute("product", ("대표 상품", "주력 상품"), ("만드는 물건",)),
        Attribute("founded", ("설립 연도", "창립 연도"), ("세워진 해",)),
    ),
    "town": (
        Attribute("region", ("소속 지방", "상위 지방"), ("속한 지방",)),
        Attribute("specialty", ("특산물", "명물"), ("자랑하는 산물",)),
        Attribute("river", ("하천", "강"), ("끼고 있는 강",)),
    ),
    "job": (Attribute("licence", ("필수 면허", "자격 면허"), ("필요로 하는 면허",), "licence"),),
    "licence": (
        Attribute("agency", ("발급 기관", "담당 기관"), ("관리되는 기관",)),
        Attribute("valid", ("유효 기간", "갱신 주기"), ("유지되는 기간",)),
    ),
}


@dataclass(frozen=True)
class World:
    """Everything that is true: ``facts[kind][name][attribute] = value``, and each attribute's pool."""

    facts: dict[Kind, dict[str, dict[str, str]]]
    pools: dict[str, tuple[str, ...]]

    def value(self, kind: Kind, name: str, key: str) -> str:
        """The value of one fact. Raises KeyError when there is none."""
        return self.facts[kind][name][key]


def attribute(kind: Kind, key: str) -> Attribute:
    """The attribute of that key. Raises KeyError when the kind has none."""
    for candidate in ATTRIBUTES[kind]:
        if candidate.key == key:
            return candidate
    raise KeyError(f"{kind} has no attribute {key!r}")


def make_world(seed: int, people: int = 3000, firms: int = 160) -> World:
    """Draw a world. people, firms: how many there are; towns, jobs and licences are fixed in number."""
    rng = random.Random(f"world-{seed}")
    towns = _names(rng, 48, lambda: _word(rng, PLACE_SYLLABLES, 2) + rng.choice(("시", "군")))
    firm_names = _names(rng, firms, lambda: _word(rng, PLACE_SYLLABLES, 2) + rng.choice(FIRM_ENDINGS))
    person_names = _names(rng, people, lambda: rng.choice(SURNAMES) + _word(rng, SYLLABLES, 2))
    licences = tuple(
        f"{first}{second}급 면허"
        for first, second in zip(
            _names(rng, len(JOBS), lambda: _word(rng, PLACE_SYLLABLES, 2)),
            (rng.choice("123") for _ in JOBS),
            strict=True,
        )
    )
    pools: dict[str, tuple[str, ...]] = {
        "job": tuple(JOBS),
        "home": towns,
        "firm": firm_names,
        "food": tuple(FOODS),
        "hobby": tuple(HOBBIES),
        "birth": BIRTH_YEARS,
        "seat": towns,
        "industry": tuple(INDUSTRIES),
        "product": tuple(PRODUCTS),
        "founded": FOUNDED_YEARS,
        "region": tuple(REGIONS),
        "specialty": tuple(SPECIALTIES),
        "river": tuple(RIVERS),
        "licence": licences,
        "agency": tuple(AGENCIES),
        "valid": VALID_YEARS,
    }
    members: dict[Kind, tuple[str, ...]] = {
        "person": person_names,
        "firm": firm_names,
        "town": towns,
        "job": tuple(JOBS),
        "licence": licences,
    }
    facts = {
        kind: {name: {a.key: rng.choice(pools[a.key]) for a in ATTRIBUTES[kind]} for name in names}
        for kind, names in members.items()
    }
    for job, licence in zip(JOBS, licences, strict=True):
        facts["job"][job]["licence"] = licence
    return World(facts, pools)


def _word(rng: random.Random, syllables: str, length: int) -> str:
    return "".join(rng.choice(syllables) for _ in range(length))


def _names(rng: random.Random, count: int, draw: Callable[[], str]) -> tuple[str, ...]:
    """``count`` different names, in the order drawn."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw()] = None
    return tuple(found)
