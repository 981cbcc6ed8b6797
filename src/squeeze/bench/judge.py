"""A judge for KoMT-Bench behind any OpenAI-compatible endpoint: every conversation is rated, or none counts.

A call that fails must never become a number. A reply is read in one way, as the JSON that was asked for; any
other is asked for again a few times, and then that conversation has no rating. A conversation is shown whole
or not at all: one that the judge's context does not hold has no rating either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from squeeze.bench.judge_endpoint import (
    Endpoint,
    Line,
    RefusedError,
    Sleep,
    StopError,
    check_url,
    connect,
    read_key,
)
from squeeze.bench.judge_prompts import FORMS, Conversation, Points, Verdict, fresh_mark, messages
from squeeze.config import digest
from squeeze.data.sets import Row
from squeeze.errors import ConfigError, SetupError
from squeeze.records import Record

RATINGS = Path("studies/.ratings")
"""Where ratings are kept, for all studies: the same answers are not paid for twice."""

ASKED = 3
"""Times that a conversation is put to the judge before it is given up."""


class Rating(Record):
    """What the two answers of a conversation are worth, 1–10 each."""

    first: Points
    second: Points

    @property
    def score(self) -> float:
        """The mean over the turns as a share of 10: 0.1–1.0."""
        return (self.first + self.second) / 20


class JudgeError(SetupError):
    """Not every conversation could be rated: says how many, why, and the remedy. There is no score then."""


def conversation(row: Row, answers: Sequence[str]) -> Conversation:
    """A row of KoMT-Bench with a model's answers. Raises ConfigError when there are not two turns of each."""
    turns = row["turns"]
    if len(turns) != 2 or len(answers) != 2:
        raise ConfigError(
            f"a conversation to judge must have two turns, both answered; question {row['question_id']} has "
            f"{len(turns)} and {len(answers)} answers; mend the data"
        )
    return Conversation(
        number=row["question_id"],
        turns=tuple(turns),
        answers=tuple(answers),
        references=tuple(text or "" for text in row.get("reference") or ()),
    )


class Judge:
    """Rates conversations, and keeps every rating in a folder so that none is paid for twice.

    cache: the folder. sleep: how to wait. Raises ConfigError for an address that is none, or one that holds
    a secret.
    """

    def __init__(self, endpoint: Endpoint, cache: Path, *, sleep: Sleep = asyncio.sleep) -> None:
        check_url(endpoint.base_url)
        self.endpoint = endpoint
        self.cache = cache
        self._sleep = sleep

    def rate(self, conversations: Sequence[Conversation]) -> list[Rating]:
        """One rating a conversation, in their order.

        What the cache has is not asked for, and when it has all, no key is needed. Raises JudgeError unless
        all are rated, and ConfigError when the key is missing. What was rated until then, or until Ctrl-C,
        stays in the cache.
        """
        unrated = [one for one in conversations if self._kept(one) is None]
        why: Mapping[str, list[int]] = {}
        if unrated:
            why = asyncio.run(self._rate(unrated, read_key(self.endpoint.key_variable)))
        ratings = [self._kept(one) for one in conversations]
        found = [rating for rating in ratings if rating is not None]
        if len(found) < len(conversations):
            raise JudgeError(
                f"every conversation must be rated; {len(conversations) - len(found)} of "
                f"{len(conversations)} are not: {_told(why)}; then run again, what was rated is kept"
            )
        return found

    async def _rate(self, unrated: Sequence[Conversation], key: str) -> dict[str, list[int]]:
        """Put conversations to the judge; returns why some got no rating: reason -> their numbers."""
        why: dict[str, list[int]] = {}
        slots = asyncio.Semaphore(self.endpoint.parallel)
        async with connect(self.endpoint, key) as client:
            line = Line(client, self.endpoint, key, self._sleep)

            async def one(asked: Conversation) -> None:
                async with slots:
                    try:
                        rating = await _rating(line, asked)
                    except (_GarbageError, RefusedError) as error:
                        why.setdefault(str(error), []).append(asked.number)
                    else:
                        self._keep(asked, rating)

            tasks = [asyncio.create_task(one(asked)) for asked in unrated]
            try:
                await asyncio.gather(*tasks)
            except StopError as error:
                why.setdefault(str(error), [])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return why

    def _file(self, asked: Conversation) -> Path:
        # All that decides the reply but the random mark. Which of FORMS an endpoint takes is its own trait.
        decides = {
            **self.endpoint.identity,
            "format": FORMS,
            "chat": messages(asked, mark=""),
            # Without a mark, two conversations may look the same in the chat.
            "conversation": asked.model_dump(mode="json"),
        }
        return self.cache / f"{digest(decides)}.json"

    def _kept(self, asked: Conversation) -> Rating | None:
        try:
            return Rating.model_validate_json(self._file(asked).read_bytes())
        except (OSError, ValidationError):
            return None

    def _keep(self, asked: Conversation, rating: Rating) -> None:
        path = self._file(asked)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(rating.model_dump_json() + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise SetupError(
                f"the judge's cache must be writable; {path}: {error.strerror}; free space or mend its rights"
            ) from error


class _GarbageError(Exception):
    """This conversation gets no rating."""


class _Said(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None = None


class _Reply(BaseModel):
    """Of a chat completion, what is read."""

    choices: list[_Choice] = Field(min_length=1)


async def _rating(line: Line, asked: Conversation) -> Rating:
    """Raises _GarbageError or RefusedError, or StopError when nothing more will be answered."""
    what = ""
    for _ in range(ASKED):
        body = await line.ask(messages(asked, fresh_mark(asked)), FORMS)
        cut = ""
        try:
            choice = _Reply.model_validate_json(body).choices[0]
            cut = "cut off at max_tokens, " if choice.finish_reason == "length" else ""
            verdict = Verdict.model_validate_json(_unfenced(choice.message.content or ""))
        except ValidationError as error:
            what = cut + line.quoted(_first(error))
        else:
            return Rating(first=verdict.first_rating, second=verdict.second_rating)
    raise _GarbageError(
        f"{ASKED} replies are not the JSON asked for (the last: {what}); use a judge that keeps to the form"
    )


def _told(why: Mapping[str, Sequence[int]]) -> str:
    """Reasons on one line, with the questions that each is about."""
    said = []
    for reason, numbers in list(why.items())[:3]:
        some = ", ".join(map(str, sorted(numbers)[:3])) + (", …" if len(numbers) > 3 else "")
        said.append(f"question {some}: {reason}" if numbers else reason)
    if len(why) > len(said):
        said.append(f"and {len(why) - len(said)} more reasons")
    return "; ".join(said)


def _unfenced(text: str) -> str:
    """The text without a code fence around the whole of it; nothing is searched for inside."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", text, re.DOTALL)
    return fenced[1] if fenced else text


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return " ".join((*map(str, found["loc"]), found["msg"]))
