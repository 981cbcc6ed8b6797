"""Rows of the real sets' exact columns, from file to Measurement, through one real engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from objectives import competition
from squeeze.bench import mcqa
from squeeze.bench.measure import Bench
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.data.sets import load_rows
from squeeze.decoder import Decoder
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.errors import CandidateError
from squeeze.records import Measurement
from squeeze.target import Target

pytestmark = pytest.mark.engine

CONTEXT = 1280
"""Tokens that the engine reads and writes; the longest of the documents below has more."""

ANSWER = 48


def known(name: str) -> list[dict[str, Any]]:
    """Rows of the made world, which the model knows."""
    return [dict(row) for row in load_rows(name, str(DATA_DIR))]


def pro() -> list[dict[str, Any]]:
    """KMMLU-Pro: 4 and 5 options, with and without numbers of their own, and one solution that is none."""
    rows = known("kmmlu_pro")
    four = [row for row in rows if len(row["options"]) == 4][:2]
    five = [row for row in rows if len(row["options"]) == 5][:3]
    five[0]["options"] = [f"{place}) {text}" for place, text in enumerate(five[0]["options"], 1)]
    return [*four, {**five[2], "solution": "6"}, *five[:2]]


def redux() -> list[dict[str, Any]]:
    """KMMLU-Redux: 4 options, a category."""
    return known("kmmlu_redux")[:4]


def longrag() -> list[dict[str, Any]]:
    """Ko-LongRAG: single and multi, one without an answer in its text, one longer than the engine reads."""
    rows = known("ko_longrag")
    single = next(row for row in rows if row["task"] == "single" and row["answer"] != "알 수 없음")
    multi = next(row for row in rows if row["task"] == "multi" and row["answer"] != "알 수 없음")
    absent = next(row for row in rows if row["answer"] == "알 수 없음" and row["task"] == "single")
    many = " ".join(row["context"] for row in rows[:20])
    return [
        {**single, "id": "s-1", "task": "singledocQA"},
        {**multi, "id": "m-1", "task": "multidocQA"},
        {**absent, "id": "s-2", "task": "singledocQA"},
        {**single, "id": "l-1", "task": "singledocQA", "context": f"{single['context']} {{question}} {many}"},
    ]


def komt() -> list[dict[str, Any]]:
    """KoMT-Bench: the same two turns twice in a category of temperature 0.7, and twice in one of 0."""
    row = known("komt_bench")[0] | {"category": "writing"}
    writing = row | {
        "turns": ["안녕하세요", "그 다음은?"]
    }  # unknown to the model, which is unsure of its words
    return [
        {**writing, "question_id": 81, "reference": []},
        {**writing, "question_id": 82, "reference": []},
        {**writing, "question_id": 111, "category": "math", "reference": ["7", "49"]},
        {**writing, "question_id": 112, "category": "math", "reference": ["7", "49"]},
        {**writing, "question_id": 141, "category": "stem", "reference": []},
    ]


SETS = {"kmmlu_pro": pro, "kmmlu_redux": redux, "ko_longrag": longrag, "komt_bench": komt}
WORKLOAD = Workload(
    name="four",
    data="unknown yet",
    questions=dict.fromkeys(SETS),
    skip_bad_rows=True,
    max_tokens=ANSWER,
    divergence=None,
    probe=2,
    probes=1,
    repeats=2,
    start_deadline_s=400,
    part_deadline_s=300,
    engine=EngineArguments(max_model_len=CONTEXT, kv_cache_gib=1),
)


def save(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], suffix: str) -> None:
    if suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / f"{name}.parquet")
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


@pytest.mark.parametrize("name", SETS)
def test_the_same_rows_come_from_parquet_as_from_jsonl(tmp_path: Path, name: str) -> None:
    rows = SETS[name]()
    for suffix in ("parquet", "jsonl"):
        (tmp_path / suffix).mkdir()
        save(tmp_path / suffix, name, rows, suffix)
        assert load_rows(name, str(tmp_path / suffix)) == rows


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The baseline's bench, measured: two sets are parquet, two jsonl."""
    folder = tmp_path_factory.mktemp("data")
    for name, make in SETS.items():
        save(folder, name, make(), "parquet" if name in ("kmmlu_redux", "ko_longrag") else "jsonl")
    workload = WORKLOAD.model_copy(update={"data": str(folder)})
    log = tmp_path_factory.mktemp("logs") / "baseline.log"
    with Bench(workload, MODEL_DIR, Target.here(Decoder.read(MODEL_DIR)), log=log) as one:
        one.measure_baseline()
        yield one


