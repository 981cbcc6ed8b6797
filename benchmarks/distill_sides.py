"""The processes of ``distill.py``: one prepares, one runs ours, one runs TRL's GKDTrainer.

Talks over stdin and stdout, a line each: ``run N`` does N steps, ``stop`` ends and reports. What libraries
print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch  # noqa: TID253  the parent does not import this module
from distill_text import halved, micro_batches, prepare

PEAK_TFLOPS = {"NVIDIA H200": 989.0, "NVIDIA H100 80GB HBM3": 989.0, "NVIDIA L4": 121.0}
"""Dense bf16 of the datasheets, by the name that the driver gives."""

LEARNING_RATE = 1e-6
"""Small: with random weights the losses of both must stay comparable over all steps."""


class Gate:
    """Lets the trainer through step by step as the parent asks, and times it in between."""

    def __init__(self, device: str) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._device = device
        self._left = 0
        self._begun = 0.0
        self.losses: list[float] = []
        self._rest = rss() if device == "cpu" else 0
        self._warm = False

    def begin_step(self) -> bool:
        """Wait for leave. False: stop now."""
        if self._left == 0:
            if self._begun:
                if self._device == "cuda":
                    torch.cuda.synchronize()
                self.answer({"seconds": time.perf_counter() - self._begun})
                if not self._warm:  # what counts is what training takes, not what loading took
                    self._warm = True
                    forget_peak(self._device)
            word = sys.stdin.readline().split()
            if not word or word[0] == "stop":
                return False
            if word[0] == "run":
                self._left = int(word[1])
            self._begun = time.perf_counter()
        self._left -= 1
        return True

    def answer(self, content: dict[str, Any]) -> None:
        """A line to the parent."""
        self._out.write(json.dumps(content) + "\n")
        self._out.flush()

    def finish(self, notes: dict[str, Any]) -> None:
        """The last answer: losses, peak memory (of a CPU process: above what imports took), what was set."""
        peak = torch.cuda.max_memory_allocated() if self._device == "cuda" else rss("VmHWM") - self._rest
        if self._device == "cuda":
            notes["peak_reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
        else:
            notes["imports_gib"] = round(self._rest / 2**30, 3)
        self.answer(
            {
                "losses": self.losses,
                "peak_bytes": peak,
                "notes": notes,
                "peak_flops": peak_flops(self._device),
                "machine": machine(self._device),
            }
        )


def rss(field: str = "VmRSS") -> int:
    """Resident bytes of this process; VmHWM: the most there ever were."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def forget_peak(device: str) -> None:
    """Let the most memory ever used be what is used now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_flops(device: str) -> float | None:
    """What the datasheet says the device can do, FLOP/s; None where it is not known, as of a shared CPU."""
    if device == "cpu":
        return None
    tera = PEAK_TFLOPS.get(torch.cuda.get_device_name())
    return tera * 1e12 if tera else None


def imitate(gib: float) -> None:
    """Have this GPU no more memory than that: allocations beyond fail, and what asks is told so."""
    limit = int(gib * 2**30)
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / whole)
    torch.cuda.mem_get_info = lambda *_: (limit - torch.cuda.memory_reserved(), limit)


def machine(device: str) -> dict[str, Any]:
    """The accelerator, if one is used."""
    if device == "cpu":
        return {"threads": torch.get_num_threads()}
    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}


def trl(options: SimpleNamespace) -> None:
    """TRL's GKDTrainer over the plan."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from squeeze.versions import load_tokenizer

    folder = Path(options.folder)
    gate = Gate(options.device)
    cuda = options.device == "cuda"
    fast = cuda or (options.bf16 and torch.cpu._is_avx512_bf16_supported())
    plan = json.loads((folder / "plan.json").read_text())
    parts = [micro_batches(step, options.micro_batch) for step in plan]
    # A step takes a fixed number of micro-batches from the data set; a step with fewer gets smaller ones.
    most = max(len(part) for part in parts)
    rows = [{"rows": micro} for part in parts for micro in halved(part, most)]
    pad = DataCollatorForLanguageModeling(pad_token_id=0)

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not gate.begin_step():
                raise StopTraining

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                gate.losses.append(float(logs["loss"]))

    arguments = GKDConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=1,  # micro-batches, whose rows the collator joins
        gradient_accumulation_steps=most,
        max_steps=len(plan),
        logging_steps=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        bf16=fast,
        use_cpu=not cuda,
        gradient_checkpointing=options.checkpointing,
        optim="adamw_torch_fused",
        weight_decay=0.0,
        adam_beta2=0.95,  # as ours
        max_grad_norm=1.0,
        max_length=None,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=cuda,
    )
    place = options.device
    load = AutoModelForCausalLM.from_pretrained
    student = load(folder / "student", dtype=torch.float32).to(place)
    teacher = load(folder / "teacher", dtype=torch.bfloat16 if cuda else torch.float32).to(place)
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=arguments,
        data_collator=lambda examples: pad([row for example in examples for row in example["rows"]]),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(folder / "teacher"),
        callbacks=[Steps()],
    )
    try:
        trainer.train()
        gate.begin_step()
    except StopTraining:
        pass
    padded = sum(len(micro) * max(len(row["input_ids"]) for row in micro) for part in parts for micro in part)
    real = sum(len(row["input_ids"]) for step in plan for row in step)
    gate.finish(
        {
            "micro_batches_per_step": most,
            "padded_tokens_per_token": round(padded / real, 3),
            "attention": student.config._attn_implementation,
            "bf16_autocast": fast,
            "optimizer": "adamw_torch_fused",
        }
    )


