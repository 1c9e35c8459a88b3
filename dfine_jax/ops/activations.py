"""Activations by the names that configurations have for them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[Array], Array]


@jax.custom_jvp
def silu(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """``x * sigmoid(x)``, with the division last.

    XLA never computes a division twice. Where several follow who need the result, of ``jax.nn.silu`` it writes out the
    sigmoid and has each of them multiply; of this it writes out the result.
    """
    return x / (1 + jnp.exp(-x))


@silu.defjvp
def _silu_slope(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    sigmoid = jax.nn.sigmoid(x)
    return silu(x), tangent * (sigmoid + x * sigmoid * (1 - sigmoid))


ACTIVATIONS: dict[str | None, Activation] = {
    None: lambda x: x,
    "relu": jax.nn.relu,
    "silu": silu,
    "swish": silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}
