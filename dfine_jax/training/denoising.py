"""Contrastive denoising: noisy copies of the true boxes as extra queries, with shapes that never change.

Let `M` be the most boxes a picture of the batch has. A group is `M` positive slots, then `M` negative ones, and
the i-th slot of each half is a copy of box i; a picture with fewer boxes leaves the rest as padding. Groups are
packed from slot 0 on. Slots beyond the last group are unused: they only exist to keep the shape, see no other
denoising slot, and no loss counts them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from dfine_jax.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from dfine_jax.model.distribution import inverse_sigmoid
from dfine_jax.model.outputs import DenoisingQueries
from dfine_jax.training.targets import Targets

COPIES = 100
FLIP_PROBABILITY = 0.25


class DenoisingNoise(NamedTuple):
    """The random part of the denoising queries, drawn for every slot whether or not it is used."""

    flip: Bool[Array, "B D"]
    """Whether the slot's class is replaced by `label`."""
    label: Int[Array, "B D"]
    direction: Float[Array, "B D 4"]
    """-1 or 1: which way each of x0, y0, x1, y1 moves."""
    amount: Float[Array, "B D 4"]
    """0 .. 1, in half widths and heights; negatives move by one more."""


def denoising_slots(max_boxes: int, copies: int = COPIES) -> int:
    """`D`: slots enough for any batch whose pictures have up to `max_boxes` boxes."""
    return 2 * max(copies, max_boxes)


def draw_noise(key: PRNGKeyArray, batch: int, slots: int, num_classes: int) -> DenoisingNoise:
    """Noise for `batch` pictures. A flipped class may by chance be the true one."""
    flip, label, direction, amount = jax.random.split(key, 4)
    return DenoisingNoise(
        flip=jax.random.bernoulli(flip, FLIP_PROBABILITY, (batch, slots)),
        label=jax.random.randint(label, (batch, slots), 0, num_classes),
        direction=jax.random.rademacher(direction, (batch, slots, 4), jnp.float32),
        amount=jax.random.uniform(amount, (batch, slots, 4)),
    )


def apply_noise(
    noise: DenoisingNoise, targets: Targets, num_classes: int, num_queries: int, copies: int = COPIES
) -> DenoisingQueries:
    """Denoising queries for given noise.

    Args:
        noise: for `D` slots; `D` is at least `denoising_slots(N, copies)`.
        targets: the batch's boxes.
        num_classes: the class that padding gets.
        num_queries: how many ordinary queries follow, `Q`.
        copies: about how many positives there are in all: groups = max(1, copies // M).
    """
    slots, places = noise.flip.shape[-1], targets.mask.shape[-1]
    if slots < denoising_slots(places, copies):
        raise ValueError(
            f"{slots} denoising slots are too few for up to {places} boxes a picture and {copies} copies: "
            f"draw the noise for denoising_slots({places}, {copies}) = {denoising_slots(places, copies)}."
        )
    # Real boxes first, so that box i of a picture is the i-th real one wherever the padding is.
    order = jnp.argsort(~targets.mask, axis=-1, stable=True)
    count = jnp.sum(targets.mask, axis=-1)
    most = jnp.max(count)
    groups = jnp.where(most > 0, jnp.maximum(1, copies // jnp.maximum(most, 1)), 0)

    slot = jnp.arange(slots)
    group, place = jnp.divmod(slot, jnp.maximum(2 * most, 1))
    negative, rank = jnp.divmod(place, jnp.maximum(most, 1))
    used = group < groups
    real = used & (rank < count[:, None])
    box = jnp.take_along_axis(order, jnp.where(real, rank, 0), axis=-1)

    labels = jnp.take_along_axis(targets.labels, box, axis=-1)
    labels = jnp.where(noise.flip, noise.label, labels)
    boxes = jnp.take_along_axis(targets.boxes.astype(jnp.float32), box[..., None], axis=-2)
    move = noise.direction * (noise.amount + negative[:, None]) * jnp.tile(boxes[..., 2:] / 2, 2)
    corners = jnp.clip(cxcywh_to_xyxy(boxes) + move, 0.0, 1.0)
    noisy = jnp.abs(xyxy_to_cxcywh(corners))  # a negative's corners may have crossed

    return DenoisingQueries(
        labels=jnp.where(real, labels, num_classes),
        boxes_unact=inverse_sigmoid(jnp.where(real[..., None], noisy, 0.0)),
        blocked=_blocked(jnp.where(used, group, slots + slot), num_queries),
        box=box,
        positive=real & (negative == 0),
        used=used,
        groups=groups,
    )


def _blocked(group: Int[Array, " D"], num_queries: int) -> Bool[Array, "D+{num_queries} D+{num_queries}"]:
    """No query sees a denoising slot of another group, and ordinary queries see none; all see the ordinary ones."""
    group = jnp.concatenate([group, jnp.full(num_queries, -1)])
    return (group[:, None] != group[None, :]) & (group[None, :] >= 0)


def make_denoising(
    key: PRNGKeyArray, targets: Targets, num_classes: int, num_queries: int, copies: int = COPIES
) -> DenoisingQueries:
    """Draws noise and applies it; see `apply_noise`. A batch without boxes gets unused slots only."""
    batch, places = targets.mask.shape
    noise = draw_noise(key, batch, denoising_slots(places, copies), num_classes)
    return apply_noise(noise, targets, num_classes, num_queries, copies)
