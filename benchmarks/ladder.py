"""The ladder of rungs on a recorded table: how tight each bound is, its cost, what it would stop wrongly.

    python benchmarks/ladder.py --picture docs/ladder.png

For every configuration the bound after each rung is set beside the Score that it came to in the end.
--against is the best Score so far that a trial must still be able to reach (default: the table's 90th
percentile). The last line on stdout is JSON. A picture needs a chromium to draw it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from math import inf
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search.gate import DIVERGENCES, Gate
from search.pruning import RUNGS
from search.replay import TABLE
from search.table import Row, Table, load_table
from squeeze.config import CompressionConfig
from squeeze.records import Divergence, Measurement, Rung

DRAWN = {"speed": "#b9c0c9", "block": "#e8a33d", "rest": "#2a9d8f"}
"""Rungs whose bounds are drawn, and their colours; of the others the bound is mostly that of the speed."""

COLOURS = ("#d1495b", "#4e79a7", "#7d5ba6")
WIDTH, HEIGHT = 1200, 560


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--table", type=Path, default=TABLE)
    options.add_argument("--against", type=float, help="the best Score so far (default: 90th percentile)")
    options.add_argument("--picture", type=Path, help="a PNG to draw")
    options.add_argument("--quick", action="store_true", help="no different: it takes a second")
    arguments = options.parse_args(argv)
    table = load_table(arguments.table)
    rows = [row for row in table.rows if row.score is not None]
    against = arguments.against or quantiles([row.score or 0.0 for row in rows], n=10)[-1]
    found = {
        "against": round(against, 4),
        "rungs": _rungs(rows, against),
        "divergence": _divergence(rows),
        "gate": _gate(rows),
        "rows": len(rows),
        "table": {"of": table.model, "on": table.machine, "versions": dict(table.versions)},
        "versions": {"plotly": metadata.version("plotly")},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    if arguments.picture:
        _draw(_figure(table, rows, against), arguments.picture)
    print(json.dumps(found))
    return 0


def _rungs(rows: Sequence[Row], against: float) -> dict[str, dict[str, float]]:
    """Rung -> what its bound does when the best so far is ``against``, for those that come so far.

    reach: configurations. stopped: at this rung. wrong: stopped though their Score is above. above_score: how
    far the bound is above the Score, the median. too_low: the share of bounds below the Score. at_s: when the
    rung was reached, s since measuring began, the median.
    """
    going, told = list(rows), {}
    for rung in RUNGS:
        here = [row for row in going if rung in row.bounds]
        if not here:
            continue
        stopped = [row for row in here if row.bounds[rung] < against]
        gaps = [row.bounds[rung] - (row.score or 0.0) for row in rows if rung in row.bounds]
        told[rung] = {
            "reach": len(going),
            "stopped": len(stopped),
            "wrong": sum((row.score or 0.0) > against for row in stopped),
            "above_score": round(median(gaps), 4),
            "too_low": round(sum(gap < 0 for gap in gaps) / len(gaps), 4),
            "at_s": round(median(row.reached.get(rung, 0.0) for row in rows), 1),
        }
        going = [row for row in going if row not in stopped]
    told["end"] = {"reach": len(going), "at_s": round(median(max(row.reached.values()) for row in rows), 1)}
    return told


def _divergence(rows: Sequence[Row]) -> dict[str, float]:
    """How well the divergence orders qualities: rank correlation over all rows, and over the better half."""
    pairs = [
        (_apart(row), row.perf_norm or 0.0)
        for row in rows
        if _apart(row) is not None and row.perf_norm is not None
    ]
    pairs.sort(key=lambda pair: -pair[1])
    return {
        "rank_correlation": round(_ranked(pairs), 3),
        "rank_correlation_best_quarter": round(_ranked(pairs[: len(pairs) // 4]), 3),
        "largest": round(max(apart or 0.0 for apart, _ in pairs), 3),
    }


def _gate(rows: Sequence[Row], searches: int = 60, trials: int = 40) -> dict[str, dict[str, float]]:
    """What the bound learnt from divergence does in random searches: how often it speaks, and errs."""
    none = CompressionConfig()
    gaps: dict[str, list[float]] = {rung: [] for rung in DIVERGENCES}
    for seed in range(searches):
        gate = Gate()
        for row in random.Random(seed).sample(list(rows), trials):
            for rung in DIVERGENCES:
                ceiling = gate.ceiling(none, _partial(row, rung))
                if ceiling < inf and row.perf_norm is not None:
                    gaps[rung].append(ceiling - row.perf_norm)
            gate.learn(none, row.estimates)
    return {
        rung: {
            "share_bounded": round(len(found) / searches / trials, 3),
            "too_low": round(sum(gap < 0 for gap in found) / len(found), 4),
            "above_quality": round(median(found), 3),
        }
        for rung, found in gaps.items()
    }


def _partial(row: Row, rung: Rung) -> Measurement:
    """What the gate reads of a measurement that has come so far."""
    apart = Divergence(tokens=0, mean=row.estimates[rung].divergence or 0.0, error=0.0)
    return Measurement(
        model=row.key,
        workload="",
        engine={},
        complete=False,
        rung=rung,
        questions={},
        passes=(),
        divergence=apart,
    )


def _apart(row: Row) -> float | None:
    told = row.estimates.get("divergence_more")
    return told.divergence if told else None


def _ranked(pairs: Sequence[tuple[Any, float]]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr([apart for apart, _ in pairs], [quality for _, quality in pairs]).statistic)


def _figure(table: Table, rows: Sequence[Row], against: float) -> go.Figure:
    """Left: bounds beside Scores, by rung. Right: divergence beside quality."""
    figure = make_subplots(
        1, 2, subplot_titles=("The bound after each rung and the Score in the end", "Divergence and quality")
    )
    for rung, colour in DRAWN.items():
        here = [row for row in rows if rung in row.bounds]
        figure.add_scatter(
            x=[row.score for row in here],
            y=[row.bounds[rung] for row in here],
            mode="markers",
            marker={"size": 6, "color": colour, "opacity": 0.75},
            name=f"after {rung}",
            row=1,
            col=1,
        )
    span = [0.0, 0.6]
    figure.add_scatter(
        x=span, y=span, mode="lines", line={"color": "#333"}, name="bound = Score", row=1, col=1
    )
    figure.add_hline(
        y=against,
        annotation_position="bottom left",
        line={"dash": "dot", "color": "#333"},
        annotation_text="the best so far",
        row=1,
        col=1,
    )
    schemes = sorted({str(row.params.get("scheme")) for row in rows})
    for scheme, colour in zip(schemes, COLOURS, strict=False):
        here = [row for row in rows if str(row.params.get("scheme")) == scheme and _apart(row)]
        figure.add_scatter(
            x=[_apart(row) for row in here],
            y=[row.perf_norm for row in here],
            mode="markers",
            marker={"size": 6, "color": colour, "opacity": 0.75},
            name="not quantized" if scheme == "None" else scheme,
            row=1,
            col=2,
        )
    figure.update_xaxes(title="Score in the end", row=1, col=1)
    figure.update_yaxes(title="highest Score still possible", row=1, col=1)
    figure.update_xaxes(title="KL divergence from the baseline, nats per token", type="log", row=1, col=2)
    figure.update_yaxes(title="PerfNorm", row=1, col=2)
    figure.update_layout(
        template="plotly_white",
        width=WIDTH,
        height=HEIGHT,
        title=f"{len(rows)} configurations of {table.model}, measured to the end",
    )
    return figure


def _draw(figure: go.Figure, picture: Path) -> None:
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )
    if browser is None:
        sys.exit("a picture is drawn by chromium; none is on the PATH; install it or leave --picture out")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "ladder.html"
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={folder}/profile",
                f"--window-size={WIDTH + 20},{HEIGHT + 20}",
                "--virtual-time-budget=10000",
                f"--screenshot={picture.absolute()}",
                page.as_uri(),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    sys.exit(main())
