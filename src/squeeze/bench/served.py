"""A model served by vLLM in a child process, seen from the parent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from squeeze import secret
from squeeze.bench import slot
from squeeze.bench.compiled import cache_folder
from squeeze.bench.engine import (
    Engine,
    Generate,
    Read,
    Rows,
    Say,
    Start,
    Started,
    Weigh,
)
from squeeze.bench.turns import Turn
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.child import PAUSED, TURN, Child, Event
from squeeze.data.sets import HUB, Row
from squeeze.deadlines import Deadlines
from squeeze.records import Perplexity, Question, Sampled, Timing

Tell = Callable[[Event], None]


def silent(event: Event) -> None:
    """A ``Tell`` that says nothing."""


@dataclass(frozen=True)
class Slice:
    """Questions ``start``…``stop``, in the drawn order; answers of ``exact`` tokens if given."""

    benchmark: str
    start: int
    stop: int
    exact: int | None = None


@dataclass(frozen=True)
class Slices:
    """The questions of a workload cut into what is asked in one go.

    The first timed pass asks ``block``, if there is one, and then ``rest``, to end a hopeless candidate
    early; every later one asks ``whole``, as the contest does. Passes of the same place are alike, whoever's
    they are.
    """

    probe: tuple[Slice, ...]
    block: tuple[Slice, ...]
    rest: tuple[Slice, ...]
    whole: tuple[Slice, ...]

    @classmethod
    def of(cls, workload: Workload, counts: Mapping[str, int], lengths: Mapping[str, int]) -> Slices:
        """counts: benchmark -> questions, 2 or more. lengths: of the probe's answers; empty: no probe."""
        blocks = {name: workload.block(count) for name, count in counts.items()}
        return cls(
            probe=tuple(
                Slice(name, 0, min(workload.probe, counts[name]), length) for name, length in lengths.items()
            ),
            block=tuple(Slice(name, 0, block) for name, block in blocks.items() if block),
            rest=tuple(Slice(name, block, counts[name]) for name, block in blocks.items()),
            whole=tuple(Slice(name, 0, count) for name, count in counts.items()),
        )

    def timed(self, repeat: int) -> tuple[Slice, ...]:
        """What the timed pass of that number asks, from 0."""
        return self.whole if repeat else (*self.block, *self.rest)


