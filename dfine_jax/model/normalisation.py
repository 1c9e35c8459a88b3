"""Batch normalisation by the batch's own statistics, together with what follows it up to the next convolution."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.model.activations import Activation


class Normalised(NamedTuple):
    """A map and the statistics of the batch that it was normalised by, in float32."""

    map: Float[Array, "*B C"]
    mean: Float[Array, " C"]
    variance: Float[Array, " C"]
    """Biased. No gradient flows through the two."""


class Learned(NamedTuple):
    """What is learned: a scale and a shift a channel, and one of each for the whole map after the activation."""

    scale: Float[Array, " C"]
    bias: Float[Array, " C"]
    affine: tuple[Float[Array, "1"], Float[Array, "1"]] | None = None


def normalise(x: Float[Array, "*B C"], learned: Learned, activation: Activation, epsilon: float) -> Normalised:
    """Normalises over all axes but the last, scales and shifts, activates, scales and shifts again.

    Left to itself, JAX would keep what lies between the steps, and sum over the whole map for each gradient. Here the
    gradients are written out: fewer sums, and only ``x`` is kept.
    """
    written_out = learned.affine is None or activation is jax.nn.relu
    result = (_in_few_passes if written_out else _plainly)(x, learned, activation, epsilon)
    return result._replace(mean=lax.stop_gradient(result.mean), variance=lax.stop_gradient(result.variance))


def _plainly(x: Float[Array, "*B C"], learned: Learned, activation: Activation, epsilon: float) -> Normalised:
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    centred = x - mean
    variance = jnp.square(centred).mean(axes)
    y = activation(centred * (lax.rsqrt(variance + epsilon) * learned.scale) + learned.bias)
    if learned.affine is not None:
        scale, bias = learned.affine
        y = y * scale + bias
    return Normalised(y, mean, variance)


_in_few_passes = jax.custom_vjp(_plainly, nondiff_argnums=(2, 3))


def _residuals(x, learned, activation, epsilon):
    result = _plainly(x, learned, activation, epsilon)
    return result, (x, result.mean, result.variance, learned)


def _gradients(activation, epsilon, residuals, gradients):
    """Of the sums over the map, the two that lead to ``x`` also give those for scale, bias and the scale after a relu.

    A relu's output is its input times its derivative, so the sum of gradient times output, which that scale needs, is
    made of these two as well.
    """
    x, mean, variance, learned = residuals
    gradient = gradients.map
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    spread = lax.rsqrt(variance + epsilon)
    centred = x.astype(jnp.float32) - mean
    _, pull_back = jax.vjp(activation, centred * (spread * learned.scale) + learned.bias)
    (inner,) = pull_back(gradient)
    for_bias = inner.sum(axes)
    for_scale = (inner * centred).sum(axes) * spread
    after, for_affine = 1.0, None
    if learned.affine is not None:
        after = learned.affine[0]
        of_outputs = (learned.scale * for_scale + learned.bias * for_bias).sum(keepdims=True)
        for_affine = (of_outputs, gradient.sum().reshape(1))
    uncorrelated = inner - for_bias / count - centred * (spread * for_scale / count)
    for_x = uncorrelated * (spread * learned.scale * after)
    for_learned = Learned(for_scale * after, for_bias * after, for_affine)
    return for_x.astype(x.dtype), jax.tree.map(lambda got, of: got.astype(of.dtype), for_learned, learned)


_in_few_passes.defvjp(_residuals, _gradients)
