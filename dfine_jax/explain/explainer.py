"""Explains what a model finds in pictures: load once, compile once, call."""

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from dfine_jax.boxes import cxcywh_to_xyxy
from dfine_jax.errors import InputError
from dfine_jax.explain.explanation import Explanation, attention_at
from dfine_jax.explain.watched import Inside, inside
from dfine_jax.inference.compiled import compile_lowered
from dfine_jax.inference.detections import Detections
from dfine_jax.inference.detector import require_size
from dfine_jax.inference.pictures import load_picture, picture_name
from dfine_jax.inference.postprocess import best_pairs, edge_scale
from dfine_jax.inference.preprocess import normalise, resize
from dfine_jax.model.dfine import DFine
from dfine_jax.preprocessing import Preprocessing

MOST = 100
"""Detections that may be explained at a time."""


class Explainer:
    """Tells how a model comes to its detections.

    It computes what a ``Detector`` does, by the same modules, which give back what passes them; pictures are stretched
    to the size in ``preprocessing``.
    """

    def __init__(self, model: DFine, preprocessing: Preprocessing | None = None):
        """``InputError`` for a size that is not divisible by 32, or too large."""
        self.config = model.config
        self.preprocessing = preprocessing or Preprocessing()
        require_size(self.preprocessing)
        self._apply, self._state = inside(model)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *, size: tuple[int, int] | None = None) -> "Explainer":
        """Loads a model by name, see ``load_pretrained``; ``size`` (height, width) replaces its own input size."""
        from dfine_jax.pretrained import load_pretrained  # brings the converter

        loaded = load_pretrained(name)
        settings = loaded.preprocessing
        return cls(loaded.model, settings if size is None else replace(settings, height=size[0], width=size[1]))

    @cached_property
    def compiled(self) -> jax.stages.Compiled:
        """The compiled program, from one resized picture to what is seen inside."""

        def explain(state: Any, images: UInt8[Array, "B H W 3"]) -> Inside:
            return self._apply(state, normalise(images, self.preprocessing))

        shape = (1, self.preprocessing.height, self.preprocessing.width, 3)
        lowered = jax.jit(explain).lower(self._state, jax.ShapeDtypeStruct(shape, jnp.uint8))
        return compile_lowered(lowered, quick=True)

    def __call__(self, picture: Any, detections: int | Iterable[int] = 3, *, name: str | None = None) -> Explanation:
        """Explains the so many best detections, whatever they score, or those of the given places, 0 for the best.

        A picture is a path, an address, a PIL image or an array (see ``load_picture``), called ``name`` if one is
        given. ``PictureError`` where it can't be read, ``InputError`` for places that there are not.
        """
        queries = self.config.decoder.queries
        places = list(range(detections)) if isinstance(detections, int) else list(detections)
        if not 1 <= len(places) <= MOST or not all(0 <= place < queries for place in places):
            raise InputError(f"detections={detections}: give 1 to {MOST} of them, or places from 0 to {queries - 1}")
        image = load_picture(picture)
        seen = self.compiled(self._state, resize(image, self.preprocessing)[None])
        return _explanation(
            jax.tree.map(lambda x: np.asarray(x), seen),
            places,
            self.config.class_names,
            image.size,
            picture_name(picture) if name is None else name,
            heads=self.config.encoder.heads,
            attention_level=max(self.config.encoder.attention_levels, default=0),
            point_counts=self.config.decoder.points,
        )


def _explanation(
    seen: Inside,
    places: list[int],
    class_names: tuple[str, ...],
    size: tuple[int, int],
    name: str,
    *,
    heads: int,
    attention_level: int,
    point_counts: tuple[int, ...],
) -> Explanation:
    """Picks what belongs to the detections and turns it into pixels."""
    layers = seen.predictions.layers
    scores, pairs = best_pairs(jnp.asarray(layers[-1].logits), max(places) + 1)
    scores, pairs = np.asarray(scores)[0, places], np.asarray(pairs)[0, places]
    queries, label_ids = np.divmod(pairs, len(class_names))

    def of_queries(x: Float[np.ndarray, "B Q ..."]) -> np.ndarray:
        return x[0, queries]

    initial = of_queries(seen.predictions.initial_boxes)
    chosen = of_queries(np.asarray(jax.nn.sigmoid(seen.selection.boxes_unact)))
    boxes = np.stack([chosen, initial, *(of_queries(layer.boxes) for layer in layers)], axis=1)
    boxes = _in_pixels(boxes, size)
    edges = np.stack([of_queries(layer.corners) for layer in layers], axis=1)
    edges = edges.reshape(*edges.shape[:2], 4, len(seen.offsets))
    origins, units = map(np.asarray, edge_scale(jnp.asarray(initial), seen.reg_scale, np.float32([*size, *size])))
    shapes = [tuple(map(int, shape)) for shape in seen.shapes]
    levels, cells = _places_of(seen.selection.indices[0, queries], shapes)
    starts = np.cumsum([height * width for height, width in shapes])[:-1]
    cell_scores = np.split(np.asarray(jax.nn.sigmoid(seen.selection.scores[0])), starts)
    quality_inputs = np.stack([of_queries(quality.inputs) for quality in seen.quality], axis=1)
    compared = None if seen.attention is None else type(seen.attention)(*(x[0] for x in seen.attention))
    attention = None
    if compared is not None:
        grid = (heads, *shapes[attention_level])
        centres = (boxes[:, -1, :2] + boxes[:, -1, 2:]) / 2 / size
        attention = np.stack([attention_at(compared, grid, tuple(centre)) for centre in centres])
    return Explanation(
        detections=Detections(
            boxes=boxes[:, -1],
            scores=scores,
            label_ids=label_ids.astype(np.int32),
            class_names=class_names,
            size=size,
            image=name,
        ),
        ranks=queries,
        levels=levels,
        cells=cells,
        boxes=boxes,
        offsets=seen.offsets,
        distributions=np.asarray(jax.nn.softmax(edges, axis=-1)),
        positions=origins[..., None] + units[..., None] * seen.offsets,
        points=np.stack([of_queries(points.locations) for points in seen.points], axis=1) * np.float32(size),
        weights=np.stack([of_queries(points.weights) for points in seen.points], axis=1),
        point_levels=np.repeat(np.arange(len(point_counts)), point_counts),
        quality=np.stack([of_queries(quality.logit)[..., 0] for quality in seen.quality], axis=1),
        quality_inputs=quality_inputs.reshape(*quality_inputs.shape[:2], 4, -1),
        logits=np.stack([of_queries(layer.logits) for layer in layers], axis=1),
        score_maps=tuple(scores.reshape(shape) for scores, shape in zip(cell_scores, shapes, strict=True)),
        attention=attention,
        cell_attention=compared,
    )


def _in_pixels(boxes: Float[np.ndarray, "... 4"], size: tuple[int, int]) -> Float[np.ndarray, "... 4"]:
    """cx, cy, w, h in fractions of the picture to x0, y0, x1, y1 in its pixels."""
    return np.asarray(cxcywh_to_xyxy(boxes)) * np.float32([*size, *size])


def _places_of(
    tokens: Int[np.ndarray, " N"], shapes: list[tuple[int, int]]
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, "N 2"]]:
    """Level, and row and column, of cells that are counted through all levels."""
    ends = np.cumsum([height * width for height, width in shapes])
    levels = np.searchsorted(ends, tokens, side="right")
    within = tokens - np.concatenate([[0], ends])[levels]
    widths = np.array([width for _, width in shapes])[levels]
    return levels, np.stack(np.divmod(within, widths), axis=-1)
