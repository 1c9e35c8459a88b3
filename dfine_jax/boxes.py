"""Box formats, IoU and GIoU.

Boxes are `cxcywh` (centre, width, height) or `xyxy` (two corners), in any unit; the model uses fractions of the
picture. Nothing here yields a NaN, as a value or as a gradient, for boxes without area.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Areas up to this (a side of 1e-8 pictures) count as nothing: dividing by them would overflow the gradient.
SMALLEST_AREA = 1e-16


def cxcywh_to_xyxy(boxes: Float[Array, "... 4"]) -> Float[Array, "... 4"]:
    """Corners of boxes given by centre and size; a negative size (a decoded distribution can give one) counts as 0."""
    centre, size = jnp.split(boxes, 2, axis=-1)
    half = 0.5 * jnp.maximum(size, 0.0)
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def xyxy_to_cxcywh(boxes: Float[Array, "... 4"]) -> Float[Array, "... 4"]:
    """Centre and size of boxes given by their corners; crossed corners give a negative size."""
    low, high = jnp.split(boxes, 2, axis=-1)
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def _area(boxes: Float[Array, "... 4"]) -> Float[Array, "..."]:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _ratio(part: Float[Array, "..."], whole: Float[Array, "..."]) -> Float[Array, "..."]:
    """`part / whole`, and 0 with zero gradient where `whole` is no area at all."""
    usable = whole > SMALLEST_AREA
    return jnp.where(usable, part / jnp.where(usable, whole, 1.0), 0.0)


def _intersection_and_union(a: Float[Array, "... 4"], b: Float[Array, "... 4"]):
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    side = jnp.maximum(high - low, 0.0)
    intersection = side[..., 0] * side[..., 1]
    return intersection, _area(a) + _area(b) - intersection


def iou(a: Float[Array, "... 4"], b: Float[Array, "... 4"]) -> Float[Array, "..."]:
    """Intersection over union of `xyxy` boxes, elementwise with broadcasting; 0 for two boxes without area."""
    intersection, union = _intersection_and_union(a, b)
    return _ratio(intersection, union)


def giou(a: Float[Array, "... 4"], b: Float[Array, "... 4"]) -> Float[Array, "..."]:
    """Generalised IoU (arXiv 1902.09630) of `xyxy` boxes, elementwise with broadcasting, in -1..1.

    Less than IoU by the share of the smallest enclosing box that neither box covers.
    """
    intersection, union = _intersection_and_union(a, b)
    low = jnp.minimum(a[..., :2], b[..., :2])
    high = jnp.maximum(a[..., 2:], b[..., 2:])
    side = high - low
    enclosing = side[..., 0] * side[..., 1]
    return _ratio(intersection, union) - _ratio(enclosing - union, enclosing)


def pairwise_iou(a: Float[Array, "... N 4"], b: Float[Array, "... M 4"]) -> Float[Array, "... N M"]:
    """IoU of every `xyxy` box of `a` with every one of `b`."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def pairwise_giou(a: Float[Array, "... N 4"], b: Float[Array, "... M 4"]) -> Float[Array, "... N M"]:
    """GIoU of every `xyxy` box of `a` with every one of `b`."""
    return giou(a[..., :, None, :], b[..., None, :, :])
