"""A training may be killed, damaged, lengthened or led astray: it ends as it should."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from squeeze.config import Calibration, Training
from squeeze.errors import CandidateError
from squeeze.training import checkpoint, loop, models, packed
from squeeze.training.learner import Learner
from squeeze.training.schedule import Schedule, cut_short, plan, stalled
from squeeze.training.teacher import Live
from squeeze.training.text import Text, prepare
from squeeze.training.trunk import Checkpoints

PART = Training(
    text=Calibration(samples=96, length=128),
    batch=256,
    steps=10,
    warmup=2,
    decay=0.3,
    validate_every=4,
    learning_rate=1e-3,
)


def train(
    tiny: Path, talk: Path, part: Training, state: Path | None, **more: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Notes and trained weights of the tiny model, taught by itself before it is disturbed."""
    student = models.load(tiny, part)
    torch.manual_seed(1)
    with torch.no_grad():
        for value in student.parameters.values():
            value += 0.02 * torch.randn_like(value)
    teacher = Live(models.load_frozen(tiny), precision=student.precision)
    learner = Learner(student.model, student.parameters, teacher, precision=student.precision)
    text = prepare(tiny, part.text, str(talk))
    notes = loop.fit(learner, part, text, stage="distill", key="tiny", state=state, **more)
    return notes, {name: value.detach().clone() for name, value in student.parameters.items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def part(**changes: Any) -> Training:
    return PART.model_copy(update=changes)


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)


