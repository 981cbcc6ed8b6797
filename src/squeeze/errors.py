"""The errors of the project.

    SqueezeError
    ├── ConfigError      the user's mistake: a wrong value, a missing file     exit code 2
    ├── SetupError       nothing can run here: no engine, no storage           exit code 3
    └── CandidateError   this candidate failed; the search goes on             told to the sampler

A message gives the rule, the value that broke it, and the remedy, on one line.
"""

from __future__ import annotations

from typing import Literal

FailureClass = Literal[
    "oom",
    "load",
    "kernel",
    "timeout",
    "empty_output",
    "diverged",
    "disk",
    "killed",
    "build",
    "judge",
    "other",
]

RETRIED: tuple[FailureClass, ...] = ("killed", "disk", "judge")
"""Failures that may be the machine's or the judge's, not the candidate's: tried again."""


class SqueezeError(Exception):
    """Anything the project raises on purpose."""

    exit_code = 1


class ConfigError(SqueezeError):
    """The user asked for something that cannot be: says the rule, the value and the remedy."""

    exit_code = 2


class SetupError(SqueezeError):
    """The machine or its installation cannot run the work: says what is missing and the remedy."""

    exit_code = 3


class CandidateError(SqueezeError):
    """One candidate failed. The only error that the search loop catches.

    stage: where it failed, e.g. ``depth``, ``quantize``, ``engine``, ``questions``.
    kind: the class of the failure; see ``FailureClass``.
    """

    def __init__(self, message: str, *, stage: str, kind: FailureClass) -> None:
        super().__init__(message)
        self.stage = stage
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments: without this an error raised in a child could not cross the pipe.
        return (_candidate_error, (str(self), self.stage, self.kind))


def _candidate_error(message: str, stage: str, kind: FailureClass) -> CandidateError:
    return CandidateError(message, stage=stage, kind=kind)
