"""Activations by the names that configurations have for them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfine_jax.ops.platform import is_portable

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


def _silu(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    return jax.nn.silu(x) if is_portable() else silu(x)


# Functions of jax.nn are looked up when they are called: what writes ONNX knows activations by these names, and puts
# functions of its own in their place for as long as it traces.
ACTIVATIONS: dict[str | None, Activation] = {
    None: lambda x: x,
    "relu": lambda x: jax.nn.relu(x),
    "silu": _silu,
    "swish": _silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "sigmoid": lambda x: jax.nn.sigmoid(x),
    "tanh": jnp.tanh,
}