class Served:
    """A model folder in an engine that starts at once; ends with the ``with`` block or ``close``.

    ``wait`` first: two engines may start side by side. The engine knows the folder by the name of a slot of
    its role, see ``squeeze.bench.slot``. Raises CandidateError (stage ``engine`` or ``questions``) for
    whatever the model does not stand. deadlines: what engines before this one took; added to.
    """

    def __init__(
        self,
        model: Path,
        workload: Workload,
        log: Path,
        role: slot.Role = "candidate",
        deadlines: Deadlines | None = None,
    ) -> None:
        self._workload = workload
        self._deadlines = deadlines or Deadlines()
        self._began = time.monotonic()
        self._started: Started | None = None
        make = partial(_in_slot, model, workload, role)
        secrets = secret.HUB if workload.data == HUB else ()
        self._child = Child(make, stage="engine", log=log, secrets=secrets)
        self._child.ask(Start())

    @property
    def arguments(self) -> EngineArguments:
        """The engine's, as they were given."""
        return self._workload.engine

    def wait(self, tell: Tell = silent) -> Served:
        """Return itself once the engine has started; at once when it has. Ends its process if that fails."""
        if self._started is None:
            limit = self._deadlines.limit("start", "engine", self._workload.start_deadline_s)
            try:
                started = self._child.answer(deadline_s=limit, tell=tell)
            except BaseException:
                self._child.kill()
                raise
            assert isinstance(started, Started)
            self._deadlines.saw("start", "engine", time.monotonic() - self._began)
            self._started = started
            self._child.stage = "questions"
            self.engine = started.engine
            self.seconds = started.seconds
            self._counts = started.counts
        return self

    def slices(self, lengths: Mapping[str, int]) -> Slices:
        """What is asked in one go; see ``Slices.of``."""
        return Slices.of(self._workload, self._counts, lengths)

    def answer(self, part: Slice, tell: Tell = silent) -> tuple[list[Question], Timing]:
        """Answer the questions; outcomes in the drawn order, and the time of generating them."""
        questions, timing = self.begin(part, tell).finish()
        return questions, timing

    def time(self, part: Slice, tell: Tell = silent) -> Timing:
        """Answer the questions again, for the time alone."""
        _, timing = self.begin(part, tell, answers=False).finish()
        assert isinstance(timing, Timing)
        return timing

    def begin(
        self, part: Slice, tell: Tell = silent, *, answers: bool = True, turn: Turn | None = None
    ) -> Asked:
        """The questions, to be answered turn by turn (None: all at once). answers: or for the time alone."""
        request = Generate(part.benchmark, part.start, part.stop, answers, part.exact, turn)
        return self._begin(request, str(part), tell)

    def say(self, tokens: int) -> tuple[Sampled, ...]:
        """Answers of so many tokens, drawn at temperature 1."""
        return tuple(self._call(Say(tokens), "say", silent))

    def weigh(self, said: Sequence[Sampled], tell: Tell = silent) -> list[tuple[float, ...]]:
        """The log-probability of each token of answers that another model said."""
        request = Weigh(tuple(said))
        found: list[tuple[float, ...]] = self._call(request, f"weigh {len(said)}", tell)
        return found

    def perplexity(self, tell: Tell = silent) -> Perplexity | None:
        """The perplexity of the workload's held-out text; None when it has none."""
        found = self._call(Read(), "read", tell)
        assert found is None or isinstance(found, Perplexity)
        return found

    def rows(self, benchmark: str) -> Mapping[int, Row]:
        """Index -> row of the questions that are asked of a benchmark."""
        found: Mapping[int, Row] = self._child.call(
            Rows(benchmark), deadline_s=self._workload.part_deadline_s
        )
        return found

    def _call(self, request: Say | Weigh | Read, name: str, tell: Tell) -> Any:
        return self._begin(request, name, tell).finish()

    def _begin(self, request: Generate | Say | Weigh | Read, name: str, tell: Tell) -> Asked:
        limit = self._deadlines.limit("answers", name, self._workload.part_deadline_s)
        return Asked(self._child, request, limit, tell, partial(self._deadlines.saw, "answers", name))

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return self._child.alive

    def close(self) -> None:
        """End the process, and everything it started."""
        self._child.kill()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Asked:
    """What an engine is asked, and answers turn by turn if the request says so, else all at once.

    turn: the request's. limit_s: for the engine's own turns together. saw: told how long they took. Raises
    CandidateError as ``Child.call`` does; ``failed`` then.
    """

    def __init__(
        self,
        child: Child,
        request: Generate | Say | Weigh | Read,
        limit_s: float,
        tell: Tell,
        saw: Callable[[float], None],
    ) -> None:
        self.failed = False
        self.turn = request.turn if isinstance(request, Generate) else None
        self._child = child
        self._word: Any = request
        self._spent = 0.0
        self._limit = limit_s
        self._tell = tell
        self._saw = saw
        self._answer: Any = PAUSED

    def go_on(self) -> bool:
        """Let it answer for a turn; whether all is answered."""
        if self._answer is PAUSED:
            began = time.monotonic()
            self.failed = True
            self._answer = self._child.call(
                self._word, deadline_s=self._limit, tell=self._tell, spent_s=self._spent
            )
            self.failed = False
            self._word = TURN
            self._spent += time.monotonic() - began
            if self._answer is not PAUSED:
                self._saw(self._spent)
        return self._answer is not PAUSED

    def finish(self) -> Any:
        """The answer as the request's class has it, once all is answered."""
        while not self.go_on():
            pass
        return self._answer


def alternate(first: Asked, second: Asked) -> None:
    """Let two engines answer in turn until both are done."""
    done = False
    while not done:
        done = first.go_on()
        done = second.go_on() and done


def _in_slot(model: Path, workload: Workload, role: slot.Role) -> Engine:
    """The child's handler. The child holds the slot, so that it is free when the engine is gone, however."""
    held = slot.hold(model, role, cache_folder() / "slots")
    print(f"{held} is {model}", flush=True)  # vLLM's messages in the log have the slot's name
    return Engine(str(held), workload)
