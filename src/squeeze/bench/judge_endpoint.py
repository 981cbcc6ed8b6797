"""The way to an OpenAI-compatible endpoint: one key, one way to try again, and errors told apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from squeeze.bench.tasks import Message
from squeeze.errors import ConfigError, SetupError
from squeeze.records import Record
from squeeze.secret import is_secret

if TYPE_CHECKING:
    from httpx2 import Response
    from openai import AsyncOpenAI

TRIES = 8
"""Times that one request is sent to an endpoint that is busy or broken: about two minutes in all."""

LONGEST_WAIT_S = 300.0
"""An endpoint that wants more than this between two requests is not busy: its quota is used up."""

QUOTA = re.compile(r"insufficient_quota|billing_hard_limit|per[ _-]?day|daily|limit: 0\b(?!\.)", re.I)
"""In a 429: a quota that waiting does not refill today. Gemini calls a limit a minute a quota too."""

Sleep = Callable[[float], Awaitable[None]]
"""How to wait for so many seconds."""


class Endpoint(Record):
    """Where the judge is and how it is asked.

    base_url: up to and with ``/v1`` (``/v1beta/openai/`` for Gemini). key_variable: the environment variable
    that holds the key, which stands nowhere else. temperature: None where the model takes none. max_tokens:
    of a reply, hidden reasoning included. parallel: requests at once. timeout_s: of one request.
    """

    base_url: str
    model: str
    key_variable: str = "JUDGE_API_KEY"
    temperature: float | None = 0.0
    max_tokens: int = Field(default=4096, ge=1)
    parallel: int = Field(default=4, ge=1)
    timeout_s: float = Field(default=120.0, gt=0)

    @field_validator("key_variable")
    @classmethod
    def _named_as_a_secret(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or not is_secret(name):
            raise ValueError(
                "a key's variable must end in KEY, TOKEN or SECRET, so that no engine is given it"
            )
        return name

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides a reply, besides what is asked."""
        return self.model_dump(mode="json", include={"base_url", "model", "temperature", "max_tokens"})


class StopError(Exception):
    """Nothing more will be answered; says what to do."""


class RefusedError(Exception):
    """The endpoint does not take this request, for its length or its settings; another it may."""


class _AgainError(Exception):
    """The request may be sent again, after ``wait_s`` where the endpoint says so."""

    def __init__(self, what: str, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class Line:
    """The way to one endpoint: a request is sent again while the endpoint is busy or broken."""

    def __init__(self, client: AsyncOpenAI, endpoint: Endpoint, key: str, sleep: Sleep) -> None:
        self._client = client
        self._endpoint = endpoint
        self._key = key
        self._sleep = sleep
        self._refused = 0

    async def ask(self, chat: list[Message], forms: Sequence[Mapping[str, Any]]) -> bytes:
        """The body of the reply, whatever it is.

        forms: values of ``response_format``, of which the first that the endpoint takes is asked for, or
        none. Raises RefusedError, and StopError when nothing more will be answered.
        """
        for attempt in range(TRIES):
            try:
                return await self._sent(chat, forms)
            except _AgainError as error:
                what, wait_s = str(error), error.wait_s
            if attempt + 1 < TRIES:
                await self._sleep(_wait_s(attempt, wait_s))
        raise StopError(f"{what}, {TRIES} times in a row; see that the endpoint runs")

    async def _sent(self, chat: list[Message], forms: Sequence[Mapping[str, Any]]) -> bytes:
        """One request, and one more with the next form, at last with none, as long as it is refused."""
        for place in range(self._refused, len(forms)):
            with contextlib.suppress(RefusedError):
                body = await self._request(chat, response_format=forms[place])
                self._refused = max(self._refused, place)
                return body
        body = await self._request(chat)
        self._refused = len(forms)  # not before: something else may have been wrong with the request
        return body

    async def _request(self, chat: list[Message], **options: Any) -> bytes:
        from openai import APIStatusError, OpenAIError

        if self._endpoint.temperature is not None:
            options["temperature"] = self._endpoint.temperature
        # Any: its types want one class a role. Raw: a body that is no completion is for the caller to judge.
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):
                reply = await create(
                    model=self._endpoint.model,
                    messages=chat,
                    max_completion_tokens=self._endpoint.max_tokens,
                    **options,
                )
        # Without their causes: those hold the request, and the request the key.
        except APIStatusError as error:
            raise self._fault(error.response) from None
        except TimeoutError:
            raise _AgainError(f"no answer within {self._endpoint.timeout_s:g} s") from None
        except OpenAIError as error:
            raise _AgainError(
                f"no connection to {self._endpoint.base_url} ({type(error).__name__})"
            ) from None
        return bytes(reply.content)

    def _fault(self, response: Response) -> Exception:
        """What an HTTP error means."""
        status, variable = response.status_code, self._endpoint.key_variable
        if status == 401 or (status == 400 and "api key" in response.text.lower()):
            # Unquoted: endpoints repeat parts of the key.
            return StopError(f"the endpoint refuses the key ({status}); put a valid one into {variable}")
        what = f"{status}: {self.quoted(_message(response.text))}"
        if status in (402, 403) or (status == 429 and QUOTA.search(response.text)):
            return StopError(
                f"the key's quota or rights do not allow it ({what}); raise them or wait for a new day"
            )
        if status in (400, 422):
            return RefusedError(
                f"the endpoint refuses the request ({what}); give the judge more context or other settings"
            )
        if status in (408, 429) or status >= 500:
            wait_s = _retry_after_s(response)
            if wait_s is not None and wait_s > LONGEST_WAIT_S:
                return StopError(f"the endpoint wants {wait_s:.0f} s of rest ({what}); wait for as long")
            return _AgainError(f"the endpoint is busy or broken ({what})", wait_s)
        return StopError(f"the endpoint does not do this ({what}); see that base_url and model are right")

    def quoted(self, text: str) -> str:
        """Words of the endpoint, short, on one line, without the key."""
        return " ".join(text.split()).replace(self._key, "[key]")[:200]


