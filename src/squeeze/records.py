"""What happened: Artifact (built), Measurement (raw numbers), Score (what they are worth).

All are frozen and go to JSON and back. A Measurement holds raw numbers only, so that an objective can be
changed and applied again without any engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, inf
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from squeeze.config import CompressionConfig


class Record(BaseModel):
    """A frozen record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Record):
    """A model folder that loads, and how it came to be.

    path: the folder. key: hash of its content. layers, width: decoder layers, intermediate_size.
    seconds: stage -> s. notes: what a stage wants remembered, e.g. ``{"gptq_fallbacks": 0}``. cached: stages
    whose output was there already. keys: stage -> the key of its output.
    """

    path: Path
    key: str
    config: CompressionConfig
    layers: int
    width: int
    size_bytes: int
    seconds: Mapping[str, float] = {}
    notes: Mapping[str, Any] = {}
    cached: tuple[str, ...] = ()
    keys: Mapping[str, str] = {}


class Question(Record):
    """One question's outcome.

    index: row of the benchmark. answers: the text of each turn. tokens: generated, over all turns.
    score: 0.0–1.0, None where it is not scored. truncated: some turn hit the token limit. shortened: some
    turn's prompt was longer than the model reads and lost its middle.
    """

    index: int
    answers: tuple[str, ...]
    tokens: int
    score: float | None
    truncated: bool = False
    shortened: bool = False

    @property
    def empty(self) -> bool:
        """Whether some turn's answer has no text."""
        return any(not answer.strip() for answer in self.answers)


class Timing(Record):
    """Pure generation time of one benchmark in one pass: seconds and generated tokens."""

    seconds: float
    tokens: int


class Pass(Record):
    """One timed pass over the benchmarks: benchmark -> Timing.

    started: Unix time, s. process: in which of a joined measurement's processes, from 0; passes of one
    process are more alike than passes of two.
    """

    started: float
    timings: Mapping[str, Timing]
    process: int = 0

    @property
    def seconds_per_token(self) -> float:
        """Pooled over the benchmarks: total seconds over total generated tokens."""
        tokens = sum(timing.tokens for timing in self.timings.values())
        seconds = sum(timing.seconds for timing in self.timings.values())
        return seconds / tokens if tokens else float("inf")


class Sampled(Record):
    """An answer that the baseline drew at temperature 1.

    benchmark, place: the question, by its place in the drawn order. tokens: ids. log_p: the natural logarithm
    of the probability that the baseline gives each.
    """

    benchmark: str
    place: int
    tokens: tuple[int, ...]
    log_p: tuple[float, ...]


class Divergence(Record):
    """KL divergence of a model from the baseline, nats per token: the mean over ``tokens``, its error."""

    tokens: int
    mean: float
    error: float


class Perplexity(Record):
    """How likely a model finds text: mean negative log-probability of its ``tokens``, nats; its error."""

    tokens: int
    mean: float
    error: float

    @property
    def value(self) -> float:
        """The perplexity itself; infinite where it is beyond what a float holds."""
        return exp(self.mean) if self.mean < 700 else inf


class Alike(Record):
    """How alike a model's answers are to the baseline's: means over so many answers, each 0 to 1.

    similarity: see ``squeeze.bench.alike.similarity``. exact: share of the answers that are the same text.
    """

    answers: int
    similarity: float
    exact: float


Rung = Literal["speed", "divergence", "divergence_more", "block", "rest", "repeats"]


class Clocks(Record):
    """What NVML said of the GPU while a model was measured, engine's start included.

    sm_mhz: its clock, least, median and most. celsius: the hottest. watts: the median. busy: share of the
    time in which a kernel ran, 0–1. slowed: what held the clock down -> share of the samples."""

    samples: int
    sm_mhz: tuple[int, int, int]
    celsius: int
    watts: float
    busy: float
    slowed: Mapping[str, float] = {}


