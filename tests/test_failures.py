from __future__ import annotations

import errno
from pathlib import Path

import pytest

from squeeze.errors import CandidateError, ConfigError
from squeeze.failures import TAIL_BYTES, classified, log_tail, told_as


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (ValueError("No available memory for the cache blocks."), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk"),
        (RuntimeError("database or disk is full"), "disk"),
        (NotImplementedError("this scheme"), "kernel"),
        (ValueError("Failed to find a kernel that can implement the layer"), "kernel"),
        (ValueError("Model architectures ['X'] are not supported for now"), "build"),
        (KeyError("weight"), "build"),
    ],
)
def test_each_error_has_its_class(error: Exception, kind: str) -> None:
    with pytest.raises(CandidateError) as caught, told_as("quantize"):
        raise error
    assert (caught.value.kind, caught.value.stage) == (kind, "quantize")
    assert "\n" not in str(caught.value)
    assert classified(error, "engine", otherwise="build").kind == kind


def test_what_the_project_raises_and_interrupts_pass_unchanged() -> None:
    for error in (ConfigError("a mistake"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, told_as("depth"):
            raise error
        assert caught.value is error


def test_the_tail_of_a_log_is_short_printable_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "canary-of-the-judge")
    monkeypatch.setenv("SHORT_KEY", "loss")
    log = tmp_path / "0001.log"
    log.write_text(
        "x" * 2 * TAIL_BYTES
        + "\n\x1b[31mloss\x1b[0m 10%|#\r20%|##\n\x07key canary-of-the-judge, token hf_abcdefghijklmnop\n"
        + "connecting to postgresql://me:canary-in-the-url@host/db\n"
    )
    tail = log_tail(log)
    assert tail is not None and len(tail) <= TAIL_BYTES
    assert tail.splitlines()[-4:] == [
        "loss 10%|#",
        "20%|##",
        "key ***, token hf_***",
        "connecting to postgresql://me:***@host/db",
    ]


@pytest.mark.parametrize("said", ["{}", "postgresql://me:{}@host/db"])
def test_a_secret_that_a_logs_tail_would_cut_in_two_is_not_in_it(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-" + "".join(map(str, range(30)))
    if said == "{}":
        monkeypatch.setenv("JUDGE_API_KEY", canary)
    log = tmp_path / "0001.log"
    for after in range(TAIL_BYTES - 80, TAIL_BYTES):
        log.write_text("x" * TAIL_BYTES + "\n" + said.format(canary) + "\n" + "문" * (after // 3))
        tail = log_tail(log)
        assert tail is not None and TAIL_BYTES - 100 < len(tail.encode()) <= TAIL_BYTES
        assert "2829" not in tail


def test_an_error_that_is_cut_short_has_no_half_of_a_secret() -> None:
    error = RuntimeError("x" * 440 + " postgresql://me:canary-" + "y" * 80 + "@host/db")
    assert "canary" not in str(classified(error, "storage"))


def test_a_log_that_is_missing_or_empty_has_no_tail(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert log_tail(tmp_path / "empty") is None
    assert log_tail(tmp_path / "missing") is None
