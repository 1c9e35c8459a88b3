"""Convolutions, each in the form that the backend is fast at."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.ops import shifts
from dfine_jax.ops.bilinear import Bilinear, Forms, Operands, Shape
from dfine_jax.ops.platform import is_portable, on_platform

if TYPE_CHECKING:
    from dfine_jax.ops.compute import Compute

Map = TypeVar("Map")

SMALL = 1024
"""Numbers in a dense kernel, such as the first one's, up to which CPUs are faster by sums of shifted maps."""

TOGETHER = 4
"""Maps that a pointwise convolution of several takes as one: a copy of more would be a model's largest array by far."""


def convolve(
    maps: Sequence[Float[Array, "B H W _"]],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    compute: "Compute",
) -> Float[Array, "B h w O"]:
    """Convolves the maps' channels put together.

    The convolution is dense, or depthwise where the kernel's third axis is 1 and the one map has more channels.

    A pointwise convolution is written as the matrix product that it is. XLA for CPUs is slow at others: there,
    depthwise and small ones are sums of shifted maps, and what is left runs in float32. On CPUs a convolution of
    several maps is a sum over maps, so that wide ones need not be copied next to each other, see ``convolve_parts``.
    """
    if len(maps) == 1:
        return _convolve_one(*maps, kernel, stride, padding, compute)

    def apart(kernel, *maps):
        return convolve_parts(maps, [kernel], stride, padding, compute)

    def together(kernel, *maps):
        whole = jnp.concatenate(maps, axis=-1)
        return _convolve_one(whole, kernel, stride, padding, compute).astype(jnp.float32)

    return on_platform(kernel, *maps, cpu=apart, default=together)


def convolve_parts(
    maps: Sequence[Float[Array, "B H W _"]],
    kernels: Sequence[Float[Array, "kh kw _ O"]],
    stride: int,
    padding: tuple[int, int],
    compute: "Compute",
) -> Float[Array, "B h w O"]:
    """Convolves several maps' channels put together, by a sum over maps in the forms for CPUs.

    Only the pointwise convolution of a few equally wide maps that follow each other, see ``alike``, is one product.
    ``kernels`` is the whole kernel, to be split at every call, or for a pointwise convolution its parts, one for each
    summand.
    """
    maps, kernels = ([x.astype(compute.dtype) for x in arrays] for arrays in (maps, kernels))
    if kernels[0].shape[:2] == (1, 1) and stride == 1:
        maps = [_side_by_side(each) for each in alike(maps, lambda x: x.shape[-1])]
    else:
        maps, kernels = ([x.astype(jnp.float32) for x in arrays] for arrays in (maps, kernels))  # so is each summand
    if len(kernels) == 1:
        starts = np.cumsum([x.shape[-1] for x in maps])[:-1]
        kernels = jnp.split(kernels[0], starts, axis=2)

    return sum(compute.convolve_on_cpu(*each, stride, padding) for each in zip(maps, kernels, strict=True))


def convolve_on_cpu(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    compute: "Compute",
) -> Float[Array, "B h w O"]:
    """Convolves one map in the form for CPUs, without rounding it."""
    if is_product(x.shape[-1], kernel, stride):
        return by_cell(x, kernel, compute)
    return convolve_windows(x, kernel, stride, padding)


def _convolve_one(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    compute: "Compute",
) -> Float[Array, "B h w O"]:
    if is_product(x.shape[-1], kernel, stride) and not is_portable():
        forms = (partial(form, compute=compute) for form in (by_cell, _by_map))
        return on_platform(x, kernel, cpu=next(forms), default=next(forms))
    x, kernel = x.astype(compute.dtype), kernel.astype(compute.dtype)
    return convolve_windows(x, kernel, stride, padding, compute.precision)


def is_product(channels: int, kernel: Float[Array, "kh kw G O"], stride: int) -> bool:
    """Whether a map of so many channels is convolved pointwise: by a matrix product of cells by channels."""
    return kernel.shape[:3] == (1, 1, channels) and stride == 1


def _by_map(x: Float[Array, "B H W I"], kernel: Float[Array, "1 1 I O"], compute: "Compute") -> Float[Array, "B H W O"]:
    return compute.multiply(x, kernel[0, 0])


