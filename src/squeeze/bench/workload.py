"""What is measured and how: benchmarks, how many questions, limits, engine arguments. All of it data."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from squeeze.bench import tasks
from squeeze.bench.judge_endpoint import Endpoint, check_endpoint
from squeeze.bench.judge_prompts import FORMS, RULES
from squeeze.config import Part, digest, read_yaml
from squeeze.data.sets import HUB, local_file
from squeeze.demo import DATA_DIR, MODEL_DIR
from squeeze.errors import ConfigError
from squeeze.folder import file_hash

WORKLOADS = Path(__file__).parent / "workloads"


class EngineArguments(Part):
    """Arguments of vLLM, the same for the baseline and every candidate.

    max_model_len: None = the model's own. max_num_seqs: None = vLLM's own. enforce_eager: None = eager on a
    CPU (compiling a small model there costs more than a search saves), graphs on a GPU. kv_cache_gib: of a
    CPU engine. kv_cache_memory_bytes: in place of that; None on a GPU = what gpu_memory_utilization leaves.
    """

    tensor_parallel_size: int = Field(1, ge=1)
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    max_model_len: int | None = Field(None, ge=16)
    max_num_seqs: int | None = Field(None, ge=1)
    enforce_eager: bool | None = None
    enable_prefix_caching: bool = False
    seed: int = 42
    kv_cache_gib: int = Field(4, ge=1)
    kv_cache_memory_bytes: int | None = Field(None, ge=1)


class Workload(Part):
    """The questions that a model is asked, and how it is served and timed meanwhile.

    data: ``"hub"`` or a folder of local files. skip_bad_rows: leave rows out that do not fit their columns,
    and say so, where they are otherwise an error. questions: benchmark -> how many, None = all. draw: the
    seed of which ones, and in what order. held_out: the share of a benchmark's questions that is kept for the
    finalists where otherwise all would be asked at first. after: benchmark -> questions of an earlier
    measurement with the same draw (None: all but those held out), which are asked only when no others are
    left. max_tokens: cap of one answer; None = the benchmark's own (quick) cap. first_block: the share of the
    questions that is asked, and may end a candidate, before the rest; 0: all are asked at once. probe:
    questions of each benchmark in the speed probe, where an answer is as long as the baseline's mean one.
    probe_tokens: the most tokens of an answer there. probes: passes of the probe. divergence: tokens of the
    baseline's own words over which a candidate's divergence from it is taken, at first and then in all; none:
    it is not. perplexity: rows of held-out text (``squeeze.data.held_out``) over which a model's perplexity
    is taken; none: it is not. repeats: timed passes over everything, of which the first asks the block apart
    and counts only where fewer than three others are there. start_deadline_s, part_deadline_s: for an
    engine's start, and for the answers to what is asked of one benchmark in one go. judge: who rates the
    answers to komt_bench; none: they have no part in the quality.
    """

    name: str
    data: str = HUB
    skip_bad_rows: bool = False
    questions: Mapping[str, int | None]
    draw: int = 42
    held_out: float = Field(0.0, ge=0, le=0.5)
    after: Mapping[str, int | None] = {}
    max_tokens: int | None = Field(None, ge=1)
    first_block: float = Field(0.25, ge=0, lt=1)
    probe: int = Field(8, ge=1)
    probe_tokens: int = Field(32, ge=1)
    probes: int = Field(2, ge=1)
    divergence: tuple[int, int] | None = (2048, 16_384)
    perplexity: int | None = Field(None, ge=1)
    repeats: int = Field(3, ge=1)
    start_deadline_s: float = Field(900, gt=0)
    part_deadline_s: float = Field(1200, gt=0)
    judge: Endpoint | None = None
    engine: EngineArguments = EngineArguments()

    @field_validator("questions")
    @classmethod
    def _known_benchmarks(cls, questions: Mapping[str, int | None]) -> Mapping[str, int | None]:
        unknown = sorted(set(questions) - set(tasks.names()))
        if unknown:
            raise ValueError(f"benchmarks must be among {', '.join(tasks.names())}; got {', '.join(unknown)}")
        return questions

    @field_validator("divergence")
    @classmethod
    def _grows(cls, tokens: tuple[int, int] | None) -> tuple[int, int] | None:
        if tokens is not None and not 0 < tokens[0] < tokens[1]:
            raise ValueError(f"tokens of the divergence must be above 0 and grow; got {list(tokens)}")
        return tokens

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        low = [name for name, count in self.questions.items() if count is not None and count < 2]
        if low or not self.questions:
            raise ValueError(f"each benchmark must have 2 questions or more; got {dict(self.questions)}")
        return self

    @property  # not cached: model_copy would hand it on to another workload
    def key(self) -> str:
        """A hash of everything that decides the outcome; of local data the content, not the place.

        Raises ConfigError when the folder lacks a file.
        """
        told_apart = {"name", "data", "start_deadline_s", "part_deadline_s", "judge"}
        plain = self.model_dump(mode="json", exclude=told_apart)
        if self.judge is not None:
            plain["judge"] = [self.judge.identity, RULES, FORMS]
        return digest({**plain, "data": self._data_key()})

    def _data_key(self) -> object:
        if self.data == HUB:
            return HUB
        found = {}
        for name in sorted(self.questions):
            found[name] = file_hash(local_file(name, Path(self.data)))
        return found

    def drawn(self, benchmark: str, rows: int) -> list[int]:
        """Which of a benchmark's ``rows`` rows are asked, in that order: a first block is a fair sample."""
        count = self._asked(self.questions[benchmark], rows)
        if not (before := self._asked(self.after.get(benchmark, 0), rows)):
            return random.Random(self.draw).sample(range(rows), count)
        asked = random.Random(self.draw).sample(range(rows), before)
        others = sorted(set(range(rows)).difference(asked))
        return [*random.Random(self.draw).sample(others, len(others)), *asked][:count]

    def _asked(self, most: int | None, rows: int) -> int:
        """How many of so many rows are asked by such an entry of ``questions``."""
        return rows - int(self.held_out * rows) if most is None else min(most, rows)

    @property
    def final(self) -> Workload:
        """What finalists are asked: as many other questions, as far as there are any, and one more repeat."""
        return self.model_copy(
            update={
                "name": f"{self.name}, final",
                "after": self.questions,
                "divergence": None,
                "repeats": self.repeats + 1,
            }
        )

    def block(self, count: int) -> int:
        """How many of ``count`` questions are in the first block; at least 1 if there is one, never all."""
        return 0 if self.first_block == 0 else max(1, min(count - 1, ceil(count * self.first_block)))


