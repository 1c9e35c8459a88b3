"""The decoder: choose queries among the encoder's cells, refine each box edge as a distribution (FDR, section 4.1).

Each layer adds to the logits of four distributions, one an edge; their means under W(n) are distances from one initial
box. In training every layer's predictions are kept, at inference only those of the layer that counts are made.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, Int

from dfine_jax.config import DecoderConfig, DFineConfig
from dfine_jax.errors import InputError
from dfine_jax.model.attention import SelfAttention
from dfine_jax.model.deformable import DeformableAttention
from dfine_jax.model.distribution import distance_to_box, integral, inverse_sigmoid, weighting_function
from dfine_jax.model.initial import PRIOR_LOGIT, class_embedding, constant, parameter, statistic, xavier
from dfine_jax.model.layers import MLP, ConvNorm, LayerNorm, Linear
from dfine_jax.model.outputs import (
    DenoisingQueries,
    Detected,
    DetectedWithEdges,
    LayerPrediction,
    PlainPrediction,
    QueryPredictions,
    TrainingOutput,
)
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.sampling import Shapes

Maps = tuple[Float[Array, "B H W C"], ...]


class Selection(NamedTuple):
    """The encoder's cells chosen as queries, best first."""

    content: Float[Array, "B Q D"]
    logits: Float[Array, "B Q K"]
    boxes_unact: Float[Array, "B Q 4"]
    """cx, cy, w, h before the sigmoid."""
    indices: Int[Array, "B Q"]
    scores: Float[Array, "B S"]
    """Best class logit of every cell, what the choice went by."""


