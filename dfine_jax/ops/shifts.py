"""Convolutions and gradients without what XLA for CPUs is slow at: dilated convolutions and those of few channels.

All of them widen their operands, and sum, to float32.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Convolved = Callable[[Float[Array, "B H W I"], Float[Array, "kh kw G O"], int, tuple[int, int]], Array]
"""A convolution of a map by a kernel, with a stride and padding."""


class Forms(NamedTuple):
    """A convolution in one form, and its gradients."""

    forward: Convolved
    for_map: Callable[..., Array]
    """Of the result's gradient, the kernel, the map's height and width, stride and padding."""
    for_kernel: Callable[..., Array]
    """Of the map, the result's gradient, the kernel's size, stride and padding."""


def direct(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    precision: lax.Precision | None,
) -> Float[Array, "B h w O"]:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
        precision=precision,
    )


def _wide(*arrays: Float[Array, "..."]) -> list[Float[Array, "..."]]:
    return [x.astype(jnp.float32) for x in arrays]


def _direct_in_float32(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    return direct(*_wide(x, kernel), stride, padding, lax.Precision.HIGHEST)


def _direct_for_map(gradient: Array, kernel: Array, sides: tuple[int, int], stride: int, padding: tuple[int, int]):
    convolved = partial(_direct_in_float32, kernel=kernel, stride=stride, padding=padding)
    x = jax.ShapeDtypeStruct((gradient.shape[0], *sides, kernel.shape[2]), jnp.float32)
    return jax.linear_transpose(convolved, x)(*_wide(gradient))[0]


def _direct_for_kernel(x: Array, gradient: Array, size: int, stride: int, padding: tuple[int, int]):
    convolved = partial(_direct_in_float32, x, stride=stride, padding=padding)
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], gradient.shape[-1]), jnp.float32)
    return jax.linear_transpose(convolved, kernel)(*_wide(gradient))[0]


def _by_shifts(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Float[Array, "B h w O"]:
    """A sum over channels for each of the kernel's cells, so that no sum waits for all others."""
    rows, columns, channels, _ = kernel.shape
    x = _padded_once(x, padding)
    height, width = ((n - rows) // stride + 1 for n in x.shape[1:3])
    total = 0.0
    for row in range(rows):
        for column in range(columns):
            window = _window(x, row, column, stride, height, width).astype(jnp.float32)
            cell = kernel[row, column].astype(jnp.float32)
            total += sum(window[..., i : i + 1] * cell[i] for i in range(channels))
    return total


def _padded_once(x: Float[Array, "B H W C"], padding: tuple[int, int]) -> Float[Array, "B rows columns C"]:
    """Pads with zeros, in a way that XLA doesn't look through.

    It would where a window needs none of the padding, and calculate what ``x`` is made of anew for every such window.
    """
    low, _ = padding
    height = x.shape[1]
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    row = jnp.arange(x.shape[1])[:, None, None]
    return jnp.where((row >= low) & (row < low + height), x, 0)


def _window(
    x: Float[Array, "B H W I"], row: int, column: int, stride: int, height: int, width: int
) -> Float[Array, "B height width I"]:
    """What one cell of a kernel meets on a padded map."""
    rows = slice(row, row + stride * (height - 1) + 1, stride)
    columns = slice(column, column + stride * (width - 1) + 1, stride)
    return x[:, rows, columns]


def gradient_for_map(
    gradient: Float[Array, "B h w O"],
    kernel: Float[Array, "k k I O"],
    sides: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
    *,
    convolved: Convolved = _direct_in_float32,
) -> Float[Array, "B H W I"]:
    """The gradient of a map of these sides, by convolutions of stride 1.

    Each of the cells between two outputs gets a convolution of its own; put together they are one. Along an axis, cell
    ``stride * m + f`` of the padded map took part in output ``m - j`` by the kernel's cell ``stride * j + f``, for
    every j.
    """
    gradient, kernel = _wide(gradient, kernel)
    size, _, inputs, outputs = kernel.shape
    low, high = padding
    if stride == 1:
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        return convolved(gradient, turned, 1, (size - 1 - low, size - 1 - high))
    reach = -(-size // stride)
    rest = reach * stride - size
    cells = jnp.pad(kernel, ((0, rest), (0, rest), (0, 0), (0, 0)))
    cells = cells.reshape(reach, stride, reach, stride, inputs, outputs)[::-1, :, ::-1]
    cells = cells.transpose(0, 2, 5, 1, 3, 4).reshape(reach, reach, outputs, stride * stride * inputs)
    between = convolved(gradient, cells, 1, (reach - 1, reach - 1))
    batch, rows, columns, _ = between.shape
    between = between.reshape(batch, rows, columns, stride, stride, inputs).transpose(0, 1, 3, 2, 4, 5)
    padded = between.reshape(batch, stride * rows, stride * columns, inputs)
    ends = [(-low, n + low - have, 0) for n, have in zip(sides, padded.shape[1:3], strict=True)]
    return lax.pad(padded, jnp.zeros((), padded.dtype), ((0, 0, 0), *ends, (0, 0, 0)))


def _gradient_for_kernel(x: Array, gradient: Array, size: int, stride: int, padding: tuple[int, int]) -> Array:
    """A matrix product for each of the kernel's cells."""
    x, gradient = _wide(x, gradient)
    flat = gradient.reshape(-1, gradient.shape[-1])

    def for_cell(window):
        return jnp.einsum("ni,no->io", window.reshape(-1, window.shape[-1]), flat, precision=lax.Precision.HIGHEST)

    return _for_each_cell(for_cell, x, gradient, size, stride, padding)


def _for_each_cell(function: Callable, x: Array, gradient: Array, size: int, stride: int, padding: tuple[int, int]):
    """What ``function`` says of the map's cells that each cell of the kernel met, one after another."""
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    reach = [stride * (n - 1) + 1 for n in gradient.shape[1:3]]

    def at(index):
        start = (0, index // size, index % size, 0)
        window = lax.dynamic_slice(padded, start, (x.shape[0], *reach, x.shape[3]))
        return function(window[:, ::stride, ::stride])

    cells = lax.map(at, jnp.arange(size * size))
    return cells.reshape(size, size, -1, gradient.shape[-1])


def _depthwise(
    x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw 1 C"], stride: int, padding: tuple[int, int]
) -> Float[Array, "B h w C"]:
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    total = 0.0
    for row in range(size):
        for column in range(size):
            window = _window(x, row, column, stride, height, width)
            total += window.astype(jnp.float32) * kernel[row, column, 0].astype(jnp.float32)
    return total


def _depthwise_for_map(gradient: Array, kernel: Array, sides: tuple[int, int], stride: int, padding: tuple[int, int]):
    """What differentiating each shift on its own comes to, in a tenth of the code to compile."""
    size = kernel.shape[0]
    low, high = padding
    # Along each axis: the cells between outputs, then those that the stride left over at the far end.
    left_over = [(n + low + high - size) % stride for n in sides]
    ends = [(size - 1 - low, size - 1 - high + rest, stride - 1) for rest in left_over]
    dilated = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *ends, (0, 0, 0)))
    return _depthwise(dilated, kernel[::-1, ::-1], 1, (0, 0))


def _depthwise_for_kernel(x: Array, gradient: Array, size: int, stride: int, padding: tuple[int, int]) -> Array:
    def for_cell(window):
        return jnp.sum(window.astype(jnp.float32) * gradient.astype(jnp.float32), axis=(0, 1, 2))

    return _for_each_cell(for_cell, x, gradient, size, stride, padding)


DIRECT = Forms(_direct_in_float32, _direct_for_map, _direct_for_kernel)
DIRECT_WITH_A_STRIDE = Forms(_direct_in_float32, gradient_for_map, _gradient_for_kernel)
BY_SHIFTS = Forms(_by_shifts, gradient_for_map, _gradient_for_kernel)
DEPTHWISE = Forms(_depthwise, _depthwise_for_map, _depthwise_for_kernel)
