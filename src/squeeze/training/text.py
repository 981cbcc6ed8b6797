"""Text to train on: conversations packed into rows, with the assistant's words marked."""

from __future__ import annotations

import bisect
import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from squeeze.config import Calibration
from squeeze.errors import ConfigError

Ids = npt.NDArray[np.int32]
IGNORED = -100
"""The label of a position whose next token is not to be learned."""

_KEPT_APART = 20
_MOST_KEPT_APART = 64
_PIECES = 1024
"""Conversations that are tokenized at a time."""

Piece = tuple[str, bool]
"""Some text of a conversation and whether it is to be learned."""


@dataclass(frozen=True)
class Rows:
    """Conversations packed into rows; each conversation is a document that sees only itself.

    ids: int32 [rows, length], zeros after the last document. labels: int32 [rows, length], at each position
    the next token of the same document where that one is to be learned, else ``IGNORED``. lengths: of each
    row's documents, in order; what is left of the row is padding.
    """

    ids: Ids
    labels: Ids
    lengths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        """Positions in a row."""
        return int(self.ids.shape[1])

    @property
    def tokens(self) -> int:
        """Tokens of all documents; padding does not count."""
        return sum(map(sum, self.lengths))

    @property
    def supervised(self) -> int:
        """Positions with a label."""
        return int((self.labels != IGNORED).sum())

    @cached_property
    def key(self) -> str:
        """A hash of the content; equal rows have equal keys."""
        whole = hashlib.sha256(repr((self.ids.shape, self.lengths)).encode())
        whole.update(np.ascontiguousarray(self.ids).tobytes())
        whole.update(np.ascontiguousarray(self.labels).tobytes())
        return whole.hexdigest()[:16]

    def pick(self, indices: Sequence[int]) -> Rows:
        """Those rows, in that order."""
        chosen = list(indices)
        return Rows(self.ids[chosen], self.labels[chosen], tuple(self.lengths[index] for index in chosen))


@dataclass(frozen=True)
class Text:
    """What is trained on and what is kept apart to look at, of different conversations.

    conversations: how many there are in both. dropped: how many were left out because nothing of them would
    be learned, or because it could not be told which part is the assistant's.
    """

    train: Rows
    validation: Rows
    conversations: int
    dropped: int


