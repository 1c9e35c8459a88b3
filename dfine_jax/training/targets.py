"""The true boxes of a batch, padded to one static shape."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Targets(NamedTuple):
    """`N` places for boxes in each picture, of which `mask` tells the real ones; `N` is at least 1.

    What the other places hold never changes a number, and neither does how many there are.
    """

    boxes: Float[Array, "B N 4"]
    """cx, cy, w, h in fractions of the picture."""
    labels: Int[Array, "B N"]
    """0 .. num_classes - 1."""
    mask: Bool[Array, "B N"]


class Assignment(NamedTuple):
    """Which true box each query answers for. A query has one at most; a box may have several queries."""

    box: Int[Array, "*P B Q"]
    """Index into the picture's boxes; 0 where not matched."""
    matched: Bool[Array, "*P B Q"]


class PairedTargets(NamedTuple):
    """The true box and class of each query; zeros where the query has none."""

    boxes: Float[Array, "*P B Q 4"]
    labels: Int[Array, "*P B Q"]
    matched: Bool[Array, "*P B Q"]


def pair(targets: Targets, assignment: Assignment) -> PairedTargets:
    """Looks up the true box of every query of one assignment."""
    boxes = jnp.take_along_axis(targets.boxes, assignment.box[..., None], axis=-2, mode="clip")
    labels = jnp.take_along_axis(targets.labels, assignment.box, axis=-1, mode="clip")
    return PairedTargets(
        boxes=jnp.where(assignment.matched[..., None], boxes.astype(jnp.float32), 0.0),
        labels=jnp.where(assignment.matched, labels, 0),
        matched=assignment.matched,
    )
