"""Turns within the steps of an engine that stands in for vLLM's; real engines: test_engine, test_measure."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import pytest

from squeeze.bench.turns import Turn, in_turns
from squeeze.child import TURN


class Engine:
    """Steps of 10 ms each."""

    def __init__(self, steps: int, processes: int = 1) -> None:
        self.left = steps
        self.engine_core = SimpleNamespace(engine_core=None)
        self.vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(world_size=processes))
        self.cores: list[set[int]] = []

    def has_unfinished_requests(self) -> bool:
        return self.left > 0

    def step(self) -> int:
        time.sleep(0.01)
        self.cores.append(os.sched_getaffinity(0))
        self.left -= 1
        return self.left


def run(engine: Engine) -> None:
    while engine.has_unfinished_requests():
        engine.step()


def test_an_engine_hands_over_between_steps_and_that_time_is_not_its_own() -> None:
    engine, told = Engine(12), []

    def tell(event: object) -> None:
        told.append((event, engine.left))
        time.sleep(0.2)

    with in_turns(engine, Turn(0.025, min(os.sched_getaffinity(0))), tell) as away:
        began = time.perf_counter()
        run(engine)
        took = time.perf_counter() - began
    assert {str(event) for event, _ in told} == {str({"stage": TURN})}
    assert 1 <= len(told) <= 4  # of three steps or more, none after the last
    assert all(left > 0 for _, left in told)
    assert 0.2 * len(told) <= away.seconds <= took - 0.12
    assert "step" not in vars(engine)


def test_steps_stay_on_the_core_of_the_turn_and_the_thread_may_leave_it_afterwards() -> None:
    cores, engine = os.sched_getaffinity(0), Engine(3)
    with in_turns(engine, Turn(1.0, max(cores)), lambda event: None):
        run(engine)
    assert engine.cores == [{max(cores)}] * 3
    assert os.sched_getaffinity(0) == cores


def test_threads_that_begin_meanwhile_may_use_every_core() -> None:
    cores, done = os.sched_getaffinity(0), threading.Event()
    thread = threading.Thread(target=done.wait)
    with in_turns(Engine(3), Turn(1.0, max(cores)), lambda event: None):
        thread.start()
    try:
        assert thread.native_id is not None
        assert os.sched_getaffinity(thread.native_id) == cores
    finally:
        done.set()
        thread.join()


def test_a_core_that_has_gone_fails_nothing() -> None:
    engine = Engine(3)
    with in_turns(engine, Turn(1.0, 4095), lambda event: None):
        run(engine)
    assert engine.left == 0


@pytest.mark.parametrize("engine", [Engine(3), Engine(3, processes=2)])
def test_without_turns_or_with_a_model_in_several_processes_an_engine_never_hands_over(
    engine: Engine,
) -> None:
    turn = Turn(0.0, 0) if engine.vllm_config.parallel_config.world_size > 1 else None
    with in_turns(engine, turn, lambda event: pytest.fail(str(event))) as away:
        run(engine)
    assert away.seconds == 0.0


def test_a_core_is_drawn_of_those_that_the_process_may_use() -> None:
    assert {Turn.drawn().core for _ in range(100)} == os.sched_getaffinity(0)