class Decoder(nnx.Module):
    """Feature maps of the encoder to classes and boxes."""

    def __init__(self, config: DFineConfig, *, compute: Compute, rng: np.random.Generator | None):
        decoder, width, classes = config.decoder, config.decoder.width, config.num_classes
        common = dict(compute=compute, rng=rng)
        past = decoder.layers - decoder.last_layer - 1
        widths = [width] * (decoder.last_layer + 1) + [decoder.wide] * past
        edges = 4 * (decoder.bins + 1)
        # Maps that already have the decoder's width are taken as they are; so are levels made from such a map.
        projected = width != config.encoder.width
        maps = len(config.backbone.out_stages)
        self.input_proj = nnx.List()
        for i in range(decoder.levels if projected else 0):
            size, stride = (1, 1) if i < maps else (3, 2)
            initial = xavier(config.encoder.width * size**2, width * size**2)
            options = dict(kernel=initial, epsilon=config.norm_epsilon, **common)
            self.input_proj.append(ConvNorm(config.encoder.width, width, size, stride, **options))
        self.denoising_embed: nnx.Param | None = nnx.data(
            parameter(class_embedding, (classes + 1, width), rng) if decoder.denoising_queries else None
        )
        self.learned_content: nnx.Param | None = nnx.data(
            parameter(xavier(decoder.queries, width), (decoder.queries, width), rng)
            if decoder.learned_queries
            else None
        )
        rare = dict(bias=constant(PRIOR_LOGIT), **common)
        self.encoder_proj = Linear(width, width, kernel=xavier(width, width), **common)
        self.encoder_norm = LayerNorm(width, epsilon=config.layer_norm_epsilon, rng=rng)
        self.encoder_score = Linear(width, classes, **rare)
        box = dict(activation=decoder.box_activation, zero_last=True, **common)
        position = dict(activation=decoder.position_activation, kernel=xavier, **common)
        self.encoder_box = MLP(width, width, 4, 3, **box)
        self.query_position = MLP(4, 2 * width, width, 2, **position)
        self.pre_box = MLP(width, width, 4, 3, **box)
        self.layers = nnx.List([DecoderLayer(decoder, w, config.layer_norm_epsilon, **common) for w in widths])
        self.class_heads = nnx.List([Linear(w, classes, **rare) for w in widths])
        self.box_heads = nnx.List([MLP(w, w, edges, 3, **box) for w in widths])
        inputs, inside = 4 * (decoder.quality_top + 1), decoder.quality_width
        quality = dict(activation=decoder.quality_activation, zero_last=True, **common)
        self.quality = nnx.List([MLP(inputs, inside, 1, decoder.quality_layers, **quality) for _ in widths])
        self.up = statistic(decoder.up, (1,), rng)
        self.reg_scale = statistic(decoder.reg_scale, (1,), rng)
        self.config = decoder

    def __call__(
        self, maps: Maps, denoising: DenoisingQueries | None = None, train: bool = False, edges: bool = False
    ) -> Detected | DetectedWithEdges | TrainingOutput:
        """``Detected`` (or with ``edges`` more) at inference, ``TrainingOutput`` (of ``denoising`` too) in training."""
        memory, shapes = self.flatten(maps, train)
        selection = self.select(memory, shapes)
        content = stop_gradient(selection.content)
        if self.learned_content is not None:
            content = jnp.broadcast_to(self.learned_content[...], content.shape)
        reference = stop_gradient(selection.boxes_unact)
        if not train:
            prediction, initial = self.refine(content, jax.nn.sigmoid(reference), memory, shapes)
            plain = Detected(prediction.logits, prediction.boxes, selection.indices)
            more = (prediction.corners, initial, self.up[...], self.reg_scale[...])
            return DetectedWithEdges(*plain, *more) if edges else plain

        blocked, noisy = None, 0
        if denoising is not None:
            noisy, blocked = denoising.labels.shape[1], denoising.blocked
            noisy_content = self.denoising_embed[...][denoising.labels]
            padding = denoising.labels == self.denoising_embed.shape[0] - 1
            noisy_content = jnp.where(padding[..., None], stop_gradient(noisy_content), noisy_content)
            content = jnp.concatenate([noisy_content, content], axis=1)
            reference = jnp.concatenate([denoising.boxes_unact, reference], axis=1)
        predictions = self.refine_all(content, jax.nn.sigmoid(reference), memory, shapes, blocked)
        return TrainingOutput(
            queries=jax.tree.map(lambda x: x[:, noisy:], predictions),
            encoder=PlainPrediction(selection.logits, jax.nn.sigmoid(selection.boxes_unact)),
            denoising=jax.tree.map(lambda x: x[:, :noisy], predictions) if denoising is not None else None,
            up=self.up[...],
            reg_scale=self.reg_scale[...],
        )

    def flatten(self, maps: Maps, train: bool = False) -> tuple[Float[Array, "B S D"], Shapes]:
        """All levels' cells one after another, in the decoder's width, and each level's (height, width)."""
        maps = (*maps, *[maps[-1]] * (self.config.levels - len(maps)))
        if self.input_proj:
            maps = tuple(project(x, train=train) for project, x in zip(self.input_proj, maps, strict=True))
        shapes = tuple((x.shape[1], x.shape[2]) for x in maps)
        return jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in maps], axis=1), shapes

    def select(self, memory: Float[Array, "B S D"], shapes: Shapes) -> Selection:
        """The cells with the best class logits become queries, each with the box predicted from its anchor."""
        anchors, valid = anchor_table(shapes)
        if memory.shape[1] < self.config.queries:
            raise InputError(
                f"the maps have {memory.shape[1]} cells, too few for {self.config.queries} queries: "
                "use a larger picture or a config with fewer queries"
            )
        # Cells without an anchor count as zeros, of which the projection's bias is left. They are all alike then, and
        # replaced late, where there is least to replace.
        blank = self.encoder_norm(self.encoder_proj.bias[...][None])
        encoded = self.encoder_norm(self.encoder_proj(memory))
        blank_logits, logits = self.encoder_score(blank), self.encoder_score(encoded)
        scores = jnp.where(valid[:, 0], logits.max(-1), blank_logits.max(-1))
        _, indices = jax.lax.top_k(scores, self.config.queries)
        chosen = indices[..., None]
        is_valid = jnp.asarray(valid)[indices]
        content = jnp.where(is_valid, jnp.take_along_axis(encoded, chosen, axis=1), blank)
        return Selection(
            content=content,
            logits=jnp.where(is_valid, jnp.take_along_axis(logits, chosen, axis=1), blank_logits),
            boxes_unact=self.encoder_box(content) + jnp.asarray(anchors)[indices],
            indices=indices,
            scores=scores,
        )

    def refine(
        self,
        content: Float[Array, "B Q D"],
        boxes: Float[Array, "B Q 4"],
        memory: Float[Array, "B S D"],
        shapes: Shapes,
    ) -> tuple[LayerPrediction, Float[Array, "B Q 4"]]:
        """The prediction of the layer that counts, and the boxes that its distances are measured from."""
        last = self.config.last_layer
        *_, (initial, hidden, corners, boxes) = self._steps(content, boxes, memory, shapes, None, last + 1)
        logits = self._quality_logits(last, self.class_heads[last](hidden), corners)
        return LayerPrediction(logits, boxes, corners), initial

    def refine_all(
        self,
        content: Float[Array, "B Q D"],
        boxes: Float[Array, "B Q 4"],
        memory: Float[Array, "B S D"],
        shapes: Shapes,
        blocked: Bool[Array, "Q Q"] | None,
    ) -> QueryPredictions:
        """Every layer's prediction, and the first layer's plain one. ``blocked[i, j]``: i may not look at j."""
        layers = []
        steps = self._steps(content, boxes, memory, shapes, blocked, self.config.layers)
        for i, (initial, hidden, corners, refined) in enumerate(steps):
            logits = self.class_heads[i](hidden)
            if i == 0:
                pre = PlainPrediction(logits, initial)
            layers.append(LayerPrediction(self._quality_logits(i, logits, corners), refined, corners))
        return QueryPredictions(tuple(layers), pre, stop_gradient(pre.boxes))

    def _steps(self, content, boxes, memory, shapes, blocked, count):
        """Yields each layer's (plain boxes of layer 0, hidden state, corners, boxes)."""
        project = weighting_function(self.up[...], self.reg_scale[...], self.config.bins)
        hidden, reference = content, boxes
        previous, corners = 0.0, 0.0
        for i in range(count):
            position = jnp.clip(self.query_position(reference), -10, 10)
            if i > self.config.last_layer:
                times = self.config.wide // self.config.width
                position = jnp.repeat(position, times, axis=-1)
                if i == self.config.last_layer + 1:
                    memory = jnp.repeat(memory, times, axis=-1)
                    hidden = jnp.repeat(hidden, times, axis=-1)
                    previous = stop_gradient(hidden)
            hidden = self.layers[i](hidden, position, reference, memory, shapes, blocked)
            if i == 0:
                initial = jax.nn.sigmoid(self.pre_box(hidden) + inverse_sigmoid(reference))
            corners = self.box_heads[i](hidden + previous) + corners
            refined = distance_to_box(stop_gradient(initial), integral(corners, project), self.reg_scale[...])
            yield initial, hidden, corners, refined
            reference, previous = stop_gradient(refined), stop_gradient(hidden)

    def _quality_logits(
        self, layer: int, logits: Float[Array, "B Q K"], corners: Float[Array, "B Q E"]
    ) -> Float[Array, "B Q K"]:
        """Location quality: how peaked the edges' distributions are, as one number added to every class."""
        batch, queries, _ = corners.shape
        probabilities = jax.nn.softmax(corners.reshape(batch, queries, 4, -1), axis=-1)
        best, _ = jax.lax.top_k(probabilities, self.config.quality_top)
        statistics = jnp.concatenate([best, best.mean(-1, keepdims=True)], axis=-1)
        return logits + self.quality[layer](statistics.reshape(batch, queries, -1))


