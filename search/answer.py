"""One question to a model in real vLLM, in a child: what check and doctor call "it answers"."""

from __future__ import annotations

import json
import os
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

from squeeze.errors import SetupError

LONGEST = 2048
"""Tokens of context: enough for the question, and cheap to reserve."""

START_S = 900
ANSWER_S = 300

# Two, because a workload has two or more; only the first is asked.
_QUESTIONS = [
    {"question": question, "options": ["하나", "둘", "셋", "넷"], "solution": str(solution)}
    for solution, question in enumerate(("다음 중 하나를 뜻하는 것은?", "다음 중 둘을 뜻하는 것은?"), start=1)
]


def one_answer(path: Path, tokens: int = 16) -> tuple[str, float]:
    """The answer of a model folder, or of the model in a checked submission; and the seconds it all took.

    tokens: the most tokens it may have. Raises CandidateError when the model does not load or answer,
    SetupError without vLLM or room to unpack. The child's log is kept only when something went wrong.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="squeeze-") as name:
        folder = _model_folder(path, Path(name))
        answer = _ask(folder, Path(name), tokens)
    return answer, time.monotonic() - began


def _model_folder(path: Path, place: Path) -> Path:
    """The folder with config.json: as it is, inside ``model/``, or unpacked into ``place``."""
    if path.is_dir():
        return path if (path / "config.json").exists() else path / "model"
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(place)
    except OSError as error:
        raise SetupError(
            f"checking needs room to unpack {path} in {place.parent}; {error.strerror}; set TMPDIR"
        ) from error
    return place / "model"


def _ask(folder: Path, place: Path, tokens: int) -> str:
    from squeeze.bench.engine import Engine, Generate, Start
    from squeeze.bench.workload import EngineArguments, Workload
    from squeeze.child import PRELOADED, Child, preload
    from squeeze.decoder import read_config

    lines = [json.dumps(question, ensure_ascii=False) for question in _QUESTIONS]
    (place / "kmmlu_redux.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    longest = min(LONGEST, int(read_config(folder).get("max_position_embeddings", LONGEST)))
    workload = Workload(
        name="check",
        data=str(place),
        questions={"kmmlu_redux": 2},
        max_tokens=tokens,
        engine=EngineArguments(max_model_len=longest, kv_cache_gib=1),
    )
    preload([name for name in PRELOADED if name != "llmcompressor"])
    descriptor, log = tempfile.mkstemp(prefix="squeeze-", suffix=".log")
    os.close(descriptor)
    make = partial(Engine, str(folder.absolute()), workload)
    with Child(make, stage="engine", log=Path(log)) as child:
        child.call(Start(), deadline_s=START_S)
        questions, _ = child.call(Generate("kmmlu_redux", 0, 1), deadline_s=ANSWER_S)
    Path(log).unlink()
    return str(questions[0].answers[0])
