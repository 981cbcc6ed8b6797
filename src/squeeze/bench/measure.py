"""Measuring a model rung by rung, cheap evidence first, so that a hopeless candidate can be dropped early."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from squeeze.bench import gpu
from squeeze.bench.clocks import Meter
from squeeze.bench.divergence import divergence
from squeeze.bench.judge import RATINGS, Judge
from squeeze.bench.judged import JUDGED, NO_JUDGE, rated_baseline, rated_candidate
from squeeze.bench.reference import Beside, Bracketed, Reference, halved
from squeeze.bench.refused import refuse_empty, refuse_other_questions
from squeeze.bench.resolved import versions
from squeeze.bench.served import Served, Slice, Tell, silent
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.config import digest
from squeeze.deadlines import Deadlines
from squeeze.folder import size_bytes
from squeeze.records import Measurement, Pass, Perplexity, Question, Rung, Sampled, Timing
from squeeze.target import Target


class Bench:
    """Measures a baseline and then any number of candidates with one workload.

    base: the baseline's model folder. target: where the engine runs. log: what the baseline's engine prints.
    ratings: the folder where those of the workload's judge are kept. unscored: benchmark -> why its answers
    are to have no scores although there is a judge. Ends its processes with the ``with`` block.
    """

    def __init__(
        self,
        workload: Workload,
        base: Path,
        target: Target,
        *,
        log: Path,
        ratings: Path = RATINGS,
        unscored: Mapping[str, str] = {},
    ) -> None:
        self.workload = workload
        self.baseline: Measurement | None = None
        self._base = base
        self._target = target
        self._judge = Judge(workload.judge, ratings) if workload.judge and JUDGED not in unscored else None
        self._unscored = {JUDGED: NO_JUDGE, **unscored}
        engine: EngineArguments | None = workload.engine
        if target.device == "cuda":
            engine = halved(workload.engine, target.memory_bytes, size_bytes(base))
        self._served_as = workload.model_copy(update={"engine": engine or workload.engine})
        kind = Beside if engine else Bracketed
        self._deadlines = Deadlines()
        self._reference: Reference = kind(base, self._served_as, log, self._deadlines)

    def baseline_key(self, model_key: str) -> str:
        """A hash of all that a baseline's measurement depends on: model, workload, engine, machine."""
        target = self._target
        machine = [target.device, target.name, target.memory_bytes, os.cpu_count()]
        return digest([model_key, self.workload.key, versions(), machine])

    def measure_baseline(self, *, tell: Tell = silent, once: bool = False) -> Measurement:
        """Measure the baseline; the complete Measurement, without reference passes.

        once: end after the first pass, at rung ``rest``, where its answers alone are wanted. Raises
        SetupError when it cannot be served, CandidateError when it does not answer.
        """
        self._await_room()
        with self._meter() as meter:
            served = self._reference.serve(tell)
            try:
                for measured in _rungs(served, self._base, self.workload, None, {}, tell):
                    if once and measured.rung == "rest":
                        break
                clocks = meter.clocks if meter else None
                tokens = self.workload.divergence
                said = served.say(tokens[-1]) if tokens else ()
                measured = rated_baseline(self._judge, served, measured, tell, self._unscored[JUDGED])
            finally:
                self._reference.end()
        self.baseline = measured.model_copy(update={"sampled": said, "clocks": clocks})
        return self.baseline

    def measure(
        self,
        model: Path,
        *,
        log: Path,
        tell: Tell = silent,
        known: Measurement | None = None,
        empty: bool = False,
    ) -> Generator[Measurement, None, None]:
        """Yield a growing Measurement after each rung of ``squeeze.records.Rung``; ``repeats`` is the last.

        Between the candidate's passes the baseline's are timed over the same questions. Closing the iterator
        early ends the candidate's engine. ``baseline`` must be known. known: an earlier
        measurement of the same shape and scheme, whose probe is taken instead of another; one of the same
        model has its divergence too. empty: whether a model is measured even if most of its answers have no
        text. Raises CandidateError for whatever goes wrong with the candidate, and for answers that the judge
        does not rate; SetupError when the data has changed since the baseline was measured.
        """
        assert self.baseline is not None
        lengths = _answer_lengths(self.baseline, self.workload)
        self._await_room()
        self._reference.begin(lengths, tell)
        if self._target.device == "cpu":  # engines that start at once wait for each other's threads
            self._reference.serve(tell)
        try:
            if isinstance(self._reference, Bracketed):  # whose engine has just ended
                self._await_room()
            with (
                self._meter() as meter,
                Served(model, self._served_as, log, deadlines=self._deadlines) as served,
            ):
                served.wait(tell)
                refuse_other_questions(served, self.baseline)
                told: dict[str, Any] = {}
                said = self.baseline.sampled
                if known is not None:
                    lengths = {}
                    told = {"probe": known.probe, "probe_reference": known.probe_reference}
                    if known.divergence is not None:
                        told["divergence"], said = known.divergence, ()
                rungs = _rungs(served, model, self.workload, self._reference, lengths, tell, said, empty)
                for measurement in rated_candidate(self._judge, self.baseline, served, rungs, tell):
                    clocks = meter.clocks if meter else None
                    yield measurement.model_copy(update={**told, "clocks": clocks})
        finally:
            self._reference.end()

    @contextlib.contextmanager
    def _meter(self) -> Iterator[Meter | None]:
        """Watch the GPU's clocks meanwhile; None on a CPU."""
        if self._target.device == "cpu":
            yield None
            return
        meter = Meter()
        try:
            yield meter
        finally:
            meter.close()

    def _await_room(self) -> None:
        """Wait until the engines before have given back their memory; refuse a GPU that others use."""
        if self._target.device == "cuda":
            gpu.await_room(self.workload.engine.gpu_memory_utilization)

    def probe(self, model: Path, *, log: Path, tell: Tell = silent) -> Measurement:
        """The speed of a model's shape and scheme alone, whatever it answers: ``measure`` up to ``speed``."""
        with contextlib.closing(self.measure(model, log=log, tell=tell)) as rungs:
            return next(rungs)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._reference.close()


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


