"""Samples of feature maps at points between their cells, in the form that the backend is fast at."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from dfine_jax.ops.compute import Compute
from dfine_jax.ops.platform import is_portable, on_platform

Shapes = tuple[tuple[int, int], ...]
"""Height and width of each level's map."""


def sample_bilinear(
    values: Float[Array, "B S M C"],
    shapes: Shapes,
    locations: Float[Array, "B Q M P 2"],
    weights: Float[Array, "B Q M P"],
    points: tuple[int, ...],
    compute: Compute = Compute(),
) -> Float[Array, "B Q M C"]:
    """Weighted sum of bilinear samples; M heads, and P points of which ``points[i]`` lie on level i.

    Locations are x, y in fractions of a map whose cells have their centres at (i + 0.5) / n; what lies outside is zero.
    """
    return _sample(_bilinear, values, shapes, locations, weights, points, compute)


def sample_nearest(
    values: Float[Array, "B S M C"],
    shapes: Shapes,
    locations: Float[Array, "B Q M P 2"],
    weights: Float[Array, "B Q M P"],
    points: tuple[int, ...],
    compute: Compute = Compute(),
) -> Float[Array, "B Q M C"]:
    """Like ``sample_bilinear``, but takes one cell a point ("discrete"); what lies outside counts as the border.

    The cell is that of ``location * size + 0.5`` rounded towards zero, as the original release has it.
    """
    return _sample(_nearest, values, shapes, locations, weights, points, compute)


class _Share(NamedTuple):
    """Of a point, along one axis of a map: the index of a cell, and what share of the point it has."""

    cell: Float[Array, "..."]
    """A whole number, possibly outside of the map."""
    share: Float[Array, "..."]


AxisShares = Callable[[Float[Array, "..."], int], list[_Share]]


def _bilinear(distance: Float[Array, "..."], size: int) -> list[_Share]:
    """``distance`` is that from the map's edge, in cells, of which there are ``size``."""
    position = distance - 0.5
    corner = jnp.floor(position)
    fraction = position - corner
    return [_Share(corner, 1 - fraction), _Share(corner + 1, fraction)]


def _nearest(distance: Float[Array, "..."], size: int) -> list[_Share]:
    cell = jnp.clip(jnp.trunc(distance + 0.5), 0, size - 1)
    return [_Share(cell, jnp.ones_like(cell))]


def _sample(
    shares_of: AxisShares,
    values: Float[Array, "B S M C"],
    shapes: Shapes,
    locations: Float[Array, "B Q M P 2"],
    weights: Float[Array, "B Q M P"],
    points: tuple[int, ...],
    compute: Compute,
) -> Float[Array, "B Q M C"]:
    """Samples in the form that the backend is fast at."""
    static = dict(shares_of=shares_of, shapes=shapes, points=points)
    return on_platform(
        values,
        locations,
        weights,
        cpu=partial(_by_rows, of_points=lax.map, add_up=_sum_in_turn, **static),
        tpu=partial(_by_products, compute=compute, **static),
        default=partial(_by_rows, of_points=_at_once, add_up=_sum_at_once, **static),
    )


def _by_products(
    values: Float[Array, "B S M C"],
    locations: Float[Array, "B Q M P 2"],
    weights: Float[Array, "B Q M P"],
    *,
    shares_of: AxisShares,
    shapes: Shapes,
    points: tuple[int, ...],
    compute: Compute,
) -> Float[Array, "B Q M C"]:
    """The weight that each query gives to every cell, times all cells.

    Nearly all of these weights are zero, but a TPU makes them on the way to its matrix units in less time than it takes
    to pick rows, which it pads to 128 channels, and far less than to scatter their gradients. Nothing of theirs is kept
    for the gradients, since it would be large.
    """

    @jax.checkpoint
    def level_sum(cells: Float[Array, "B H W M C"], location, weight) -> Float[Array, "B Q M C"]:
        height, width = cells.shape[1:3]
        location, weight = jnp.moveaxis(location, 1, 3), jnp.moveaxis(weight, 1, 3)
        along_x = _on_axis(shares_of(location[..., 0] * width, width), width)
        along_y = _on_axis(shares_of(location[..., 1] * height, height), height) * weight[..., None]
        # Point by point and not as a product over points, which would be written out.
        places = range(weight.shape[2])
        of_cells = sum(along_y[:, :, i, :, :, None] * along_x[:, :, i, :, None, :] for i in places)
        return compute.einsum("bmqyx,byxmc->bqmc", of_cells, cells)

    first_cells, bounds = _starts([height * width for height, width in shapes]), _starts(points)
    levels = zip(
        (
            cells.reshape(cells.shape[0], *shape, *cells.shape[2:])
            for cells, shape in zip(jnp.split(values, first_cells[1:-1], axis=1), shapes, strict=True)
        ),
        jnp.split(locations, bounds[1:-1], axis=3),
        jnp.split(weights, bounds[1:-1], axis=3),
        strict=True,
    )
    return sum(level_sum(*level) for level in levels)


def _on_axis(shares: list[_Share], size: int) -> Float[Array, "*N size"]:
    """The share of every cell along an axis."""
    index = jnp.arange(size, dtype=jnp.float32)
    return sum(jnp.where(index == cell[..., None], share[..., None], 0.0) for cell, share in shares)


