"""From logits and boxes to the best detections. No suppression of overlaps: queries compete by score."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dfine_jax.boxes import cxcywh_to_xyxy


class TopDetections(NamedTuple):
    """The `T` best pairs of query and class of each picture, best first; a query may be in several."""

    scores: Float[Array, "B T"]
    labels: Int[Array, "B T"]
    boxes: Float[Array, "B T 4"]
    """x0, y0, x1, y1 in pixels of the original picture; may reach a little beyond it."""


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
    queries, classes = logits.shape[1:]
    top = min(queries if top is None else top, queries * classes)
    scores = jax.nn.sigmoid(logits.astype(jnp.float32)).reshape(-1, queries * classes)
    scores, pairs = jax.lax.top_k(scores, top)
    query = jax.lax.div(pairs, jnp.full_like(pairs, classes))  # none is negative, so that nothing has to be floored

    height, width = jnp.split(sizes.astype(jnp.float32), 2, axis=1)
    corners = cxcywh_to_xyxy(boxes.astype(jnp.float32))
    pixels = corners * jnp.concatenate([width, height, width, height], axis=1)[:, None]
    return TopDetections(
        scores=scores,
        labels=(pairs - query * classes).astype(jnp.int32),
        boxes=jnp.take_along_axis(pixels, query[..., None], axis=1),
    )