def by_cell(x: Float[Array, "B H W I"], kernel: Float[Array, "1 1 I O"], compute: "Compute") -> Float[Array, "B H W O"]:
    """All cells in one long list: the kernel's gradient then sums over one axis, for which XLA copies nothing."""
    return compute.multiply(x.reshape(-1, x.shape[-1]), kernel[0, 0]).reshape(*x.shape[:-1], -1)


def alike(maps: Iterable[Map], width: Callable[[Map], int]) -> list[list[Map]]:
    """Those that follow each other and are equally wide, up to ``TOGETHER`` of them together."""
    runs = [list(run) for _, run in groupby(maps, width)]
    return [run[i : i + TOGETHER] for run in runs for i in range(0, len(run), TOGETHER)]


def _side_by_side(maps: list[Float[Array, "B H W C"]]) -> Float[Array, "B H W channels"]:
    """Concatenates equally wide maps' channels, in the form that XLA for CPUs is faster at."""
    return jnp.stack(maps, axis=3).reshape(*maps[0].shape[:3], -1)


class Window(NamedTuple):
    """How a kernel moves over a map."""

    stride: int
    padding: tuple[int, int]
    """Zeros before and after, along both axes."""
    precision: lax.Precision | None


def convolve_windows(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "kh kw G O"],
    stride: int,
    padding: tuple[int, int],
    precision: lax.Precision | None = lax.Precision.HIGHEST,
) -> Float[Array, "B h w O"]:
    """Convolves one map by a kernel of its type, dense or depthwise, with derivatives of every order; of that type."""
    sides = [(n + sum(padding) - size) // stride + 1 for n, size in zip(x.shape[1:3], kernel.shape[:2], strict=True)]
    out = Shape((x.shape[0], *sides, kernel.shape[-1]), x.dtype.name)
    return _convolution(x, kernel, out, Window(stride, padding, precision))


def _direct(
    x: Float[Array, "B H W I"], kernel: Float[Array, "kh kw G O"], *, operands: Operands, options: Window
) -> Float[Array, "B h w O"]:
    return shifts.direct(x, kernel, options.stride, options.padding, options.precision)


def _direct_for_map(gradient: Array, kernel: Array, *, operands: Operands, options: Window) -> Array:
    convolved = partial(_direct, kernel=kernel, operands=operands, options=options)
    return jax.linear_transpose(convolved, jax.ShapeDtypeStruct(*operands.left))(gradient)[0]


def _direct_for_kernel(x: Array, gradient: Array, *, operands: Operands, options: Window) -> Array:
    convolved = partial(_direct, x, operands=operands, options=options)
    return jax.linear_transpose(convolved, jax.ShapeDtypeStruct(*operands.right))(gradient)[0]


def _forms_on_cpu(operands: Operands, stride: int) -> shifts.Forms:
    """Those that XLA for CPUs is fast at."""
    *size, per_group, outputs = operands.right.shape
    if per_group != operands.left.shape[-1]:
        return shifts.DEPTHWISE
    if np.prod([*size, per_group, outputs]) <= SMALL:
        return shifts.BY_SHIFTS
    return shifts.DIRECT_WITH_A_STRIDE if stride > 1 else shifts.DIRECT


def _on_cpu(x: Array, kernel: Array, *, operands: Operands, options: Window) -> Array:
    forms = _forms_on_cpu(operands, options.stride)
    return forms.forward(x, kernel, options.stride, options.padding).astype(operands.out.dtype)


def _on_cpu_for_map(gradient: Array, kernel: Array, *, operands: Operands, options: Window) -> Array:
    forms, sides = _forms_on_cpu(operands, options.stride), operands.left.shape[1:3]
    return forms.for_map(gradient, kernel, sides, options.stride, options.padding).astype(operands.left.dtype)


def _on_cpu_for_kernel(x: Array, gradient: Array, *, operands: Operands, options: Window) -> Array:
    forms, size = _forms_on_cpu(operands, options.stride), operands.right.shape[0]
    return forms.for_kernel(x, gradient, size, options.stride, options.padding).astype(operands.right.dtype)


_convolution = Bilinear(
    "dfine_convolution",
    {
        None: Forms(_direct, _direct_for_map, _direct_for_kernel),
        "cpu": Forms(_on_cpu, _on_cpu_for_map, _on_cpu_for_kernel),
    },
    has_batch=True,
)