class DecoderLayer(nnx.Module):
    """Self-attention among the queries, deformable attention to the maps through a gate, and an MLP."""

    def __init__(
        self,
        config: DecoderConfig,
        width: int,
        epsilon: float,
        *,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        common = dict(compute=compute, rng=rng)
        hidden = config.feedforward * width // config.width
        self.self_attention = SelfAttention(width, config.heads, **common)
        self.norm1 = LayerNorm(width, epsilon=epsilon, rng=rng)
        self.cross_attention = DeformableAttention(config, width, **common)
        self.gateway = Gate(width, **common)
        self.mlp = MLP(width, hidden, width, 2, activation=config.activation, **common)
        self.norm2 = LayerNorm(width, epsilon=epsilon, rng=rng)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        position: Float[Array, "B Q D"],
        boxes: Float[Array, "B Q 4"],
        memory: Float[Array, "B S D"],
        shapes: Shapes,
        blocked: Bool[Array, "Q Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        x = self.norm1(x + self.self_attention(x, position, blocked))
        x = self.gateway(x, self.cross_attention(x + position, boxes, memory, shapes))
        return self.norm2(jnp.clip(x + self.mlp(x), -65504, 65504))


class Gate(nnx.Module):
    """The target gating layer: how much of the old and of the new state to keep, per channel."""

    def __init__(self, width: int, *, compute: Compute, rng: np.random.Generator | None):
        zero = dict(kernel=constant(0), bias=constant(0))
        self.gate = Linear(2 * width, 2 * width, **zero, compute=compute, rng=rng)
        self.norm = LayerNorm(width, rng=rng)

    def __call__(self, old: Float[Array, "B Q D"], new: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        keep, take = jnp.split(jax.nn.sigmoid(self.gate(jnp.concatenate([old, new], axis=-1))), 2, axis=-1)
        return self.norm(keep * old + take * new)


def anchor_table(shapes: Shapes) -> tuple[np.ndarray, np.ndarray]:
    """Every cell's default box before the sigmoid, ``(S, 4)``, and whether it may be chosen, ``(S, 1)``.

    Anchors are 0.05 of the picture wide and high on the finest level and twice that on each next one; those whose
    centre or size comes within 0.01 of 0 or 1 are not used.
    """
    levels = []
    for level, (height, width) in enumerate(shapes):
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        size = np.full_like(x, 0.05 * 2.0**level)
        levels.append(np.stack([x, y, size, size], axis=-1).reshape(-1, 4))
    anchors = np.concatenate(levels).astype(np.float32)
    valid = ((anchors > 0.01) & (anchors < 0.99)).all(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        unact = np.log(anchors / (1 - anchors))
    return np.where(valid, unact, np.finfo(np.float32).max).astype(np.float32), valid
