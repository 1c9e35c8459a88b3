"""Initial values of untrained weights: those of the original release, which are partly PyTorch's defaults."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Initial = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Drawn on the host: a thousand small arrays, each compiled for the device, would take half a minute."""


def parameter(initial: Initial, shape: tuple[int, ...], rng: np.random.Generator | None) -> nnx.Param:
    """A parameter with its initial value, or with its shape alone where ``rng`` is None, for a loader to fill."""
    return nnx.Param(_value(initial, shape, rng))


def statistic(value: float, shape: tuple[int, ...], rng: np.random.Generator | None) -> nnx.BatchStat:
    """A variable that is not trained, likewise."""
    return nnx.BatchStat(_value(constant(value), shape, rng))


def _value(
    initial: Initial, shape: tuple[int, ...], rng: np.random.Generator | None
) -> jax.Array | jax.ShapeDtypeStruct:
    if rng is None:
        return jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.device_put(initial(rng, shape).astype(np.float32))  # jnp.asarray compiles a program for every shape


def constant(value: float) -> Initial:
    """The same number everywhere."""
    return lambda rng, shape: np.full(shape, value)


def uniform(bound: float) -> Initial:
    """Uniform in -bound..bound."""
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


def fan_in(inputs: int) -> Initial:
    """PyTorch's default for linear layers and convolutions, weights and biases alike."""
    return uniform(inputs**-0.5)


def xavier(inputs: int, outputs: int) -> Initial:
    """Glorot's uniform distribution."""
    return uniform(math.sqrt(6 / (inputs + outputs)))


def class_embedding(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal rows; the last one, for padding, is zero."""
    table = rng.standard_normal(shape)
    table[-1] = 0
    return table


def ring_of_points(heads: int, points: tuple[int, ...]) -> Initial:
    """Sampling offsets: each head looks in its own direction, each further point of a level one step further."""
    angles = np.arange(heads) * (2 * math.pi / heads)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    directions /= np.abs(directions).max(-1, keepdims=True)
    steps = np.concatenate([np.arange(1, n + 1) for n in points])
    ring = directions[:, None] * steps[:, None]
    return lambda rng, shape: ring.reshape(shape)


PRIOR_LOGIT = -math.log(99)
"""Bias of every class logit: a prior probability of 0.01."""
