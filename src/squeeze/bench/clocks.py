"""How fast the GPU's clock ran while something was timed, and what slowed it: asked of NVML in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

from squeeze.bench import gpu
from squeeze.records import Clocks

EVERY_S = 0.25
"""Between two samples; one takes well under a millisecond, in the parent, not in the engine."""

MISSES = 8
"""So many looks one after the other that told nothing are the last."""

REASONS = {
    0x04: "power_cap",
    0x08: "hardware",
    0x20: "heat",
    0x40: "hardware_heat",
    0x80: "power_brake",
}
"""Bits of NVML's clock event reasons that slow a GPU down (nvml.h, nvmlClocksEventReason…)."""


@dataclass(frozen=True)
class Sample:
    """One look. busy: share of the last moment in which a kernel ran, 0–1. reasons: NVML's bit mask."""

    sm_mhz: int
    celsius: int
    watts: float
    busy: float
    reasons: int


class Meter:
    """Samples the GPU from its making until ``close``; tells nothing where NVML cannot be asked."""

    def __init__(self, look: Callable[[], Sample | None] | None = None, every_s: float = EVERY_S) -> None:
        self._look = look or look_nvml
        self._every_s = every_s
        self._samples: list[Sample] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="clocks", daemon=True)
        self._thread.start()

    @property
    def clocks(self) -> Clocks | None:
        """What was seen so far; None before the first sample."""
        seen = list(self._samples)
        if not seen:
            return None
        speeds = [one.sm_mhz for one in seen]
        return Clocks(
            samples=len(seen),
            sm_mhz=(min(speeds), round(median(speeds)), max(speeds)),
            celsius=max(one.celsius for one in seen),
            watts=round(median(one.watts for one in seen), 1),
            busy=round(fmean(one.busy for one in seen), 3),
            slowed={
                name: round(share, 3)
                for bit, name in REASONS.items()
                if (share := fmean(bool(one.reasons & bit) for one in seen))
            },
        )

    def close(self) -> None:
        """Look no more."""
        self._ends.set()
        self._thread.join(5)  # a GPU that is gone can keep NVML waiting for ever

    def _watch(self) -> None:
        misses = 0
        while misses < MISSES:
            sample = self._look()
            misses = misses + 1 if sample is None else 0
            if sample is not None:
                self._samples.append(sample)
            if self._ends.wait(self._every_s):
                return


def look_nvml() -> Sample | None:
    """The GPU that engines use, now; None where NVML does not tell."""
    if (device := gpu.device()) is None:
        return None
    import pynvml

    try:
        return Sample(
            sm_mhz=pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM),
            celsius=pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU),
            watts=pynvml.nvmlDeviceGetPowerUsage(device) / 1000,
            busy=pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100,
            reasons=_reasons(device),
        )
    except pynvml.NVMLError:
        return None


def _reasons(device: object) -> int:
    """NVML 12.x renamed them; drivers and bindings of before know the old name only."""
    import pynvml

    if (now := getattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", None)) is not None:
        with contextlib.suppress(pynvml.NVMLError):
            return int(now(device))
    return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device))