def connect(endpoint: Endpoint, key: str) -> AsyncOpenAI:
    """A client of the endpoint; to be closed. Raises SetupError where there is no openai."""
    try:
        from openai import AsyncOpenAI  # no dependency of ours: it comes with vLLM, which every extra has
    except ImportError as error:
        raise SetupError(
            f"a judge is asked with the package openai, which comes with vLLM; it cannot be imported "
            f"({error}); install one of the extras cpu, gpu, competition"
        ) from error

    return AsyncOpenAI(
        api_key=key,
        base_url=endpoint.base_url,
        timeout=endpoint.timeout_s,
        max_retries=0,  # one way to try again: ours
        # Said outright, or OPENAI_CUSTOM_HEADERS could put another in its place.
        default_headers={"Authorization": f"Bearer {key}"},
    )


def read_key(variable: str) -> str:
    """The key from the environment. Raises ConfigError when it is missing or cannot be one."""
    key = os.environ.get(variable, "")
    # Anything else ends in an error of the HTTP library that quotes the header.
    if not re.fullmatch(r"[!-~]+", key):
        what = "holds spaces or signs that no key has" if key else "is not set"
        raise ConfigError(
            f"the judge's key must be in the environment; {variable} {what}; set it (to any word for a local "
            f"server that wants none)"
        )
    return key


def check_endpoint(endpoint: Endpoint) -> None:
    """Raises ConfigError for an endpoint that cannot be asked: for its address or a missing key."""
    check_url(endpoint.base_url)
    read_key(endpoint.key_variable)


def check_url(url: str) -> None:
    """Raises ConfigError for an address that is none, or one that holds a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the judge's base_url must be http(s)://host/…; got {url!r}; mend it")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"the judge's base_url must hold no user, password or query; the one for {parts.hostname} does; "
            f"put the key into the environment"
        )


def _message(text: str) -> str:
    """The message in an error's JSON, or the text itself."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(body, list) and body:  # Gemini's compatible endpoint puts its error into a list
        body = body[0]
    for name in ("error", "message"):
        body = body.get(name, body) if isinstance(body, dict) else body
    return str(body)


def _wait_s(attempt: int, wanted_s: float | None) -> float:
    """Seconds until the next try: what the endpoint wants and a little more, or doubling, with jitter."""
    if wanted_s is not None:
        return wanted_s + random.random()
    return min(60.0, 2.0**attempt) * (0.5 + random.random() / 2)


def _retry_after_s(response: Response) -> float | None:
    """Seconds that the endpoint asks for: in the header, as a number or a date, or in Gemini's body."""
    value = response.headers.get("retry-after")
    if value is None:
        found = re.search(r'"retryDelay":\s*"([\d.]+)s"', response.text)
        value = found[1] if found else ""
    try:
        wanted_s = float(value)
    except ValueError:
        try:
            wanted_s = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, wanted_s) if math.isfinite(wanted_s) else None
