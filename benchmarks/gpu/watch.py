"""The GPU and the host, watched while something runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

FIELDS = "timestamp,utilization.gpu,memory.used,clocks.sm,clocks.mem,temperature.gpu,power.draw"
THROTTLE = "clocks_event_reasons.active"


class Watch:
    """What nvidia-smi and /proc say while a block runs, every 0.2 s; nothing where there is no GPU.

    held: share of the samples with more than 1 GiB in use. busy: share of the samples' time in which some
    kernel ran, 0–1 (``utilization.gpu`` is NVML's own mean over the last sixth of a second to a second).
    gpu_gib: most memory in use. host_gib: most private memory that the processes below this one had resident
    together. clocks: SM MHz, least, median, most. reasons: bit masks of NVML's clock event reasons that were
    seen.
    """

    def __init__(self) -> None:
        self.busy: float | None = None
        self.held: float | None = None
        self.gpu_gib: float | None = None
        self.host_gib = 0.0
        self.clocks: tuple[int, int, int] | None = None
        self.hottest_c: int | None = None
        self.reasons: tuple[str, ...] = ()

    def __enter__(self) -> Watch:
        self._ends = threading.Event()
        self._lines: list[str] = []
        self._samples: list[tuple[float, float]] = []
        self._smi: subprocess.Popen[str] | None = None
        if shutil.which("nvidia-smi"):
            asked = f"--query-gpu={FIELDS},{THROTTLE}"
            self._smi = subprocess.Popen(
                ["nvidia-smi", asked, "--format=csv,noheader,nounits", "-lms", "200", *_chosen()],
                stdout=subprocess.PIPE,
                text=True,
            )
            self._heard = threading.Thread(target=self._read, daemon=True)
            self._heard.start()
        self._host = threading.Thread(target=self._look, daemon=True)
        self._host.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._host.join()
        if self._smi is not None:
            self._smi.terminate()
            self._heard.join()
            self._smi.wait()
        rows = [[cell.strip() for cell in line.split(",")] for line in self._lines]
        rows = [row for row in rows if len(row) == 8 and row[1].isdigit()]
        self._samples = [(_unix(row[0]), int(row[1]) / 100) for row in rows]
        if rows:
            self.busy = round(sum(int(row[1]) for row in rows) / len(rows) / 100, 4)
            self.held = round(sum(int(row[2]) > 1024 for row in rows) / len(rows), 4)
            self.gpu_gib = round(max(int(row[2]) for row in rows) / 1024, 2)
            clocks = sorted(int(row[3]) for row in rows)
            self.clocks = (clocks[0], clocks[len(clocks) // 2], clocks[-1])
            self.hottest_c = max(int(row[5]) for row in rows)
            self.reasons = tuple(sorted({row[7] for row in rows}))

    def busy_within(self, stretches: Sequence[tuple[float, float]]) -> float | None:
        """Mean of the samples taken within these stretches of Unix time; None without any."""
        found = [busy for at, busy in self._samples if any(begin <= at <= end for begin, end in stretches)]
        return round(sum(found) / len(found), 4) if found else None

    def save(self, path: Path) -> None:
        """Write Unix time and utilization (0–1) of each sample, a line each."""
        path.write_text("".join(f"{at:.2f},{busy:.2f}\n" for at, busy in self._samples))

    def _read(self) -> None:
        assert self._smi is not None and self._smi.stdout is not None
        for line in self._smi.stdout:
            self._lines.append(line)

    def _look(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._ends.wait(0.2):
            resident = 0
            for pid in _below(os.getpid()):
                try:
                    statm = Path(f"/proc/{pid}/statm").read_text().split()
                except OSError:
                    continue
                resident += (int(statm[1]) - int(statm[2])) * page  # without what is of files and shared
            self.host_gib = max(self.host_gib, round(resident / 2**30, 2))

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "gpu_busy": self.busy,
            "gpu_held": self.held,
            "gpu_gib": self.gpu_gib,
            "host_gib": self.host_gib,
            "sm_mhz": self.clocks,
            "hottest_c": self.hottest_c,
            "clock_event_reasons": self.reasons,
        }


def _unix(told: str) -> float:
    """Unix time of nvidia-smi's, which is local."""
    return datetime.strptime(told, "%Y/%m/%d %H:%M:%S.%f").timestamp()


def _chosen() -> list[str]:
    """Which GPU nvidia-smi is to watch: the one that CUDA shows first."""
    return ["--id=" + (os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0")]


def _below(pid: int) -> list[int]:
    """The processes below one, itself left out."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found
