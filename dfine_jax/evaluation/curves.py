"""How a training went, from its log."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from dfine_jax.evaluation.plots import BAR, BAR_BEHIND, GRID, INK, WRONG, new_figure, note, plain
from dfine_jax.training.log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED_OVER = 0.03
"""Share of the log over which the thick curve of the loss takes medians, which spikes don't move."""


def training_curves(log: str | os.PathLike) -> "Figure":
    """Loss and AP over steps, from the `log.jsonl` of a training; a dot marks the best AP.

    Raises:
        ValueError: the file holds neither a loss nor an AP.
    """
    lines = read_log(Path(log))
    losses = _columns(lines, "loss")
    aps = _columns(lines, "ap")
    if not len(losses) and not len(aps):
        raise ValueError(f"{os.fspath(log)} holds neither a loss nor an AP: give the log.jsonl of a training")
    figure = new_figure(11.0, 4.3)
    left, right = figure.subplots(1, 2)
    plain(left, "Loss")
    plain(right, "AP")
    for axes, points in ((left, losses), (right, aps)):
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_xlabel("step")
        axes.set_xlim(0, max([1.0, *losses[:, 0], *aps[:, 0]]) * 1.02)
        if not len(points):
            note(axes, "not measured yet")
    if len(losses):
        left.plot(*losses.T, color=BAR_BEHIND, linewidth=1.0)
        left.plot(losses[:, 0], _smoothed(losses[:, 1]), color=BAR, linewidth=2.2)
        low, high = np.percentile(losses[:, 1], (0, 99))  # a spike must not flatten the rest
        left.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.15 * (high - low) + 1e-3)
    if len(aps):
        right.plot(*aps.T, color=BAR, linewidth=2.2, marker="o", markersize=3.5)
        step, best = aps[aps[:, 1].argmax()]
        right.plot(step, best, "o", color=WRONG, markersize=8, markeredgecolor="white")
        place = dict(
            xytext=(0, 9), textcoords="offset points", ha="right" if step > right.get_xlim()[1] / 2 else "left"
        )
        right.annotate(f"{best:.3f} at step {step:,.0f}", (step, best), color=INK, fontsize=9, **place)
        right.set_ylim(0, min(1.05, 1.15 * max(best, 0.01)))
    return figure


def _columns(lines: list[dict], name: str) -> Float64[np.ndarray, "L 2"]:
    """Step and value of each line that has a finite one."""
    points = [(line["step"], line[name]) for line in lines if _is_finite(line.get(name))]
    return np.array(points, np.float64).reshape(-1, 2)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _smoothed(values: Float64[np.ndarray, " L"]) -> Float64[np.ndarray, " L"]:
    """Medians over neighbours, of fewer at the ends."""
    reach = round(SMOOTHED_OVER * len(values) / 2)
    return np.array([np.median(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))])
