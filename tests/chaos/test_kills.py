"""The whole process tree of a search is killed at random moments of every stage: nothing finished is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest
import searches
from optuna.trial import TrialState
from searches import LONG, STUDY

from search import check, export
from search.records import load_measurement, load_trials, read_measurement
from squeeze.errors import RETRIED
from squeeze.folder import verify_manifest
from squeeze.rules import rules

pytestmark = pytest.mark.engine

SEED = 21
TRIALS, KILLS = (6, 20) if LONG else (2, 3)
BEFORE = ("start", "baseline", "depth", "width") if LONG else ()
"""Before the first trial, and in stages that later trials find in the cache within milliseconds."""

WITHIN = ("distill", "settled", "questions", "quantize", "engine", "divergence")
AFTER = ("again",) if LONG else ()
QUESTIONS = ("kmmlu_redux", "ko_longrag")


def plan(chance: random.Random) -> list[str]:
    """Where to kill: each stage once at least, in an order drawn by chance as far as the stages have none."""
    count = KILLS - len(BEFORE) - len(AFTER)
    within = [*WITHIN, *chance.choices(WITHIN, k=count)][:count]
    chance.shuffle(within)
    return [*BEFORE, *within, *AFTER]


@dataclass
class Seen:
    """What was on the disk when the search was killed: it must be there, unchanged, at the end.

    trials, measurements: file -> hash; a record without the confirmation that it gets later. made: key of a
    stage's output -> its inode, which another making would change.
    """

    trials: dict[str, str] = field(default_factory=dict)
    measurements: dict[str, str] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Seen:
        found = cls()
        folder = Path("studies", STUDY)
        for path in sorted(folder.glob("trials/[0-9]*.json")):
            record = json.loads(path.read_text())
            record.pop("confirmation", None)
            found.trials[path.name] = hashlib.sha256(json.dumps(record).encode()).hexdigest()
            raw = folder / "measurements" / path.name
            if raw.exists():
                found.measurements[path.name] = hashlib.sha256(raw.read_bytes()).hexdigest()
        for manifest in Path("models/.cache/stages").glob("[!.]*/manifest.json"):
            found.made[manifest.parent.name] = manifest.stat().st_ino
        return found

    def lost(self, later: Seen) -> Counter[str]:
        """How much of it is missing later or differs, by kind."""
        kinds: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
            "finished trials": (self.trials, later.trials),
            "measurements": (self.measurements, later.measurements),
            "stages": (self.made, later.made),
        }
        return Counter(
            {
                kind: sum(after.get(name) != one for name, one in before.items())
                for kind, (before, after) in kinds.items()
            }
        )


def reached(stage: str, done: int, process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    """Whether a search is at a stage, of a trial or around them. done: trials that must have a record."""

    def records() -> int:
        return len(list(Path("studies", STUDY, "trials").glob("[0-9]*.json")))

    before = records()

    def now() -> bool:
        doing, at = searches.live(process)
        if stage == "start":
            return True
        if stage == "baseline":
            return doing == "baseline" and bool(at)
        if stage == "again":
            return doing.endswith("again") and bool(at)
        if stage == "settled":
            return records() > max(before, done - 1)
        if not doing.startswith("trial") or records() < done:
            return False
        return at in QUESTIONS if stage == "questions" else at == stage

    return now


def test_a_search_killed_in_every_stage_loses_nothing(workplace: Path) -> None:
    searches.prepare()
    chance = random.Random(SEED)
    stages = plan(chance)
    finalists = ["--finalists", "2" if LONG else "0"]
    snapshots: list[Seen] = []
    killed: Counter[str] = Counter()
    lost: dict[str, Counter[str]] = {}
    for index, stage in enumerate(stages):
        inner = index - len(BEFORE)
        done = inner * TRIALS // (KILLS - len(BEFORE) - len(AFTER)) if stage in WITHIN else 0
        process = searches.start(TRIALS, *finalists)
        try:
            assert searches.wait_for(reached(stage, done, process), process), (
                f"ended before {stage}: {searches.talk()}"
            )
            time.sleep(chance.uniform(0, 8 if stage == "start" else 0.3 if stage == "settled" else 1.5))
        finally:
            processes = searches.kill_tree(process)
        assert processes > 0, (
            f"the search had ended before it was killed at {stage}: {searches.talk()[-2000:]}"
        )
        snapshots.append(Seen.now())
        killed[stage] += 1
        print(
            f"kill {index + 1}: {stage}, {processes} processes, {len(snapshots[-1].trials)} finished",
            flush=True,
        )
    assert searches.run(TRIALS, *finalists) == 0, searches.talk()
    end = Seen.now()
    for stage, snapshot in zip(stages, snapshots, strict=True):
        lost.setdefault(stage, Counter()).update(snapshot.lost(end))
    print(table(killed, lost))
    assert all(not any(counts.values()) for counts in lost.values()), lost
    check_study()
    check_zip()


def check_study() -> None:
    """The study has as many trials as an undisturbed one, none measured twice, all its parts agree."""
    with contextlib.closing(sqlite3.connect(f"studies/{STUDY}.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    storage = f"sqlite:///studies/{STUDY}.db"
    study = optuna.load_study(study_name=STUDY, storage=storage)
    mirror = optuna.load_study(study_name=f"{STUDY}-pareto", storage=storage)
    told = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    records = {record.number: record for record in load_trials(STUDY)}
    ended = [number for number, record in records.items() if record.failure not in RETRIED]
    assert [trial.number for trial in told] == ended
    assert len(told) == TRIALS
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    assert [records[trial.number].state for trial in told] == ["complete"] * TRIALS
    for trial in told:
        score = records[trial.number].score
        assert score is not None
        assert trial.value == score.value
    assert sorted(trial.user_attrs["trial"] for trial in mirror.get_trials()) == ended
    assert len({records[number].config.key for number in ended}) == TRIALS
    passes = []
    for number in ended:
        measurement = load_measurement(STUDY, number)
        assert measurement is not None
        assert measurement.complete
        passes += [timed.started for timed in measurement.passes]
    assert len(set(passes)) == len(passes)
    raw = {path.name for path in Path("studies", STUDY, "measurements").glob("????.json")}
    assert raw == {f"{number:04d}.json" for number in ended}
    baselines = list(Path("studies", STUDY, "baselines").glob("[!.]*"))
    held_out = [True] if LONG else []  # the finalists' other questions have a baseline of their own
    assert [read_measurement(path) is not None for path in baselines] == [True, *held_out]
    kept = [path for path in Path("models", STUDY).iterdir()]
    assert 1 <= len(kept) <= 3
    for folder in kept:
        verify_manifest(folder)


def check_zip() -> None:
    """The best trial's zip keeps every rule; in the long form it answers in the engine too."""
    assert export.main(["--study", STUDY]) == 0
    assert [rule.name for rule in rules(Path("submit.zip")) if not rule.ok] == []
    if LONG:
        assert check.main(["submit.zip"]) == 0


def table(killed: Counter[str], lost: Mapping[str, Counter[str]]) -> str:
    """As docs/reliability.md has it."""
    lines = [
        "| killed in | kills | finished trials lost | measured again | finished stages made again |",
        "|---|---|---|---|---|",
    ]
    for stage, kills in killed.items():
        counts = [str(lost[stage][kind]) for kind in ("finished trials", "measurements", "stages")]
        lines.append(f"| {stage} | {kills} | {' | '.join(counts)} |")
    return "\n".join(lines)
