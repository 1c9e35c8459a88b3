"""Convolutions, each in the form that the backend is fast at."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.model.compute import Compute

WIDE = 64
"""Input channels from which shifted bfloat16 products beat a float32 convolution on CPUs."""


def convolve(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    compute: Compute,
) -> Float[Array, "B h w O"]:
    """A dense convolution, or a depthwise one where the kernel's third axis is 1 and the map has more channels.

    A pointwise convolution is written as the matrix product that it is. XLA for CPUs is slow at two others, which are
    written as sums of shifted maps there: depthwise ones, and wide ones in bfloat16.
    """
    size, _, per_group, _ = kernel.shape
    depthwise = per_group != x.shape[-1]
    if size == 1 and stride == 1 and not depthwise:
        return compute.einsum("bhwi,io->bhwo", x, kernel[0, 0])
    x, kernel = x.astype(compute.dtype), kernel.astype(compute.dtype)
    by_shape = dict(stride=stride, padding=padding)
    direct = partial(_direct, **by_shape, precision=compute.precision)
    if depthwise:
        on_cpu = partial(_depthwise_by_shifts, **by_shape)
    elif compute.dtype == jnp.float32:
        on_cpu = direct
    elif stride == 1 and per_group >= WIDE:
        on_cpu = partial(_dense_by_shifts, padding=padding, compute=compute)
    else:
        on_cpu = partial(_direct_in_float32, **by_shape)
    return direct(x, kernel) if on_cpu is direct else lax.platform_dependent(x, kernel, cpu=on_cpu, default=direct)


def _direct(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    precision: lax.Precision | None,
) -> Float[Array, "B h w O"]:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
        precision=precision,
    )


def _direct_in_float32(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I O"], stride: int, padding: tuple[int, int]
) -> Float[Array, "B h w O"]:
    return _direct(x.astype(jnp.float32), kernel.astype(jnp.float32), stride, padding, lax.Precision.HIGHEST).astype(
        x.dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense_by_shifts(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I O"], padding: tuple[int, int], compute: Compute
) -> Float[Array, "B h w O"]:
    """One matrix product for each of the kernel's cells.

    The padded map's rows lie in one long list, so that a shift is an offset in it and nothing is copied; the surplus
    cells at the rows' ends are cut off last.
    """
    batch, height, width, channels = x.shape
    size = kernel.shape[0]
    low, high = padding
    x = jnp.pad(x, ((0, 0), (low, high + 1), padding, (0, 0)))
    height, width, padded = height + low + high - size + 1, width + low + high - size + 1, x.shape[2]
    cells = x.reshape(batch, -1, channels)
    total = 0.0
    for row in range(size):
        for column in range(size):
            start = row * padded + column
            shifted = cells[:, start : start + height * padded]
            total += compute.einsum("bni,io->bno", shifted, kernel[row, column])
    return total.reshape(batch, height, padded, -1)[:, :, :width].astype(x.dtype)


def _dense_residuals(x, kernel, padding, compute):
    return _dense_by_shifts(x, kernel, padding, compute), (x, kernel)


def _dense_gradients(padding, compute, residuals, gradient):
    """Those of the direct form: the shifts' own would be rounded one by one before they are added up."""
    _, pull_back = jax.vjp(partial(_direct_in_float32, stride=1, padding=padding), *residuals)
    return pull_back(gradient)


_dense_by_shifts.defvjp(_dense_residuals, _dense_gradients)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise_by_shifts(
    x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw 1 C"], stride: int, padding: tuple[int, int]
) -> Float[Array, "B h w C"]:
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    total = 0.0
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            total += x[:, rows, columns].astype(jnp.float32) * kernel[row, column, 0].astype(jnp.float32)
    return total.astype(x.dtype)


def _depthwise_residuals(x, kernel, stride, padding):
    return _depthwise_by_shifts(x, kernel, stride, padding), (x, kernel)


def _depthwise_gradients(stride, padding, residuals, gradient):
    """What differentiating each shift on its own comes to, in a tenth of the code to compile."""
    x, kernel = residuals
    size = kernel.shape[0]
    low, high = padding
    spread, (height, width) = stride - 1, gradient.shape[1:3]

    # Along each axis: the cells between outputs, then those that the stride left over at the far end.
    left_over = [(n + low + high - size) % stride for n in x.shape[1:3]]
    ends = [(size - 1 - low, size - 1 - high + rest, spread) for rest in left_over]
    dilated = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *ends, (0, 0, 0)))
    for_x = _depthwise_by_shifts(dilated, kernel[::-1, ::-1], 1, (0, 0))

    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    reach = (x.shape[0], stride * (height - 1) + 1, stride * (width - 1) + 1, x.shape[3])

    def for_weight(index):
        window = lax.dynamic_slice(padded, (0, index // size, index % size, 0), reach)[:, ::stride, ::stride]
        return jnp.sum(window.astype(jnp.float32) * gradient.astype(jnp.float32), axis=(0, 1, 2))

    for_kernel = lax.map(for_weight, jnp.arange(size * size)).reshape(kernel.shape)
    return for_x, for_kernel.astype(kernel.dtype)


_depthwise_by_shifts.defvjp(_depthwise_residuals, _depthwise_gradients)
