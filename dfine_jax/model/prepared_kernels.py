"""Kernels of a fused model in the forms that CPUs are fast with, made on the host ahead, and what goes through them."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.model.compute import Compute
from dfine_jax.model.convolution import SMALL, alike

Form = Literal["whole", "parts", "pairs", "tiles"]
"""Of a kernel: as it is; split along its inputs, one part a summand of ``convolve_several``; one for two cells at once,
see ``convolve_pairs``; or transformed for products of tiles, see ``convolve_tiles``.
"""

WIDE = 48
"""Channels in and out from which tiles beat the direct form on CPUs by more than they cost to compile."""

NARROW = 24
"""Channels out up to which two cells at once are faster: one cell's fill too few of a CPU's vector registers."""


def form_on_cpu(kernel: tuple[int, int, int, int], stride: int, widths: tuple[int, ...]) -> Form:
    """The form for a kernel of this shape (HWIO) that convolves maps of so many channels put together."""
    *size, inputs, outputs = kernel
    if size == [1, 1] and stride == 1 and len(_summands(widths)) > 1:
        return "parts"
    if size != [3, 3] or stride != 1 or inputs == 1 or len(widths) > 1:
        return "whole"
    if min(inputs, outputs) >= WIDE:
        return "tiles"
    return "pairs" if outputs <= NARROW and math.prod(kernel) > SMALL else "whole"


def shapes_in_form(kernel: tuple[int, int, int, int], form: Form, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of the arrays that ``in_form`` makes of a kernel of this shape (HWIO)."""
    *size, inputs, outputs = kernel
    match form:
        case "whole":
            return [kernel]
        case "parts":
            return [(*size, width, outputs) for width in _summands(widths)]
        case "pairs":
            return [(3, 4, inputs, 2 * outputs)]
        case "tiles":
            return [(inputs, outputs)] * 16


def in_form(
    kernel: Float[np.ndarray, "kh kw I O"], form: Form, widths: tuple[int, ...]
) -> list[Float[np.ndarray, "..."]]:
    """What a kernel becomes, in its own type.

    The arrays of a form are apart from each other: XLA for CPUs would copy a part of a larger one before every use.
    """
    match form:
        case "whole":
            return [kernel]
        case "parts":
            return np.split(kernel, np.cumsum(_summands(widths))[:-1], axis=2)
        case "pairs":
            left, right = (np.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0)))
            return [np.concatenate([left, right], axis=3)]
        case "tiles":
            return _tile_kernels(kernel)


def in_float32_on_cpu(kernel: tuple[int, int, int, int], stride: int) -> bool:
    """Whether CPUs convolve with a kernel of this shape (HWIO) in float32 whatever comes in.

    That is a dense one that is neither pointwise nor in the form "tiles".
    """
    pointwise, depthwise = kernel[:2] == (1, 1), kernel[2] == 1
    return not (pointwise or depthwise or form_on_cpu(kernel, stride, kernel[2:3]) == "tiles")


def _summands(widths: tuple[int, ...]) -> list[int]:
    """How many channels each product of a pointwise ``convolve_several`` takes."""
    return [sum(each) for each in alike(widths, int)]


def convolve_pairs(
    x: Float[Array, "B H W I"], kernel: Float[Array, "3 4 I P"], padding: tuple[int, int]
) -> Float[Array, "B h w P//2"]:
    """A 3x3 convolution of stride 1 whose kernel in the form "pairs" is ``kernel``, on any backend. It gives float32.

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


def convolve_tiles(
    x: Float[Array, "B H W I"], kernels: Sequence[Float[Array, "I O"]], padding: tuple[int, int], compute: Compute
) -> Float[Array, "B h w O"]:
    """A 3x3 convolution of stride 1 whose kernel in the form "tiles" is ``kernels``, on any backend.

    Winograd's F(2x2, 3x3) (Lavin and Gray, arXiv 1509.09308): 16 products for four cells instead of 36. Each tile of
    4x4 inputs and the kernel are transformed into 16 sums; their products, a matrix product for each of the 16, are
    transformed back into 2x2 outputs. The transforms add and halve only, in float32.
    """
    batch, height, width, _ = x.shape
    height, width = (n + sum(padding) - 2 for n in (height, width))
    rows, columns = -(-height // 2), -(-width // 2)
    low, high = padding
    x = _surrounded(x, (low, high + height % 2), (low, high + width % 2))

    corners = [x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for i in range(4) for j in range(4)]
    tiles = _along_both(_tile_transform, [corner.astype(jnp.float32) for corner in corners])
    products = [compute.einsum("bhwi,io->bhwo", *pair) for pair in zip(tiles, kernels, strict=True)]
    top_left, top_right, bottom_left, bottom_right = _along_both(_output_transform, products)

    top, bottom = jnp.stack([top_left, top_right], axis=3), jnp.stack([bottom_left, bottom_right], axis=3)
    outputs = jnp.stack([top, bottom], axis=2).reshape(batch, 2 * rows, 2 * columns, -1)
    return outputs[:, :height, :width].astype(compute.dtype)


def _surrounded(
    x: Float[Array, "B H W C"], rows: tuple[int, int], columns: tuple[int, int]
) -> Float[Array, "B height width C"]:
    """Pads with zeros. XLA for CPUs makes rounded maps' padding part of what comes before, and that slow."""
    if x.dtype == jnp.float32:
        return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    for axis, (before, after) in ((2, columns), (1, rows)):
        zeros = [jnp.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype) for n in (before, after)]
        x = jnp.concatenate([zeros[0], x, zeros[1]], axis)
    return x


def _tile_kernels(kernel: Float[np.ndarray, "3 3 I O"]) -> list[Float[np.ndarray, "I O"]]:
    """The 16 sums of a kernel's cells that products of tiles take."""
    return _along_both(_kernel_transform, list(kernel.reshape(9, *kernel.shape[2:])))


def _along_both(transform: Callable[..., list[Array]], cells: list[Array]) -> list[Array]:
    """Applies a transform of rows to a square of cells, given row by row, along one axis and then the other."""
    side = math.isqrt(len(cells))
    columns = [transform(*cells[column::side]) for column in range(side)]
    return [cell for row in zip(*columns, strict=True) for cell in transform(*row)]


def _tile_transform(a: Array, b: Array, c: Array, d: Array) -> list[Array]:
    return [a - c, b + c, c - b, b - d]


def _kernel_transform(a: Array, b: Array, c: Array) -> list[Array]:
    return [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c]


def _output_transform(a: Array, b: Array, c: Array, d: Array) -> list[Array]:
    return [a + b + c, b - c - d]
