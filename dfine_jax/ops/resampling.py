"""Maps made larger or smaller without weights."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dfine_jax.ops.platform import is_portable


def upsample2x(x: Float[Array, "B h w C"]) -> Float[Array, "B 2*h 2*w C"]:
    """Upsamples to twice the height and width, by the nearest cell: every cell four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def max_pool2x2(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Max-pools over 2x2 windows with stride 1, zeros beyond the far edges."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    if is_portable():
        from flax import nnx  # detectors load without Flax; what writes ONNX knows pooling by this name

        return nnx.max_pool(x, window_shape=(2, 2), strides=(1, 1), padding="VALID")
    rows = jnp.maximum(x[:, :height], x[:, 1:])
    return jnp.maximum(rows[:, :, :width], rows[:, :, 1:])
