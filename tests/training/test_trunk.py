"""Checkpoints are written while the training goes on, with the values of the moment they were asked for."""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from squeeze.training import checkpoint
from squeeze.training.schedule import Schedule
from squeeze.training.trunk import Checkpoints


def facts(step: int, kind: str = "trunk") -> dict[str, Any]:
    return {"kind": kind, "step": step, "planned": 9}


class Held:
    """``checkpoint.write`` that waits for ``go`` first."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self._write = checkpoint.write

    def __call__(self, folder: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        self.begun.set()
        assert self.go.wait(30)
        self._write(folder, tensors, facts)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    found = Held()
    monkeypatch.setattr(checkpoint, "write", found)
    return found


def test_a_checkpoint_has_the_values_of_its_step_though_training_goes_on_while_it_is_written(
    tmp_path: Path, held: Held
) -> None:
    kept = Checkpoints(tmp_path, aside=True)
    value = torch.ones(4)
    for step in (3, 5):  # the second in the first one's memory
        held.go.clear()
        held.begun.clear()
        kept.save({"parameter:w": value}, facts(step))
        assert held.begun.wait(30) and kept.busy
        value += 1  # nothing is written yet, and the training has gone on
        held.go.set()
        kept.settle()
        assert kept.writing_s > 0 and not kept.busy
    found = {saved.facts["step"]: saved.tensors["parameter:w"] for saved in kept.newest(Schedule(9, 7))}
    assert {step: tensor.tolist() for step, tensor in found.items()} == {5: [2.0] * 4, 3: [1.0] * 4}
    kept.close()


def test_memory_is_used_again_only_for_tensors_that_are_alike(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, aside=True)
    kept.save({"w": torch.ones(4), "gone": torch.ones(1)}, facts(1))
    kept.save({"w": torch.arange(2, dtype=torch.int32)}, facts(2))
    kept.close()
    saved = next(kept.newest(Schedule(9, 7)))
    assert saved.tensors.keys() == {"w"} and saved.tensors["w"].dtype == torch.int32
    assert saved.tensors["w"].tolist() == [0, 1]


def test_one_is_written_at_a_time(tmp_path: Path, held: Held) -> None:
    kept = Checkpoints(tmp_path, aside=True)
    kept.save({"w": torch.ones(1)}, facts(1))
    second = threading.Thread(target=kept.save, args=({"w": torch.ones(1)}, facts(2)))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    held.go.set()
    second.join(30)
    kept.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trunk-00000001", "trunk-00000002"]


def test_what_could_not_be_written_is_raised_or_where_the_training_is_over_only_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    kept = Checkpoints(tmp_path, aside=True)
    for told in (kept.settle, lambda: kept.save({}, facts(2))):
        kept.save({"w": torch.ones(1)}, facts(1))
        with pytest.raises(OSError, match="No space left"):
            told()
    kept.save({"w": torch.ones(1)}, facts(8, "decay"))
    assert capsys.readouterr().err == ""
    kept.forget_decay(9)
    assert "the last checkpoint was not written: [Errno 28] No space left" in capsys.readouterr().err
    kept.close()
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path).save({"w": torch.ones(1)}, facts(1))
