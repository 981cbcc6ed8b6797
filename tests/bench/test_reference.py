"""Whether two engines have room on one GPU."""

import pytest

from squeeze.bench.reference import ACTIVATIONS_BYTES, SERVER_BYTES, halved
from squeeze.bench.workload import EngineArguments

GIB = 1 << 30


@pytest.mark.parametrize("memory_gib", [44.9, 80.0, 141.0])
def test_two_engines_share_a_gpu_where_each_has_what_the_contests_server_has(memory_gib: float) -> None:
    memory, weights = int(memory_gib * GIB), int(2.4 * GIB)
    found = halved(EngineArguments(), memory, weights)
    assert found is not None
    assert found.gpu_memory_utilization == 0.425
    assert 0.425 * memory >= SERVER_BYTES
    assert found.kv_cache_memory_bytes is not None
    # Both engines, whole, stay within the share that one was given.
    assert 2 * (found.kv_cache_memory_bytes + weights + ACTIVATIONS_BYTES) <= 0.85 * memory


@pytest.mark.parametrize(("memory_gib", "weights_gib"), [(22.4, 2.4), (24, 0.1), (44, 2.4), (80, 30)])
def test_a_gpu_without_room_for_two_has_one_at_a_time(memory_gib: float, weights_gib: float) -> None:
    assert halved(EngineArguments(), int(memory_gib * GIB), int(weights_gib * GIB)) is None
