"""The rungs of one model in its engine, one after the other, in turn with the baseline."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from squeeze.bench import turns
from squeeze.bench.divergence import divergence
from squeeze.bench.reference import Reference
from squeeze.bench.refused import refuse_empty
from squeeze.bench.served import Served, Slice, Tell
from squeeze.bench.stats import error_within
from squeeze.bench.workload import Workload
from squeeze.records import Measurement, Pass, Perplexity, Question, Rung, Sampled, Timing

STEADY_ERROR = 0.005
"""On a GPU passes go on until the time ratio's standard error within the process is as small as this …"""

STEADY_S = 30.0
"""… or so much time has been spent on answering, baseline's included (twice that where one more pass would
be fair to both). Passes of a large workload take longer than this by themselves; those of a second or two are
at the mercy of the host's other users."""


_Answers = dict[str, dict[int, Question]]
"""Benchmark -> index -> outcome."""


@dataclass
class _Lap:
    """A pass in the making: benchmark -> what its slices took, of the model and of the baseline."""

    started: float = field(default_factory=time.time)
    mine: dict[str, Timing] = field(default_factory=dict)
    others: dict[str, Timing] = field(default_factory=dict)

    @property
    def timed(self) -> Pass:
        return Pass(started=self.started, timings=dict(self.mine))

    @property
    def reference(self) -> tuple[Pass, ...]:
        """The baseline's pass; none when it was not timed this time."""
        return (Pass(started=self.started, timings=dict(self.others)),) if self.others else ()


def rungs(
    served: Served,
    model: Path,
    workload: Workload,
    reference: Reference | None,
    lengths: Mapping[str, int],
    tell: Tell,
    said: Sequence[Sampled] = (),
    empty: bool = False,
    share_gpu: bool = False,
) -> Iterator[Measurement]:
    """The rungs of one model in its engine; see ``Bench.measure``. said: by the baseline. share_gpu:
    whether both engines do; then they answer turn by turn, and passes go on until the ratio is steady."""
    began = time.perf_counter()
    slices = served.slices(lengths)
    calls = 0
    answers: _Answers = {}

    def ask(lap: _Lap, parts: Sequence[Slice], repeat: int, into: _Answers | None) -> None:
        nonlocal calls
        calls += 1
        for place, part in enumerate(parts):
            # Who comes first changes from slice to slice and, for one benchmark, from pass to pass: what is
            # gained or lost by coming second must not always fall to the same one.
            first = (calls + place) % 2 == 0
            turn = turns.Turn.drawn() if share_gpu else None
            mine = served.begin(part, tell, answers=into is not None, turn=turn)
            if reference is not None:
                _add(lap.others, part, reference.time(part, repeat, mine, first))
            questions, timing = mine.finish()
            _add(lap.mine, part, timing)
            if into is not None:
                found = into.setdefault(part.benchmark, {})
                found.update((question.index, question) for question in questions)
                if not empty:
                    refuse_empty(part.benchmark, found)

    def measurement(rung: Rung, probes: Sequence[_Lap], laps: Sequence[_Lap]) -> Measurement:
        generating = sum(
            timing.seconds
            for lap in (*probes, *laps)
            for timing in (*lap.mine.values(), *lap.others.values())
        )
        return Measurement(
            model=str(model),
            workload=workload.key,
            engine=engine,
            complete=rung == "repeats",
            rung=rung,
            questions={
                name: tuple(found[index] for index in sorted(found)) for name, found in answers.items()
            },
            passes=tuple(lap.timed for lap in laps),
            reference=tuple(timed for lap in laps for timed in lap.reference),
            probe=tuple(lap.timed for lap in probes),
            probe_reference=tuple(timed for lap in probes for timed in lap.reference),
            divergence=divergence(said[: len(weighed)], weighed) if weighed else None,
            perplexity=perplexity,
            seconds={
                **served.seconds,
                "generate": generating,
                "measure": time.perf_counter() - began,
            },
        )

    engine: dict[str, Any] = {
        "given": served.arguments.model_dump(mode="json"),
        "in_turn": reference is not None and reference.in_turn,
        "turn_s": turns.TURN_S if share_gpu and reference is not None else None,
        **served.engine,
    }
    perplexity: Perplexity | None = None
    probes: list[_Lap] = []
    weighed: list[tuple[float, ...]] = []
    for repeat in range(workload.probes if slices.probe else 0):
        probes.append(_Lap())
        ask(probes[-1], slices.probe, repeat, None)
    yield measurement("speed", probes, [])
    if said and workload.divergence:
        first = _until(said, workload.divergence[0])
        weighed += served.weigh(said[:first], tell)
        yield measurement("divergence", probes, [])
        weighed += served.weigh(said[first:], tell)
        yield measurement("divergence_more", probes, [])
    laps = [_Lap()]
    if slices.block:
        ask(laps[0], slices.block, 0, answers)
        yield measurement("block", probes, laps)
    ask(laps[0], slices.rest, 0, answers)
    if workload.repeats > 1:
        yield measurement("rest", probes, laps)
    while len(laps) < workload.repeats or (share_gpu and workload.repeats > 1 and not _is_steady(laps)):
        laps.append(_Lap())
        ask(laps[-1], slices.timed(len(laps) - 1), len(laps) - 1, None)
    if workload.perplexity:
        perplexity = served.perplexity(tell)
    yield measurement("repeats", probes, laps)


def _is_steady(laps: Sequence[_Lap]) -> bool:
    """Whether more passes would not make the time ratio much surer, or would take too long.

    Who comes first gains about a hundredth of a short pass, in every second one: an even number of passes
    after the first, which is left out, is fair to both. Where passes are long it is not worth another one.
    """
    spent = sum(timing.seconds for lap in laps for timing in (*lap.mine.values(), *lap.others.values()))
    if len(laps) % 2 == 0 or len(laps) < 5:
        return spent >= 2 * STEADY_S
    if spent >= STEADY_S:
        return True
    passes, reference = [lap.timed for lap in laps], [timed for lap in laps for timed in lap.reference]
    return error_within(passes, reference) <= STEADY_ERROR


def _until(said: Sequence[Sampled], tokens: int) -> int:
    """How many answers have so many tokens together; all of them when they have fewer."""
    lengths = accumulate(len(one.tokens) for one in said)
    return next((count for count, length in enumerate(lengths, 1) if length >= tokens), len(said))


def _add(timings: dict[str, Timing], part: Slice, timing: Timing) -> None:
    before = timings.get(part.benchmark, Timing(seconds=0.0, tokens=0))
    timings[part.benchmark] = Timing(
        seconds=before.seconds + timing.seconds, tokens=before.tokens + timing.tokens
    )