class StopTraining(Exception):
    """The parent has seen enough."""


def ours(options: SimpleNamespace) -> None:
    """The stage distill, or finetune, over the plan; it makes the same rows again."""
    import datasets  # noqa: F401  the same large imports are counted out on both sides
    import transformers  # noqa: F401
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from squeeze.config import Calibration, DistillConfig, FinetuneConfig
    from squeeze.demo import DATA_DIR
    from squeeze.stages import Context, distill, finetune
    from squeeze.training import learner

    folder = Path(options.folder)
    gate = Gate(options.device)
    plan = json.loads((folder / "plan.json").read_text())
    supervised = [sum(label != -100 for row in step for label in row["labels"]) for step in plan]
    del plan
    training: dict[str, Any] = {
        "text": Calibration.model_validate_json((folder / "text.json").read_text()),
        "steps": options.steps + 50,  # the rate falls in the last one only, which is never reached
        "learning_rate": LEARNING_RATE,
        "batch": options.batch,
        "warmup": 0,
        "decay": 1e-6,
        "validate_every": 1_000_000,
        "gradient_checkpointing": options.checkpointing,
        "compile": options.compile and options.device == "cuda",
    }
    heard: list[tuple[torch.Tensor, int]] = []
    loss_of = learner.Learner.loss

    def loss(self: Any, batch: Any) -> torch.Tensor:
        total = loss_of(self, batch)
        heard.append((total.detach(), len(batch.labels)))
        return total

    optimizers = set()

    def after(optimizer: Any, *_: Any) -> None:
        optimizers.add(f"{type(optimizer).__module__}.{type(optimizer).__name__}")
        # The first step's come after those of a look at the text that is kept apart.
        wanted, total, count = supervised[len(gate.losses)], 0.0, 0
        while count < wanted:
            part_total, labels = heard.pop()
            total, count = total + float(part_total), count + labels
        gate.losses.append(total / count)
        heard.clear()
        if not gate.begin_step():
            raise StopTraining

    setattr(learner.Learner, "loss", loss)  # noqa: B010  only to hear what it says
    hook = register_optimizer_step_post_hook(after)
    try:
        if gate.begin_step():
            context = Context(data=str(DATA_DIR), base=folder / "teacher")
            if options.lora:
                lora = FinetuneConfig(rank=options.lora, **training)
                finetune.run(folder / "teacher", lora, folder / "out", context)
            else:
                whole = DistillConfig(temperature=1.0, **training)  # TRL's loss has no temperature
                distill.run(folder / "student", whole, folder / "out", context)
    except StopTraining:
        pass
    hook.remove()
    gate.finish({"compile": training["compile"], "optimizer": sorted(optimizers)})


if __name__ == "__main__":
    name, settings_file = sys.argv[1:]
    settings = SimpleNamespace(**json.loads(Path(settings_file).read_text()))
    sides: dict[str, Callable[[SimpleNamespace], None]] = {"ours": ours, "trl": trl}
    if settings.memory and settings.device == "cuda":
        imitate(settings.memory)
    if name == "prepare":
        gate = Gate(settings.device)
        sys.stdin.readline()
        gate.answer(prepare(settings))
    else:
        sides[name](settings)