def prepare(folder: Path, text: Calibration, data: str) -> Text:
    """Tokenize, mark and pack the conversations that ``text`` asks for.

    folder: the model whose tokenizer and template are used. data: ``"hub"`` or the folder of the study's
    sets. One row in 20 (1 to 64 rows) is kept apart. The same arguments give the same rows.
    Raises ConfigError when fewer than two rows come out: there is nothing to keep apart then.
    """
    from squeeze.data.chat import conversation, source_rows
    from squeeze.versions import load_tokenizer

    tokenizer = load_tokenizer(folder)
    rows = list(source_rows(text, data))
    chance = random.Random(text.seed)
    chance.shuffle(rows)
    found = (messages for row in rows if (messages := conversation(row)) is not None)
    documents: list[tuple[list[int], list[int]]] = []
    dropped = 0
    for document in tokenized(tokenizer, found, text.length):
        if document is None:
            dropped += 1
            continue
        documents.append(document)
        if len(documents) == text.samples:
            break
    packed = pack(documents, text.length)
    if len(packed) < 2:
        raise ConfigError(
            f"training needs conversations that fill two rows of {text.length} tokens; {text.source} gave "
            f"{len(documents)} conversations, {packed.tokens} tokens; choose more samples or a shorter length"
        )
    order = list(range(len(packed)))
    chance.shuffle(order)
    apart = min(_MOST_KEPT_APART, max(len(packed) // _KEPT_APART, min(4, len(packed) // 4), 1))
    return Text(
        train=packed.pick(sorted(order[apart:])),
        validation=packed.pick(sorted(order[:apart])),
        conversations=len(documents),
        dropped=dropped,
    )


def pieces(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[Piece] | None:
    """A rendered conversation in pieces: the assistant's text through the end of its turn is to be learned.

    The pieces joined are what the chat template makes of the conversation. A turn begins where the rendering
    of what goes before, with the generation prompt, ends: that is what an engine is given. Where a template
    renders the past differently from the present, so that this is no beginning of the whole, turns are told
    by the template's own marks. None when those do not fit either.
    """
    whole = tokenizer.apply_chat_template(list(messages), tokenize=False)
    spans = _by_prefix(tokenizer, messages, whole)
    if spans is None:
        spans = _by_marks(tokenizer, messages, whole)
    if spans is None:
        return None
    parts: list[Piece] = []
    at = 0
    for start, end in spans:
        parts += [(whole[at:start], False), (whole[start:end], True)]
        at = end
    parts.append((whole[at:], False))
    return [part for part in parts if part[0]]


def _by_prefix(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], whole: str
) -> list[tuple[int, int]] | None:
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if index == 0:
            return None  # there is no question to render
        before = tokenizer.apply_chat_template(
            list(messages[:index]), tokenize=False, add_generation_prompt=True
        )
        through = tokenizer.apply_chat_template(list(messages[: index + 1]), tokenize=False)
        if not (through.startswith(before) and whole.startswith(through)):
            return None
        closed = through.rfind(tokenizer.eos_token, len(before))
        spans.append((len(before), len(through) if closed < 0 else closed + len(tokenizer.eos_token)))
    return spans


def _by_marks(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], whole: str
) -> list[tuple[int, int]] | None:
    question = [{"role": "user", "content": "?"}]
    asked = tokenizer.apply_chat_template(question, tokenize=False)
    prompted = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    opening, newline, thought = prompted.removeprefix(asked).partition("\n")
    if not prompted.startswith(asked) or not newline:
        return None
    turns = re.finditer(
        f"{re.escape(opening + newline)}(?:{re.escape(thought)})?(.*?{re.escape(tokenizer.eos_token)})",
        whole,
        re.DOTALL,
    )
    spans = [turn.span(1) for turn in turns]
    # Somebody may have written the marks into a message: then it cannot be told whose words are whose.
    return spans if len(spans) == sum(message["role"] == "assistant" for message in messages) else None


def tokenized(
    tokenizer: Any, conversations: Iterator[list[dict[str, str]]], length: int
) -> Iterator[tuple[list[int], list[int]] | None]:
    """Each conversation's ids and labels (see ``Rows``), cut to ``length``; None where nothing is learned."""
    while True:
        batch = [
            pieces(tokenizer, messages) for messages, _ in zip(conversations, range(_PIECES), strict=False)
        ]
        if not batch:
            return
        texts = [text for parts in batch for text, _ in parts or []]
        # Piece by piece, as the engine's prompt is tokenized without the answer.
        encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
        for parts in batch:
            ids: list[int] = []
            learn: list[bool] = []
            for _, learned in parts or []:
                tokens = next(encoded)
                ids += tokens
                learn += [learned] * len(tokens)
            ids, learn = ids[:length], learn[:length]
            labels = [
                after if learned else IGNORED for after, learned in zip(ids[1:], learn[1:], strict=True)
            ]
            yield (ids, [*labels, IGNORED]) if any(learn[1:]) else None


def pack(documents: Sequence[tuple[Sequence[int], Sequence[int]]], length: int) -> Rows:
    """Pack documents (ids and labels, at most ``length`` long) into few rows.

    Each goes, in its turn, where it leaves the least room: taking the longest first would need a few rows
    fewer, but fill each with documents of one length.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (positions left, row), ascending
    for index in range(len(documents)):
        size = len(documents[index][0])
        at = bisect.bisect_left(room, (size, -1))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = length, len(rows)
            rows.append([])
        rows[row].append(index)
        if left > size:
            bisect.insort(room, (left - size, row))
    ids = np.zeros((len(rows), length), np.int32)
    labels = np.full((len(rows), length), IGNORED, np.int32)
    for row, members in enumerate(rows):
        at = 0
        for index in members:
            document, learned = documents[index]
            ids[row, at : at + len(document)] = document
            labels[row, at : at + len(document)] = learned
            at += len(document)
    lengths = tuple(tuple(len(documents[index][0]) for index in members) for members in rows)
    return Rows(ids, labels, lengths)


def stream(rows: int, seed: int, start: int, count: int) -> list[int]:
    """Which rows the places ``start`` to ``start + count`` of an endless training take.

    Each epoch goes through all rows once, in an order that depends on the seed and the epoch alone, so
    that a training of more epochs begins as one of fewer.
    """
    picked: list[int] = []
    while len(picked) < count:
        epoch, place = divmod(start + len(picked), rows)
        order = list(range(rows))
        random.Random(f"{seed}-{epoch}").shuffle(order)
        picked += order[place : place + count - len(picked)]
    return picked
