"""The terms of D-FINE's loss, each for one place (a layer or head) of the whole batch, unweighted.

Every query of the batch takes part with a mask instead of being picked out, so shapes are static, and where the
mask is False values and gradients are exactly zero. All of it is float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float

from dfine_jax.boxes import cxcywh_to_xyxy, giou, iou
from dfine_jax.model.distribution import box_to_distance, two_hot
from dfine_jax.training.targets import PairedTargets

FOCAL_WEIGHT = 0.75
FOCAL_POWER = 2
TEMPERATURE = 5.0


def matched_iou(boxes: Float[Array, "B Q 4"], paired: PairedTargets) -> Float[Array, "B Q"]:
    """IoU of each query's box with its true one, 0 where it has none; no gradient flows."""
    overlap = iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(paired.boxes))
    return jax.lax.stop_gradient(jnp.where(paired.matched, overlap, 0.0))


def varifocal_loss(
    logits: Float[Array, "B Q K"],
    boxes: Float[Array, "B Q 4"],
    paired: PairedTargets,
    used: Bool[Array, "B Q"],
) -> Float[Array, ""]:
    """Binary cross entropy of all classes (arXiv 2008.13367), summed: a matched query's class should score its IoU.

    Every other class weighs 0.75 times its squared probability, the target class its IoU.
    """
    is_class = jax.nn.one_hot(paired.labels, logits.shape[-1]) * paired.matched[..., None]
    score = is_class * matched_iou(boxes, paired)[..., None]
    probability = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
    weight = FOCAL_WEIGHT * probability**FOCAL_POWER * (1.0 - is_class) + score
    entropy = optax.losses.sigmoid_binary_cross_entropy(logits, score)
    return jnp.sum(entropy * weight * used[..., None])


def l1_loss(boxes: Float[Array, "B Q 4"], paired: PairedTargets) -> Float[Array, ""]:
    """Absolute differences of cx, cy, w, h of all pairs, summed."""
    return jnp.sum(jnp.abs(boxes - paired.boxes) * paired.matched[..., None])


def giou_loss(boxes: Float[Array, "B Q 4"], paired: PairedTargets) -> Float[Array, ""]:
    """1 - GIoU of all pairs, summed."""
    overlap = giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(paired.boxes))
    return jnp.sum((1.0 - overlap) * paired.matched)


def distance_targets(
    initial_boxes: Float[Array, "B Q 4"],
    paired: PairedTargets,
    project: Float[Array, " W"],
    reg_scale: ArrayLike,
) -> Float[Array, "B Q 4 W"]:
    """The distribution over W(n) that each edge should have: the true box seen from the initial one.

    The same for all layers. No gradient flows.
    """
    distance = box_to_distance(initial_boxes, paired.boxes, reg_scale)
    return jax.lax.stop_gradient(two_hot(distance, project))


def fine_grained_localization_loss(
    corners: Float[Array, "B Q corners"],
    boxes: Float[Array, "B Q 4"],
    paired: PairedTargets,
    wanted: Float[Array, "B Q 4 W"],
) -> Float[Array, ""]:
    """FGL (equation 4): cross entropy of the four edges with the `wanted` distributions, times IoU, summed."""
    log_probability = jax.nn.log_softmax(corners.reshape(wanted.shape), axis=-1)
    entropy = -jnp.sum(wanted * log_probability, axis=(-2, -1))
    return jnp.sum(entropy * matched_iou(boxes, paired))


def _softened(corners: Float[Array, "... W"]) -> Float[Array, "... W"]:
    """Logarithm of the softmax at the distillation's temperature."""
    # The largest becomes 0 before the division: fused with it, a subtraction after it is not exact enough for
    # logits of 1e12, whose exponential would then overflow.
    largest = jax.lax.stop_gradient(jnp.max(corners, axis=-1, keepdims=True))
    return jax.nn.log_softmax((corners - largest) / TEMPERATURE, axis=-1)


class QueryCounts(NamedTuple):
    """How many queries have a true box and how many have none."""

    matched: Float[Array, ""]
    unmatched: Float[Array, ""]


def distillation_loss(
    student: Float[Array, "B Q corners"],
    student_boxes: Float[Array, "B Q 4"],
    teacher: Float[Array, "B Q corners"],
    teacher_logits: Float[Array, "B Q K"],
    paired: PairedTargets,
    used: Bool[Array, "B Q"],
    balance: QueryCounts,
) -> Float[Array, ""]:
    """DDF (equation 5, GO-LSD): the last layer's distributions teach an earlier layer's.

    The divergence of each edge weighs the IoU of its query's pair, or the teacher's confidence where the query has
    none. Means over matched and over unmatched edges are combined in proportion to the square roots of the numbers
    in `balance`. (The release scales those by 8 / batch first, which cancels out.)
    """
    bins_of_edge = (*student.shape[:-1], 4, -1)
    student = student.reshape(bins_of_edge)
    teacher = jax.lax.stop_gradient(teacher.reshape(bins_of_edge))
    log_student, log_teacher = _softened(student), _softened(teacher)
    divergence = jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=-1)
    # Rounding would leave a gradient of some 1e-9 here, which Adam is able to blow up.
    divergence = jnp.where(jnp.all(student == teacher, axis=-1), 0.0, divergence)

    confidence = jax.lax.stop_gradient(jax.nn.sigmoid(teacher_logits).max(axis=-1))
    weight = jnp.where(paired.matched, matched_iou(student_boxes, paired), confidence)
    per_query = TEMPERATURE**2 * weight * jnp.mean(divergence, axis=-1)

    def mean(where: Bool[Array, "B Q"]) -> Float[Array, ""]:
        return jnp.sum(per_query * where) / jnp.maximum(jnp.sum(where), 1)

    matched, unmatched = jnp.sqrt(balance.matched), jnp.sqrt(balance.unmatched)
    total = matched * mean(paired.matched & used) + unmatched * mean(~paired.matched & used)
    return total / (matched + unmatched)
