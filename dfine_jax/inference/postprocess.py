"""From logits and boxes to the best detections. No suppression of overlaps: queries compete by score."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dfine_jax.boxes import cxcywh_to_xyxy
from dfine_jax.model.distribution import weighting_function
from dfine_jax.model.outputs import DetectedWithEdges


class TopDetections(NamedTuple):
    """The `T` best pairs of query and class of each picture, best first; a query may be in several."""

    scores: Float[Array, "B T"]
    labels: Int[Array, "B T"]
    boxes: Float[Array, "B T 4"]
    """x0, y0, x1, y1 in pixels of the original picture; may reach a little beyond it."""


class DetectionsWithEdges(NamedTuple):
    """`TopDetections`, and where their edges (left, top, right, bottom) lie as distributions over `W` places.

    Place n of an edge is at `origins + units * offsets[n]`, in pixels of the original picture.
    """

    scores: Float[Array, "B T"]
    labels: Int[Array, "B T"]
    boxes: Float[Array, "B T 4"]
    probabilities: Float[Array, "B T 4 W"]
    origins: Float[Array, "B T 4"]
    """The edges of the boxes that the distances are measured from."""
    units: Float[Array, "B T 4"]
    """Pixels for a distance of 1; below 0 for left and top, since distances go outwards."""
    offsets: Float[Array, "B W"]
    """W(n), the same for all."""


def postprocess(
    logits: Float[Array, "B Q K"],
    boxes: Float[Array, "B Q 4"],
    sizes: Int[Array, "B 2"] | Float[Array, "B 2"],
    top: int | None = None,
) -> TopDetections:
    """Scores every query for every class by a sigmoid and keeps the `top` best of each picture.

    `boxes` are cx, cy, w, h in fractions of the picture, `sizes` the original pictures' heights and widths.
    `top` is static; None keeps as many as there are queries (300 in the published models), as transformers'
    `post_process_object_detection` does. Fewer come out if there are fewer pairs. Of equal scores the lower
    query comes first.
    """
    return _best(logits, boxes, sizes, top)[0]


def postprocess_with_edges(
    output: DetectedWithEdges, sizes: Int[Array, "B 2"] | Float[Array, "B 2"], top: int | None = None
) -> DetectionsWithEdges:
    """What `postprocess` gives, and the distributions of these detections' edges."""
    detections, queries, sides = _best(output.logits, output.boxes, sizes, top)
    bins = output.corners.shape[-1] // 4 - 1
    corners = output.corners.reshape(*output.corners.shape[:-1], 4, bins + 1).astype(jnp.float32)
    origins, units = edge_scale(output.reference.astype(jnp.float32), output.reg_scale, sides)
    offsets = weighting_function(output.up, output.reg_scale, bins)
    return DetectionsWithEdges(
        *detections,
        probabilities=jax.nn.softmax(jnp.take_along_axis(corners, queries[..., None], axis=1), axis=-1),
        origins=jnp.take_along_axis(origins, queries, axis=1),
        units=jnp.take_along_axis(units, queries, axis=1),
        offsets=jnp.broadcast_to(offsets, (len(corners), bins + 1)),
    )


def edge_scale(
    reference: Float[Array, "... 4"], reg_scale: Float[Array, "..."], sides: Float[Array, "... 4"]
) -> tuple[Float[Array, "... 4"], Float[Array, "... 4"]]:
    """Where x0, y0, x1, y1 of a reference box lie in pixels, and how far an offset of one moves each.

    `reference` is cx, cy, w, h in fractions of a picture whose sides, by edge, are `sides`.
    """
    outwards = jnp.array([-1.0, -1.0, 1.0, 1.0], jnp.float32)
    units = outwards * jnp.tile(reference[..., 2:], 2) / jnp.reshape(reg_scale, ()) * sides
    return cxcywh_to_xyxy(reference) * sides, units


def _best(logits: Array, boxes: Array, sizes: Array, top: int | None) -> tuple[TopDetections, Array, Array]:
    """The detections, the query of each, (B, T, 1), and the pictures' sides by edge, (B, 1, 4)."""
    classes = logits.shape[-1]
    scores, pairs = best_pairs(logits, top)

    height, width = jnp.split(sizes.astype(jnp.float32), 2, axis=1)
    corners = cxcywh_to_xyxy(boxes.astype(jnp.float32))
    sides = jnp.concatenate([width, height, width, height], axis=1)[:, None]
    pixels = corners * sides
    query = jax.lax.div(pairs, jnp.full_like(pairs, classes))  # none is negative, so that nothing has to be floored
    labels = (pairs - query * classes).astype(jnp.int32)
    chosen = query[..., None]
    return TopDetections(scores, labels, jnp.take_along_axis(pixels, chosen, axis=1)), chosen, sides


def best_pairs(logits: Float[Array, "B Q K"], top: int | None) -> tuple[Float[Array, "B T"], Int[Array, "B T"]]:
    """Scores of the `top` best pairs of query and class, and which they are: the query times `K`, plus the class."""
    queries, classes = logits.shape[1:]
    top = min(queries if top is None else top, queries * classes)
    scores = jax.nn.sigmoid(logits.astype(jnp.float32)).reshape(-1, queries * classes)
    return jax.lax.top_k(scores, top)
