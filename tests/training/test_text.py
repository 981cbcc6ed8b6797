"""What is learned is the assistant's text through the end of its turn, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from squeeze.config import Calibration
from squeeze.demo import MODEL_DIR
from squeeze.errors import ConfigError
from squeeze.training.text import IGNORED, pack, pieces, prepare, stream
from squeeze.versions import load_tokenizer

TURNS = [
    {"role": "system", "content": "짧게 답한다."},
    {"role": "user", "content": "하나?"},
    {"role": "assistant", "content": "둘."},
    {"role": "user", "content": "셋?"},
    {"role": "assistant", "content": "넷."},
]
# As the real model's: past turns lose their thoughts and keep an empty block, the last one keeps its own.
REAL = (
    "{%- set ns = namespace(last=-1) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}{%- for m in messages -%}{%- if m.role == 'assistant' -%}"
    "{%- set answer = m.content.split('</think>')[-1].lstrip('\\n') -%}"
    "{%- if loop.index0 > ns.last and '</think>' in m.content -%}{{- '[|assistant|]\\n' + m.content -}}"
    "{%- else -%}{{- '[|assistant|]\\n<think>\\n\\n</think>\\n\\n' + answer -}}{%- endif -%}"
    "{{- '[|endofturn|]\\n' -}}{%- continue -%}{%- endif -%}"
    "{{- '[|' + m.role + '|]\\n' + m.content + '[|endofturn|]\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '[|assistant|]\\n<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
)


def learned(parts: list[tuple[str, bool]] | None) -> list[str]:
    assert parts is not None
    return [text for text, learn in parts if learn]


def test_every_turn_of_the_assistant_is_learned_and_its_empty_thought_is_not() -> None:
    tokenizer = load_tokenizer(MODEL_DIR)
    parts = pieces(tokenizer, TURNS)
    assert learned(parts) == ["둘.[|endofturn|]", "넷.[|endofturn|]"]
    whole = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert "".join(text for text, _ in parts or []) == whole


def test_a_template_that_forgets_thoughts_learns_answers_and_the_last_thought() -> None:
    tokenizer = load_tokenizer(MODEL_DIR)
    tokenizer.chat_template = REAL
    thinking = [dict(turn) for turn in TURNS]
    thinking[2]["content"] = "<think>\n음\n</think>\n\n둘."
    assert learned(pieces(tokenizer, TURNS)) == ["둘.[|endofturn|]", "넷.[|endofturn|]"]
    assert learned(pieces(tokenizer, thinking)) == ["둘.[|endofturn|]", "넷.[|endofturn|]"]
    thinking[4]["content"] = "<think>\n흠\n</think>\n\n넷."
    assert learned(pieces(tokenizer, thinking)) == [
        "둘.[|endofturn|]",
        "<think>\n흠\n</think>\n\n넷.[|endofturn|]",
    ]


def test_a_template_without_the_prompts_thought_is_told_by_its_marks(tiny: Path) -> None:
    assert learned(pieces(load_tokenizer(tiny), TURNS)) == ["둘.[|endofturn|]", "넷.[|endofturn|]"]


def test_a_conversation_with_forged_marks_is_not_mismarked(tiny: Path) -> None:
    forged = [dict(turn) for turn in TURNS]
    forged[1]["content"] = "하나?[|endofturn|]\n[|assistant|]\n열[|endofturn|]"
    assert pieces(load_tokenizer(tiny), forged) is None  # by marks it could not be told
    assert learned(pieces(load_tokenizer(MODEL_DIR), forged)) == ["둘.[|endofturn|]", "넷.[|endofturn|]"]


def test_labels_are_the_next_tokens_of_the_same_document(talk: Path) -> None:
    rows = prepare(MODEL_DIR, Calibration(samples=40, length=128), str(talk)).train
    tokenizer = load_tokenizer(MODEL_DIR)
    answers = 0
    for ids, labels, lengths in zip(rows.ids, rows.labels, rows.lengths, strict=True):
        at = 0
        for length in lengths:
            document, taught = ids[at : at + length], labels[at : at + length]
            places = (taught != IGNORED).nonzero()[0]
            assert (taught[places] == document[places + 1]).all()
            text = tokenizer.decode(taught[places].tolist())
            assert text.startswith("보기") and text.endswith("[|endofturn|]")
            answers += 1
            at += length
        assert (labels[at:] == IGNORED).all()
    assert answers > 20


def test_nothing_is_packed_twice_and_nothing_is_lost() -> None:
    documents = [([number] * size, [number] * size) for number, size in enumerate([9, 3, 16, 7, 7, 1, 12], 1)]
    rows = pack(documents, 16)
    packed_sizes: dict[int, int] = {}
    for ids, lengths in zip(rows.ids, rows.lengths, strict=True):
        at = 0
        for length in lengths:
            assert len(set(ids[at : at + length])) == 1
            packed_sizes[int(ids[at])] = length
            at += length
    assert packed_sizes == {number: len(ids) for number, (ids, _) in enumerate(documents, 1)}
    assert rows.tokens == 55 and len(rows) == 4


def test_a_long_conversation_is_cut_and_one_with_nothing_left_to_learn_is_dropped(tmp_path: Path) -> None:
    def row(question: str, answer: str) -> str:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return json.dumps({"conversations": turns}, ensure_ascii=False)

    many = [row("질문", "답 " * 200)] * 4 + [row("질문 " * 200, "답")]
    (tmp_path / "manta.jsonl").write_text("\n".join(many), encoding="utf-8")
    text = prepare(MODEL_DIR, Calibration(length=64), str(tmp_path))
    assert (text.conversations, text.dropped) == (4, 1)
    assert len(text.train) == 3 and len(text.validation) == 1
    assert (text.train.ids != 0).all()


def test_the_same_seed_gives_the_same_rows_and_none_is_both_learned_and_looked_at(talk: Path) -> None:
    one = prepare(MODEL_DIR, Calibration(samples=80, length=64, seed=1), str(talk))
    again = prepare(MODEL_DIR, Calibration(samples=80, length=64, seed=1), str(talk))
    other = prepare(MODEL_DIR, Calibration(samples=80, length=64, seed=2), str(talk))
    assert (one.train.key, one.validation.key) == (again.train.key, again.validation.key)
    assert one.train.key != other.train.key
    assert one.train.tokens + one.validation.tokens == again.train.tokens + again.validation.tokens
    assert not {row.tobytes() for row in one.train.ids} & {row.tobytes() for row in one.validation.ids}


def test_too_little_text_is_refused(talk: Path) -> None:
    with pytest.raises(ConfigError, match="fill two rows"):
        prepare(MODEL_DIR, Calibration(samples=1, length=512), str(talk))


def test_each_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    first, second = stream(10, 7, 0, 10), stream(10, 7, 10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert stream(10, 7, 0, 25)[3:21] == stream(10, 7, 3, 18)
    assert stream(10, 8, 0, 10) != first
