"""Multi-scale deformable attention: every query looks at a few points around its box on every feature map.

D-FINE's variant (after Deformable DETR, arXiv 2010.04159) gives each level a number of points of its own, and reads the
maps as they are, without value or output projections.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.config import DecoderConfig
from dfine_jax.model.initial import constant, ring_of_points
from dfine_jax.model.layers import Linear
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.sampling import Shapes, sample_bilinear, sample_nearest


class DeformableAttention(nnx.Module):
    """Where to look and how much to weigh it are both linear in the query."""

    def __init__(self, config: DecoderConfig, width: int, *, compute: Compute, rng: np.random.Generator | None):
        total = config.heads * sum(config.points)
        common = dict(kernel=constant(0), compute=compute, rng=rng)
        ring = ring_of_points(config.heads, config.points)
        self.sampling_offsets = Linear(width, 2 * total, bias=ring, **common)
        self.attention_weights = Linear(width, total, bias=constant(0), **common)
        self.config = config
        self.width = width
        self.compute = compute

    def __call__(
        self,
        query: Float[Array, "B Q D"],
        boxes: Float[Array, "B Q 4"],
        memory: Float[Array, "B S D"],
        shapes: Shapes,
    ) -> Float[Array, "B Q D"]:
        """``boxes`` (cx cy w h) centre and scale the offsets; ``memory`` holds the maps' cells, level after level."""
        offsets, scores = self.sampling_offsets(query), self.attention_weights(query)
        return attend_to_points(offsets, scores, boxes, memory, shapes, self.config, self.compute)


def attend_to_points(
    offsets: Float[Array, "B Q offsets"],
    scores: Float[Array, "B Q scores"],
    boxes: Float[Array, "B Q 4"],
    memory: Float[Array, "B S D"],
    shapes: Shapes,
    config: DecoderConfig,
    compute: Compute = Compute(),
) -> Float[Array, "B Q D"]:
    """Attends to P points in each of M heads."""
    batch, count, _ = boxes.shape
    locations, weights = sampling_points(offsets, scores, boxes, config)
    values = memory.reshape(batch, -1, config.heads, memory.shape[-1] // config.heads)
    sample = sample_bilinear if config.method == "default" else sample_nearest
    return sample(values, shapes, locations, weights, config.points, compute).reshape(batch, count, -1)


def sampling_points(
    offsets: Float[Array, "B Q offsets"],
    scores: Float[Array, "B Q scores"],
    boxes: Float[Array, "B Q 4"],
    config: DecoderConfig,
) -> tuple[Float[Array, "B Q M P 2"], Float[Array, "B Q M P"]]:
    """Where each head looks, x and y in fractions of the picture, and what share of its sum each of its points has."""
    per_head = (*boxes.shape[:2], config.heads, sum(config.points))
    weights = jax.nn.softmax(scores.reshape(per_head), axis=-1)
    centre, size = boxes[:, :, None, None, :2], boxes[:, :, None, None, 2:]
    share = jnp.asarray(offset_factors(config))[:, None]
    return centre + offsets.reshape(*per_head, 2) * share * size, weights


def offset_factors(config: DecoderConfig) -> Float[np.ndarray, " P"]:
    """What each point's offset is multiplied by, besides the box: less where a level has more points."""
    return np.array([config.offset_scale / n for n in config.points for _ in range(n)], np.float32)
