"""Questions as the token ids that a model is asked, none longer than the model can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeeze.bench import tasks
from squeeze.config import digest
from squeeze.data.sets import Row


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

    def __call__(self, benchmark: str, index: int, row: Row, answers: tuple[str, ...]) -> Prompt:
        """The next prompt of a row's chat after these answers. index: the row's place in its set."""
        key = (benchmark, index, answers)
        if key not in self._rendered:
            self._rendered[key] = self._render(benchmark, row, answers)
        return self._rendered[key]

    def key(self, rows: Mapping[str, Row]) -> str:
        """A hash that models share which are asked the same tokens. rows: benchmark -> any one row of it."""
        return digest(
            [
                [self.room(name), *(self._render(name, row, ("…",) * turn).tokens for turn in _turns(name))]
                for name, row in rows.items()
            ]
        )

    def _render(self, benchmark: str, row: Row, answers: tuple[str, ...]) -> Prompt:
        messages = tasks.load(benchmark).messages(row, answers)
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = list(self._tokenizer.encode(text, add_special_tokens=False))
        room = self.room(benchmark)
        if len(tokens) <= room:
            return Prompt(tokens, shortened=False)
        return Prompt(without_middle(tokens, room), shortened=True)


def _turns(benchmark: str) -> range:
    return range(tasks.load(benchmark).TURNS)


def without_middle(tokens: list[int], room: int) -> list[int]:
    """The first and the last tokens, ``room`` of them together."""
    return tokens[: room // 2] + tokens[len(tokens) - (room - room // 2) :]
