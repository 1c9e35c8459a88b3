"""Convolutions by kernels in panels, for which CPUs have machine code, see ``dfine_jax.native``.

Padding, bias, activation and affine block are part of it, so that a map is read once and its result written once.

On other backends, and for derivatives, they are what they were before: products and sums of XLA's.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.model.activations import ACTIVATIONS
from dfine_jax.model.compute import Compute
from dfine_jax.model.convolution import convolve
from dfine_jax.model.tiles import convolve_large_tiles
from dfine_jax.native.product import LAST, PANEL
from dfine_jax.native.targets import register, target

CELLS = 48
"""Of maps or tiles, that a thread multiplies at a time: what it then works on fits in its caches."""

PADDED = 1 << 17
"""Numbers of padded maps that a thread holds at a time in a convolution row by row, in a cache of its own too."""


@partial(jax.tree_util.register_dataclass, data_fields=("bias", "affine"), meta_fields=("activation",))
@dataclass(frozen=True)
class Finish:
    """What follows the sums."""

    bias: Float[Array, " O"]
    activation: str | None
    affine: Float[Array, "2"] | None
    """Scale and shift of all."""

    def __call__(self, x: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
        x = ACTIVATIONS[self.activation](x + self.bias)
        return x if self.affine is None else x * self.affine[0] + self.affine[1]


class _Window(NamedTuple):
    """Of a convolution."""

    size: int
    stride: int
    padding: tuple[int, int]

    def over(self, cells: int) -> int:
        """How many results there are along an axis of so many cells."""
        return (cells + sum(self.padding) - self.size) // self.stride + 1


class _Plan(NamedTuple):
    """How threads share the work."""

    size: int
    """Rows of cells, or cells, or tiles, that a thread is given at a time."""
    chunks: int
    scratch: int
    """Numbers in a thread's own memory."""


def in_panels(kernel: Float[np.ndarray, "T I O"]) -> Float[np.ndarray, "T size"]:
    """The kernel's columns in panels, each row after row; zeros make the last column's panel a whole one."""
    count, _, outputs = kernel.shape
    kernel = np.pad(kernel, ((0, 0), (0, 0), (0, _columns(outputs) - outputs)))
    return np.concatenate([kernel[..., at].reshape(count, -1) for at in _panels(outputs)], -1)


def size_in_panels(inputs: int, outputs: int) -> int:
    """How many numbers ``in_panels`` makes of a kernel."""
    return inputs * _columns(outputs)


