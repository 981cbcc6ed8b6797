"""Whether two engines have room on one GPU, and what it means that the baseline's fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze.bench import reference
from squeeze.bench.reference import ACTIVATIONS_BYTES, SERVER_BYTES, Beside, Bracketed, halved
from squeeze.bench.served import Slice, Slices, silent
from squeeze.bench.turns import Turn
from squeeze.bench.workload import EngineArguments, Workload
from squeeze.errors import CandidateError, FailureClass, SetupError
from squeeze.records import Timing

GIB = 1 << 30


@pytest.mark.parametrize("memory_gib", [44.9, 80.0, 141.0])
def test_two_engines_share_a_gpu_where_each_has_what_the_contests_server_has(memory_gib: float) -> None:
    memory, weights = int(memory_gib * GIB), int(2.4 * GIB)
    found = halved(EngineArguments(), memory, weights)
    assert found is not None
    assert found.gpu_memory_utilization == 0.425
    assert 0.425 * memory >= SERVER_BYTES
    assert found.kv_cache_memory_bytes is not None
    # Both engines, whole, stay within the share that one was given.
    assert 2 * (found.kv_cache_memory_bytes + weights + ACTIVATIONS_BYTES) <= 0.85 * memory


@pytest.mark.parametrize(("memory_gib", "weights_gib"), [(22.4, 2.4), (24, 0.1), (44, 2.4), (80, 30)])
def test_a_gpu_without_room_for_two_has_one_at_a_time(memory_gib: float, weights_gib: float) -> None:
    assert halved(EngineArguments(), int(memory_gib * GIB), int(weights_gib * GIB)) is None


WORKLOAD = Workload(name="test", data="hub", questions={"kmmlu_redux": 4}, probes=1, repeats=1)
PART = Slice("kmmlu_redux", 0, 4)


class Engines:
    """Stands in for engines. deaths: of each that is made where it dies and how; None for one that lives."""

    def __init__(self, deaths: list[tuple[str, FailureClass] | None]) -> None:
        self.deaths = deaths
        self.running = 0

    def __call__(self, *_: Any) -> Engine:
        return Engine(self, self.deaths.pop(0))


class Engine:
    def __init__(self, engines: Engines, death: tuple[str, FailureClass] | None) -> None:
        self.engines, self.death, self.alive = engines, death, True
        engines.running += 1

    def may_die(self, stage: str) -> None:
        if self.death and self.death[0] == stage:
            self.close()
            raise CandidateError("it died", stage=stage, kind=self.death[1])

    def wait(self, tell: Any) -> Engine:
        self.may_die("engine")
        return self

    def begin(self, part: Slice, answers: bool = True, turn: Turn | None = None) -> Answers:
        return Answers(self, turn)

    def time(self, part: Slice) -> Timing:
        return self.begin(part).finish()[1]

    def slices(self, lengths: Any) -> Slices:
        return Slices(probe=(), block=(), rest=(PART,), whole=(PART,))

    def close(self) -> None:
        self.engines.running -= self.alive
        self.alive = False


class Answers:
    """What an engine answers in two turns; it dies in the second one."""

    def __init__(self, engine: Engine, turn: Turn | None) -> None:
        self.engine, self.turn, self.failed, self.turns = engine, turn, False, 0

    def go_on(self) -> bool:
        self.turns += self.turns < 2
        if self.turns == 2:
            self.failed = self.engine.death is not None
            self.engine.may_die("questions")
        return self.turns == 2

    def finish(self) -> tuple[list[Any], Timing]:
        while not self.go_on():
            pass
        return [], Timing(seconds=float(len(self.engine.engines.deaths)), tokens=1)


def asked(death: tuple[str, FailureClass] | None = None) -> Any:
    """A candidate's questions, as far as the reference has to do with them."""
    return Answers(Engine(Engines([]), death), Turn(0.2, 0))


