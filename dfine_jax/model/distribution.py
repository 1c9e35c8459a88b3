"""Fine-grained Distribution Refinement (FDR, section 4.1 of the paper, arXiv 2410.13842) as pure functions.

A decoder layer predicts, for each of a box's four edges (left, top, right, bottom), a distribution over `bins + 1`
offsets W(0)..W(bins). Its mean moves that edge of the reference box, in units of the box's width or height over
`reg_scale`. All of it is computed in float32, whatever the network computes in.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from dfine_jax.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

SMALLEST_UNIT = 1e-16  # keeps distances from a reference without size finite


def inverse_sigmoid(x: Float[Array, "*shape"], eps: float = 1e-5) -> Float[Array, "*shape"]:
    """log(x / (1 - x)) in float32, with `x` and `1 - x` no smaller than `eps`."""
    x = jnp.clip(x.astype(jnp.float32), 0.0, 1.0)
    return jnp.log(jnp.maximum(x, eps)) - jnp.log(jnp.maximum(1.0 - x, eps))


def weighting_function(up: ArrayLike, reg_scale: ArrayLike, bins: int) -> Float[Array, " {bins}+1"]:
    """W(n), the offset each bin stands for: rising, fine around 0, coarse towards the ends.

    Args:
        up: scalar or of shape (1,); W ends at -2 * up * reg_scale and 2 * up * reg_scale.
        reg_scale: scalar or of shape (1,); the larger, the less a box can move per layer.
        bins: even; 32 in the released models.
    """
    reach = jnp.abs(jnp.reshape(up, ()) * jnp.reshape(reg_scale, ())).astype(jnp.float32)
    step = (reach + 1.0) ** (2.0 / (bins - 2))
    right = step ** jnp.arange(1, bins // 2, dtype=jnp.float32) - 1.0
    end, middle = 2.0 * reach[None], jnp.zeros(1, jnp.float32)
    return jnp.concatenate([-end, -right[::-1], middle, right, end])


def integral(corners: Float[Array, "... corners"], project: Float[Array, " W"]) -> Float[Array, "... 4"]:
    """Mean offset of each edge: the softmax over its bins, times W(n) (`project`).

    `corners` are the logits of all four edges, one after another: 4 times as many as W(n) has values.
    """
    edges = corners.reshape(*corners.shape[:-1], 4, project.shape[-1]).astype(jnp.float32)
    probabilities = jax.nn.softmax(edges, axis=-1)
    return jnp.matmul(probabilities, project, precision=jax.lax.Precision.HIGHEST)


def distance_to_box(
    reference: Float[Array, "... 4"], distance: Float[Array, "... 4"], reg_scale: ArrayLike
) -> Float[Array, "... 4"]:
    """The box whose edges lie `distance` from the reference's; all zero gives back the reference.

    Args:
        reference: cx, cy, w, h.
        distance: of the left, top, right, bottom edge, outwards, in w / reg_scale and h / reg_scale.
        reg_scale: scalar or of shape (1,).

    Returns:
        cx, cy, w, h; w or h is negative where two edges crossed.
    """
    scale = jnp.reshape(reg_scale, ()).astype(jnp.float32)
    centre, size = jnp.split(reference.astype(jnp.float32), 2, axis=-1)
    low, high = jnp.split(0.5 * scale + distance.astype(jnp.float32), 2, axis=-1)
    unit = size / scale
    return xyxy_to_cxcywh(jnp.concatenate([centre - low * unit, centre + high * unit], axis=-1))


def box_to_distance(
    reference: Float[Array, "... 4"], box: Float[Array, "... 4"], reg_scale: ArrayLike
) -> Float[Array, "... 4"]:
    """The `distance` that turns `reference` into `box` (both cx, cy, w, h): the inverse of `distance_to_box`."""
    scale = jnp.reshape(reg_scale, ()).astype(jnp.float32)
    centre, size = jnp.split(reference.astype(jnp.float32), 2, axis=-1)
    low, high = jnp.split(cxcywh_to_xyxy(box.astype(jnp.float32)), 2, axis=-1)
    unit = jnp.maximum(size / scale, SMALLEST_UNIT)
    return jnp.concatenate([centre - low, high - centre], axis=-1) / jnp.tile(unit, 2) - 0.5 * scale
