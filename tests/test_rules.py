"""Odd submissions: every breach is a broken rule, never a traceback."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze.demo import MODEL_DIR
from squeeze.submit import rules


def changed(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        change(data)
        (folder / name).write_text(json.dumps(data), encoding="utf-8")

    return apply


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (changed("config.json", lambda config: config.update(num_hidden_layers="8")), "config"),
        (changed("config.json", lambda config: config.update(vocab_size="x")), "weights"),
        (changed("tokenizer.json", lambda tokenizer: tokenizer.update(model=[])), "tokenizer"),
        (changed("tokenizer.json", lambda tokenizer: tokenizer.update(added_tokens=[1])), "tokenizer"),
        (
            changed(
                "config.json",
                lambda config: config.update(
                    quantization_config={
                        "quant_method": "compressed-tensors",
                        "config_groups": {"g": {"weights": [1]}},
                    }
                ),
            ),
            "quantization",
        ),
    ],
)
def test_a_value_of_another_kind_breaks_a_rule(
    tmp_path: Path, change: Callable[[Path], None], rule: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    change(folder)
    assert rule in [one.name for one in rules(folder) if not one.ok]


def test_a_damaged_compressed_entry_breaks_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "submit.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(MODEL_DIR.iterdir()):
            archive.write(file, f"model/{file.name}")
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 64] = bytes(64)
    path.write_bytes(whole)
    broken = [one for one in rules(path) if not one.ok]
    assert broken
    assert all("\n" not in one.detail for one in broken)
