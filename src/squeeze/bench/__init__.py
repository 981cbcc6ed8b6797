"""Measuring: vLLM in its own process, the benchmarks, timing."""
