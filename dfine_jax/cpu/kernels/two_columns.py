"""Convolutions that give two cells of a row at once, by XLA."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def convolve_two_columns(
    x: Float[Array, "B H W I"], kernel: Float[Array, "3 4 I P"], padding: tuple[int, int]
) -> Float[Array, "B h w P//2"]:
    """A 3x3 convolution of stride 1 by a kernel in the form "two columns", on any backend; the result is float32.

    It takes four cells of a row and gives two: a third more to multiply, but a third less to gather.
    """
    low, high = padding
    width = x.shape[2] + low + high - 2
    pairs = lax.conv_general_dilated(
        x.astype(jnp.float32),
        kernel.astype(jnp.float32),
        window_strides=(1, 2),
        padding=((low, high), (low, high + width % 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    cells = pairs.reshape(*pairs.shape[:2], -1, pairs.shape[3] // 2)
    return cells[:, :, :width]