class Measurement(Record):
    """Raw numbers of one model in one engine.

    workload: its key. engine: arguments and versions as resolved. complete: every question asked and
    every repeat timed. rung: how far it got: ``speed`` (the probe), ``divergence`` from what the baseline
    said, ``divergence_more`` over more of it, ``block`` (the first block of questions), ``rest`` (all of them
    once), ``repeats``. questions: benchmark -> outcomes, in order of index. passes:
    timed passes of this model, the last one over the first block alone at rung ``block``. reference: passes
    of the baseline over the same questions, timed in between; empty for the baseline itself. probe,
    probe_reference: likewise, over the probe's few questions, every answer of the same given length; none for
    the baseline. sampled: what the baseline said; its own measurement has it. divergence: a candidate's from
    that. perplexity: of held-out text, where the workload asks for it. unscored: benchmark -> why the
    baseline's answers have no scores, so that nobody's count. seconds: phase (start, generate, …) -> s.
    clocks: the GPU's meanwhile; None on a CPU, and where the driver does not tell.
    """

    model: str
    workload: str
    engine: Mapping[str, Any]
    complete: bool
    rung: Rung = "repeats"
    questions: Mapping[str, tuple[Question, ...]]
    passes: tuple[Pass, ...]
    reference: tuple[Pass, ...] = ()
    probe: tuple[Pass, ...] = ()
    probe_reference: tuple[Pass, ...] = ()
    sampled: tuple[Sampled, ...] = ()
    divergence: Divergence | None = None
    perplexity: Perplexity | None = None
    unscored: Mapping[str, str] = {}
    seconds: Mapping[str, float] = {}
    clocks: Clocks | None = None

    def joined(self, later: Measurement) -> Measurement:
        """Both measurements as one: the questions of both, of those asked twice the later outcome, and the
        timed passes of both, told apart by process."""
        processes = 1 + max((one.process for one in (*self.passes, *self.reference)), default=-1)

        def told_apart(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
            return tuple(one.model_copy(update={"process": one.process + processes}) for one in passes)

        questions = {}
        for name in (*self.questions, *(name for name in later.questions if name not in self.questions)):
            found = {question.index: question for question in self.questions.get(name, ())}
            found |= {question.index: question for question in later.questions.get(name, ())}
            questions[name] = tuple(found[index] for index in sorted(found))
        return later.model_copy(
            update={
                "questions": questions,
                "passes": (*self.passes, *told_apart(later.passes)),
                "reference": (*self.reference, *told_apart(later.reference)),
            }
        )

    @property
    def seconds_per_token(self) -> float:
        """Median over the passes, s per generated token; over the probe's while there is no other."""
        return median(timed.seconds_per_token for timed in self.passes or self.probe)

    @property
    def reference_seconds_per_token(self) -> float | None:
        """Median over the baseline's passes in between, s per generated token; None without any."""
        timed = self.reference if self.passes else self.probe_reference
        return median(one.seconds_per_token for one in timed) if timed else None

    @property
    def accuracy(self) -> Mapping[str, float]:
        """Benchmark -> mean score of its questions; benchmarks not scored, or not all, are left out."""
        means = {}
        for name, questions in self.questions.items():
            scores = [question.score for question in questions if question.score is not None]
            if scores and len(scores) == len(questions):
                means[name] = sum(scores) / len(scores)
        return means

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was asked otherwise than the data sets say, in lines: rows left out, prompts cut."""
        told = []
        for name, rows in self.engine.get("skipped_rows", {}).items():
            some = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
            told.append(f"{name}: left out {len(rows)}, which do not fit their columns: row {some}")
        for name, questions in self.questions.items():
            if count := sum(question.shortened for question in questions):
                told.append(
                    f"{name}: cut the middle of {count} of {len(questions)} prompts, which are too long"
                )
        return tuple(told)

    @property
    def tokens_per_answer(self) -> float:
        """Mean generated tokens of an answer, of one turn, over all questions; 0 when none was asked."""
        asked = [question for questions in self.questions.values() for question in questions]
        turns = sum(len(question.answers) for question in asked)
        return sum(question.tokens for question in asked) / turns if turns else 0.0


class Estimate(Record):
    """What a partial measurement says so far.

    divergence: from the baseline, nats per token; None before that rung. perf_norm with its standard error;
    None before any question.
    """

    speed_norm: float
    divergence: float | None = None
    perf_norm: float | None = None
    perf_error: float | None = None


class Talk(Record):
    """How a model answers one benchmark, and the baseline the same questions.

    tokens_per_answer: of one turn, the mean. truncated: share of the questions with an answer that hit the
    token limit. looping: share of those with an answer that ends by repeating itself. seconds_per_token: of
    generation, the median over the passes, s.
    """

    questions: int
    tokens_per_answer: float
    baseline_tokens_per_answer: float
    truncated: float
    baseline_truncated: float
    looping: float
    baseline_looping: float
    seconds_per_token: float
    baseline_seconds_per_token: float


class Score(Record):
    """What a measurement is worth: higher is better.

    low, high: a 90 % interval of ``value``. parts: e.g. perf, perf_norm, speed_norm, per benchmark. talk:
    benchmark -> how it answers. flags: what makes its speed doubtful, in words with figures. left_out:
    benchmark -> why it was asked and has no part in the quality.
    """

    value: float
    low: float
    high: float
    perf_norm: float
    speed_norm: float
    parts: Mapping[str, float] = {}
    talk: Mapping[str, Talk] = {}
    flags: tuple[str, ...] = ()
    left_out: Mapping[str, str] = {}
