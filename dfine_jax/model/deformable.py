"""Multi-scale deformable attention: every query looks at a few points around its box on every feature map.

D-FINE's variant (after Deformable DETR, arXiv 2010.04159) gives each level a number of points of its own, and reads the
maps as they are, without value or output projections.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from dfine_jax.config import DecoderConfig
from dfine_jax.model.compute import Compute
from dfine_jax.model.initial import constant, ring_of_points
from dfine_jax.model.layers import Linear

Shapes = tuple[tuple[int, int], ...]


class DeformableAttention(nnx.Module):
    """Where to look and how much to weigh it are both linear in the query."""

    def __init__(self, config: DecoderConfig, width: int, *, compute: Compute, rng: np.random.Generator | None):
        total = config.heads * sum(config.points)
        common = dict(kernel=constant(0), compute=compute, rng=rng)
        ring = ring_of_points(config.heads, config.points)
        self.sampling_offsets = Linear(width, 2 * total, bias=ring, **common)
        self.attention_weights = Linear(width, total, bias=constant(0), **common)
        self.config = config
        self.compute = compute

    def __call__(
        self,
        query: Float[Array, "B Q D"],
        boxes: Float[Array, "B Q 4"],
        memory: Float[Array, "B S D"],
        shapes: Shapes,
    ) -> Float[Array, "B Q D"]:
        """``boxes`` (cx cy w h) centre and scale the offsets; ``memory`` holds the maps' cells, level after level."""
        batch, count, width = query.shape
        heads, points = self.config.heads, self.config.points
        per_head = (batch, count, heads, sum(points))
        offsets = self.sampling_offsets(query).reshape(*per_head, 2)
        weights = jax.nn.softmax(self.attention_weights(query).reshape(per_head), axis=-1)
        share = jnp.asarray([1 / n for n in points for _ in range(n)], jnp.float32)[:, None]
        centre, size = boxes[:, :, None, None, :2], boxes[:, :, None, None, 2:]
        locations = centre + offsets * share * size * self.config.offset_scale
        values = memory.reshape(batch, -1, heads, width // heads)
        sample = sample_bilinear if self.config.method == "default" else sample_nearest
        return sample(values, shapes, locations, weights, points).reshape(batch, count, width)


def sample_bilinear(
    values: Float[Array, "B S M C"],
    shapes: Shapes,
    locations: Float[Array, "B Q M P 2"],
    weights: Float[Array, "B Q M P"],
    points: tuple[int, ...],
) -> Float[Array, "B Q M C"]:
    """Weighted sum of bilinear samples; M heads, and P points of which ``points[i]`` lie on level i.

    Locations are x, y in fractions of a map whose cells have their centres at (i + 0.5) / n; what lies outside is zero.
    """
    cells, shares = [], []
    for (height, width), start, location in _by_level(shapes, locations, points):
        position = location * jnp.asarray([width, height], jnp.float32) - 0.5
        corner = jnp.floor(position)
        fraction = position - corner
        for right in (0, 1):
            for down in (0, 1):
                x, y = corner[..., 0] + right, corner[..., 1] + down
                share_x = fraction[..., 0] if right else 1 - fraction[..., 0]
                share_y = fraction[..., 1] if down else 1 - fraction[..., 1]
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                cells.append(start + _cell(x, y, height, width))
                shares.append(jnp.where(inside, share_x * share_y, 0))
    levels = jnp.split(weights, _starts(points)[1:-1], axis=-1)
    weights = jnp.concatenate([level for level in levels for _ in range(4)], axis=-1)
    return _weighted_sum(values, jnp.concatenate(cells, -1), jnp.concatenate(shares, -1) * weights)


def sample_nearest(
    values: Float[Array, "B S M C"],
    shapes: Shapes,
    locations: Float[Array, "B Q M P 2"],
    weights: Float[Array, "B Q M P"],
    points: tuple[int, ...],
) -> Float[Array, "B Q M C"]:
    """Like ``sample_bilinear``, but takes one cell a point ("discrete"); what lies outside counts as the border.

    The cell is that of ``location * size + 0.5`` rounded towards zero, as the original release has it.
    """
    cells = []
    for (height, width), start, location in _by_level(shapes, locations, points):
        position = jnp.trunc(location * jnp.asarray([width, height], jnp.float32) + 0.5)
        cells.append(start + _cell(position[..., 0], position[..., 1], height, width))
    return _weighted_sum(values, jnp.concatenate(cells, -1), weights)


def _by_level(shapes: Shapes, locations: Float[Array, "B Q M P 2"], points: tuple[int, ...]):
    """Each level's shape, the index of its first cell, and the locations that lie on it."""
    first_cells = _starts([height * width for height, width in shapes])
    bounds = _starts(points)
    for level, shape in enumerate(shapes):
        yield shape, first_cells[level], locations[..., bounds[level] : bounds[level + 1], :]


def _starts(sizes) -> list[int]:
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]


def _cell(x: Float[Array, "..."], y: Float[Array, "..."], height: int, width: int) -> Int[Array, "..."]:
    x = jnp.clip(x, 0, width - 1).astype(jnp.int32)
    y = jnp.clip(y, 0, height - 1).astype(jnp.int32)
    return y * width + x


def _weighted_sum(
    values: Float[Array, "B S M C"], cells: Int[Array, "B Q M P"], weights: Float[Array, "B Q M P"]
) -> Float[Array, "B Q M C"]:
    batch, tokens, heads, channels = values.shape
    rows = values.reshape(batch * tokens * heads, channels)
    first = jnp.arange(batch, dtype=jnp.int32)[:, None, None, None] * tokens
    places = (first + cells) * heads + jnp.arange(heads, dtype=jnp.int32)[:, None]
    return lax.platform_dependent(rows, places, weights, cpu=_sum_in_turn, default=_sum_at_once)


def _sum_at_once(
    rows: Float[Array, "R C"], places: Int[Array, "*N P"], weights: Float[Array, "*N P"]
) -> Float[Array, "*N C"]:
    return (_rows_at(rows, places) * weights[..., None]).sum(-2)


def _sum_in_turn(
    rows: Float[Array, "R C"], places: Int[Array, "*N P"], weights: Float[Array, "*N P"]
) -> Float[Array, "*N C"]:
    """A few points at a time: XLA for CPUs writes all the rows out before it adds them up, and that is slow.

    In the loop's body it can't calculate places and weights anew for every channel either, as it does outside. For
    gradients the rows are fetched again.
    """

    def add(total, point):
        place, weight = point
        return total + _rows_at(rows, place) * weight[..., None], None

    points = jnp.moveaxis(places, -1, 0), jnp.moveaxis(weights, -1, 0)
    start = jnp.zeros((*places.shape[:-1], rows.shape[1]), jnp.float32)
    return lax.scan(jax.checkpoint(add), start, points, unroll=8)[0]


def _rows_at(rows: Float[Array, "R C"], places: Int[Array, "*N"]) -> Float[Array, "*N C"]:
    return rows.at[places].get(mode="promise_in_bounds").astype(jnp.float32)
