"""Norm tuning: the norm weights of a quantized model are trained to make up for its rounding.

Everything else stays as it is stored, so the model costs an engine nothing more (Norm Tweaking,
arXiv:2309.02784, here towards the base's distribution).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze.config import TuneNormsConfig, digest
from squeeze.decoder import CONFIG
from squeeze.folder import content_key, copy_others
from squeeze.shards import Output, Weight, rewrite, same
from squeeze.stages import Context

if TYPE_CHECKING:
    from torch import Tensor

    from squeeze.training.learner import Learner
    from squeeze.training.text import Rows

NORMS = "norm.weight"
"""What the names of all norms' weights end with: around attention and feed-forward, of q and k, the last."""


def run(source: Path, part: TuneNormsConfig, out: Path, context: Context) -> dict[str, Any]:
    """Write the quantized model ``source`` with trained norm weights to ``out``.

    Forward KL from the base on the assistant's text, through the model as an engine computes it
    (``stages.dequantized``). Norms that do not lower it on text kept apart are not taken. Notes: kl_before,
    kl_after (nats a token, on that text, with the norms as they are written), taken, norms (how many), and
    those of ``training.loop.fit``.
    """
    from squeeze.stages import dequantized
    from squeeze.training import models, packed
    from squeeze.training.learner import Learner
    from squeeze.training.loop import fit
    from squeeze.training.teacher import Live
    from squeeze.training.text import prepare

    text = prepare(source, part.text, context.data)
    device = models.device()
    model = dequantized.load(source, device)
    precision = models.precision(device)
    if device == "cpu":
        model.float()
        if any(isinstance(module, dequantized.RoundedLinear) for module in model.modules()):
            precision = None  # bfloat16's own rounding would drown what 8 bits do
    packed.attach(model)
    norms = {name: value for name, value in model.named_parameters() if name.endswith(NORMS)}
    stored = {name: value for name, value in dequantized.read(source).items() if name in norms}
    for value in norms.values():
        value.data = value.data.float()  # BF16 steps are too coarse to add small changes up
        value.requires_grad_(True)
    if part.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if part.compile:
        models.compile_layers(model)
    teacher = Live(models.load_frozen(context.base), precision=precision)
    learner = Learner(model, norms, teacher, precision=precision)
    before = _mean_loss(learner, text.validation)
    notes = fit(
        learner,
        part,
        text,
        stage="tune_norms",
        key=digest([content_key(source), content_key(context.base)]),
        state=context.state,
        tell=context.tell,
    )
    tuned = {name: norms[name].detach().to("cpu", value.dtype) for name, value in stored.items()}
    _set(norms, tuned)
    after = _mean_loss(learner, text.validation)
    taken = after < before
    _write(source, tuned if taken else stored, out)
    return {
        **notes,
        "kl_before": round(before, 6),
        "kl_after": round(after, 6),
        "taken": taken,
        "norms": len(norms),
    }


def _mean_loss(learner: Learner, rows: Rows) -> float:
    """The loss a supervised token."""
    import torch

    from squeeze.training import packed

    learner.model.eval()
    with torch.no_grad():
        batches = (packed.batch(rows, [row], learner.device) for row in range(len(rows)))
        return sum(float(learner.loss(batch)) for batch in batches) / rows.supervised


def _set(norms: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in norms.items():
        value.data.copy_(values[name])


def _write(source: Path, norms: Mapping[str, Tensor], out: Path) -> None:
    """``source`` with other norms; everything else, config.json too, to the byte."""
    import torch

    def change(weight: Weight) -> Output:
        if weight.name not in norms:
            return same(weight)
        raw = norms[weight.name].contiguous().view(torch.uint8).numpy().tobytes()
        return Output(weight.name, weight.dtype, weight.shape, lambda: [raw])

    rewrite(source, out, change)
    shutil.copyfile(source / CONFIG, out / CONFIG)
    copy_others(source, out)