def _columns(outputs: int) -> int:
    return -(-outputs // LAST) * LAST


def _panels(outputs: int) -> list[slice]:
    """The columns of each."""
    columns = _columns(outputs)
    return [slice(at, min(at + PANEL, columns)) for at in range(0, columns, PANEL)]


def _whole(kernel: Float[Array, "T size"], outputs: int) -> Float[Array, "T I O"]:
    """The opposite of ``in_panels``."""
    count, size = kernel.shape
    inputs = size // _columns(outputs)
    panels = [kernel[:, inputs * at.start : inputs * at.stop] for at in _panels(outputs)]
    return jnp.concatenate([panel.reshape(count, inputs, -1) for panel in panels], -1)[..., :outputs]


def multiply_cells(
    maps: Sequence[Float[Array, "*B _"]], kernels: Sequence[Float[Array, "1 _"]], finish: Finish
) -> Float[Array, "*B O"]:
    """The sum of products of maps, cell by cell, with kernels in panels. CPUs put no maps together."""
    cells = [x.astype(jnp.float32).reshape(-1, x.shape[-1]) for x in maps]
    product = _product(cells, list(kernels), finish, _Window(1, 1, (0, 0)))
    return product.reshape(*maps[0].shape[:-1], len(finish.bias))


def convolve_rows(
    maps: Sequence[Float[Array, "B H W _"]],
    kernels: Sequence[Float[Array, "k _"]],
    stride: int,
    padding: tuple[int, int],
    finish: Finish,
) -> Float[Array, "B h w O"]:
    """The sum of convolutions of maps; what a row of a kernel covers in a row of its map is one row of a product."""
    maps = [x.astype(jnp.float32) for x in maps]
    return _rows(maps, list(kernels), finish, _Window(len(kernels[0]), stride, padding))


def convolve_channels(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k size"],
    stride: int,
    padding: tuple[int, int],
    finish: Finish,
) -> Float[Array, "B h w C"]:
    """A depthwise convolution, whose kernel has one row after another."""
    return _depthwise([x.astype(jnp.float32)], [kernel], finish, _Window(len(kernel), stride, padding))


def convolve_tiles(
    x: Float[Array, "B H W I"], kernel: Float[Array, "36 size"], padding: tuple[int, int], finish: Finish
) -> Float[Array, "B h w O"]:
    """By large tiles, see ``dfine_jax.model.tiles``. CPUs transform and multiply a few of them at a time."""
    return _tiles([x.astype(jnp.float32)], [kernel], finish, _Window(3, 1, padding))


def _plain_product(maps: list[Array], kernels: list[Array], finish: Finish, window: _Window) -> Float[Array, "N O"]:
    whole = jnp.concatenate([_whole(kernel, len(finish.bias))[0] for kernel in kernels])
    return finish(Compute().einsum("ni,io->no", jnp.concatenate(maps, -1), whole))


def _plain_rows(maps: list[Array], kernels: list[Array], finish: Finish, window: _Window) -> Float[Array, "B h w O"]:
    def convolved(x: Float[Array, "B H W I"], kernel: Float[Array, "k _"]) -> Float[Array, "B h w O"]:
        whole = _whole(kernel, len(finish.bias)).reshape(window.size, window.size, x.shape[-1], -1)
        strides, padding = (window.stride,) * 2, (window.padding,) * 2
        names, precision = ("NHWC", "HWIO", "NHWC"), Compute().precision
        return lax.conv_general_dilated(x, whole, strides, padding, dimension_numbers=names, precision=precision)

    return finish(sum(convolved(x, kernel) for x, kernel in zip(maps, kernels, strict=True)))


def _plain_depthwise(
    maps: list[Array], kernels: list[Array], finish: Finish, window: _Window
) -> Float[Array, "B h w C"]:
    whole = kernels[0].reshape(window.size, window.size, 1, -1)
    return finish(convolve(*maps, whole, window.stride, window.padding, Compute()))


def _plain_tiles(maps: list[Array], kernels: list[Array], finish: Finish, window: _Window) -> Float[Array, "B h w O"]:
    whole = _whole(*kernels, len(finish.bias))
    return finish(
        convolve_large_tiles(*maps, lambda tiles: Compute().einsum("tni,tio->tno", tiles, whole), window.padding)
    )


def _plan_product(maps: list[Array], outputs: int, _: _Window) -> _Plan:
    rows = len(maps[0])
    size = CELLS // 2 if rows < 1024 else CELLS
    return _Plan(size, -(-rows // size), size * _columns(outputs))


def _plan_rows(maps: list[Array], outputs: int, window: _Window) -> _Plan:
    pictures, *sides, _ = maps[0].shape
    high, wide = (window.over(side) for side in sides)
    row = ((wide - 1) * window.stride + window.size) * sum(x.shape[-1] for x in maps)
    size = _even(high, max(1, (PADDED // row - window.size) // window.stride + 1))
    padded = ((size - 1) * window.stride + window.size) * row
    return _Plan(size, pictures * -(-high // size), wide * _columns(outputs) + padded)


def _plan_tiles(maps: list[Array], outputs: int, window: _Window) -> _Plan:
    pictures, *sides, inputs = maps[0].shape
    high, wide = (-(-window.over(side) // 4) for side in sides)
    size = _even(high * wide, CELLS)
    return _Plan(size, pictures * -(-high * wide // size), 36 * size * (inputs + outputs) + max(inputs, outputs))


def _even(count: int, most: int) -> int:
    """How many, up to ``most``, every thread gets as often as the others."""
    rounds = -(-count // (most * _threads()))
    return -(-count // (rounds * _threads()))


def _threads() -> int:
    """Those of XLA, or some more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _native(name: str, plain: Callable[..., Array], plan: Callable[..., _Plan]) -> Callable[..., Array]:
    """``plain``, but on CPUs the native function of this name."""

    def on_cpu(maps: list[Array], kernels: list[Array], finish: Finish, window: _Window) -> Array:
        register()
        outputs = len(finish.bias)
        batch, *inner, _ = maps[0].shape
        size, chunks, scratch = plan(maps, outputs, window)
        shapes = [(batch, *map(window.over, inner), outputs), (min(chunks, _threads()), max(scratch, LAST))]
        call = jax.ffi.ffi_call(
            target(name, finish.activation),
            [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
            vmap_method="sequential",
        )
        affine = jnp.array([1.0, 0.0]) if finish.affine is None else finish.affine
        numbers = {"low": window.padding[0], "size": size, "stride": window.stride}
        result, _ = call(*maps, *kernels, finish.bias, affine, **{name: np.int64(n) for name, n in numbers.items()})
        return result

    @partial(jax.custom_jvp, nondiff_argnums=(3,))
    def function(maps: list[Array], kernels: list[Array], finish: Finish, window: _Window) -> Array:
        cpu, default = (partial(form, window=window) for form in (on_cpu, plain))
        return lax.platform_dependent(maps, kernels, finish, cpu=cpu, default=default)

    @function.defjvp
    def slopes(window: _Window, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        return function(*primals, window), jax.jvp(partial(plain, window=window), primals, tangents)[1]

    return function


_product = _native("product", _plain_product, _plan_product)
_rows = _native("rows", _plain_rows, _plan_rows)
_depthwise = _native("depthwise", _plain_depthwise, _plan_rows)
_tiles = _native("tiles", _plain_tiles, _plan_tiles)