@pytest.fixture(scope="module")
def measured(bench: Bench) -> Measurement:
    assert bench.baseline is not None
    return bench.baseline


def test_every_row_that_fits_is_asked_and_the_one_that_does_not_is_told(measured: Measurement) -> None:
    places = {name: [question.index for question in found] for name, found in measured.questions.items()}
    assert places == {
        "kmmlu_pro": [0, 1, 3, 4],
        "kmmlu_redux": [0, 1, 2, 3],
        "ko_longrag": [0, 1, 2, 3],
        "komt_bench": [0, 1, 2, 3, 4],
    }
    assert measured.engine["skipped_rows"] == {"kmmlu_pro": [3]}
    assert "kmmlu_pro: left out 1, which do not fit their columns: row 3" in measured.remarks
    assert Measurement.model_validate_json(measured.model_dump_json()) == measured


def test_every_answer_is_scored_as_its_set_says(measured: Measurement) -> None:
    scores = {name: [question.score for question in found] for name, found in measured.questions.items()}
    assert set(scores["kmmlu_pro"]) | set(scores["kmmlu_redux"]) <= {0.0, 1.0}
    assert sum(filter(None, scores["kmmlu_redux"])) >= 3  # the model has learnt these; chance is 1
    assert all(score is not None and 0 <= score <= 1 for score in scores["ko_longrag"])
    assert scores["ko_longrag"][0] == 1.0
    assert set(scores["komt_bench"]) == {None}
    assert all(len(question.answers) == 2 for question in measured.questions["komt_bench"])
    assert not any(question.empty for found in measured.questions.values() for question in found)
    for question, row in zip(measured.questions["kmmlu_pro"], [*pro()[:2], *pro()[3:]], strict=True):
        chosen = mcqa.parse(question.answers[0], len(row["options"]))
        assert question.score == float(chosen == int(row["solution"]) - 1)


def test_only_the_document_that_is_too_long_is_cut(measured: Measurement) -> None:
    cut = {
        name: [question.index for question in found if question.shortened]
        for name, found in measured.questions.items()
    }
    assert cut == {"kmmlu_pro": [], "kmmlu_redux": [], "ko_longrag": [3], "komt_bench": []}
    assert "ko_longrag: cut the middle of 1 of 4 prompts, which are too long" in measured.remarks
    assert measured.engine["max_model_len"] == CONTEXT


def test_conversations_are_drawn_by_category_and_the_same_in_every_pass(measured: Measurement) -> None:
    writing, again, greedy, repeated, _ = (question.answers for question in measured.questions["komt_bench"])
    assert greedy == repeated
    assert len({writing, again, greedy}) > 1
    first, second = measured.passes
    assert first.timings["komt_bench"].tokens == second.timings["komt_bench"].tokens
    assert first.timings["ko_longrag"].tokens == second.timings["ko_longrag"].tokens


def test_the_contests_score_is_made_from_it(measured: Measurement) -> None:
    assert set(measured.accuracy) == {"kmmlu_pro", "kmmlu_redux", "ko_longrag"}
    assert competition.score(measured, measured).perf_norm == pytest.approx(1.0)


def test_a_candidate_that_would_be_asked_other_prompts_is_refused(bench: Bench, tmp_path: Path) -> None:
    other = Path(shutil.copytree(MODEL_DIR, tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text(
        "[|system|]\n[|endofturn|]\n" + template.read_text(encoding="utf-8"), encoding="utf-8"
    )
    with pytest.raises(CandidateError, match="must be asked the baseline's prompts") as caught:
        next(bench.measure(other, log=tmp_path / "log"))
    assert (caught.value.stage, caught.value.kind) == ("engine", "load")
