"""The terms of D-FINE's loss as values per query, unweighted; the criterion sums them.

`*P` stands for any places that predict (decoder layers and heads), all of which are computed at once. What is paired
with true boxes may be given per place or, the same for all, without that axis. Where a query has no true box, the
value and gradient of a term that needs one are exactly zero. All of it is float32.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from dfine_jax.boxes import cxcywh_to_xyxy, giou, iou
from dfine_jax.model.distribution import box_to_distance
from dfine_jax.training.targets import PairedTargets

FOCAL_WEIGHT = 0.75
FOCAL_POWER = 2
MATCHABILITY_POWER = 1.5
TEMPERATURE = 5.0


def matched_iou(boxes: Float[Array, "*P B Q 4"], paired: PairedTargets) -> Float[Array, "*P B Q"]:
    """IoU of each query's box with its true one, 0 where it has none; no gradient flows."""
    overlap = iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(paired.boxes))
    return jax.lax.stop_gradient(jnp.where(paired.matched, overlap, 0.0))


def varifocal_loss(
    logits: Float[Array, "*P B Q K"], boxes: Float[Array, "*P B Q 4"], paired: PairedTargets
) -> Float[Array, "*P B Q"]:
    """Binary cross entropy of all classes (arXiv 2008.13367), where a matched query's class should score its IoU.

    Every other class weighs 0.75 times its squared probability, the target class its IoU.
    """
    is_class = jax.nn.one_hot(paired.labels, logits.shape[-1]) * paired.matched[..., None]
    score = is_class * matched_iou(boxes, paired)[..., None]
    probability = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
    weight = FOCAL_WEIGHT * probability**FOCAL_POWER * (1.0 - is_class) + score
    return jnp.sum(weight * optax.losses.sigmoid_binary_cross_entropy(logits, score), axis=-1)


def matchability_loss(
    logits: Float[Array, "*P B Q K"], boxes: Float[Array, "*P B Q 4"], paired: PairedTargets
) -> Float[Array, "*P B Q"]:
    """MAL, the matchability-aware loss of DEIM (arXiv 2412.04234, section 3.2), in place of the varifocal one.

    A matched query's class should score its IoU to the power of 1.5 and weighs 1 however small that is, so that
    matches of low quality are learned from, too. Every other class weighs its probability to the same power.
    """
    is_class = jax.nn.one_hot(paired.labels, logits.shape[-1]) * paired.matched[..., None]
    score = (is_class * matched_iou(boxes, paired)[..., None]) ** MATCHABILITY_POWER
    probability = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
    weight = probability**MATCHABILITY_POWER * (1.0 - is_class) + is_class
    return jnp.sum(weight * optax.losses.sigmoid_binary_cross_entropy(logits, score), axis=-1)


def l1_loss(boxes: Float[Array, "*P B Q 4"], paired: PairedTargets) -> Float[Array, "*P B Q"]:
    """Sum of the absolute differences of cx, cy, w, h."""
    return jnp.sum(jnp.abs(boxes - paired.boxes), axis=-1) * paired.matched


def giou_loss(boxes: Float[Array, "*P B Q 4"], paired: PairedTargets) -> Float[Array, "*P B Q"]:
    """1 - GIoU."""
    return (1.0 - giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(paired.boxes))) * paired.matched


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
    corners: Float[Array, "*P B Q corners"],
    boxes: Float[Array, "*P B Q 4"],
    paired: PairedTargets,
    wanted: Float[Array, "B Q 4 W"],
) -> Float[Array, "*P B Q"]:
    """FGL: cross entropy of the four edges with the `wanted` distributions, times IoU."""
    log_probability = jax.nn.log_softmax(_edges(corners), axis=-1)
    return -jnp.sum(wanted * log_probability, axis=(-2, -1)) * matched_iou(boxes, paired)


def distillation_loss(
    student: Float[Array, "*P B Q corners"],
    student_boxes: Float[Array, "*P B Q 4"],
    teacher: Float[Array, "B Q corners"],
    teacher_logits: Float[Array, "B Q K"],
    paired: PairedTargets,
) -> Float[Array, "*P B Q"]:
    """DDF (GO-LSD, section 4.2): how far a layer's distributions are from its teacher's, the last layer; mean of edges.

    It weighs the IoU of the query's pair, or where the query has none the teacher's confidence.
    """
    student, teacher = _edges(student), jax.lax.stop_gradient(_edges(teacher))
    log_student, log_teacher = _softened(student), _softened(teacher)
    divergence = jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=-1)
    # Rounding would leave a gradient of some 1e-9 here, which Adam is able to blow up.
    divergence = jnp.where(jnp.all(student == teacher, axis=-1), 0.0, divergence)
    confidence = jax.lax.stop_gradient(jax.nn.sigmoid(teacher_logits).max(axis=-1))
    weight = jnp.where(paired.matched, matched_iou(student_boxes, paired), confidence)
    return TEMPERATURE**2 * weight * jnp.mean(divergence, axis=-1)


def _edges(corners: Float[Array, "*P B Q corners"]) -> Float[Array, "*P B Q 4 W"]:
    return corners.reshape(*corners.shape[:-1], 4, corners.shape[-1] // 4)


def _softened(edges: Float[Array, "*P B Q 4 W"]) -> Float[Array, "*P B Q 4 W"]:
    """Logarithm of the softmax at the distillation's temperature."""
    # The largest becomes 0 before the division: fused with it, a subtraction after it is not exact enough for
    # logits of 1e12, whose exponential would then overflow.
    largest = jax.lax.stop_gradient(jnp.max(edges, axis=-1, keepdims=True))
    return jax.nn.log_softmax((edges - largest) / TEMPERATURE, axis=-1)


def two_hot(distance: Float[Array, "*shape"], project: Float[Array, " W"]) -> Float[Array, "*shape W"]:
    """Each distance as a distribution over the bins whose mean it is: all on the two values of W(n) around it.

    A distance outside W's range has all its weight on the end bin.
    """
    bins = project.shape[-1] - 1
    inside = jnp.clip(distance, project[0], project[-1])[..., None]
    left = jnp.clip(jnp.sum(project <= inside, axis=-1, keepdims=True) - 1, 0, bins - 1)
    low, high = project[left], project[left + 1]
    right_weight = (inside - low) / (high - low)
    bin_index = jnp.arange(bins + 1)
    return jnp.where(bin_index == left, 1.0 - right_weight, 0.0) + jnp.where(bin_index == left + 1, right_weight, 0.0)
