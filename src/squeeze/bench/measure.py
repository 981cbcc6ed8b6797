"""Measuring a model rung by rung, cheap evidence first, so that a hopeless candidate can be dropped early."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from squeeze.bench import gpu
from squeeze.bench.clocks import Meter
from squeeze.bench.judge import RATINGS, Judge
from squeeze.bench.judged import JUDGED, NO_JUDGE, rated_baseline, rated_candidate
from squeeze.bench.reference import Beside, Bracketed, Reference, halved
from squeeze.bench.refused import refuse_other_questions
from squeeze.bench.resolved import versions
from squeeze.bench.rungs import rungs
from squeeze.bench.served import Served, Tell, silent
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.config import digest
from squeeze.deadlines import Deadlines
from squeeze.folder import size_bytes
from squeeze.records import Measurement
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
        self._share_gpu = target.device == "cuda" and self._reference.in_turn

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
                for measured in rungs(served, self._base, self.workload, None, {}, tell):
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

        Between the candidate's passes the baseline's are timed over the same questions; on a GPU that serves
        both at once they answer turn by turn, as many passes as make the ratio steady, see
        ``squeeze.bench.turns`` and ``squeeze.bench.rungs``. Closing
        the iterator early ends the candidate's engine. ``baseline`` must be known. known: an earlier
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
                users = None
                if self._target.device == "cuda":
                    if self._reference.in_turn:
                        self._reference.serve(tell)  # it has begun to start: now it is among them
                    users = gpu.users()
                told: dict[str, Any] = {}
                said = self.baseline.sampled
                if known is not None:
                    lengths = {}
                    told = {"probe": known.probe, "probe_reference": known.probe_reference}
                    if known.divergence is not None:
                        told["divergence"], said = known.divergence, ()
                found = rungs(
                    served, model, self.workload, self._reference, lengths, tell, said, empty, self._share_gpu
                )
                for measurement in rated_candidate(self._judge, self.baseline, served, found, tell):
                    if users is not None:
                        gpu.refuse_newcomers(users)
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
        with contextlib.closing(self.measure(model, log=log, tell=tell)) as found:
            return next(found)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._reference.close()


def _answer_lengths(baseline: Measurement, workload: Workload) -> dict[str, int]:
    """Benchmark -> tokens of the baseline's mean answer, of one turn, at most ``workload.probe_tokens``."""
    lengths = {}
    for name, questions in baseline.questions.items():
        turns = sum(len(question.answers) for question in questions)
        mean = sum(question.tokens for question in questions) / turns
        lengths[name] = max(1, min(workload.probe_tokens, round(mean)))
    return lengths
