"""Batch normalisation by the batch's own statistics, together with what follows it up to the next convolution."""

from functools import partial
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


class Shares(NamedTuple):
    """What is learned: a scale and a shift a channel, and one of each for the whole map after the activation."""

    scale: Float[Array, " C"]
    bias: Float[Array, " C"]
    affine: tuple[Float[Array, "1"], Float[Array, "1"]] | None = None


def normalise(x: Float[Array, "*B C"], shares: Shares, activation: Activation, epsilon: float) -> Normalised:
    """Normalises over all axes but the last, scales and shifts, activates, scales and shifts again.

    XLA for CPUs goes through the whole map for each sum that the gradients need, and keeps what lies between the steps.
    There the gradients are written out: fewer sums, and only ``x`` is kept.
    """
    on_cpu = _in_few_passes if shares.affine is None or activation is jax.nn.relu else _plainly
    options = dict(activation=activation, epsilon=epsilon)
    by_platform = {name: partial(_called, form, **options) for name, form in (("cpu", on_cpu), ("default", _plainly))}
    result = lax.platform_dependent(x, shares, **by_platform)
    return result._replace(mean=lax.stop_gradient(result.mean), variance=lax.stop_gradient(result.variance))


def _called(form, x, shares, *, activation, epsilon):
    return form(x, shares, activation, epsilon)


def _plainly(x: Float[Array, "*B C"], shares: Shares, activation: Activation, epsilon: float) -> Normalised:
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    centred = x - mean
    variance = jnp.square(centred).mean(axes)
    y = activation(centred * (lax.rsqrt(variance + epsilon) * shares.scale) + shares.bias)
    if shares.affine is not None:
        scale, bias = shares.affine
        y = y * scale + bias
    return Normalised(y, mean, variance)


_in_few_passes = jax.custom_vjp(_plainly, nondiff_argnums=(2, 3))


def _residuals(x, shares, activation, epsilon):
    result = _plainly(x, shares, activation, epsilon)
    return result, (x, result.mean, result.variance, shares)


def _gradients(activation, epsilon, residuals, gradients):
    """Of the sums over the map, the two that lead to ``x`` also give those for scale, bias and the scale after a relu.

    A relu's output is its input times its derivative, so the sum of gradient times output, which that scale needs, is
    made of these two as well.
    """
    x, mean, variance, shares = residuals
    gradient = gradients.map
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    spread = lax.rsqrt(variance + epsilon)
    centred = x.astype(jnp.float32) - mean
    _, pull_back = jax.vjp(activation, centred * (spread * shares.scale) + shares.bias)
    (inner,) = pull_back(gradient)
    for_bias = inner.sum(axes)
    for_scale = (inner * centred).sum(axes) * spread
    after, for_affine = 1.0, None
    if shares.affine is not None:
        after = shares.affine[0]
        of_outputs = (shares.scale * for_scale + shares.bias * for_bias).sum(keepdims=True)
        for_affine = (of_outputs, gradient.sum().reshape(1))
    uncorrelated = inner - for_bias / count - centred * (spread * for_scale / count)
    for_x = uncorrelated * (spread * shares.scale * after)
    return for_x.astype(x.dtype), Shares(for_scale * after, for_bias * after, for_affine)


_in_few_passes.defvjp(_residuals, _gradients)
