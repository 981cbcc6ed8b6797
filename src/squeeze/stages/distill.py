"""Distillation: the base teaches the pruned model on the assistant's text of conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze.config import DistillConfig, digest
from squeeze.decoder import Decoder
from squeeze.errors import ConfigError
from squeeze.folder import content_key, read_manifest
from squeeze.stages import Context


def run(source: Path, part: DistillConfig, out: Path, context: Context) -> dict[str, Any]:
    """Train ``source`` towards ``context.base`` and write it, in the dtype it was stored in, to ``out``.

    Weights that do not lower the loss on the text kept apart are not taken: the student stays as it was.

    Notes: those of ``squeeze.training.loop.fit``; ``taken``; ``conversations`` and ``dropped`` of the text;
    ``teacher``, ``live`` or whether what it said was ``made`` or ``found``.
    Raises ConfigError when the two models cannot be compared, CandidateError of kind diverged.
    """
    pupil, master = Decoder.read(source), Decoder.read(context.base)
    for what, decoder in (("student", pupil), ("teacher", master)):
        if decoder.quantization is not None:
            raise ConfigError(
                f"distillation needs plain weights; the {what} is stored as {decoder.quantization}; "
                f"give a model that is not quantized"
            )
    if pupil.vocab != master.vocab:
        raise ConfigError(
            f"teacher and student must have the same vocabulary; they have {master.vocab} and {pupil.vocab} "
            f"tokens; give the base that the student was made of"
        )
    watched = kept_layers(source, pupil, master) if part.hidden else []
    from squeeze.training import models
    from squeeze.training.learner import Learner
    from squeeze.training.loop import fit
    from squeeze.training.loss import Mix
    from squeeze.training.teacher import Live, Teacher, keep
    from squeeze.training.text import prepare

    text = prepare(source, part.text, context.data)
    student = models.load(source, part)
    teacher_key = content_key(context.base)

    def live() -> Live:
        model = models.load_frozen(context.base)
        if part.compile:
            models.compile_layers(model)
        return Live(model, watched, student.precision)

    teacher: Teacher
    if part.teacher == "live":
        teacher, came = live(), "live"
    else:
        teacher, found = keep(
            live,
            teacher_key,
            [text.train, text.validation],
            student.device,
            method=part.teacher,
            draws=part.draws,
            temperature=part.temperature,
            seed=part.text.seed,
            shared=context.shared,
        )
        came = "found" if found else "made"
    learner = Learner(
        model=student.model,
        trainable=student.parameters,
        teacher=teacher,
        mix=Mix(part.divergence, part.temperature, part.cross_entropy),
        hidden=part.hidden,
        watch=range(pupil.layers) if watched else (),
        precision=student.precision,
    )
    notes = fit(
        learner,
        part,
        text,
        stage="distill",
        key=digest([content_key(source), teacher_key]),
        state=context.state,
        tell=context.tell,
    )
    taken = notes["validation_last"] < notes["validation_first"]
    if taken:
        models.save(source, student.parameters, out)
    else:
        models.keep(source, out)
    notes["taken"] = taken
    return {**notes, "conversations": text.conversations, "dropped": text.dropped, "teacher": came}


def kept_layers(source: Path, pupil: Decoder, master: Decoder) -> list[int]:
    """For each layer of the student, the layer of the base (0-based) that it was.

    Raises ConfigError when that is not known, or the widths differ.
    """
    if pupil.hidden != master.hidden:
        raise ConfigError(
            f"hidden states can be compared when they are as wide; teacher and student have {master.hidden} "
            f"and {pupil.hidden}; set hidden to 0"
        )
    if pupil.layers == master.layers:
        return list(range(master.layers))
    try:
        dropped = set(read_manifest(source).notes["depth"]["dropped"])
    except (ConfigError, KeyError, TypeError) as error:
        raise ConfigError(
            f"hidden needs to know which of the teacher's {master.layers} layers the student's "
            f"{pupil.layers} were; {source} has no manifest that tells; set hidden to 0"
        ) from error
    kept = [layer for layer in range(master.layers) if layer not in dropped]
    if len(kept) != pupil.layers:
        raise ConfigError(
            f"the manifest must tell which layers were dropped; {source} has {pupil.layers} layers, and the "
            f"teacher {len(kept)} that were not dropped; set hidden to 0 or build it again"
        )
    return kept
