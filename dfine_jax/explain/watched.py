"""The network with what its layers see given back: the same modules, some of which also keep what passes them.

A module becomes one of these by its class alone, and adds no variables. What it kept is a value of the program that is
being traced, so it is read before that ends.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from dfine_jax.inference.fuse import fuse
from dfine_jax.model.attention import SelfAttention
from dfine_jax.model.decoder import Decoder, Maps, Selection
from dfine_jax.model.deformable import DeformableAttention, sampling_points
from dfine_jax.model.dfine import DFine
from dfine_jax.model.distribution import weighting_function
from dfine_jax.model.layers import MLP
from dfine_jax.model.outputs import LayerPrediction, QueryPredictions
from dfine_jax.ops.sampling import Shapes


class Points(NamedTuple):
    """Where one decoder layer's queries look."""

    locations: Float[Array, "B Q M P 2"]
    """x, y in fractions of the picture."""
    weights: Float[Array, "B Q M P"]


class Quality(NamedTuple):
    """One decoder layer's location quality."""

    inputs: Float[Array, "B Q inputs"]
    """Of each edge its largest probabilities and their mean."""
    logit: Float[Array, "B Q 1"]
    """What is added to every class's logit."""


class CellAttention(NamedTuple):
    """The vectors that AIFI's last layer compares, a row a cell."""

    query: Float[Array, "B T D"]
    key: Float[Array, "B T D"]


class Inside(NamedTuple):
    """All that was kept on the way from pictures to boxes; I decoder layers."""

    selection: Selection
    predictions: QueryPredictions
    points: tuple[Points, ...]
    quality: tuple[Quality, ...]
    attention: CellAttention | None
    """None for a model without AIFI."""
    shapes: Int[Array, "L 2"]
    """Height and width of each level's map."""
    offsets: Float[Array, " W"]
    """W(n), what each bin stands for."""
    reg_scale: Float[Array, ""]


class WatchedDecoder(Decoder):
    """Keeps the selection of queries, and predicts in every layer, not the last alone."""

    def flatten(self, maps: Maps, train: bool = False) -> tuple[Float[Array, "B S D"], Shapes]:
        memory, shapes = super().flatten(maps, train)
        self.shapes = nnx.Intermediate(jnp.asarray(shapes))
        return memory, shapes

    def select(self, memory: Float[Array, "B S D"], shapes: Shapes) -> Selection:
        selection = super().select(memory, shapes)
        self.selection = nnx.Intermediate(selection)
        return selection

    def refine(
        self,
        content: Float[Array, "B Q D"],
        boxes: Float[Array, "B Q 4"],
        memory: Float[Array, "B S D"],
        shapes: Shapes,
    ) -> tuple[LayerPrediction, Float[Array, "B Q 4"]]:
        predictions = self.refine_all(content, boxes, memory, shapes, None)
        self.predictions = nnx.Intermediate(predictions)
        return predictions.layers[-1], predictions.initial_boxes


class WatchedPoints(DeformableAttention):
    """Keeps where it looks."""

    def __call__(
        self,
        query: Float[Array, "B Q D"],
        boxes: Float[Array, "B Q 4"],
        memory: Float[Array, "B S D"],
        shapes: Shapes,
    ) -> Float[Array, "B Q D"]:
        offsets, scores = self.sampling_offsets(query), self.attention_weights(query)
        self.points = nnx.Intermediate(Points(*sampling_points(offsets, scores, boxes, self.config)))
        return super().__call__(query, boxes, memory, shapes)


class WatchedAttention(SelfAttention):
    """Keeps what it compares."""

    def mix(self, query: Array, key: Array, value: Array, blocked: Array | None) -> Float[Array, "B Q D"]:
        self.compared = nnx.Intermediate(CellAttention(query, key))
        return super().mix(query, key, value, blocked)


class WatchedQuality(MLP):
    """Keeps what it is given and what it makes of that."""

    def __call__(self, x: Float[Array, "*B inputs"]) -> Float[Array, "*B outputs"]:
        logit = super().__call__(x)
        self.quality = nnx.Intermediate(Quality(x, logit))
        return logit


def watched(model: DFine) -> DFine:
    """A copy in the form for inference whose parts keep what passes them."""
    model = fuse(model, for_cpu=False)
    model.decoder.__class__ = WatchedDecoder
    for layer in model.decoder.layers:
        layer.cross_attention.__class__ = WatchedPoints
    for quality in model.decoder.quality:
        quality.__class__ = WatchedQuality
    for attention in _cell_attention(model):
        attention.__class__ = WatchedAttention
    return model


def inside(model: DFine) -> tuple[Callable[[nnx.State, Float[Array, "B H W 3"]], Inside], nnx.State]:
    """A pure function of the folded model's variables and of pictures in 0..1, and these variables."""
    graph, state = nnx.split(watched(model))

    def apply(state: nnx.State, images: Float[Array, "B H W 3"]) -> Inside:
        merged = nnx.merge(graph, state)
        merged(images)
        decoder, attention = merged.decoder, _cell_attention(merged)
        bins = decoder.config.bins
        return Inside(
            selection=decoder.selection.get_value(),
            predictions=decoder.predictions.get_value(),
            points=tuple(layer.cross_attention.points.get_value() for layer in decoder.layers),
            quality=tuple(quality.quality.get_value() for quality in decoder.quality),
            attention=attention[-1].compared.get_value() if attention else None,
            shapes=decoder.shapes.get_value(),
            offsets=weighting_function(decoder.up[...], decoder.reg_scale[...], bins),
            reg_scale=jnp.reshape(decoder.reg_scale[...], ()),
        )

    return apply, state


def _cell_attention(model: DFine) -> list[SelfAttention]:
    return [layer.self_attention for aifi in model.encoder.attention for layer in aifi.layers]


def attention_rows(query: Float[Array, " D"], keys: Float[Array, "T D"], heads: int) -> Float[Array, "M T"]:
    """How much of every cell each head takes into the cell that ``query`` is of; each row's sum is one."""
    query, keys = query.reshape(heads, -1), keys.reshape(len(keys), heads, -1)
    scores = jnp.einsum("md,tmd->mt", query, keys, precision=jax.lax.Precision.HIGHEST)
    return jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1)
