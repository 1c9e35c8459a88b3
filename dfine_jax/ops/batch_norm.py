"""Batch normalisation by the batch's own statistics, together with what follows it up to the next convolution."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.ops.activations import Activation
from dfine_jax.ops.gradients import Arrays, with_gradient


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


class _Options(NamedTuple):
    activation: Activation
    epsilon: float


def normalise(x: Float[Array, "*B C"], learned: Learned, activation: Activation, epsilon: float) -> Normalised:
    """Normalises over all axes but the last, scales and shifts, activates, scales and shifts again.

    Left to itself, JAX would keep what lies between the steps, and sum over the whole map for each gradient. Here the
    gradients are written out: fewer sums, and only ``x`` is kept.
    """
    inputs = (x, learned.scale, learned.bias, *(learned.affine or ()))
    written_out = learned.affine is None or activation is jax.nn.relu
    y, statistics = (_in_few_passes if written_out else _plainly)(inputs, _Options(activation, epsilon))
    return Normalised(y, *map(lax.stop_gradient, statistics))


def _plainly(inputs: Arrays, options: _Options) -> tuple[Array, Arrays]:
    x, scale, bias, *affine = inputs
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    centred = x - mean
    variance = jnp.square(centred).mean(axes)
    y = options.activation(centred * (lax.rsqrt(variance + options.epsilon) * scale) + bias)
    if affine:
        y = y * affine[0] + affine[1]
    return y, (mean, variance)


def _gradient(inputs: Arrays, statistics: Arrays, gradient: Array, options: _Options) -> Arrays:
    """Of the sums over the map, the two that lead to ``x`` also give those for scale, bias and the scale after a relu.

    A relu's output is its input times its derivative, so the sum of gradient times output, which that scale needs, is
    made of these two as well.
    """
    (x, scale, bias, *affine), (mean, variance) = inputs, statistics
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    spread = lax.rsqrt(variance + options.epsilon)
    centred = x.astype(jnp.float32) - mean
    _, pull_back = jax.vjp(options.activation, centred * (spread * scale) + bias)
    (inner,) = pull_back(gradient)
    for_bias = inner.sum(axes)
    for_scale = (inner * centred).sum(axes) * spread
    after, for_affine = 1.0, ()
    if affine:
        after = affine[0]
        of_outputs = (scale * for_scale + bias * for_bias).sum(keepdims=True)
        for_affine = (of_outputs, gradient.sum().reshape(1))
    uncorrelated = inner - for_bias / count - centred * (spread * for_scale / count)
    for_x = uncorrelated * (spread * scale * after)
    gradients = (for_x, for_scale * after, for_bias * after, *for_affine)
    return tuple(got.astype(of.dtype) for got, of in zip(gradients, inputs, strict=True))


_in_few_passes = with_gradient("dfine_batch_norm", _plainly, _gradient)
