"""Convolutions, each in the form that the backend is fast at."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.model.compute import Compute
from dfine_jax.model.finish import Finish, enlarged
from dfine_jax.model.kernel_gradients import gradient_for_kernel
from dfine_jax.model.panels import convolve_rows, in_panels

Map = TypeVar("Map")

SMALL = 1024
"""Numbers in a dense kernel, such as the first one's, up to which CPUs are faster by sums of shifted maps."""

TOGETHER = 4
"""Maps that a pointwise convolution of several takes as one: a copy of more would be a model's largest array by far."""


def convolve(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    compute: Compute,
) -> Float[Array, "B h w O"]:
    """A dense convolution, or a depthwise one where the kernel's third axis is 1 and the map has more channels.

    A pointwise convolution is written as the matrix product that it is. XLA for CPUs is slow at others: there,
    depthwise and small ones are sums of shifted maps, and what is left runs in float32. These two kinds, and
    those with a stride, have gradients of their own. Where ``compute`` is native all but depthwise ones are left to
    machine code.
    """
    on_cpu = partial(_on_cpu, stride=stride, padding=padding, compute=compute)
    if compute.is_native:
        return on_cpu(x, kernel)
    if _is_product(x.shape[-1], kernel, stride):
        default = partial(_by_map, compute=compute)
    else:
        x, kernel = x.astype(compute.dtype), kernel.astype(compute.dtype)
        default = partial(_direct, stride=stride, padding=padding, precision=compute.precision)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=default)


def _is_product(channels: int, kernel: Float[Array, "kh kw G O"], stride: int) -> bool:
    """Whether a map of so many channels is convolved pointwise: by a matrix product of cells by channels."""
    return kernel.shape[:3] == (1, 1, channels) and stride == 1


def _on_cpu(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    compute: Compute,
) -> Float[Array, "B h w O"]:
    if _is_product(x.shape[-1], kernel, stride):
        return _by_cell(x, kernel, compute)
    if kernel.shape[2] != x.shape[-1]:
        return _depthwise_by_shifts(x, kernel, stride, padding)
    return _dense_on_cpu(x, kernel, stride, padding, compute.is_native)


def convolve_several(
    maps: Sequence[Float[Array, "B H W _"]],
    kernels: Sequence[Float[Array, "kh kw _ O"]],
    stride: int,
    padding: tuple[int, int],
    compute: Compute,
) -> Float[Array, "B h w O"]:
    """A dense convolution of several maps' channels put together, by one kernel or by that in parts.

    On CPUs it is a sum over maps, so that wide ones need not be copied next to each other; only the pointwise
    convolution of a few equally wide maps that follow each other, see ``alike``, is one product. ``kernels`` is the
    whole kernel, which CPUs then split at every call, or for a pointwise convolution its parts, one for each summand.
    """

    def apart(kernels, maps):
        maps, kernels = ([x.astype(compute.dtype) for x in arrays] for arrays in (maps, kernels))
        if kernels[0].shape[:2] == (1, 1) and stride == 1:
            maps = [_side_by_side(each) for each in alike(maps, lambda x: x.shape[-1])]
        else:
            maps = [x.astype(jnp.float32) for x in maps]  # so that each part of the sum is
        if len(kernels) == 1:
            starts = np.cumsum([x.shape[-1] for x in maps])[:-1]
            kernels = jnp.split(kernels[0], starts, axis=2)
        return sum(_on_cpu(*pair, stride, padding, compute) for pair in zip(maps, kernels, strict=True))

    def together(kernels, maps):
        whole = jnp.concatenate(kernels, axis=2)
        return convolve(jnp.concatenate(maps, axis=-1), whole, stride, padding, compute).astype(jnp.float32)

    if compute.is_native:
        return apart(list(kernels), list(maps))
    return lax.platform_dependent(list(kernels), list(maps), cpu=apart, default=together)