@pytest.fixture
def made_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engines]:
    """Has the baseline's engines die so."""

    def make(*deaths: tuple[str, FailureClass] | None) -> Engines:
        engines = Engines(list(deaths))
        monkeypatch.setattr(reference, "Served", engines)
        return engines

    return make


@pytest.mark.parametrize("kind", [Beside, Bracketed])
def test_a_baseline_that_cannot_be_measured_alone_ends_the_command(
    made_of: Callable[..., Engines], kind: type[Beside | Bracketed]
) -> None:
    engines = made_of(("engine", "oom"))
    with pytest.raises(SetupError, match="the baseline base must be servable by vLLM: it died"):
        kind(Path("base"), WORKLOAD, Path("log")).serve(silent)
    assert engines.running == 0


@pytest.mark.parametrize(
    ("death", "told"), [("oom", "killed"), ("load", "killed"), ("killed", "killed"), ("disk", "disk")]
)
@pytest.mark.parametrize("stage", ["engine", "questions"])
def test_a_baseline_that_dies_twice_beside_a_candidate_fails_that_and_serves_the_next(
    made_of: Callable[..., Engines], stage: str, death: FailureClass, told: FailureClass
) -> None:
    engines = made_of((stage, death), (stage, death), ("questions", "oom"), None)
    beside = Beside(Path("base"), WORKLOAD, Path("log"))
    beside.begin({}, silent)
    with pytest.raises(CandidateError, match=rf"can no longer be served \({death} in {stage}\)") as caught:
        beside.time(PART, 0, mine := asked(), first=True)
    assert mine.turns == 2  # for all that, it has answered
    assert (caught.value.stage, caught.value.kind) == ("baseline", told)
    beside.end()
    assert engines.running == 0
    beside.begin({}, silent)
    assert beside.time(PART, 0, asked(), first=False).tokens == 1  # it may die once
    assert engines.running == 1


def test_a_candidate_that_dies_in_turn_with_the_baseline_is_not_taken_for_it(
    made_of: Callable[..., Engines],
) -> None:
    engines = made_of(None)
    beside = Beside(Path("base"), WORKLOAD, Path("log"))
    beside.begin({}, silent)
    with pytest.raises(CandidateError) as caught:
        beside.time(PART, 0, asked(("questions", "kernel")), first=True)
    assert (caught.value.stage, caught.value.kind, engines.running) == ("questions", "kernel", 1)


def test_a_baseline_that_does_not_start_beside_a_candidate_fails_that(
    made_of: Callable[..., Engines],
) -> None:
    engines = made_of(("engine", "timeout"), None)
    beside = Beside(Path("base"), WORKLOAD, Path("log"))
    beside.begin({}, silent)
    with pytest.raises(CandidateError) as caught:
        beside.serve(silent)
    assert (caught.value.stage, caught.value.kind, engines.running) == ("baseline", "killed", 0)
    beside.begin({}, silent)
    beside.serve(silent)
    assert engines.running == 1


def test_a_baseline_that_dies_before_a_candidate_fails_that_and_leaves_no_half_a_timing(
    made_of: Callable[..., Engines],
) -> None:
    engines = made_of(("engine", "oom"), ("questions", "kernel"), None, ("questions", "oom"), None)
    bracketed = Bracketed(Path("base"), WORKLOAD, Path("log"), every=1)
    for _ in range(2):
        with pytest.raises(CandidateError) as caught:
            bracketed.begin({}, silent)
        assert (caught.value.stage, caught.value.kind, engines.running) == ("baseline", "killed", 0)
    bracketed.begin({}, silent)
    assert bracketed.time(PART, 0, asked(), first=True).seconds == 2
    with pytest.raises(CandidateError):
        bracketed.begin({}, silent)
    bracketed.begin({}, silent)
    assert bracketed.time(PART, 0, asked(), first=False).seconds == 0
    assert engines.deaths == [] and engines.running == 0
