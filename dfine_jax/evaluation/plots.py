"""Figures of an evaluation, by matplotlib, which is imported when the first is drawn.

Each function gives a `matplotlib.figure.Figure`; `figure.savefig("name.png")` writes it, and notebooks show it. None
touches pyplot, so nothing has to be closed.
"""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from dfine_jax.display import printable
from dfine_jax.evaluation.coco_metrics import IOU_50, IOU_75, RECALLS, ClassFigures, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#2b2d31", "#8a8d93", "#e6e6e3"
RIGHT, WRONG = (0.10, 0.42, 0.69), (0.85, 0.35, 0.05)
"""Blue and orange, which everybody can tell apart."""
BAR, BAR_BEHIND = "#1a6bb0", "#c3d9ec"
DPI = 130
MOST_COLOURED = 10
"""With more classes than this, their curves have no names and one grey."""
MOST_COUNTED = 25
"""With more classes than this, the squares of a confusion matrix have no numbers."""
MOST_DRAWN = 100
"""With more classes than this, bars and squares are those of the most telling; `metrics.json` has all. A minute's work
for thousands, and nobody could read them."""
LONGEST_NAME = 24


def precision_recall(evaluation: Evaluation) -> "Figure":
    """Precision over recall, a curve a class, at IoUs of 0.50 and 0.75; a dot is where the threshold puts it."""
    figure = new_figure(11.5, 4.6)
    panels = figure.subplots(1, 2, sharey=True)
    classes = [k for k, figures in enumerate(evaluation.classes) if figures.boxes]
    for axes, iou, name in zip(panels, (IOU_50, IOU_75), ("0.50", "0.75"), strict=True):
        plain(axes, f"Precision and recall at IoU {name}")
        axes.set(xlim=(0, 1.01), ylim=(-0.005, 1.03), xlabel="recall")
        axes.grid(color=GRID, linewidth=0.8)
        if len(classes) <= MOST_COLOURED:
            for k in classes:
                _curve(axes, evaluation, iou, k)
        else:  # one line with gaps: thousands take long
            gap = np.full((1, len(classes)), np.nan)
            curves = np.concatenate([evaluation.precisions[iou][:, classes], gap])
            recalls = np.tile(np.append(RECALLS, np.nan), len(classes))
            axes.plot(recalls, curves.T.ravel(), color=FAINT, linewidth=0.6)
        if len(classes) > 1:
            mean = evaluation.precisions[iou][:, classes].mean(axis=1)
            values = f"{evaluation.figures.ap50:.3f}  {evaluation.figures.ap75:.3f}"
            axes.plot(RECALLS, mean, color=INK, linewidth=2.6, label=f"{values}  mean of {len(classes)} classes")
        if not classes:
            note(axes, "no boxes to be found")
    panels[0].set_ylabel("precision")
    if classes:
        if len(classes) <= MOST_COLOURED:
            name = f"at a threshold of {evaluation.confusion.threshold:g}"
            panels[0].plot([], [], "o", color=FAINT, markersize=7, markeredgecolor="white", label=name)
        lines, names = panels[0].get_legend_handles_labels()
        legend = figure.legend(lines, names, loc="outside right upper", fontsize=9, frameon=False, labelcolor=INK)
        legend.set_title("AP at IoU 0.50 and 0.75", {"size": 9, "weight": "bold"})
    return figure