def names() -> tuple[str, ...]:
    """The workloads that come with squeeze, sorted: each a YAML file in ``workloads/``, to use or to copy."""
    return tuple(sorted(path.stem for path in WORKLOADS.glob("*.yaml")))


def choose(named: str | None, data: str | None, model: Path, judge: Endpoint | None = None) -> Workload:
    """The workload asked for: one of ``names()``, or a YAML file; by default the one that suits the model.

    data: where its questions are, if not where the file says or the model has them. A model with the
    tokenizer of the embedded one (it, or made from it) knows the made world, any other the sets on the hub.
    judge: instead of the file's. Raises ConfigError, also for a judge that cannot be asked.
    """
    embedded = _same(model / "tokenizer.json", MODEL_DIR / "tokenizer.json")
    source = data or (str(DATA_DIR) if embedded else HUB)
    workload = load_workload(named or ("demo" if embedded else "contest"))
    if data is not None or "data" not in workload.model_fields_set:
        workload = workload.model_copy(update={"data": source})
    if judge is not None:
        workload = workload.model_copy(update={"judge": judge})
    if workload.judge is not None:
        if "komt_bench" not in workload.questions:
            raise ConfigError(
                f"a judge rates komt_bench; the workload {workload.name} asks "
                f"{', '.join(workload.questions)}; add it to the questions or leave the judge out"
            )
        check_endpoint(workload.judge)
    return workload


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()


def load_workload(named: str) -> Workload:
    """Read one of ``names()``, or a YAML file. Raises ConfigError, one line, for any mistake."""
    path = WORKLOADS / f"{named}.yaml" if named in names() else Path(named)
    if not path.is_file():
        raise ConfigError(f"a workload must be {', '.join(names())} or a YAML file; got {named}; choose one")
    data = read_yaml(path, "a workload file")
    try:
        return Workload.model_validate({"name": path.stem, **(data or {})})
    except (ValidationError, TypeError) as error:
        if not isinstance(error, ValidationError):
            raise ConfigError(f"a workload file must hold keys and values; {path}: {data!r}") from error
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        message = str(first["msg"]).removeprefix("Value error, ")
        keys = Endpoint.model_fields if where.startswith("judge") else Workload.model_fields
        known = f"; known keys: {', '.join(keys)}" if first["type"] == "extra_forbidden" else ""
        # What stands under judge may be a key, by mistake.
        got = "" if where.startswith("judge") else f" (got {first['input']!r})"
        raise ConfigError(f"{path}: {where}: {message}{got}{known}") from None
