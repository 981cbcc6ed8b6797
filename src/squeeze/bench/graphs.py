"""Which sizes of a step CUDA graphs are captured for."""

from __future__ import annotations

from collections.abc import Mapping

from squeeze.bench.workload import Workload

GRAPHS = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Tokens of a step for which vLLM captures CUDA graphs, as far as twice ``max_num_seqs`` (0.14.1 to 0.32)."""

SEQUENCES = 256
"""The least that vLLM takes for ``max_num_seqs`` by itself; it takes 1024 on large GPUs."""


def graph_sizes(workload: Workload, counts: Mapping[str, int]) -> list[int] | None:
    """The sizes for which CUDA graphs are captured; None: vLLM's own.

    counts: benchmark -> questions. The contest's server captures vLLM's own sizes, so time per token must not
    depend on what is left out here. Steps that write answers have as many tokens as the batch has questions:
    up to the largest batch all sizes stay. Larger are only steps that read prompts, one or a few for a batch:
    for those every second to fourth size stays, which costs a little padding, where having none cost a batch
    of one question 6 % (H200, 64 tokens an answer). Where more questions are asked in one go than are
    answered at once, prompts are read beside answers all along, and vLLM's own sizes are taken.
    """
    most = max(counts.values())
    at_once = workload.engine.max_num_seqs or SEQUENCES
    if most > at_once:
        return None
    largest = min(2 * at_once, GRAPHS[-1])
    whole = next((size for size in GRAPHS if size >= most), largest)
    return [
        size
        for size in GRAPHS
        if size <= largest and (size <= whole or size % (32 if size < 256 else 64) == 0)
    ]
