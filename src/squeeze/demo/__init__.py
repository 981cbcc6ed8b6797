"""The embedded model and its made world: small, really trained, for machines with no model at hand."""

from __future__ import annotations

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""The model folder."""

DATA_DIR = Path(__file__).parent / "data"
"""The made data sets, one parquet file each, with the columns of the real ones."""
