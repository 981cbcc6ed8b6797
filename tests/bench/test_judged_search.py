"""A search whose judge goes away: it stops, mixes nothing, and goes on once the judge is back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from judge_server import KEY, RATED, VERDICT, Server, fault, said

from search.records import load_trials

pytestmark = pytest.mark.engine

WORKLOAD = """
questions: {kmmlu_redux: 8, komt_bench: 4}
max_tokens: 24
repeats: 2
probe: 2
divergence: null
start_deadline_s: 600
part_deadline_s: 600
engine: {max_model_len: 2048, kv_cache_gib: 1}
"""


def test_a_search_stops_when_its_judge_goes_away_and_goes_on_when_it_is_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text(WORKLOAD)
    command = [sys.executable, "-m", "search.run", "--trials", "2", "--space", "prune_quantize"]
    command += ["--workload", "quick.yaml", "--finalists", "0", "--audit", "1"]
    command += ["--judge-url", server.url, "--judge-model", "fair"]

    def run() -> tuple[int, str]:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        return ended.returncode, ended.stderr

    server.replies = [said(VERDICT)] * 2  # half of the baseline's
    server.answer = lambda asked: fault(403, f"{KEY} has no more credit")
    code, told = run()
    assert code == 3, told
    assert "the judge that was asked for must rate the baseline's answers; every conversation" in told
    assert load_trials("demo") == []

    rated = len(list(Path("studies/.ratings").rglob("*.json")))  # one may have been under way
    assert rated <= 2
    server.replies = [said(VERDICT)] * (4 - rated)
    code, told = run()
    assert code == 3, told
    last = told.splitlines()[-1]
    assert last.startswith("error: 3 trials in a row failed for reasons of the machine, the last: judge in")
    # Some answers may be the baseline's, and are rated already.
    assert re.search(r"every conversation must be rated; [1-4] of 4 are not: the key's quota or rights", last)
    records = load_trials("demo")
    assert [(record.failure, record.score) for record in records] == [("judge", None)] * 3
    assert records[0].config == records[1].config != records[2].config  # tried twice, then another

    server.answer = lambda asked: said(VERDICT)
    code, told = run()
    assert code == 0, told
    complete = [record for record in load_trials("demo") if record.state == "complete"]
    # No candidate is lost to the outage: the one that was held back has its turn when another has been rated.
    assert [record.config for record in complete] == [records[2].config, records[0].config]
    for score in (record.score for record in complete):
        assert score is not None
        assert score.parts["accuracy_komt_bench"] == pytest.approx(RATED.score)
        assert score.left_out == {}

    # Another judge is another workload.
    command[-1] = "kind"
    code, told = run()
    assert code == 2
    assert "a study keeps its workload" in told
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
