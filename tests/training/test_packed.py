"""Packing is invisible: each document's logits are those it has alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from squeeze.errors import ConfigError
from squeeze.training import packed
from squeeze.training.text import IGNORED, Rows, pack
from squeeze.versions import load_model


def some_rows(vocabulary: int = 512) -> tuple[Rows, list[list[int]]]:
    torch.manual_seed(3)
    documents = [torch.randint(8, vocabulary, (size,)).tolist() for size in (20, 7, 33, 5, 1, 31)]
    return pack([(ids, [*ids[1:], IGNORED]) for ids in documents], 40), documents


def test_a_packed_row_gives_each_documents_logits_as_alone(tiny: Path) -> None:
    rows, _ = some_rows()
    model = load_model(tiny, "cpu").float()
    batch = packed.batch(rows, range(len(rows)), "cpu")
    with torch.inference_mode():
        alone = [model(input_ids=ids[None]).logits[0] for ids in batch.ids[0].split(batch.documents.lengths)]
        packed.attach(model)
        together = model.lm_head(packed.hidden_states(model, batch))
    assert len(alone) == 6
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_no_document_learns_from_another(tiny: Path) -> None:
    rows, _ = some_rows()
    model = load_model(tiny, "cpu").float()
    packed.attach(model)
    batch = packed.batch(rows, [0], "cpu")
    seen: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_hook(lambda _m, _i, out: seen.append(out) or out)
    states = packed.hidden_states(model, batch)
    first = batch.documents.lengths[0]
    assert len(batch.documents.lengths) > 1
    (gradient,) = torch.autograd.grad(states[first:].square().sum(), seen)
    assert gradient[0, :first].abs().max() == 0
    assert gradient[0, first:].abs().max() > 0


def test_the_masked_form_is_the_same_attention() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(12, 4, 8), torch.randn(12, 2, 8), torch.randn(12, 2, 8)
    masked = packed.masked_attention(query, key, value, torch.tensor([0, 5, 12], dtype=torch.int32), 7, 0.3)
    documents = packed.Documents((5, 7), 7)
    states = (part.transpose(0, 1)[None] for part in (query, key, value))
    ours, _ = packed.attention(None, *states, documents, scaling=0.3)
    torch.testing.assert_close(masked, ours[0])


def test_a_model_with_sliding_windows_is_refused(tiny: Path) -> None:
    model = load_model(tiny, "cpu")
    model.config.layer_types = ["sliding_attention"] * 3 + ["full_attention"]
    with pytest.raises(ConfigError, match="sliding"):
        packed.attach(model)