def alike(maps: Iterable[Map], width: Callable[[Map], int]) -> list[list[Map]]:
    """Those that follow each other and are equally wide, up to ``TOGETHER`` of them together."""
    runs = [list(run) for _, run in groupby(maps, width)]
    return [run[i : i + TOGETHER] for run in runs for i in range(0, len(run), TOGETHER)]


def _side_by_side(maps: list[Float[Array, "B H W C"]]) -> Float[Array, "B H W channels"]:
    """Concatenates equally wide maps' channels, in the form that XLA for CPUs is faster at."""
    return jnp.stack(maps, axis=3).reshape(*maps[0].shape[:3], -1)


def convolve_joined(
    coarse: Float[Array, "B h w I"],
    fine: Float[Array, "B 2*h 2*w J"],
    kernel: Float[Array, "1 1 I+J O"],
    compute: Compute,
) -> Float[Array, "B 2*h 2*w O"]:
    """A pointwise convolution of two maps' channels put together, the first map enlarged, every cell four times.

    Enlarging comes after the product, which is the same at a quarter of the work. The kernel is split at every call:
    it is a small one.
    """
    ours, theirs = jnp.split(kernel[0, 0], [coarse.shape[-1]])
    return enlarged(compute.multiply(coarse, ours)) + compute.multiply(fine, theirs)


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


def _by_map(x: Float[Array, "B H W I"], kernel: Float[Array, "1 1 I O"], compute: Compute) -> Float[Array, "B H W O"]:
    return compute.multiply(x, kernel[0, 0])


def _by_cell(x: Float[Array, "B H W I"], kernel: Float[Array, "1 1 I O"], compute: Compute) -> Float[Array, "B H W O"]:
    """All cells in one long list: the kernel's gradient then sums over one axis, for which XLA copies nothing."""
    return compute.multiply(x.reshape(-1, x.shape[-1]), kernel[0, 0]).reshape(*x.shape[:-1], -1)


def _dense_on_cpu(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw I O"],
    stride: int,
    padding: tuple[int, int],
    is_native: bool,
) -> Float[Array, "B h w O"]:
    if is_native:
        return _with_written_out_gradients(x, kernel, NATIVE, stride, padding)
    small = kernel.size <= SMALL
    if small or stride > 1:
        return _with_written_out_gradients(x, kernel, BY_SHIFTS if small else DIRECT, stride, padding)
    return _direct_in_float32(x, kernel, stride, padding)


def _direct_in_float32(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I O"], stride: int, padding: tuple[int, int]
) -> Float[Array, "B h w O"]:
    wide = [operand.astype(jnp.float32) for operand in (x, kernel)]
    return _direct(*wide, stride, padding, lax.Precision.HIGHEST).astype(x.dtype)


def _by_rows(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I O"], stride: int, padding: tuple[int, int]
) -> Float[Array, "B h w O"]:
    """By machine code."""
    rows, _, _, outputs = kernel.shape
    panels = in_panels(kernel.reshape(rows, -1, outputs))
    return convolve_rows([x], [panels], stride, padding, Finish(jnp.zeros(outputs), None))


class Forms(NamedTuple):
    """What computes a dense convolution and its gradients, for the map by another convolution."""

    forward: Callable[..., Array]
    for_map: Callable[..., Array]
    for_kernel: Callable[..., Array]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _with_written_out_gradients(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw I O"],
    forms: Forms,
    stride: int,
    padding: tuple[int, int],
) -> Float[Array, "B h w O"]:
    return forms.forward(x, kernel, stride, padding)


def _by_shifts(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw I O"], stride: int, padding: tuple[int, int]
) -> Float[Array, "B h w O"]:
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
    return total.astype(x.dtype)


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


def _gradient_residuals(x, kernel, *static):
    return _with_written_out_gradients(x, kernel, *static), (x, kernel)


def _gradients(forms, stride, padding, residuals, gradient):
    """Those of the direct form, without the dilated convolutions that XLA for CPUs is slow at."""
    x, kernel = residuals
    wide = [operand.astype(jnp.float32) for operand in (x, kernel, gradient)]
    for_x = _gradient_for_map(*wide, forms.for_map, stride, padding)
    for_kernel = forms.for_kernel(*wide, stride, padding)
    return for_x.astype(x.dtype), for_kernel.astype(kernel.dtype)


