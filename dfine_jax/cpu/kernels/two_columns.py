"""Convolutions that give two cells of a row at once, by XLA."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.cpu.kernels.kernel import HWIO, Layer, Spec, XlaKernel


def for_two_columns(kernel: Float[np.ndarray, "k k I O"]) -> Float[np.ndarray, "k k+1 I 2*O"]:
    """The kernel that gives two cells of a row at once."""
    left, right = (np.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0)))
    return np.concatenate([left, right], axis=3)


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


class TwoColumns(XlaKernel):
    """A kernel of one more column, for few channels out."""

    name = "two columns"

    def supports(self, spec: Spec) -> bool:
        return spec.is_winograd

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        *_, inputs, outputs = kernel
        return [(3, 4, inputs, 2 * outputs)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return [for_two_columns(kernel)]

    def sums(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "B h w O"]:
        return convolve_two_columns(*maps, *kernels, layer.padding)
