"""squeeze: build a compressed model, measure it in vLLM, score it. Knows nothing of any search.

The way of the data: CompressionConfig -> Artifact -> Measurement -> Score.
"""