_with_written_out_gradients.defvjp(_gradient_residuals, _gradients)


def _gradient_for_map(x, kernel, gradient, convolved, stride, padding):
    """Each of the cells between two outputs gets a convolution of its own; put together they are one, of stride 1.

    Along an axis, cell ``stride * m + f`` of the padded map took part in output ``m - j`` by the kernel's cell
    ``stride * j + f``, for every j.
    """
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
    ends = [(-low, n + low - have, 0) for n, have in zip(x.shape[1:3], padded.shape[1:3], strict=True)]
    return lax.pad(padded, jnp.zeros((), padded.dtype), ((0, 0, 0), *ends, (0, 0, 0)))


def _gradient_for_kernel(x, kernel, gradient, stride, padding):
    """A matrix product for each of the kernel's cells."""
    flat = gradient.reshape(-1, gradient.shape[-1])

    def for_cell(window):
        return jnp.einsum("ni,no->io", window.reshape(-1, window.shape[-1]), flat, precision=lax.Precision.HIGHEST)

    return _for_each_cell(for_cell, x, kernel, gradient, stride, padding)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _native_gradient_for_kernel(x, kernel, gradient, stride, padding):
    return gradient_for_kernel(x, gradient, kernel.shape[0], stride, padding)


@_native_gradient_for_kernel.defjvp
def _slopes_for_kernel(stride, padding, primals, tangents):
    plain = partial(_gradient_for_kernel, stride=stride, padding=padding)
    return _native_gradient_for_kernel(*primals, stride, padding), jax.jvp(plain, primals, tangents)[1]


BY_SHIFTS = Forms(_by_shifts, _direct_in_float32, _gradient_for_kernel)
DIRECT = Forms(_direct_in_float32, _direct_in_float32, _gradient_for_kernel)
NATIVE = Forms(_by_rows, _by_rows, _native_gradient_for_kernel)


def _for_each_cell(function, x, kernel, gradient, stride, padding):
    """What ``function`` says of the map's cells that each cell of the kernel met, one after another."""
    size = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    reach = [stride * (n - 1) + 1 for n in gradient.shape[1:3]]

    def at(index):
        start = (0, index // size, index % size, 0)
        window = lax.dynamic_slice(padded, start, (x.shape[0], *reach, x.shape[3]))
        return function(window[:, ::stride, ::stride])

    return lax.map(at, jnp.arange(size * size)).reshape(kernel.shape)


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
            window = _window(x, row, column, stride, height, width)
            total += window.astype(jnp.float32) * kernel[row, column, 0].astype(jnp.float32)
    return total.astype(x.dtype)


def _depthwise_residuals(x, kernel, stride, padding):
    return _depthwise_by_shifts(x, kernel, stride, padding), (x, kernel)


def _depthwise_gradients(stride, padding, residuals, gradient):
    """What differentiating each shift on its own comes to, in a tenth of the code to compile."""
    x, kernel = residuals
    size = kernel.shape[0]
    low, high = padding
    spread = stride - 1

    # Along each axis: the cells between outputs, then those that the stride left over at the far end.
    left_over = [(n + low + high - size) % stride for n in x.shape[1:3]]
    ends = [(size - 1 - low, size - 1 - high + rest, spread) for rest in left_over]
    dilated = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *ends, (0, 0, 0)))
    for_x = _depthwise_by_shifts(dilated, kernel[::-1, ::-1], 1, (0, 0))

    def for_cell(window):
        return jnp.sum(window.astype(jnp.float32) * gradient.astype(jnp.float32), axis=(0, 1, 2))

    for_kernel = _for_each_cell(for_cell, x, kernel, gradient, stride, padding)
    return for_x, for_kernel.astype(kernel.dtype)


_depthwise_by_shifts.defvjp(_depthwise_residuals, _depthwise_gradients)
