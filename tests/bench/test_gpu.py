"""Waiting for a GPU, with what NVML would say told by the test."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from squeeze.bench.gpu import (
    PATIENCE_S,
    POLL_S,
    Reading,
    User,
    await_room,
    read_nvml,
    refuse_newcomers,
    users,
)
from squeeze.errors import SetupError
from squeeze.server import ENVIRONMENT

GIB = 2**30
FREE = Reading("NVIDIA L4", 22 * GIB, 23 * GIB, ())
DYING = Reading("NVIDIA L4", 3 * GIB, 23 * GIB, ())
TAKEN = Reading("NVIDIA L4", 12 * GIB, 23 * GIB, (User(4711, "python3", 10 * GIB),))
DESKTOP = Reading("NVIDIA L4", 22 * GIB, 23 * GIB, (User(12, "Xwayland", 100 << 20),))


def waited(*readings: Reading | None) -> float:
    """Seconds until the GPU was taken for free; the last reading stays."""
    left, slept = list(readings), [0.0]

    def read() -> Reading | None:
        return left.pop(0) if len(left) > 1 else left[0]

    await_room(0.85, read=read, sleep=lambda seconds: slept.append(seconds))
    return sum(slept)


@pytest.mark.parametrize("reading", [FREE, DESKTOP, None])
def test_a_gpu_that_is_free_or_cannot_be_asked_is_not_waited_for(reading: Reading | None) -> None:
    assert waited(reading) == 0


def test_memory_that_comes_back_is_waited_for() -> None:
    assert waited(DYING, DYING, DYING, FREE) == 3 * POLL_S
    assert waited(TAKEN, TAKEN, FREE) == 2 * POLL_S


@pytest.mark.parametrize(
    ("reading", "who"),
    [
        (TAKEN, r"NVIDIA L4 is used by pid 4711 \(python3, 10.0 GiB\)"),
        (DYING, "somebody whom the driver does not name, with 20.0 GiB of 23.0 GiB"),
        (Reading("L4", 22 * GIB, 23 * GIB, (User(7, "python", None),)), r"pid 7 \(python\)"),
    ],
)
def test_a_gpu_that_somebody_uses_is_refused_with_their_name(reading: Reading, who: str) -> None:
    with pytest.raises(SetupError, match=who) as caught:
        waited(reading)
    assert "CUDA_VISIBLE_DEVICES" in str(caught.value)


def test_somebody_who_begins_while_a_model_is_timed_is_refused_with_their_name() -> None:
    engines = User(1, "python", 10 * GIB), User(2, "python", 10 * GIB)
    desktop = User(12, "Xwayland", 100 << 20)

    def seen(*found: User) -> Reading:
        return Reading("NVIDIA L4", 0, 23 * GIB, found)

    before = users(lambda: seen(*engines, desktop))
    assert before == engines
    refuse_newcomers(before, lambda: seen(*engines, desktop, User(13, "Xorg", 90 << 20)))
    refuse_newcomers(before, lambda: seen(engines[0], User(3, "python", 10 * GIB)))  # one started anew
    refuse_newcomers(before, lambda: None)
    with pytest.raises(SetupError, match=r"^a GPU must be .* pid 4711 \(train, 30.0 GiB\) began"):
        refuse_newcomers(before, lambda: seen(*engines, User(4711, "train", 30 * GIB)))
    assert users(lambda: None) is None


def test_patience_ends() -> None:
    slept: list[float] = []
    with pytest.raises(SetupError):
        await_room(0.85, read=lambda: TAKEN, sleep=slept.append)
    assert sum(slept) == PATIENCE_S


class Driver(ModuleType):
    """NVML of a driver: as many GPUs, the first of which others fill; mig: its mode, None where unknown."""

    class NVMLError(Exception):
        pass

    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, gpus: int = 1, mig: int | None = 0) -> None:
        super().__init__("pynvml")
        self.gpus, self.mig = gpus, mig

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMigMode(self, device: int) -> list[int]:
        if self.mig is None:
            raise self.NVMLError("Not Supported")
        return [self.mig, 0]

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(free=(22 if device else 3) * GIB, total=23 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[SimpleNamespace]:
        return []

    def nvmlDeviceGetName(self, device: int) -> bytes:
        return b"NVIDIA L4"


@pytest.mark.parametrize(
    ("driver", "environment", "reading"),
    [
        (Driver(), {}, DYING),
        (Driver(mig=None), {}, DYING),
        (Driver(mig=1), {}, None),  # the memory that it tells is the whole GPU's, not the slice's
        (Driver(gpus=2), {"CUDA_VISIBLE_DEVICES": "1"}, FREE),
        (Driver(gpus=2), {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, None),
        (Driver(gpus=2), {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, FREE),
        (Driver(), {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, DYING),
    ],
)
def test_the_gpu_that_is_asked_is_the_one_that_cuda_shows_first(
    driver: Driver, environment: dict[str, str], reading: Reading | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert read_nvml() == reading


def test_children_count_gpus_as_nvml_does() -> None:
    assert ENVIRONMENT["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_machine_without_nvml_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-of-no-gpu")
    assert read_nvml() is None
    await_room(0.85)
