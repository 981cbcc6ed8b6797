"""The search's own loop with a recorded table in the place of builds and engines: what is left is timed."""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any, cast
from unittest import mock

from search import run
from search.draws import Draw
from search.progress import Progress
from search.pruning import RUNGS
from search.records import save_trial
from search.settle import Past
from search.simulation import replay
from search.speeds import Shape, Speeds
from search.storage import default_storage
from search.study import add_to_mirror, open_study, this_worker
from search.table import Row, Table
from search.trial import Plan
from search.workers import CONFIG, Reaper
from spaces import recover
from squeeze.bench.measure import Bench
from squeeze.cache import Cache
from squeeze.config import CompressionConfig
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.errors import CandidateError
from squeeze.folder import Manifest, file_hash, publish, write_manifest
from squeeze.records import Artifact, Estimate, Measurement, Score

STUDY = "replay"
STEPS = (100, 500, 1000, 2000, 5000, 10_000)
WINDOW = 100
"""The overhead at a count of trials is the mean over so many that end there."""


class Recorded:
    """A table that builds, measures and scores: every configuration is what the row nearest to it was.

    seconds: that it took of the loop's time for that, s.
    """

    def __init__(self, table: Table) -> None:
        self.target = table.made_for()
        self.seconds = 0.0
        self._rows = {row.key: row for row in table.rows}
        self._built = self.nearest(CompressionConfig())
        self.baseline = self._said(self._built, "repeats")

    def nearest(self, config: CompressionConfig) -> Row:
        """The row whose layers, width, epochs and kind of scheme differ least."""
        decoder = self.target.decoder
        shape = Shape.of(config, decoder)
        epochs = config.distill.epochs if config.distill else 0

        def distance(row: Row) -> float:
            found = row.params
            return float(
                abs(found["layers"] - shape.layers) / decoder.layers
                + abs(found.get("width", decoder.width) - shape.width) / decoder.width
                + abs(found.get("kd_epochs", 0) - epochs) / 8
                + ((found["scheme"] or "")[:2] != (shape.scheme or "")[:2])
            )

        return min(self._rows.values(), key=distance)

    def build(self, config: CompressionConfig, base: Path, out: Path, data: str, **_: Any) -> Artifact:
        """A folder with a manifest, in the place of ``build_in_child``, or the failure that was recorded."""
        began = time.perf_counter()
        try:
            self._built = self.nearest(config)
            if self._built.score is None:
                raise CandidateError("as recorded", stage="load", kind="load")
            with publish(out) as folder:
                (folder / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
                files = {"config.json": file_hash(folder / "config.json")}
                write_manifest(
                    folder, Manifest(files=files, config=config, base="recorded", data=data, versions={})
                )
            return Artifact(
                path=out,
                key=config.key,
                config=config,
                layers=1,
                width=1,
                size_bytes=1,
                seconds={"copy": 0.0},
            )
        finally:
            self.seconds += time.perf_counter() - began

    def probe(self, model: Path, **_: Any) -> Measurement:
        """As ``Bench.probe``."""
        return self._said(self._built, "speed")

    def measure(self, model: Path, **_: Any) -> Iterator[Measurement]:
        """As ``Bench.measure``: the rungs that were recorded."""
        for rung in RUNGS[1:]:
            if rung in self._built.bounds:
                yield self._said(self._built, rung)
        yield self._said(self._built, "repeats")

    def optimistic(self, measurement: Measurement, baseline: Measurement, ceiling: float = inf) -> float:
        """As an objective's."""
        return self._rows[measurement.model].bounds[measurement.rung]

    def estimate(self, measurement: Measurement, baseline: Measurement) -> Estimate:
        """As an objective's."""
        said = self._rows[measurement.model].estimates
        return said.get(measurement.rung) or list(said.values())[-1]  # not every table has one of the end

    def score(self, measurement: Measurement, baseline: Measurement) -> Score:
        """As an objective's."""
        row = self._rows[measurement.model]
        named = {name: getattr(row, name) for name in ("low", "high", "perf_norm", "speed_norm")}
        return Score(value=row.score, **named)

    @staticmethod
    def _said(row: Row, rung: str) -> Measurement:
        return Measurement(
            model=row.key,
            workload="recorded",
            engine={},
            complete=rung == "repeats",
            rung=rung,
            questions={},
            passes=(),
        )


class Replayed:
    """A search of the space ``recover`` on a table, in the current folder, with a real study in SQLite."""

    def __init__(self, table: Table, sampler: str = "tpe") -> None:
        self._recorded = recorded = Recorded(table)
        self._sampler = sampler
        identity = dict.fromkeys(
            ("model_key", "model", "workload", "space", "objective", "schemes"), "recorded"
        )
        self.study, self.mirror = open_study(STUDY, default_storage(STUDY), identity)
        self.past = Past.load(self.study, self.mirror)
        decoder = recorded.target.decoder
        self._plan = Plan(
            study=STUDY,
            base=MODEL_DIR,
            data=str(DATA_DIR),
            cache=Cache(Path("cache")),
            space=recover,
            objective=recorded,
            target=recorded.target,
            baseline=recorded.baseline,
            baseline_key="recorded",
            speeds=Speeds.load(STUDY, "recorded", recorded.baseline, decoder),
            audit=0.07,
        )

    def run_to(self, trials: int) -> float:
        """Go on until so many trials are finished. Returns the seconds that took, less the table's own."""
        options = argparse.Namespace(trials=trials, sampler=self._sampler, seed=42, cache_gib=20)
        progress = Progress(STUDY, trials, len(self.past.records), None)
        progress.console.quiet = True
        before = self._recorded.seconds
        began = time.perf_counter()
        with mock.patch("search.trial.build_in_child", self._recorded.build):
            run._loop(
                options,
                float("inf"),
                self.study,
                self.mirror,
                self.past,
                Reaper(self.study, this_worker(STUDY)),
                self._plan,
                cast(Bench, self._recorded),
                progress,
            )
        return time.perf_counter() - began - (self._recorded.seconds - before)

    def fill_to(self, trials: int) -> None:
        """Add copies of what was replayed, of configurations drawn anew, until so many are finished."""
        target, chance = self._recorded.target, random.Random(42)
        records = {record.number: record for record in self.past.records}
        past = [trial for trial in self.study.get_trials() if trial.number in records]
        number = len(self.study.get_trials(deepcopy=False))
        for count in range(len(past), trials):
            copied = past[count % len(past)]
            draw = Draw(chance, {})
            config = draw.config(recover, target)
            copied.params, copied.distributions = draw.params, draw.distributions
            copied.user_attrs[CONFIG] = config.key
            self.study.add_trial(copied)
            changes = {"number": number, "params": draw.params, "config": config}
            record = records[copied.number].model_copy(update=changes)
            save_trial(STUDY, record)
            self.past.add(record)
            add_to_mirror(self.mirror, record, copied, self.past.mirrored)
            number += 1


def wrong_prunes(table: Table, seeds: int) -> tuple[int, int]:
    """Prunes of so many searches of 40 trials on the table, and how many of those were wrong."""
    found = [replay(table, "ours", 40, seed) for seed in range(seeds)]
    return sum(one.pruned for one in found), sum(one.wrong for one in found)


def overheads(
    table: Table, trials: int, sampler: str, tell: Callable[[str], None], *, fill: bool = False
) -> dict[str, float]:
    """Trials of the study -> seconds of overhead that one more costs, up to ``trials``.

    fill: replay only the trials that are timed; those between are copies, see ``Replayed.fill_to``.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="replay-") as folder, contextlib.chdir(folder):
        search = Replayed(table, sampler)
        for count in sorted({*(step for step in STEPS if step < trials), trials}):
            (search.fill_to if fill and found else search.run_to)(max(0, count - WINDOW))
            found[str(count)] = search.run_to(count) / min(count, WINDOW)
            tell(f"{count} trials replayed: {found[str(count)] * 1e3:.0f} ms of overhead a trial")
    return found