def class_bars(evaluation: Evaluation) -> "Figure":
    """AP of each class as a bar, the best first, before a lighter one of its AP at an IoU of 0.5.

    Of very many those with the best and the worst AP.
    """
    defined = sorted((c for c in evaluation.classes if c.boxes), key=lambda c: -c.ap)
    undefined = [c for c in evaluation.classes if not c.boxes]
    title = "AP by class (number of boxes)"
    if len(defined) > MOST_DRAWN:
        title += f", the best and the worst {MOST_DRAWN // 2} of {len(defined):,}"
        defined = [*defined[: MOST_DRAWN // 2], *defined[-(MOST_DRAWN // 2) :]]
    undefined = undefined[: MOST_DRAWN - len(defined)]
    rows = [*defined, *undefined]
    figure = new_figure(7.5, 1.3 + 0.32 * len(rows))
    axes = figure.subplots()
    plain(axes, title)
    places = np.arange(len(defined))
    axes.barh(
        places,
        [c.ap50 for c in defined],
        height=0.66,
        color=BAR_BEHIND,
        label=f"at IoU 0.50, mean {_number(evaluation.figures.ap50)}",
    )
    axes.barh(
        places, [c.ap for c in defined], height=0.66, color=BAR, label=f"AP over IoUs, mean {_number(evaluation.ap)}"
    )
    for place, figures in enumerate(defined):
        axes.text(max(figures.ap50, figures.ap) + 0.01, place, f"{figures.ap:.3f}", va="center", fontsize=9, color=INK)
    for place, _ in enumerate(undefined, start=len(defined)):
        axes.text(0.01, place, "no boxes", va="center", fontsize=9, color=FAINT, style="italic")
    axes.set_yticks(range(len(rows)), [_with_count(c) for c in rows], fontsize=9)
    axes.set(xlim=(0, 1.08), ylim=(len(rows) - 0.4, -0.6))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    if defined:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False, labelcolor=INK)
    return figure


def confusion_matrix(evaluation: Evaluation) -> "Figure":
    """What is taken for what: blue is right, orange wrong, darker the larger the share of its row.

    Of very many classes those that are taken for others, or others for them, most often; shares are of all.
    """
    counts, title = evaluation.confusion.counts, f"Labelled and found (threshold {evaluation.confusion.threshold:g})"
    boxes = counts.sum(axis=1)
    kept = np.arange(len(counts) - 1)
    if len(kept) > MOST_DRAWN:
        wrong = (boxes + counts.sum(axis=0) - 2 * np.diag(counts))[:-1]
        title += f", the {MOST_DRAWN} of {len(kept):,} classes with most mistakes"
        kept = np.sort(np.argsort(-wrong, kind="stable")[:MOST_DRAWN])
    names = [short_name(evaluation.truth.class_names[k]) for k in kept]
    rows = np.append(kept, len(counts) - 1)
    counts, boxes = counts[np.ix_(rows, rows)], boxes[rows]
    side = 3.4 + (0.45 if len(counts) <= MOST_COUNTED else 0.2) * len(counts)
    figure = new_figure(side + 0.2, side)
    axes = figure.subplots()
    plain(axes, title)
    shares = counts / np.maximum(boxes, 1)[:, None]
    axes.imshow(_colours(shares), aspect="equal")
    if len(counts) <= MOST_COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = shares[row, column] > 0.55
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=9, color="white" if dark else INK)
    axes.set_xticks(range(len(counts)), [*names, "(nothing)"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(counts)), [*names, "(nothing)"])
    axes.set(xlabel="found", ylabel="labelled")
    axes.tick_params(length=0, labelsize=9 if len(counts) <= MOST_COUNTED else 6)
    axes.set_xticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    return figure


def _curve(axes: "Axes", evaluation: Evaluation, iou: int, k: int) -> None:
    precisions, figures = evaluation.precisions[iou, :, k], evaluation.classes[k]
    colour = f"C{k % MOST_COLOURED}"
    name = f"{figures.ap50:.3f}  {figures.ap75:.3f}  {short_name(figures.name)}"
    axes.plot(RECALLS, precisions, color=colour, linewidth=1.8, label=name)
    above = np.flatnonzero(evaluation.scores[iou, :, k] > evaluation.confusion.threshold)
    if len(above):
        axes.plot(RECALLS[above[-1]], precisions[above[-1]], "o", color=colour, markersize=7, markeredgecolor="white")


def _colours(shares: np.ndarray) -> np.ndarray:
    """White to blue on the diagonal, white to orange elsewhere; the darker, the larger the share."""
    tints = np.broadcast_to(np.array(WRONG), (*shares.shape, 3)).copy()
    diagonal = np.arange(len(shares))
    tints[diagonal, diagonal] = RIGHT
    return 1 - np.sqrt(shares)[..., None] * (1 - tints) * 0.98 - 0.02


def new_figure(width: float, height: float) -> "Figure":
    """Makes an empty white figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def as_png(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a box stands for a letter the font lacks
        figure.savefig(content)
    return content.getvalue()


def plain(axes: "Axes", title: str) -> None:
    """A quiet look: no frame, soft ticks, the title at the left."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def note(axes: "Axes", text: str) -> None:
    """A remark where there is nothing to show."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=FAINT, style="italic")


def _with_count(figures: ClassFigures) -> str:
    return f"{short_name(figures.name)} ({figures.boxes})"


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"


def short_name(name: str) -> str:
    """The name as matplotlib shows it: not too long, and without what it would take for a formula."""
    name = printable(name)
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
    return name.replace("$", r"\$")
