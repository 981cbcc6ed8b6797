"""Calibration text: the same conversations in the model's own format, whatever they were called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from squeeze.config import Calibration
from squeeze.data.chat import calibration_tokens, check_source, conversation, source_key
from squeeze.errors import ConfigError

USER = {"role": "user", "content": "문제"}
ASSISTANT = {"role": "assistant", "content": "정답: A"}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"conversations": [USER, ASSISTANT]}, [USER, ASSISTANT]),
        ({"messages": [USER, ASSISTANT]}, [USER, ASSISTANT]),
        (
            {"conversations": [{"from": "human", "value": "문제"}, {"from": "gpt", "value": "정답: A"}]},
            [USER, ASSISTANT],
        ),
        ({"conversations": [USER]}, None),
        ({"conversations": []}, None),
        ({"conversations": [USER, {"role": "assistant", "content": None}]}, None),
        ({"conversations": [{"role": "tool", "content": "x"}, ASSISTANT]}, None),
    ],
)
def test_rows_become_messages_or_are_dropped(row: dict[str, Any], messages: Any) -> None:
    assert conversation(row) == messages


def test_samples_are_in_the_models_turn_format_and_cut(tiny: Path, talk: Path) -> None:
    from squeeze.versions import load_tokenizer

    long = calibration_tokens(tiny, Calibration(samples=8, length=512), str(talk))
    text = load_tokenizer(tiny).decode(long[0])
    assert text.startswith("[|user|]\n문제")
    assert text.endswith("[|endofturn|]\n")
    short = calibration_tokens(tiny, Calibration(samples=8, length=16), str(talk))
    assert [sample[:16] for sample in long] == short


def test_the_seed_decides_which_rows(tiny: Path, talk: Path) -> None:
    def samples(seed: int) -> list[list[int]]:
        return calibration_tokens(tiny, Calibration(samples=8, seed=seed), str(talk))

    assert samples(1) == samples(1)
    assert samples(1) != samples(2)


def test_a_source_with_less_gives_what_it_has(tiny: Path, talk: Path) -> None:
    assert len(calibration_tokens(tiny, Calibration(samples=500), str(talk))) == 96


def test_random_tokens_need_no_data_and_are_not_special(tiny: Path) -> None:
    samples = calibration_tokens(tiny, Calibration(source="random", samples=4, length=32), "nowhere")
    assert [len(sample) for sample in samples] == [32] * 4
    assert min(min(sample) for sample in samples) > 0


def test_a_file_of_ones_own_is_read(tiny: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"messages": [USER, ASSISTANT]}) + "\n", encoding="utf-8")
    samples = calibration_tokens(tiny, Calibration(source=str(own), samples=2), "nowhere")
    assert len(samples) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("own.txt", "x", "or a .jsonl or .parquet file"),
        ("own.jsonl", None, "is no file"),
        ("own.jsonl", '{"text": "x"}\n', "column conversations or messages"),
        ("own.jsonl", json.dumps({"messages": [USER]}) + "\n", "assistant's turn"),
        ("own.parquet", "no parquet", "readable .parquet"),
    ],
)
def test_a_source_that_gives_no_text_is_one_line(
    name: str, content: str | None, words: str, tiny: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        calibration_tokens(tiny, Calibration(source=str(tmp_path / name)), "nowhere")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        check_source(Calibration(source=str(tmp_path / "none.jsonl")), "nowhere")


def test_the_key_follows_the_content_of_the_file(tmp_path: Path) -> None:
    calibration = Calibration()
    (tmp_path / "manta.jsonl").write_text("{}\n")
    before = source_key(calibration, str(tmp_path))
    (tmp_path / "manta.jsonl").write_text("{} \n")
    assert source_key(calibration, str(tmp_path)) != before
    assert source_key(calibration, "hub") == source_key(calibration, "hub")
