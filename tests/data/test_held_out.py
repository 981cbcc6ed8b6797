"""Which conversations are held out of calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from squeeze.data.held_out import held_out
from squeeze.data.sets import HUB, load_rows


def chats(folder: Path, name: str, texts: list[str]) -> None:
    rows = (
        {"conversations": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}
        for text in texts
    )
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def said(conversations: list[list[dict[str, str]]]) -> list[str]:
    return [messages[-1]["content"] for messages in conversations]


def test_the_last_rows_are_held_out_but_for_those_that_a_calibration_reads(tmp_path: Path) -> None:
    texts = [f"답 {number}" for number in range(4010)]
    texts[4008] = "답 7"  # said among the first 4,000 too
    chats(tmp_path, "manta", texts)
    assert said(held_out(str(tmp_path), 4)) == ["답 4006", "답 4007", "답 4009"]
    assert said(held_out(str(tmp_path), 100)) == [f"답 {n}" for n in range(4000, 4010) if n != 4008]


def test_a_longer_version_of_the_set_is_taken_where_there_is_one(tmp_path: Path) -> None:
    chats(tmp_path, "manta", ["하나", "둘"])
    chats(tmp_path, "chats", ["하나", "둘", "셋", "넷"])
    assert said(held_out(str(tmp_path), 3)) == ["셋", "넷"]


def test_a_set_that_calibration_reads_whole_or_that_is_missing_has_nothing(tmp_path: Path) -> None:
    assert held_out(str(tmp_path), 5) == []
    chats(tmp_path, "manta", ["하나", "둘"])
    assert held_out(str(tmp_path), 5) == []


def test_a_hub_that_does_not_give_the_set_leaves_nothing_held_out_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_dataset(*_: object, **__: object) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert held_out(HUB, 5) == []
    assert "no held-out text: the data set LGAI-EXAONE/MANTA-1M could not be" in capsys.readouterr().out


def test_the_end_of_a_set_on_the_hub_is_asked_for_alone_with_the_environments_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def load_dataset(*_: object, split: str, token: object) -> Any:
        import datasets

        asked.append((split, token))
        return datasets.Dataset.from_dict({"conversations": [[{"role": "assistant", "content": "하나"}]]})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    load_rows("manta", HUB, -256)
    monkeypatch.setenv("HF_TOKEN", "of-the-environment")
    load_rows("manta", HUB, 100)
    # None would mean the token that a login left on this machine.
    assert asked == [("train[-256:]", False), ("train[:100]", "of-the-environment")]
