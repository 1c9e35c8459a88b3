"""One page a detection: where its query came from, how its edges moved, where it looked, and how sure it is."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from dfine_jax.evaluation.plots import FAINT, GRID, INK, new_figure, note, plain, short_name
from dfine_jax.explain.explanation import EDGES, Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FINAL, CHOSEN, PLAIN = "#d62728", "#777a80", "#e08214"
"""Colours of the detection's box, of the box chosen with the cell, and of the first layer's plain one."""
HEAT = "YlOrRd"
MARKERS = "os^Dv"
"""Of points on each level, finest first."""
SHOWN = 0.02
"""Least probability of a bin, in any layer, that a panel makes room for."""
LARGEST_POINT = 220
"""Area of a sampling point that has all of its head's weight, in square points."""
MOST_CLASSES = 4
MOST_PIXELS = 1_200
"""Longer side of the picture as it is drawn here."""


def explain_figure(explanation: Explanation, which: int, picture: Image.Image) -> "Figure":
    """Draws the page of one detection; ``figure.savefig("name.png")`` writes it.

    ``picture`` is the upright RGB picture that was explained, as ``load_picture`` gives it.
    """
    layers, levels = explanation.distributions.shape[1], len(explanation.score_maps)
    figure = new_figure(16, 17)
    detection = explanation.detections[which]
    name = f"{short_name(detection.label)}, score {detection.score:.2f}"
    box = ", ".join(f"{edge:.1f}" for edge in detection.box)
    figure.suptitle(
        f"{name}: how it was found\nx0, y0, x1, y1 = {box} pixels; all places on this page are pixels of the picture",
        fontsize=15,
        fontweight="bold",
        color=INK,
    )
    begun, moved, looked, sure = figure.subfigures(4, 1, height_ratios=[0.8, 1.05, 1.15, 0.8])
    shown = _Shown(picture, explanation, which)
    _title(
        begun,
        "1  Where it began",
        f"Every cell of {levels} feature maps gets a score for its best class, and the best cells become queries. This "
        f"one was number {explanation.ranks[which] + 1} of them. The cross marks its cell.",
    )
    panels = begun.subplots(1, levels + 2)
    _box_path(panels[0], shown)
    begun.legend(*panels[0].get_legend_handles_labels(), loc="outside left center", fontsize=8.5, frameon=False)
    for level, axes in enumerate(panels[1:-1]):
        _score_map(axes, shown, level)
    _attention(panels[-1], shown)
    _title(
        moved,
        "2  How its edges were found",
        f"Each edge is a distribution over {len(explanation.offsets)} places, which every layer sharpens or shifts; "
        "the edge is put at its mean.",
    )
    for edge, axes in enumerate(moved.subplots(1, 4)):
        _edge(axes, shown, edge)
    _title(
        looked,
        "3  Where it looked",
        "In each layer every head reads the feature maps at a few points: the larger one, the more it counts. Colours "
        "are heads, shapes are levels.",
    )
    panels = np.ravel(looked.subplots(1, layers))
    for layer, axes in enumerate(panels):
        _points(axes, shown, layer)
    _points_legend(looked, explanation)
    _title(
        sure,
        "4  How sure it is",
        "Sharp edges raise the score, blurred ones lower it: location quality looks at each edge's largest "
        "probabilities, and is added to every class.",
    )
    scores, inputs, total = sure.subplots(1, 3, width_ratios=[1, 1.3, 1])
    _scores(scores, shown)
    _quality_inputs(inputs, shown)
    _sum(total, shown)
    return figure


