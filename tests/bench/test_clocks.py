"""The GPU's clocks while something is timed, with what NVML would say told by the test."""

from __future__ import annotations

import sys
import time
from types import ModuleType

import pytest

from squeeze.bench import clocks, gpu
from squeeze.bench.clocks import Meter, Sample
from squeeze.bench.verbosity import slowed
from squeeze.records import Clocks

COOL = Sample(1980, 50, 400.0, 1.0, 0)
CAPPED = Sample(1700, 70, 690.0, 1.0, 0x04)
HOT = Sample(900, 88, 300.0, 0.5, 0x20 | 0x04)
IDLE = Sample(345, 40, 80.0, 0.0, 0x01)


def seen(*samples: Sample | None) -> Clocks | None:
    """What a meter tells that saw these, after which the driver says nothing more."""
    left = list(samples)
    meter = Meter(look=lambda: left.pop(0) if left else None, every_s=0)
    while left:
        time.sleep(0.001)
    meter.close()
    return meter.clocks


def test_the_clocks_are_those_of_all_samples() -> None:
    found = seen(COOL, CAPPED, HOT, IDLE)
    assert found is not None
    assert (found.samples, found.sm_mhz, found.celsius, found.watts) == (4, (345, 1300, 1980), 88, 350.0)
    assert found.busy == 0.625
    assert found.slowed == {"power_cap": 0.5, "heat": 0.25}


def test_a_gpu_that_tells_nothing_has_no_clocks_and_one_that_misses_a_look_does() -> None:
    assert seen(None) is None
    found = seen(COOL, None, None, HOT)
    assert found is not None
    assert found.samples == 2


def test_a_meter_looks_until_it_is_closed() -> None:
    looks: list[float] = []

    def look() -> Sample:
        looks.append(time.monotonic())
        return COOL

    meter = Meter(look=look, every_s=0.001)
    while len(looks) < 5:
        time.sleep(0.001)
    meter.close()
    count = len(looks)
    time.sleep(0.02)
    assert len(looks) == count
    assert meter.clocks is not None
    assert meter.clocks.samples == count


def test_heat_makes_a_speed_doubtful_and_the_power_cap_does_not() -> None:
    assert slowed(None) == ()
    assert slowed(seen(COOL, CAPPED)) == ()
    assert slowed(seen(*[COOL] * 19, HOT)) == ()  # a moment
    assert slowed(seen(COOL, COOL, HOT)) == (
        "the GPU was slowed down in 33% of the time: heat; 900 to 1980 MHz, 88 °C",
    )


class NVMLError(Exception):
    """As the module's."""


@pytest.mark.parametrize(
    "reasons", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_nvml_is_asked_by_the_new_name_and_the_old(monkeypatch: pytest.MonkeyPatch, reasons: str) -> None:
    fake = ModuleType("pynvml")
    answers = {
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1980,
        "nvmlDeviceGetTemperature": lambda handle, kind: 50,
        "nvmlDeviceGetPowerUsage": lambda handle: 400_000,
        "nvmlDeviceGetUtilizationRates": lambda handle: type("Rates", (), {"gpu": 100})(),
        reasons: lambda handle: 0,
    }
    fake.__dict__.update(answers, NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0, NVMLError=NVMLError)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(gpu, "device", lambda: "handle")
    assert clocks.look_nvml() == COOL

    def refuse(*_: object) -> int:
        raise NVMLError

    fake.__dict__["nvmlDeviceGetClockInfo"] = refuse
    assert clocks.look_nvml() is None