def _by_rows(
    values: Float[Array, "B S M C"],
    locations: Float[Array, "B Q M P 2"],
    weights: Float[Array, "B Q M P"],
    *,
    shares_of: AxisShares,
    shapes: Shapes,
    points: tuple[int, ...],
    of_points: Callable[..., Any],
    add_up: Callable[..., Array],
) -> Float[Array, "B Q M C"]:
    """The cells around each point are picked and added up.

    Queries come last on the way there, for they are many enough to fill vector registers. ``of_points`` applies a
    function to every point. What it is given has to be in memory by then: if XLA calculated a point's place once for
    the cells and once more for their shares, rounding it otherwise, a place next to a whole number would end up a cell
    away. A loop is a border that XLA for CPUs keeps; it drops an ``optimization_barrier`` before it fuses.
    """
    batch, tokens, heads, channels = values.shape
    head = jnp.arange(heads, dtype=jnp.int32)[:, None]

    def cells_and_shares(point: tuple[Array, ...]) -> tuple[list[Array], list[Array]]:
        x, y, weight, height, width, start = point
        cells, shares = [], []
        for column, share_x in shares_of(x, width):
            for row, share_y in shares_of(y, height):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                cell = start + _whole(row, height) * width + _whole(column, width)
                cells.append(cell * heads + head)
                shares.append(jnp.where(inside, share_x * share_y, 0) * weight)
        return cells, shares

    heights, widths, starts = (each.reshape(-1, 1, 1, 1) for each in maps_of_points(shapes, points))
    x, y = jnp.transpose(locations, (4, 3, 0, 2, 1))
    weights = jnp.transpose(weights, (3, 0, 2, 1))
    cells, shares = of_points(cells_and_shares, (x * widths, y * heights, weights, heights, widths, starts))
    total = add_up(values.reshape(batch, tokens * heads, channels), cells, shares)
    return jnp.swapaxes(total, 1, 2)


def _at_once(function: Callable, arrays: tuple[Array, ...]) -> Any:
    return function(lax.optimization_barrier(arrays))


def maps_of_points(shapes: Shapes, points: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Height and width of the map that each point lies on, and the index of that map's first cell; int32."""
    starts = _starts([height * width for height, width in shapes])[:-1]
    table = np.array([(*shape, start) for shape, start in zip(shapes, starts, strict=True)], np.int32)
    return tuple(np.repeat(table, points, axis=0).T)


def _starts(sizes) -> list[int]:
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]


def _whole(index: Float[Array, "..."], size: Int[np.ndarray, "..."]) -> Int[Array, "..."]:
    return jnp.clip(index, 0, size - 1).astype(jnp.int32)


def _sum_at_once(
    rows: Float[Array, "B R C"], places: list[Int[Array, "P B M Q"]], weights: list[Float[Array, "P B M Q"]]
) -> Float[Array, "B M Q C"]:
    batch, count, channels = rows.shape
    places, weights = (jnp.moveaxis(jnp.concatenate(each), 0, 3) for each in (places, weights))
    if is_portable() and isinstance(batch, int):  # a symbolic batch is a number that arrays can't be made of
        # From one table of all pictures' rows other formats pick in one operation.
        first = count * jnp.arange(batch, dtype=jnp.int32)[:, None, None, None]
        picked = _rows_at(rows.reshape(batch * count, channels), places + first)
        return jnp.matmul(weights[..., None, :], picked, precision=lax.Precision.HIGHEST)[..., 0, :]
    # Picture by picture, so that devices that share a batch need not send each other their maps.
    return (jax.vmap(_rows_at)(rows, places) * weights[..., None]).sum(-2)


def _sum_in_turn(
    rows: Float[Array, "B R C"], places: list[Int[Array, "P B M Q"]], weights: list[Float[Array, "P B M Q"]]
) -> Float[Array, "B M Q C"]:
    """A few points at a time: XLA for CPUs writes all the rows out before it adds them up, and that is slow.

    In the loop's body it can't calculate places and weights anew for every channel either, as it does outside. For
    gradients the rows are fetched again.
    """
    batch, count, channels = rows.shape
    rows = rows.reshape(batch * count, channels)
    first = count * jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    places = [place + first for place in places]

    def add(total, point):
        for place, weight in zip(*point, strict=True):
            total = total + _rows_at(rows, place) * weight[..., None]
        return total, None

    start = jnp.zeros((*places[0].shape[1:], channels), jnp.float32)
    return lax.scan(jax.checkpoint(add), start, (places, weights), unroll=max(1, 8 // len(places)))[0]


@jax.custom_jvp
def _rows_at(rows: Float[Array, "R C"], places: Int[Array, "*N"]) -> Float[Array, "*N C"]:
    """In float32, and so are their gradients: a row is picked up to a thousand times, too often for a bfloat16 sum."""
    return rows.at[places].get(mode="promise_in_bounds").astype(jnp.float32)


@_rows_at.defjvp
def _slopes_of_rows(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    rows, places = primals
    return _rows_at(rows, places), _rows_at(tangents[0].astype(jnp.float32), places)