class _Shown:
    """One detection, and the picture small enough to be drawn several times."""

    def __init__(self, picture: Image.Image, explanation: Explanation, which: int):
        self.explanation, self.which = explanation, which
        self.size = picture.size
        small = picture.copy()
        small.thumbnail((MOST_PIXELS, MOST_PIXELS))
        self.pixels = np.asarray(small)
        self.faded = np.asarray(small.convert("L").convert("RGB")) // 2 + 110
        self.boxes = explanation.boxes[which]

    def draw(self, axes: "Axes", title: str, *, faded: bool = False) -> None:
        """The whole picture, its axes in pixels."""
        plain(axes, title)
        axes.imshow(self.faded if faded else self.pixels, extent=(0, self.size[0], self.size[1], 0))
        axes.tick_params(labelsize=8)

    def zoom(self, axes: "Axes", places: Float[np.ndarray, "N 2"]) -> None:
        """Shows what is around these places, with a margin, as a square."""
        low, high = places.min(0), places.max(0)
        centre, side = (low + high) / 2, max(1.2 * (high - low).max(), 8)
        x, y = centre - side / 2
        axes.set(xlim=(x, x + side), ylim=(y + side, y))
        axes.set_facecolor(GRID)


def _title(part: "SubFigure", title: str, text: str) -> None:
    part.suptitle(f"{title}.  {text}", x=0.01, ha="left", fontsize=12, color=INK)


def _box(axes: "Axes", box: Float[np.ndarray, "4"], color: object, label: str | None = None, **style: object) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = box
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, label=label, **style))


def _layer_colors(layers: int) -> Float[np.ndarray, "I 4"]:
    """Light to dark blue, the first layer to the last."""
    from matplotlib import colormaps

    return colormaps["Blues"](np.linspace(0.45, 1.0, layers))


def _box_path(axes: "Axes", shown: _Shown) -> None:
    shown.draw(axes, "The box, step by step")
    boxes = shown.boxes
    _box(axes, boxes[0], CHOSEN, "guessed at the cell", linestyle=":", linewidth=2)
    _box(axes, boxes[1], PLAIN, "first layer's plain guess", linestyle="--", linewidth=1.6)
    for layer, (box, color) in enumerate(zip(boxes[2:-1], _layer_colors(len(boxes) - 2)[:-1], strict=True), 1):
        _box(axes, box, color, f"after layer {layer}", linewidth=1.6)
    _box(axes, boxes[-1], FINAL, f"after layer {len(boxes) - 2}: the detection", linewidth=2)
    _cross(axes, shown)
    corners = boxes.reshape(-1, 2)
    shown.zoom(axes, np.concatenate([corners, shown.explanation.cell_centres[[shown.which]]]))


def _cross(axes: "Axes", shown: _Shown) -> None:
    x, y = shown.explanation.cell_centres[shown.which]
    axes.plot(x, y, "x", color="white", markersize=11, markeredgewidth=4)
    axes.plot(x, y, "x", color="black", markersize=10, markeredgewidth=2)


def _score_map(axes: "Axes", shown: _Shown, level: int) -> None:
    explanation, which = shown.explanation, shown.which
    scores = explanation.score_maps[level]
    rows, columns = scores.shape
    is_from_here = explanation.levels[which] == level
    shown.draw(axes, f"Scores of the {rows}x{columns} cells", faded=True)
    overlay = _overlay(axes, shown, scores, 0, 1)
    _box(axes, shown.boxes[-1], FINAL, linewidth=1.4)
    if is_from_here:
        _cross(axes, shown)
        row, column = explanation.cells[which]
        text = f"chosen here: row {row}, column {column}, score {scores[row, column]:.2f}"
    else:
        text = f"not chosen here; best {scores.max():.2f}"
    axes.set_xlabel(text, fontsize=9)
    axes.figure.colorbar(overlay, ax=axes, shrink=0.62, label="best class score")