@pytest.fixture(scope="module")
def straight(
    tiny: Path, talk: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A training without interruption and without any state."""
    return train(tiny, talk, PART, None)


def checkpoints(state: Path) -> list[Path]:
    """By step, the oldest first."""
    found = [path for path in state.glob("*/*-*") if not path.name.startswith(".")]
    return sorted(found, key=lambda path: path.name.rsplit("-", 1)[1])


def steps_done(state: Path) -> int:
    return max((int(path.name.rsplit("-", 1)[1]) for path in checkpoints(state)), default=0)


class Aside(Checkpoints):
    """As a training on a GPU has them."""

    def __init__(self, folder: Path, aside: bool) -> None:
        super().__init__(folder, aside=True)


def _child(tiny: Path, talk: Path, state: Path, kind: type[Checkpoints]) -> None:
    loop.CHECKPOINT_S = 0.0
    loop.Checkpoints = kind  # type: ignore[misc]
    os.environ["OMP_NUM_THREADS"] = "1"
    train(tiny, talk, PART, state)


@pytest.mark.parametrize(("kind", "most"), [(Checkpoints, 9), (Aside, 6)])
def test_a_training_that_is_killed_at_any_step_ends_with_the_weights_of_one_that_was_not(
    tiny: Path,
    talk: Path,
    tmp_path: Path,
    straight: Any,
    kind: type[Checkpoints],
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(tiny, talk, tmp_path, kind))
    child.start()
    wanted = random.randint(1, most)
    deadline = time.monotonic() + 120
    while child.is_alive() and time.monotonic() < deadline and steps_done(tmp_path) < wanted:
        time.sleep(0.005)
    assert child.pid is not None and child.is_alive()
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    reached = steps_done(tmp_path)
    assert reached >= wanted
    monkeypatch.setattr(loop, "Checkpoints", kind)
    notes, weights = train(tiny, talk, PART, tmp_path)
    assert notes["resumed_from"] == reached
    assert same(weights, straight[1])
    assert notes["validation_last"] == straight[0]["validation_last"]
    assert notes["loss_first"] == straight[0]["loss_first"]
    assert not list(tmp_path.glob("*/.*partial*"))


def test_training_lowers_the_loss(straight: Any) -> None:
    notes = straight[0]
    assert notes["steps"] == 10 and notes["resumed_from"] is None and not notes["stopped_early"]
    assert notes["validation_last"] < notes["validation_first"]
    assert 0 < notes["supervised"] < notes["tokens"]


def test_a_longer_training_goes_on_from_a_shorter_one_and_ends_as_if_it_had_not(
    tiny: Path, talk: Path, tmp_path: Path
) -> None:
    train(tiny, talk, part(steps=6), tmp_path)
    notes, extended = train(tiny, talk, PART, tmp_path)
    assert notes["resumed_from"] == plan(part(steps=6), 1, 128).branch == 4
    _, straight = train(tiny, talk, PART, None)
    assert same(extended, straight)


def test_a_shorter_training_does_not_go_on_from_beyond_its_branch(
    tiny: Path, talk: Path, tmp_path: Path
) -> None:
    train(tiny, talk, PART, tmp_path)
    assert [path.name for path in checkpoints(tmp_path)][-1] == "branch-00000007"
    notes, short = train(tiny, talk, part(steps=6), tmp_path)
    assert notes["resumed_from"] is None  # trunk checkpoints that early are gone
    assert same(short, train(tiny, talk, part(steps=6), None)[1])


def test_a_damaged_checkpoint_is_not_used_but_the_one_before_it(
    tiny: Path, talk: Path, tmp_path: Path, straight: Any
) -> None:
    train(tiny, talk, PART, tmp_path)
    newest, before = checkpoints(tmp_path)[-1], checkpoints(tmp_path)[-3]
    assert before.name == "trunk-00000006"
    path = newest / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    (checkpoints(tmp_path)[-2] / "complete.json").unlink()  # as if killed before the end
    notes, weights = train(tiny, talk, PART, tmp_path)
    assert notes["resumed_from"] == 6
    assert same(weights, straight[1])


def test_another_learning_rate_or_text_shares_no_trunk(tiny: Path, talk: Path, tmp_path: Path) -> None:
    train(tiny, talk, part(steps=3), tmp_path)
    for other in (part(steps=3, learning_rate=2e-3), part(steps=3, text=Calibration(samples=80, length=128))):
        notes, _ = train(tiny, talk, other, tmp_path)
        assert notes["resumed_from"] is None


def test_when_the_loss_kept_apart_stalls_the_rate_falls_at_once(
    tiny: Path, talk: Path, tmp_path: Path
) -> None:
    # A rate so low that no weight changes by enough: no look is better than the first.
    idle = part(steps=40, learning_rate=1e-30, validate_every=2, patience=2)
    notes, weights = train(tiny, talk, idle, tmp_path)
    assert notes["stopped_early"]
    assert notes["steps"] == 4 + 2  # two looks without a fall, then 0.3 of all steps
    longer, same_weights = train(tiny, talk, idle.model_copy(update={"steps": 80}), tmp_path)
    assert longer["resumed_from"] == 4 and longer["steps"] == 6
    assert same(weights, same_weights)


def test_a_rising_loss_ends_the_candidate_as_diverged(tiny: Path, talk: Path) -> None:
    with pytest.raises(CandidateError, match="must not diverge") as caught:
        train(tiny, talk, part(steps=40, learning_rate=0.9, warmup=0, validate_every=2), None)
    assert (caught.value.kind, caught.value.stage) == ("diverged", "distill")


def test_a_loss_that_is_no_number_ends_the_candidate_as_diverged(tiny: Path, talk: Path) -> None:
    student = models.load(tiny, PART)
    with torch.no_grad():
        student.model.model.norm.weight[0] = float("nan")
    text = prepare(tiny, PART.text, str(talk))
    with pytest.raises(CandidateError, match="nan") as caught:
        loop.fit(Learner(student.model, student.parameters), PART, text, stage="finetune", key="x")
    assert (caught.value.kind, caught.value.stage) == ("diverged", "finetune")


def test_a_checkpoint_that_is_being_written_is_finished_before_the_lock_is_free(
    tiny: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[str] = []
    write = checkpoint.write

    def slow(folder: Path, *values: Any) -> None:
        time.sleep(0.5)
        write(folder, *values)
        writes.append(folder.name)

    monkeypatch.setattr(checkpoint, "write", slow)
    monkeypatch.setattr(loop, "Checkpoints", Aside)
    steep = part(steps=40, learning_rate=0.9, warmup=0, validate_every=2)
    with pytest.raises(CandidateError, match="must not diverge"):
        train(tiny, talk, steep, tmp_path)
    assert writes and not list(tmp_path.glob("*/.*partial*"))
    assert [path.name for path in checkpoints(tmp_path)] == writes[-2:]


def test_gradients_do_not_depend_on_how_many_cores_there_are(
    tiny: Path, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from squeeze.training import crew

    monkeypatch.setattr(crew, "_TOKENS", 128)
    text: Text = prepare(tiny, PART.text, str(talk))
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        student = models.load(tiny, PART)
        one = crew.Crew(Learner(student.model, student.parameters, precision=student.precision))
        value = one.gradients(packed.batches(text.train, range(4), one.tokens, "cpu"))
        one.close()
        found.append((value, {name: p.grad.clone() for name, p in student.parameters.items()}))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])


def test_while_a_training_runs_nobody_else_gets_the_lock_of_its_state(
    tiny: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def try_lock() -> bool:
        with next(tmp_path.glob("*/.lock")).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    got: list[bool] = []
    monkeypatch.setattr(loop, "_TELL_S", -1.0)
    train(tiny, talk, part(steps=3), tmp_path, tell=lambda _: got.append(try_lock()))
    assert got == [False] * 3
    assert try_lock()


def test_the_trunk_of_the_schedule_is_the_same_for_any_number_of_steps() -> None:
    short, long = plan(part(steps=10), 1, 128), plan(part(steps=100), 1, 128)
    assert (short.branch, long.branch) == (7, 70)
    rates = [[one.learning_rate(step, PART) for step in range(one.steps)] for one in (short, long)]
    assert rates[0][:7] == rates[1][:7]
    assert rates[0][0] < rates[0][1] < rates[0][2] == PART.learning_rate
    assert rates[0][6] > rates[0][7] > rates[0][8] > rates[0][9] > 0


def test_epochs_and_rows_give_the_steps() -> None:
    assert plan(part(steps=None, epochs=3), 20, 128) == Schedule(30, 21)
    assert cut_short(Schedule(100, 70), 14, PART) == Schedule(20, 14)
    assert cut_short(Schedule(100, 70), 69, PART) == Schedule(99, 69)


def test_looks_stall_when_the_last_ones_are_no_better_than_the_best_before() -> None:
    assert not stalled([3.0, 2.0, 2.5], 2)
    assert stalled([3.0, 2.0, 2.5, 2.0], 2)
    assert not stalled([3.0, 2.0, 2.5, 1.9], 2)
    assert not stalled([3.0], 1)
