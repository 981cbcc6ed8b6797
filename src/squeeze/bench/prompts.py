"""Questions as the token ids that a model is asked, none longer than the model can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squeeze.bench import tasks
from squeeze.config import digest
from squeeze.data.sets import Row

_AT_ONCE = 256
"""Chats that are tokenized in one go, by all cores; each takes some hundred bytes a token meanwhile."""


@dataclass(frozen=True)
class Prompt:
    """Token ids of a chat up to the model's turn. shortened: its middle was taken out."""

    tokens: list[int]
    shortened: bool


class Prompts:
    """Renders chats with the model's own template, exactly as ``LLM.chat`` does, each once.

    context: the most tokens of a prompt and its answer together. max_tokens: cap of an answer; None = the
    benchmark's own.

    What does not fit loses its middle, so that the instruction at one end and the question at the other
    stay: of Ko-LongRAG that is the middle of the documents. An engine would refuse it otherwise, and with it
    the whole model.
    """

    def __init__(self, tokenizer: Any, context: int, max_tokens: int | None) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._max_tokens = max_tokens
        self._rendered: dict[tuple[str, int, tuple[str, ...]], Prompt] = {}

    def room(self, benchmark: str) -> int:
        """The most tokens of a prompt: what the longest answer leaves, but at least half of the context."""
        answer = self._max_tokens or tasks.load(benchmark).MAX_TOKENS
        return max(self._context - answer, self._context // 2)

    def __call__(
        self, benchmark: str, rows: Sequence[tuple[int, Row]], answers: Sequence[tuple[str, ...]]
    ) -> list[Prompt]:
        """The next prompts of rows' chats after these answers. rows: each with its place in its set."""
        keys = [(benchmark, index, given) for (index, _), given in zip(rows, answers, strict=True)]
        new = {
            key: (row, given)
            for key, (_, row), given in zip(keys, rows, answers, strict=True)
            if key not in self._rendered
        }
        self._rendered |= zip(new, self._render(benchmark, list(new.values())), strict=True)
        return [self._rendered[key] for key in keys]

    def key(self, rows: Mapping[str, Row]) -> str:
        """A hash that models share which are asked the same tokens. rows: benchmark -> any one row of it."""
        return digest(
            [
                [
                    self.room(name),
                    *(
                        one.tokens
                        for one in self._render(name, [(row, ("…",) * turn) for turn in _turns(name)])
                    ),
                ]
                for name, row in rows.items()
            ]
        )

    def _render(self, benchmark: str, chats: Sequence[tuple[Row, tuple[str, ...]]]) -> list[Prompt]:
        task, room = tasks.load(benchmark), self.room(benchmark)
        texts = [
            self._tokenizer.apply_chat_template(
                task.messages(row, answers), tokenize=False, add_generation_prompt=True
            )
            for row, answers in chats
        ]
        tokenized = [
            tokens
            for start in range(0, len(texts), _AT_ONCE)
            for tokens in self._tokenizer(
                texts[start : start + _AT_ONCE], add_special_tokens=False, return_attention_mask=False
            )["input_ids"]
        ]
        return [
            Prompt(list(tokens), shortened=False)
            if len(tokens) <= room
            else Prompt(without_middle(list(tokens), room), shortened=True)
            for tokens in tokenized
        ]


def _turns(benchmark: str) -> range:
    return range(tasks.load(benchmark).TURNS)


def without_middle(tokens: list[int], room: int) -> list[int]:
    """The first and the last tokens, ``room`` of them together."""
    return tokens[: room // 2] + tokens[len(tokens) - (room - room // 2) :]
