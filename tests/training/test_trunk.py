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


def test_a_checkpoint_has_the_values_of_its_step_though_training_goes_on_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    monkeypatch.setattr(checkpoint, "write", held)
    kept = Checkpoints(tmp_path)
    value = torch.ones(4)
    kept.save({"parameter:w": value}, facts(3))
    assert held.begun.wait(30)
    assert not list(tmp_path.iterdir())  # nothing is written yet, and the training has the word again
    value += 1
    kept.settle(wait=False)
    held.go.set()
    kept.settle()
    assert kept.writing_s > 0
    saved = next(kept.newest(Schedule(9, 7)))
    assert saved.facts["step"] == 3
    assert torch.equal(saved.tensors["parameter:w"], torch.ones(4))
    kept.close()


def test_one_is_written_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    monkeypatch.setattr(checkpoint, "write", held)
    kept = Checkpoints(tmp_path)
    kept.save({"w": torch.ones(1)}, facts(1))
    second = threading.Thread(target=kept.save, args=({"w": torch.ones(1)}, facts(2)))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    held.go.set()
    second.join(30)
    kept.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trunk-00000001", "trunk-00000002"]


def test_what_could_not_be_written_is_told_at_the_next_step_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    kept = Checkpoints(tmp_path)
    for told in (kept.settle, lambda: kept.save({}, facts(2)), lambda: kept.forget_decay(9)):
        kept.save({"w": torch.ones(1)}, facts(1))
        with pytest.raises(OSError, match="No space left"):
            told()
    kept.close()
