"""The baseline's time beside a candidate's: what makes two times comparable on a machine that drifts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from squeeze.bench.served import Asked, Served, Slice, Tell, alternate, silent
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.deadlines import Deadlines
from squeeze.errors import RETRIED, CandidateError, SetupError
from squeeze.records import Timing


class Reference(Protocol):
    """The baseline's side of a candidate's measurement.

    in_turn: whether it is timed while the candidate is. Where the baseline's engine fails for a candidate,
    between ``begin`` and ``end``, that is a CandidateError of stage ``baseline`` and of a class that is tried
    again: the baseline was measured before, so it is the machine, or a candidate that takes its memory.
    """

    in_turn: bool

    def begin(self, lengths: Mapping[str, int], tell: Tell) -> None:
        """Called before a candidate's engine starts. lengths: benchmark -> tokens of a probe's answer."""

    def serve(self, tell: Tell) -> Served:
        """The baseline in an engine, for measuring it; ended by ``end`` or kept, as this kind does it.

        Raises SetupError when it cannot be, and it is not for a candidate.
        """

    def end(self) -> None:
        """Called when the measurement (of the baseline or a candidate) is over."""

    def time(self, part: Slice, repeat: int, mine: Asked, first: bool) -> Timing:
        """The baseline's time over the same questions.

        mine: the candidate's answers to them, which are waited for where the two answer in turn. first:
        whether the baseline has the first turn.
        """

    def close(self) -> None:
        """End every process."""


SERVER_BYTES = int(0.85 * 22.4 * 2**30)
"""What an engine has on the contest's server: 0.85 of an L4's memory."""

ACTIVATIONS_BYTES = 6 << 30
"""Of an engine's memory, what is neither weights nor KV cache: activations, graphs, the context of CUDA."""


def halved(arguments: EngineArguments, memory_bytes: int, weights_bytes: int) -> EngineArguments | None:
    """Arguments with which two engines fit on a GPU at once; None where each would have too little.

    Each has half of the share of the memory, and that must be at least what an engine has on the contest's
    server. memory_bytes: the GPU's. weights_bytes: the baseline's. The size of the KV cache is told, because
    an engine that measures what is left while another one starts counts the other's memory as its own.
    """
    half = arguments.gpu_memory_utilization / 2
    if half * memory_bytes < max(SERVER_BYTES, weights_bytes + 2 * ACTIVATIONS_BYTES):
        return None
    cache = int(half * memory_bytes) - weights_bytes - ACTIVATIONS_BYTES
    return arguments.model_copy(update={"gpu_memory_utilization": half, "kv_cache_memory_bytes": cache})


class _Serving:
    """The baseline in an engine, started when it is asked for."""

    def __init__(self, base: Path, workload: Workload, log: Path, deadlines: Deadlines | None = None) -> None:
        self._deadlines = deadlines or Deadlines()
        self._base = base
        self._workload = workload
        self._log = log
        self._served: Served | None = None
        self._for_candidate = False

    def _running(self) -> Served:
        if self._served is None or not self._served.alive:
            self._served = Served(self._base, self._workload, self._log, "baseline", self._deadlines)
        return self._served

    def serve(self, tell: Tell) -> Served:
        """The engine, started if it does not run."""
        try:
            return self._running().wait(tell)
        except CandidateError as error:
            self.close()
            raise (_beside(error) if self._for_candidate else _alone(error, self._base)) from error

    def end(self) -> None:
        """The engine ends: with the candidate's, or to make room for it."""
        self._for_candidate = False
        self.close()

    def close(self) -> None:
        """End the engine."""
        if self._served is not None:
            self._served.close()
            self._served = None


class Beside(_Serving):
    """The baseline has an engine beside the candidate's, started and ended with it, and is timed in turn.

    For targets where two engines fit: a CPU, a GPU of 45 GiB or more. Both engines are of the same age: one
    that stayed up over twenty candidates was seen to become a tenth slower, which made every later candidate
    look a tenth faster.
    """

    in_turn = True

    def begin(self, lengths: Mapping[str, int], tell: Tell) -> None:
        """Start the engine if it does not run, without waiting: the candidate's starts beside it."""
        try:
            self._running()
        except CandidateError as error:
            raise _beside(error) from error
        self._for_candidate = True

    def time(self, part: Slice, repeat: int, mine: Asked, first: bool) -> Timing:
        """Time the baseline, turn by turn with the candidate. If it dies it is started again, once, and timed
        after the candidate."""
        try:
            other = self.serve(silent).begin(part, answers=False, turn=mine.turn)
            alternate(*((other, mine) if first else (mine, other)))
            _, timing = other.finish()
            assert isinstance(timing, Timing)
            return timing
        except CandidateError:
            if mine.failed:
                raise
            self.close()
        mine.finish()
        served = self.serve(silent)
        try:
            return served.time(part)
        except CandidateError as error:
            raise _beside(error) from error


class Bracketed(_Serving):
    """The baseline is timed in a process of its own before a candidate's, again after every few of them.

    For targets where two engines do not fit: a small GPU. It has as many passes as a candidate, so repeats
    are compared with repeats; the difference between two processes of the same model is not seen by one
    timing. every: candidates that one timing serves.
    """

    in_turn = False

    def __init__(
        self, base: Path, workload: Workload, log: Path, deadlines: Deadlines | None = None, every: int = 4
    ) -> None:
        super().__init__(base, workload, log, deadlines)
        self._every = every
        self._times: dict[tuple[Slice, int], Timing] = {}
        self._uses = 0

    def begin(self, lengths: Mapping[str, int], tell: Tell) -> None:
        """Time the baseline, unless the last timing has served fewer than ``every`` candidates."""
        if self._times and self._uses < self._every:
            self._uses += 1
            return
        times: dict[tuple[Slice, int], Timing] = {}
        try:
            served = self._running().wait(tell)
            slices = served.slices(lengths)
            for repeat in range(self._workload.probes):
                for part in slices.probe:
                    times[part, repeat] = served.time(part)
            for repeat in range(self._workload.repeats):
                for part in slices.timed(repeat):
                    times[part, repeat] = served.time(part)
        except CandidateError as error:
            raise _beside(error) from error
        finally:
            self.end()
        self._times, self._uses = times, 1

    def time(self, part: Slice, repeat: int, mine: Asked, first: bool) -> Timing:
        """The time taken before the candidate's."""
        return self._times[part, repeat]


def _alone(error: CandidateError, base: Path) -> SetupError:
    """What it means that the baseline's engine does not start for measuring the baseline."""
    rule = "must find room" if error.kind == "disk" else "must be servable by vLLM"
    return SetupError(f"the baseline {base} {rule}: {error}")


def _beside(error: CandidateError) -> CandidateError:
    """What it means that the baseline's engine fails for a candidate."""
    kind = error.kind if error.kind in RETRIED else "killed"
    text = f"the baseline can no longer be served ({error.kind} in {error.stage}): {error}"
    return CandidateError(text, stage="baseline", kind=kind)