def _attention(axes: "Axes", shown: _Shown) -> None:
    attention = shown.explanation.attention
    if attention is None:
        plain(axes, "Attention between cells")
        note(axes, "this model has none")
        return
    heads, rows, columns = attention[shown.which].shape
    shown.draw(axes, "What its middle attends to", faded=True)
    mean = attention[shown.which].mean(0)
    overlay = _overlay(axes, shown, mean, 0, mean.max())
    _box(axes, shown.boxes[-1], FINAL, linewidth=1.4)
    x, y = (shown.boxes[-1, :2] + shown.boxes[-1, 2:]) / 2
    axes.plot(np.clip(x, 0, shown.size[0]), np.clip(y, 0, shown.size[1]), "o", color=FINAL, markeredgecolor="white")
    axes.set_xlabel(f"encoder (AIFI), {rows}x{columns} cells, mean of {heads} heads", fontsize=9)
    axes.figure.colorbar(overlay, ax=axes, shrink=0.62, label="share of attention")


def _overlay(axes: "Axes", shown: _Shown, values: Float[np.ndarray, "H W"], low: float, high: float) -> object:
    """Colours over the picture: the less a cell has, the more of the picture is seen through it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = Normalize(low, high)
    seen = 0.85 * np.clip(scale(values), 0, 1) ** 0.5
    extent = (0, shown.size[0], shown.size[1], 0)
    axes.imshow(values, extent=extent, cmap=HEAT, norm=scale, alpha=seen, interpolation="nearest")
    return ScalarMappable(scale, HEAT)  # a bar of its own, which isn't seen through


def _edge(axes: "Axes", shown: _Shown, edge: int) -> None:
    explanation, which = shown.explanation, shown.which
    probabilities, places = explanation.distributions[which, :, edge], explanation.positions[which, edge]
    means, spreads = explanation.edges[which, :, edge], explanation.spreads[which, :, edge]
    layers = len(means)
    across = "x" if edge % 2 == 0 else "y"
    plain(axes, f"{EDGES[edge].capitalize()} edge: {across} = {means[-1]:.1f} ± {spreads[-1]:.1f}")
    tallest = probabilities.max()
    axes.axvline(shown.boxes[1, edge], color=PLAIN, linestyle="--", linewidth=1.2)
    for layer, color in enumerate(_layer_colors(layers)):
        base, heights = layers - 1 - layer, 0.72 * probabilities[layer] / tallest
        axes.axhline(base, color=GRID, linewidth=1)
        axes.vlines(places, base, base + heights, color=color, linewidth=3.2)
        color = FINAL if layer == layers - 1 else INK
        axes.plot(means[layer], base - 0.02, "^", color=color, markersize=8, clip_on=False, zorder=3)
        axes.text(0.01, base + 0.78, f"{means[layer]:.1f} ± {spreads[layer]:.1f}", transform=axes.get_yaxis_transform(),
                  fontsize=8.5, color=INK)  # fmt: skip
    is_shown = (probabilities > SHOWN).any(0)
    seen = np.concatenate([places[is_shown], means, shown.boxes[1:2, edge]])
    margin = max(0.12 * np.ptp(seen), 1)
    axes.set(xlim=(seen.min() - margin, seen.max() + margin), ylim=(-0.15, layers))
    axes.set_yticks(range(layers), [f"layer {layers - i}" for i in range(layers)])
    axes.set_xlabel(f"{across} in pixels (▲ mean, dashed: plain guess)", fontsize=9)


def _points(axes: "Axes", shown: _Shown, layer: int) -> None:
    from matplotlib import colormaps

    explanation, which = shown.explanation, shown.which
    shown.draw(axes, f"Layer {layer + 1}", faded=True)
    points, weights = explanation.points[which, layer], explanation.weights[which, layer]
    heads = len(points)
    # A layer looks around the box that the one before it gave.
    before = shown.boxes[0] if layer == 0 else shown.boxes[layer + 1]
    _box(axes, before, INK, linewidth=1.5)
    for level in range(len(explanation.score_maps)):
        is_here = explanation.point_levels == level
        for head in range(heads):
            axes.scatter(
                *points[head, is_here].T,
                s=LARGEST_POINT * weights[head, is_here] + 1,
                marker=MARKERS[level % len(MARKERS)],
                color=colormaps["tab10"](head % 10),
                edgecolors="white",
                linewidths=0.4,
            )
    counts = weights > 0.02
    shown.zoom(axes, np.concatenate([points[counts], before.reshape(2, 2)]))
    shares = [
        weights[:, explanation.point_levels == level].sum() / heads for level in range(len(explanation.score_maps))
    ]
    text = ", ".join(f"level {level} {share:.0%}" for level, share in enumerate(shares, 1))
    axes.set_xlabel(f"weight by level: {text}", fontsize=9)


def _points_legend(part: "SubFigure", explanation: Explanation) -> None:
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    def entry(marker: str, color: object, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=color, linestyle="", label=label)

    heads = [
        entry("o", colormaps["tab10"](head % 10), f"head {head + 1}") for head in range(explanation.points.shape[2])
    ]
    levels = [
        entry(MARKERS[level % len(MARKERS)], FAINT, f"level {level + 1} ({rows}x{columns} cells)")
        for level, (rows, columns) in enumerate(scores.shape for scores in explanation.score_maps)
    ]
    outline = Line2D([], [], color=INK, label="box it starts from")
    part.legend(handles=[*heads, *levels, outline], loc="outside right center", fontsize=8.5, frameon=False)


def _scores(axes: "Axes", shown: _Shown) -> None:
    explanation, which = shown.explanation, shown.which
    scores = 1 / (1 + np.exp(-explanation.logits[which]))
    layers = len(scores)
    plain(axes, "Class scores after each layer")
    label_id = explanation.detections.label_ids[which]
    others = [k for k in np.argsort(-scores.max(0)) if k != label_id][: MOST_CLASSES - 1]
    steps = np.arange(1, layers + 1)
    names = explanation.detections.class_names
    axes.plot(steps, scores[:, label_id], "o-", color=FINAL, linewidth=2.4, label=short_name(names[label_id]))
    for shade, k in zip(("#555", "#888", "#bbb"), others, strict=False):
        axes.plot(steps, scores[:, k], "o-", color=shade, linewidth=1.4, label=short_name(names[k]))
    axes.set(ylim=(-0.02, 1.02), xlabel="decoder layer", ylabel="score")
    axes.set_xticks(steps)
    axes.grid(color=GRID, linewidth=0.8)
    axes.legend(fontsize=8.5, frameon=False)


def _quality_inputs(axes: "Axes", shown: _Shown) -> None:
    inputs = shown.explanation.quality_inputs[shown.which, -1]
    plain(axes, "What quality looks at: each edge's largest probabilities")
    count = inputs.shape[1]
    wide = 0.8 / count
    for i in range(count):
        is_mean = i == count - 1
        color = PLAIN if is_mean else _layer_colors(count)[count - 1 - i]
        places = np.arange(4) + (i - (count - 1) / 2) * wide
        label = "their mean" if is_mean else ("largest" if i == 0 else f"no. {i + 1}")
        bars = axes.bar(places, inputs[:, i], wide * 0.92, color=color, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=7, color=INK)
    axes.set_xticks(range(4), EDGES)
    axes.set_ylabel("probability")
    axes.margins(y=0.15)
    axes.legend(fontsize=8.5, frameon=False, ncols=count, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _sum(axes: "Axes", shown: _Shown) -> None:
    explanation, which = shown.explanation, shown.which
    detection = explanation.detections[which]
    total = explanation.logits[which, -1, detection.label_id]
    quality = explanation.quality[which, -1]
    parts = {"class": total - quality, "quality": quality, "sum": total}
    plain(axes, f"Class + quality: the score is {detection.score:.2f}")
    bars = axes.barh(list(parts), list(parts.values()), left=[0, total - quality, 0], color=[INK, PLAIN, FINAL])
    axes.bar_label(bars, [f"{value:+.2f}" for value in parts.values()], padding=4, fontsize=9)
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    without = 1 / (1 + np.exp(-(total - quality)))
    axes.set_xlabel(f"logit; without quality the score would be {without:.2f}", fontsize=9)
