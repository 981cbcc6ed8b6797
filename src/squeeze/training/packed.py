"""Packed rows through a transformers decoder: each document attends to itself alone.

The attention is one of our own, registered with transformers under ``NAME``. A decoder takes a dictionary of
masks as it is (both transformers 4.57 and 5), so the documents' boundaries travel where the mask would.
On a CPU each document is a causal attention of its own, which costs no mask and no work across documents; on
CUDA it is one kernel for sequences of unequal length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch  # noqa: TID253  only processes that train import this module
from torch.nn import functional  # noqa: TID253

from squeeze.errors import ConfigError
from squeeze.training.text import IGNORED, Rows
from squeeze.versions import varlen_kernel

NAME = "squeeze_packed"
_KERNEL = varlen_kernel()
_BOUNDS = 64
"""The number of bounds is rounded up to a multiple of this, so that compiled code sees few shapes."""
_SHORT = 1024
_NEVER = -1e9


@dataclass(frozen=True)
class Documents:
    """Where documents end in a flat run of tokens.

    lengths: of each, on a CPU. longest: no document is longer. bounds: int32, where they begin and the last
    one ends, on CUDA, the end repeated; None on a CPU.
    """

    lengths: tuple[int, ...]
    longest: int
    bounds: torch.Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Some rows as a flat run of tokens on a device.

    ids, positions: int64 [1, tokens], positions restart with each document. documents: their bounds. places:
    int64 [supervised], the positions with a label. labels: int64 [supervised]. rows, indices: what it was
    made of.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    documents: Documents
    places: torch.Tensor
    labels: torch.Tensor
    rows: Rows
    indices: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of documents."""
        return sum(sum(self.rows.lengths[index]) for index in self.indices)


def batch(rows: Rows, indices: tuple[int, ...] | list[int], device: str) -> Batch:
    """The rows of those indices as a batch. On a CPU without their padding; on CUDA of one fixed size."""
    indices = tuple(indices)
    keep = device != "cpu"  # kernels are compiled and tuned for a shape
    ids, labels, lengths = [], [], []
    for index in indices:
        used = sum(rows.lengths[index])
        end = rows.length if keep else used
        ids.append(rows.ids[index, :end])
        labels.append(rows.labels[index, :end])
        lengths += list(rows.lengths[index])
        if end > used:
            lengths.append(end - used)  # the padding sees itself, and nobody learns from it
    flat = np.concatenate(labels)
    places = np.flatnonzero(flat != IGNORED)
    positions = np.concatenate([np.arange(length) for length in lengths])

    def there(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device, non_blocking=True)

    bounds = None
    if keep:
        ends = np.full(-(-(len(lengths) + 1) // _BOUNDS) * _BOUNDS, sum(lengths), np.int32)
        ends[: len(lengths) + 1] = np.concatenate([[0], np.cumsum(lengths)])  # the rest are empty
        bounds = torch.from_numpy(ends).to(device, non_blocking=True)
    return Batch(
        ids=there(np.concatenate(ids))[None],
        positions=there(positions)[None],
        # Compiled code would be compiled anew for each tuple of lengths.
        documents=Documents(() if keep else tuple(lengths), rows.length, bounds),
        places=there(places),
        labels=there(flat[places]),
        rows=rows,
        indices=indices,
    )


def attach(model: Any) -> None:
    """Have a transformers causal LM use the packed attention. Raises ConfigError for sliding windows."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"training packs text for full attention; the model has layer_types {', '.join(sorted(kinds))}; "
            f"give a model without sliding windows"
        )
    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    model.config._attn_implementation = NAME


def hidden_states(model: Any, rows: Batch) -> torch.Tensor:
    """The last hidden states, after the final norm, [tokens, hidden]; ``attach`` must have been called."""
    decoder = model.get_decoder()
    output = decoder(
        input_ids=rows.ids,
        position_ids=rows.positions,
        attention_mask={"full_attention": rows.documents},
        use_cache=False,
    )
    states: torch.Tensor = output.last_hidden_state[0]
    return states


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Documents,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document.

    query [1, heads, tokens, head_dim], key and value likewise with heads or fewer. Returns
    [1, tokens, heads, head_dim].
    """
    documents = attention_mask
    # With 32-bit weights under autocast the norms of queries and keys give 32-bit floats, values stay 16-bit.
    query, key = query.to(value.dtype), key.to(value.dtype)
    scaling = scaling or query.shape[-1] ** -0.5
    if documents.bounds is not None:
        states = (query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1))
        kernel = _KERNEL if query.dtype in (torch.float16, torch.bfloat16) else None
        attend = kernel or masked_attention
        return attend(*states, documents.bounds, documents.longest, scaling)[None], None
    lengths = list(documents.lengths)
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    outs = [
        _short(q, k, v, scaling)
        if q.dtype == torch.bfloat16 and q.shape[2] <= _SHORT
        else functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        for q, k, v in parts
    ]
    return torch.cat(outs, dim=2).transpose(1, 2), None


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    """The kernel's work by a mask of all tokens by all tokens: right everywhere, dear in time and memory."""
    places = torch.arange(query.shape[0], device=query.device)
    document = torch.searchsorted(bounds[1:], places, right=True)
    mask = (document[:, None] == document[None, :]) & (places[:, None] >= places[None, :])
    q, k, v = (states.transpose(0, 1)[None] for states in (query, key, value))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


def _short(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention of one short document by plain matrix products.

    In bfloat16 on a CPU forward and backward take 0.4 to 0.6 of the time of torch's fused attention.
    """
    heads, length = query.shape[1:3]
    repeats = heads // key.shape[1]
    keys, values = (states[0].repeat_interleave(repeats, 0) for states in (key, value))
    later = torch.full((length, length), _NEVER, dtype=query.dtype).triu_(1)
    scores = torch.baddbmm(later.expand(heads, length, length), query[0] * scaling, keys.transpose(1, 2))
    return (torch.softmax(scores, -1) @ values)[None]


def at_precision(device: str, precision: torch.dtype | None) -> Any:
    """A context in which matrix products are made in that dtype; None leaves them in the weights'."""
    # No cache of cast weights: each is used once a pass, and threads would share the cache.
    return torch.autocast(
        device, precision or torch.bfloat16, enabled=precision is not None, cache_enabled=False
    )


def batches(rows: Rows, picked: Iterable[int], tokens: int, device: str) -> list[Batch]:
    """Those rows as batches of about ``tokens`` tokens, a row at least."""
    size = max(1, tokens // rows.length)
    chosen = list(picked)
    return [batch(rows, chosen[at : at + size], device) for at in range(0, len(chosen), size)]
