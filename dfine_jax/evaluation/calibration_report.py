"""How well scores and intervals of edges fit, as a figure and as numbers."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfine_jax.evaluation.calibration import LEAST_BOXES, LEVELS, Coverage, Measured, Reliability
from dfine_jax.evaluation.plots import BAR, BAR_BEHIND, GRID, INK, WRONG, as_png, new_figure, note, plain
from dfine_jax.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"all": INK, "small": "#2a9d8f", "medium": BAR, "large": "#8e44ad"}


def calibration_files(folder: str | os.PathLike) -> list[Path]:
    """What `write_calibration_report` writes into a folder."""
    return [Path(folder, name) for name in ("reliability.json", "reliability.png")]


def write_calibration_report(raw: Measured, corrected: Measured | None, folder: str | os.PathLike) -> None:
    """Writes numbers and a figure, as the model has them and, where it has a calibration, as they are corrected."""
    numbers, figure = calibration_files(folder)
    value = {"raw": as_json(raw), "corrected": None if corrected is None else as_json(corrected)}
    write_whole(numbers, (json.dumps(value, indent=1) + "\n").encode())
    write_whole(figure, as_png(reliability_diagram(raw, corrected)))


def as_json(measured: Measured) -> dict[str, Any]:
    """Plain Python; what is undefined is None."""
    scores = measured.reliability
    return {
        "expected_calibration_error": _known(scores.error),
        "bins": [
            {"detections": int(count), "score": _known(score), "right": _known(right)}
            for count, score, right in zip(*scores, strict=True)
        ],
        "coverage": [
            {
                "size": c.size,
                "boxes": c.boxes,
                **{f"{level:g}": _known(s) for level, s in zip(LEVELS, c.shares, strict=True)},
            }
            for c in measured.coverage
        ],
    }


def reliability_diagram(raw: Measured, corrected: Measured | None = None) -> "Figure":
    """Share right over score, and share of true edges inside over the interval's level; the diagonal is perfect.

    Sizes of which there are few objects are left out.
    """
    figure = new_figure(11.0, 4.8)
    left, right = figure.subplots(1, 2)
    plain(left, "Scores")
    left.set(xlabel="score", ylabel="share of such detections that is right")
    plain(right, "Intervals of edges")
    right.set(xlabel="level of the interval", ylabel="share of true edges inside")
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=2.0, zorder=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.03))
    if raw.reliability.counts.sum():
        _bars(left, raw.reliability)
        if corrected is not None:
            _line(left, corrected.reliability)
        left.legend(loc="upper left", fontsize=8.5, frameon=False, labelcolor=INK)
    else:
        note(left, "nothing was found")
    if raw.coverage[0].boxes >= LEAST_BOXES:
        right.set(xlim=(0.4, 1.01), ylim=(0.35, 1.03))
        for which, measured in (("raw", raw), ("corrected", corrected)):
            for c in () if measured is None else measured.coverage:
                _coverage(right, c, dashed=which == "raw" and corrected is not None, name=which)
        right.legend(loc="lower right", fontsize=8, frameon=False, labelcolor=INK, ncols=1 if corrected is None else 2)
    else:
        note(right, f"fewer than {LEAST_BOXES} labelled boxes were found")
    return figure


def _bars(axes: "Axes", scores: Reliability) -> None:
    bins = len(scores.counts)
    places = (np.arange(bins) + 0.5) / bins
    name = f"raw, expected error {scores.error:.3f}"
    axes.bar(places, np.nan_to_num(scores.right), 0.94 / bins, color=BAR_BEHIND, label=name)
    for place, count, share in zip(places, scores.counts, np.nan_to_num(scores.right), strict=True):
        axes.text(place, share + 0.01, f"{count:,}", ha="center", fontsize=7, color=INK)
    axes.plot(scores.scores, scores.right, "o", color=BAR, markersize=5, markeredgecolor="white")


def _line(axes: "Axes", scores: Reliability) -> None:
    filled = scores.counts > 0
    name = f"corrected, expected error {scores.error:.3f}"
    axes.plot(
        scores.scores[filled], scores.right[filled], "-o", color=WRONG, linewidth=1.8, markersize=5,
        markeredgecolor="white", label=name,
    )  # fmt: skip


def _coverage(axes: "Axes", coverage: Coverage, *, dashed: bool, name: str) -> None:
    if coverage.boxes >= LEAST_BOXES:
        style = dict(linestyle="--", alpha=0.55) if dashed else {}
        label = f"{coverage.size}, {name} ({coverage.boxes:,})"
        width = 2.6 if coverage.size == "all" else 1.4
        axes.plot(
            LEVELS, coverage.shares, marker="o", markersize=4, linewidth=width, color=COLOURS[coverage.size],
            label=label, **style,
        )  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