def _rungs(
    served: Served,
    model: Path,
    workload: Workload,
    reference: Reference | None,
    lengths: Mapping[str, int],
    tell: Tell,
    said: Sequence[Sampled] = (),
    empty: bool = False,
) -> Iterator[Measurement]:
    """The rungs of one model in its engine; see ``Bench.measure``. said: by the baseline."""
    began = time.perf_counter()
    slices = served.slices(lengths)
    turn = 0
    answers: _Answers = {}

    def ask(lap: _Lap, parts: Sequence[Slice], repeat: int, into: _Answers | None) -> None:
        nonlocal turn
        turn += 1
        for place, part in enumerate(parts):
            other = None
            # Who comes first changes from slice to slice and, for one benchmark, from pass to pass: what is
            # gained or lost by coming second must not always fall to the same one.
            first = (turn + place) % 2 == 0
            if reference is not None and first:
                other = reference.time(part, repeat)
            if into is not None:
                questions, mine = served.answer(part, tell)
                found = into.setdefault(part.benchmark, {})
                found.update((question.index, question) for question in questions)
                if not empty:
                    refuse_empty(part.benchmark, found)
            else:
                mine = served.time(part, tell)
            if reference is not None and not first:
                other = reference.time(part, repeat)
            _add(lap.mine, part, mine)
            if other is not None:
                _add(lap.others, part, other)

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
    for repeat in range(1, workload.repeats):
        laps.append(_Lap())
        ask(laps[-1], slices.timed(repeat), repeat, None)
    if workload.perplexity:
        perplexity = served.perplexity(tell)
    yield measurement("repeats", probes, laps)


def _until(said: Sequence[Sampled], tokens: int) -> int:
    """How many answers have so many tokens together; all of them when they have fewer."""
    lengths = accumulate(len(one.tokens) for one in said)
    return next((count for count, length in enumerate(lengths, 1) if length >= tokens), len(said))


def _answer_lengths(baseline: Measurement, workload: Workload) -> dict[str, int]:
    """Benchmark -> tokens of the baseline's mean answer, of one turn, at most ``workload.probe_tokens``."""
    lengths = {}
    for name, questions in baseline.questions.items():
        turns = sum(len(question.answers) for question in questions)
        mean = sum(question.tokens for question in questions) / turns
        lengths[name] = max(1, min(workload.probe_tokens, round(mean)))
    return lengths


def _add(timings: dict[str, Timing], part: Slice, timing: Timing) -> None:
    before = timings.get(part.benchmark, Timing(seconds=0.0, tokens=0))
    timings[part.benchmark] = Timing(
        seconds=before.seconds + timing.seconds, tokens=before.tokens + timing.tokens
    )
