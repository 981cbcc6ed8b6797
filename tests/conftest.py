"""A tiny random EXAONE-4 model and conversations in its language, made once a run; a PostgreSQL server."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = (
    "{% for m in messages %}[|{{ m.role }}|]\n{{ m.content }}[|endofturn|]\n{% endfor %}"
    "{% if add_generation_prompt %}[|assistant|]\n<think>\n\n</think>\n\n{% endif %}"
)
SPECIAL = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"]


def pytest_configure() -> None:
    # A job in the background begins with Ctrl-C ignored, as would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: 4 layers, hidden 256, intermediate 512, one weight file. Not to be changed."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Exaone4Config, Exaone4ForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator(["안녕하세요 정답: A 문제 보기"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", eos_token="[|endofturn|]")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Exaone4Config(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        sliding_window=None,
        layer_types=["full_attention"] * 4,
        bos_token_id=1,
        eos_token_id=7,
        pad_token_id=0,
    )
    Exaone4ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "copied"))


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 96 conversations."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {
            "conversations": [
                {"role": "user", "content": f"문제 {number}"},
                {"role": "assistant", "content": f"보기 {number * 7 % 13} 정답: {'ABCD'[number % 4]} " * 4},
            ]
        }
        for number in range(96)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "manta.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def logits(tiny: Path, talk: Path) -> Callable[..., Any]:
    """Logits of a model folder (or a loaded model) for conversations, float32 [tokens, vocab]."""
    import torch

    from squeeze.config import Calibration
    from squeeze.data.chat import calibration_tokens
    from squeeze.versions import load_model

    samples = calibration_tokens(tiny, Calibration(samples=8, seed=7), str(talk))
    prompt = torch.tensor([[token for sample in samples for token in sample]])

    def run(model: Any) -> Any:
        loaded = load_model(model, "cpu") if isinstance(model, Path) else model
        with torch.inference_mode():
            return loaded(input_ids=prompt, use_cache=False).logits[0].float()

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL, with a password, of an empty database of a PostgreSQL server that is started here."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        lacks = pytest.fail if os.environ.get("CHAOS") == "long" else pytest.skip  # it must leave nothing out
        lacks("PostgreSQL is not installed; with Debian: apt-get install postgresql")
    programs = found[-1].parent
    # It refuses to be run by root, and cannot enter pytest's folders then.
    user = pwd.getpwnam("postgres" if os.getuid() == 0 else getpass.getuser())
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        (place / "password").write_text("canary-in-the-url")
        for path in (place, place / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def run(*command: str | Path) -> None:
            subprocess.run(command, user=user.pw_uid, group=user.pw_gid, cwd=place, check=True, timeout=120)

        create = ["--auth=scram-sha-256", "--username=squeeze", f"--pwfile={place / 'password'}"]
        run(programs / "initdb", f"--pgdata={place / 'data'}", *create, "--no-sync")
        options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [programs / "pg_ctl", "-D", place / "data", "-w", "-l", place / "log"]
        run(*control, "-o", options, "start")
        try:
            yield f"postgresql://squeeze:canary-in-the-url@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)
