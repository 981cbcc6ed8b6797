"""What the parts of a configuration share, and the parts that train; see ``squeeze.config``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Divergence = Literal["forward", "reverse", "js"]
Teacher = Literal["live", "sampled", "top"]


class Part(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Calibration(Part):
    """The text that a stage looks at.

    source: ``manta`` (the study's chat set), ``random`` (random tokens), or a path of a ``.jsonl`` or
    ``.parquet`` file with a ``conversations`` column. length: tokens a sample is cut to.
    """

    source: str = "manta"
    samples: int = Field(64, ge=1, le=1_000_000)
    length: int = Field(512, ge=16, le=16384)
    seed: int = 42


class Training(Part):
    """What every training stage is told.

    text: the conversations that are trained on, and the length of a packed row; ``text.seed`` also orders
    them. epochs: passes over the text; steps, if given, is the number of optimizer steps instead.
    learning_rate: of the stable phase. batch: tokens of a step. The rate warms up over ``warmup`` steps,
    stays, and falls to zero over the last ``decay`` of all steps (warm-up–stable–decay, arXiv:2404.06395):
    all but that last share is the same whatever the number of epochs, so that a longer training goes on from
    a shorter one. validate_every: steps between looks at text that is kept apart; after ``patience`` looks
    without a fall the rate starts to fall at once. gradient_checkpointing saves memory for time; compile uses
    torch.compile, which pays for itself in long trainings on a GPU.
    """

    text: Calibration = Calibration(samples=2048)
    epochs: int = Field(1, ge=1, le=1000)
    steps: int | None = Field(None, ge=2)
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    batch: int = Field(4096, ge=16)
    warmup: int = Field(20, ge=0)
    decay: float = Field(0.2, gt=0, le=1)
    validate_every: int = Field(20, ge=1)
    patience: int = Field(3, ge=1)
    gradient_checkpointing: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _rows_fit_a_step(self) -> Self:
        if self.text.source == "random":
            raise ValueError("training needs conversations; text.source random has none")
        if self.batch < self.text.length:
            raise ValueError(
                f"batch, in tokens, must hold a row of text.length {self.text.length}; got {self.batch}"
            )
        return self


class DistillConfig(Training):
    """How the base teaches the pruned model (knowledge distillation) on the assistant's text.

    divergence: of the teacher's distribution p and the student's q: ``forward`` KL(p‖q), ``reverse`` KL(q‖p),
    ``js`` the Jensen–Shannon divergence. temperature: both are flattened by it; the loss is multiplied by its
    square. cross_entropy: share, 0 to 1, of the loss that is plain cross-entropy on the text. hidden: weight
    of the mean squared error of the hidden states of kept layers, relative to the teacher's mean square.
    teacher: ``live`` runs it at each step; ``sampled`` runs it once and keeps ``draws`` tokens a position,
    sampled by importance so that the loss is unbiased (arXiv:2503.16870); ``top`` keeps the ``draws`` most
    likely ones, which is biased: their probabilities are scaled to a sum of one.
    """

    learning_rate: float = Field(2e-4, gt=0, lt=1)
    divergence: Divergence = "forward"
    temperature: float = Field(2.0, gt=0, le=20)
    cross_entropy: float = Field(0.0, ge=0, lt=1)
    hidden: float = Field(0.0, ge=0)
    teacher: Teacher = "live"
    draws: int = Field(64, ge=1, le=1024)

    @model_validator(mode="after")
    def _kept_tokens_suffice(self) -> Self:
        if self.teacher != "live" and (self.divergence != "forward" or self.hidden > 0):
            raise ValueError(
                f"teacher {self.teacher} keeps a few tokens' probabilities, enough for divergence forward "
                f"and hidden 0 only; got {self.divergence} and {self.hidden}; use teacher live"
            )
        return self


class FinetuneConfig(Training):
    """How low-rank adapters (LoRA, arXiv:2106.09685) are trained on the assistant's text and merged.

    rank: of the adapters on every linear layer of the decoder. alpha: their product is scaled by alpha/rank;
    None means 2·rank.
    """

    learning_rate: float = Field(2e-4, gt=0, lt=1)
    rank: int = Field(16, ge=1, le=1024)
    alpha: float | None = Field(None, gt=0)


class TuneNormsConfig(Training):
    """How the norm weights of the quantized model are trained towards the base (forward KL).

    A few dozen steps suffice for so few weights; three times the default rate makes a W8A8 model worse.
    """

    text: Calibration = Calibration(samples=1024)
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    batch: int = Field(2048, ge=16)
    warmup: int = Field(5, ge=0)
