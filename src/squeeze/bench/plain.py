"""A model in plain transformers, without vLLM: answers a few chats. Runs in a child process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze.bench.tasks import Message
from squeeze.child import Event
from squeeze.errors import CandidateError
from squeeze.failures import classified


@dataclass(frozen=True)
class Ask:
    """Answer chats, greedily, with at most so many tokens each. Its answer is a list of texts."""

    chats: tuple[list[Message], ...]
    tokens: int


class Plain:
    """The handler. Code that lies in the model's folder is never run.

    cpu: stay on the CPU also where there is a GPU. Raises CandidateError: ``load`` when the model or its
    tokenizer cannot be loaded, ``diverged`` when its logits are no numbers.
    """

    def __init__(self, folder: Path, cpu: bool = False) -> None:
        import torch

        from squeeze.versions import load_model, load_tokenizer

        self._device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
        try:
            self._tokenizer = load_tokenizer(folder)
            self._model = load_model(folder, self._device)
        except Exception as error:
            raise classified(error, "engine", otherwise="load") from error

    def __call__(self, request: Ask, tell: Callable[[Event], None]) -> list[str]:
        return [self._answer(chat, request.tokens) for chat in request.chats]

    def _answer(self, chat: list[Message], tokens: int) -> str:
        import torch

        text = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        asked: dict[str, Any] = {"input_ids": torch.tensor([ids], device=self._device)}
        asked["attention_mask"] = torch.ones_like(asked["input_ids"])
        with torch.inference_mode():
            if not torch.isfinite(self._model(**asked, use_cache=False).logits).all():
                raise CandidateError(
                    "a model must give probabilities to tokens; its logits are NaN or infinite",
                    stage="questions",
                    kind="diverged",
                )
            said = self._model.generate(**asked, do_sample=False, max_new_tokens=tokens)
        return str(self._tokenizer.decode(said[0][len(ids) :], skip_special_tokens=True))
