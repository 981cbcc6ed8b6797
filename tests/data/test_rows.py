"""Rows that do not fit their columns are named, counted, and left out only when that is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from squeeze.bench import tasks
from squeeze.data.rows import misfits
from squeeze.data.sets import SETS, load_questions, load_rows
from squeeze.demo import DATA_DIR
from squeeze.errors import ConfigError

CHOICE = {"question": "무엇?", "options": ["하나", "둘", "셋", "넷"], "solution": "2"}
LONG = {
    "id": "a-1",
    "titles": ["제목"],
    "context": "글",
    "question": "무엇?",
    "answer": "답",
    "prompt": "{titles}\n{context}\n{question}",
    "task": "singledocQA",
}
TALK = {"question_id": 81, "category": "writing", "turns": ["하나", "둘"], "reference": []}
FITTING = {"kmmlu_pro": CHOICE, "kmmlu_redux": CHOICE, "ko_longrag": LONG, "komt_bench": TALK}


def write(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("name", tasks.names())
def test_every_row_of_the_made_world_fits(name: str) -> None:
    found = load_questions(name, str(DATA_DIR))
    assert [index for index, _ in found.rows] == list(range(len(found.rows)))
    assert len(found.rows) == len(load_rows(name, str(DATA_DIR))) and not found.left_out


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("kmmlu_pro", {"options": [*"가나다라마"], "solution": "5"}),
        ("kmmlu_redux", {"solution": 4, "category": "건설"}),
        ("kmmlu_redux", {"options": ["1) 가", "2) 나", "3) 다", "4) 라"]}),
        ("ko_longrag", {"answer": "알 수 없음", "id": 7}),
        ("ko_longrag", {"context": "글 {question} 글"}),
        ("komt_bench", {"reference": None}),
        ("komt_bench", {"reference": ["기준", None]}),
    ],
)
def test_what_the_real_sets_may_hold_fits(name: str, change: dict[str, Any]) -> None:
    assert misfits(SETS[name].columns, [FITTING[name] | change]) == []


@pytest.mark.parametrize(
    ("name", "column", "value", "told"),
    [
        ("kmmlu_pro", "question", None, "must be text; got nothing"),
        ("kmmlu_pro", "question", " \n", r"must be text; got ' \\n'"),
        ("kmmlu_pro", "question", 3, "must be text; got 3"),
        ("kmmlu_pro", "question", "\ud800", "must be text of valid Unicode"),
        ("kmmlu_pro", "options", ["하나", "둘", "셋"], "must be a list of 4 or 5 texts; got a list of 3"),
        ("kmmlu_pro", "options", list("ABCDEF"), "got a list of 6"),
        ("kmmlu_pro", "options", ["하나", "둘", "", "넷"], "must be a list of 4 or 5 texts"),
        ("kmmlu_pro", "options", ["하나", "둘", None, "넷"], "must be a list of 4 or 5 texts"),
        ("kmmlu_redux", "options", "하나, 둘, 셋, 넷", "must be a list of 4 or 5 texts; got '하나"),
        ("kmmlu_redux", "solution", None, "the number of an option, 1 to 4; got nothing"),
        ("kmmlu_redux", "solution", "0", "the number of an option, 1 to 4"),
        ("kmmlu_redux", "solution", "5", "the number of an option, 1 to 4"),
        ("kmmlu_redux", "solution", "B", "the number of an option, 1 to 4"),
        ("kmmlu_redux", "solution", "２", "the number of an option, 1 to 4"),
        ("kmmlu_redux", "solution", "1,3", "the number of an option, 1 to 4"),
        ("kmmlu_redux", "solution", 2.0, "the number of an option, 1 to 4"),
        ("kmmlu_redux", "solution", True, "the number of an option, 1 to 4"),
        ("ko_longrag", "id", None, "text or a whole number"),
        ("ko_longrag", "titles", "제목", "must be a list of texts; got '제목'"),
        ("ko_longrag", "titles", [], "must be a list of texts"),
        ("ko_longrag", "context", "", "must be text"),
        ("ko_longrag", "answer", "", "must be text"),
        ("ko_longrag", "answer", "…", "a letter or a digit"),
        ("ko_longrag", "prompt", None, "must be text; got nothing"),
        ("ko_longrag", "prompt", "{context}\n{question}", r"text that holds \{titles\}; got"),
        ("ko_longrag", "prompt", "다음 문서", r"\{titles\} and \{context\} and \{question\}"),
        ("ko_longrag", "task", None, "must be text"),
        ("komt_bench", "question_id", "81", "a whole number"),
        ("komt_bench", "category", "", "must be text"),
        ("komt_bench", "turns", ["하나"], "must be a list of 2 texts; got a list of 1"),
        ("komt_bench", "turns", ["하나", "둘", "셋"], "must be a list of 2 texts; got a list of 3"),
        ("komt_bench", "turns", ["하나", ""], "must be a list of 2 texts"),
        ("komt_bench", "reference", "기준", "a list of texts, which may be empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named_in_one_line(
    tmp_path: Path, name: str, column: str, value: Any, told: str
) -> None:
    fitting = FITTING[name]
    data = write(tmp_path, name, [fitting, fitting, fitting | {column: value}])
    with pytest.raises(ConfigError, match=f"1 of 3 do not: row 3, {column}: .*{told}") as caught:
        load_questions(name, data)
    assert "\n" not in str(caught.value) and "skip_bad_rows" in str(caught.value)
    found = load_questions(name, data, skip_bad_rows=True)
    assert [index for index, _ in found.rows] == [0, 1]
    assert [(one.row, one.column) for one in found.left_out] == [(3, column)]


def test_a_field_that_only_some_rows_lack_is_named_and_one_that_all_lack_too(tmp_path: Path) -> None:
    short = {key: value for key, value in CHOICE.items() if key != "solution"}
    with pytest.raises(ConfigError, match=r"1 of 3 do not: row 2, solution: .* got nothing"):
        load_questions("kmmlu_pro", write(tmp_path, "kmmlu_pro", [CHOICE, short, CHOICE]))
    with pytest.raises(ConfigError, match="lacks solution"):
        load_questions("kmmlu_pro", write(tmp_path, "kmmlu_pro", [short, short]), skip_bad_rows=True)


def test_the_first_rows_that_do_not_fit_are_named_and_all_are_counted(tmp_path: Path) -> None:
    rows = [CHOICE, *[CHOICE | {"solution": "9"}] * 5, CHOICE]
    with pytest.raises(ConfigError, match=r"5 of 7 do not: row 2, .*row 3, .*row 4, .*; and 2 more; mend"):
        load_questions("kmmlu_pro", write(tmp_path, "kmmlu_pro", rows))


def test_leaving_rows_out_needs_two_that_fit(tmp_path: Path) -> None:
    data = write(tmp_path, "kmmlu_pro", [CHOICE, CHOICE | {"solution": "9"}])
    with pytest.raises(ConfigError, match=r"2 rows or more that fit; .* has 1 .*row 2, solution"):
        load_questions("kmmlu_pro", data, skip_bad_rows=True)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("kmmlu_pro.jsonl", json.dumps(CHOICE) + "\n{broken\n", "readable .jsonl; .*line 2 is no JSON"),
        ("kmmlu_pro.jsonl", json.dumps(CHOICE) + "\n[1]\n", "line 2 is no JSON object"),
        ("kmmlu_pro.jsonl", f"{json.dumps(CHOICE)}\n\n \n{json.dumps(CHOICE)}\n", "line 2 is blank"),
        ("kmmlu_pro.jsonl", "", "lacks question, options, solution"),
        ("kmmlu_pro.jsonl", b"\xff\xfe\n", "readable .jsonl; .*codec"),
        ("kmmlu_pro.parquet", "no parquet", "readable .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, content: str | bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=told) as caught:
        load_questions("kmmlu_pro", str(tmp_path), skip_bad_rows=True)
    assert "\n" not in str(caught.value)


def test_blank_lines_may_end_a_file(tmp_path: Path) -> None:
    (tmp_path / "manta.jsonl").write_text('{"messages": []}\n\n \n', encoding="utf-8")
    assert load_rows("manta", str(tmp_path)) == [{"messages": []}]


def test_rows_have_a_key_of_what_they_hold_in_the_columns_of_their_set(tmp_path: Path) -> None:
    def key(*rows: Mapping[str, Any]) -> str:
        return load_questions("kmmlu_pro", write(tmp_path, "kmmlu_pro", rows)).key

    before = key(CHOICE, CHOICE)
    assert key(CHOICE, CHOICE | {"license_name": "다른 것"}) == before
    assert key(CHOICE, CHOICE | {"solution": "3"}) != before
    assert load_questions("kmmlu_pro", str(tmp_path)).revision is None


def test_a_set_of_the_hub_is_told_with_the_commit_that_it_is_kept_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    commit = "0123456789abcdef0123456789abcdef01234567"
    write(tmp_path, "kmmlu_pro", [CHOICE, CHOICE])
    file = str(tmp_path / "kmmlu_pro.jsonl")
    made = datasets.load_dataset("json", data_files=file, cache_dir=str(tmp_path))
    (arrow,) = tmp_path.rglob("*.arrow")
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: made["train"])
    assert load_questions("kmmlu_pro").revision is None  # kept under something else
    (tmp_path / commit).mkdir()
    moved = datasets.Dataset.from_file(str(arrow.rename(tmp_path / commit / arrow.name)))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: moved)
    found = load_questions("kmmlu_pro")
    assert found.revision == commit
    assert found.key == load_questions("kmmlu_pro", str(tmp_path)).key


def test_no_more_rows_are_read_than_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "manta.jsonl").write_text('{"messages": []}\n' * 3 + "{broken\n", encoding="utf-8")
    assert load_rows("manta", str(tmp_path), 3) == [{"messages": []}] * 3
    assert len(load_rows("komt_bench", str(DATA_DIR), 5)) == 5


class Gate(BaseHTTPRequestHandler):
    """A hub that answers every request for a set with one status and one of the hub's error codes."""

    status, code = 401, "GatedRepo"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_HEAD


@pytest.fixture
def hub_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (401, "GatedRepo", "accept its terms at https://huggingface.co/datasets/LGAI-EXAONE/KMMLU-Pro"),
        (404, "RepoNotFound", "go online once, with HF_TOKEN"),
        (None, "", "go online once, with HF_TOKEN"),
    ],
)
def test_a_set_that_the_hub_does_not_give_is_one_line_with_the_remedy(
    hub_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int | None, code: str, told: str
) -> None:
    if status is not None:
        monkeypatch.setattr(Gate, "status", status)
        monkeypatch.setattr(Gate, "code", code)
    # In a process of its own: where the hub is, is read when the library is imported.
    program = "from squeeze.data.sets import load_rows; load_rows('kmmlu_pro')"
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "HF_HOME": str(tmp_path),
            "HF_ENDPOINT": hub_url,
            "HF_HUB_OFFLINE": "1" if status is None else "0",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    last = said.stderr.strip().splitlines()[-1]
    assert last.startswith("squeeze.errors.SetupError: the data set LGAI-EXAONE/KMMLU-Pro"), said.stderr
    assert told in last and "or give a folder of local files" in last
