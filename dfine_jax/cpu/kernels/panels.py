"""Convolutions by kernels in panels, for which CPUs have machine code, see ``dfine_jax.cpu.codegen``.

Padding, bias, activation and affine block are part of it, so that a map is read once and its result written once.

On other backends, and for derivatives, they are what they were before: products and sums of XLA's.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.cpu.call import Window, cells_at_a_time, native, rows_at_a_time, tiles_at_a_time
from dfine_jax.cpu.codegen.product import PANEL, whole_columns
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.finish import Finish
from dfine_jax.cpu.kernels.tiles import convolve_large_tiles
from dfine_jax.ops.compute import Compute


def in_panels(kernel: Float[np.ndarray | Array, "T I O"]) -> Float[np.ndarray | Array, "T size"]:
    """The kernel's columns in panels, each row after row; zeros make the last column's panel a whole one."""
    count, _, outputs = kernel.shape
    numpy = np if isinstance(kernel, np.ndarray) else jnp
    kernel = numpy.pad(kernel, ((0, 0), (0, 0), (0, whole_columns(outputs) - outputs)))
    return numpy.concatenate([kernel[..., at].reshape(count, -1) for at in _panels(outputs)], -1)


def size_in_panels(inputs: int, outputs: int) -> int:
    """How many numbers ``in_panels`` makes of a kernel."""
    return inputs * whole_columns(outputs)


def _panels(outputs: int) -> list[slice]:
    """The columns of each."""
    columns = whole_columns(outputs)
    return [slice(at, min(at + PANEL, columns)) for at in range(0, columns, PANEL)]


def whole_kernel(kernel: Float[Array, "T size"], outputs: int) -> Float[Array, "T I O"]:
    """The opposite of ``in_panels``."""
    count, size = kernel.shape
    inputs = size // whole_columns(outputs)
    panels = [kernel[:, inputs * at.start : inputs * at.stop] for at in _panels(outputs)]
    return jnp.concatenate([panel.reshape(count, inputs, -1) for panel in panels], -1)[..., :outputs]


def multiply_cells(
    maps: Sequence[Float[Array, "N *B _"]], kernels: Sequence[Float[Array, "1 _"]], finish: Finish
) -> Float[Array, "N *B O"]:
    """The sum of products of maps, cell by cell, with kernels in panels. CPUs put no maps together.

    Where a map has more channels than its kernel has inputs, the last of them count.
    """
    return _product(maps, kernels, finish, Window(1, 1, (0, 0)))


def convolve_rows(
    maps: Sequence[Float[Array, "B H W _"]],
    kernels: Sequence[Float[Array, "k _"]],
    stride: int,
    padding: tuple[int, int],
    finish: Finish,
) -> Float[Array, "B h w O"]:
    """The sum of convolutions of maps; what a row of a kernel covers in a row of its map is one row of a product."""
    return _rows(maps, kernels, finish, Window(len(kernels[0]), stride, padding))


def convolve_tiles(
    x: Float[Array, "B H W I"], kernel: Float[Array, "36 size"], padding: tuple[int, int], finish: Finish
) -> Float[Array, "B h w O"]:
    """By large tiles, see ``dfine_jax.cpu.kernels.tiles``. CPUs transform and multiply a few of them at a time.

    ``ValueError`` where 16 does not divide the channels, in and out.
    """
    if x.shape[-1] % WIDEST or len(finish.bias) % WIDEST:
        raise ValueError(f"{x.shape[-1]} channels to {len(finish.bias)}: {WIDEST} has to divide both")
    return _tiles([x], [kernel], finish, Window(3, 1, padding))


def _plain_product(maps: list[Array], kernels: list[Array], finish: Finish, window: Window) -> Float[Array, "*B O"]:
    return multiply_wholes(maps, [whole_kernel(kernel, len(finish.bias))[0] for kernel in kernels], finish)


def multiply_wholes(
    maps: Sequence[Float[Array, "*B _"]], wholes: Sequence[Float[Array, "_ O"]], finish: Finish
) -> Float[Array, "*B O"]:
    """``multiply_cells`` by kernels that are in no panels, by XLA."""
    counted = [x[..., x.shape[-1] - len(whole) :] for x, whole in zip(maps, wholes, strict=True)]
    return finish(Compute().einsum("...i,io->...o", jnp.concatenate(counted, -1), jnp.concatenate(wholes)))


def _plain_rows(maps: list[Array], kernels: list[Array], finish: Finish, window: Window) -> Float[Array, "B h w O"]:
    size, outputs = window.size, len(finish.bias)
    wholes = [whole_kernel(kernel, outputs).reshape(size, size, -1, outputs) for kernel in kernels]
    return convolve_wholes(maps, wholes, finish, window)


def convolve_wholes(
    maps: Sequence[Float[Array, "B H W _"]], wholes: Sequence[Float[Array, "k _ _ O"]], finish: Finish, window: Window
) -> Float[Array, "B h w O"]:
    """``convolve_rows`` by kernels that are in no panels, by XLA."""

    def convolved(x: Float[Array, "B H W I"], whole: Float[Array, "k _ I O"]) -> Float[Array, "B h w O"]:
        strides, padding = (window.stride, window.step), (window.padding, window.beside(x.shape[2]))
        names, precision = ("NHWC", "HWIO", "NHWC"), Compute().precision
        return lax.conv_general_dilated(x, whole, strides, padding, dimension_numbers=names, precision=precision)

    return finish(sum(map(convolved, maps, wholes)))


def _plain_tiles(maps: list[Array], kernels: list[Array], finish: Finish, window: Window) -> Float[Array, "B h w O"]:
    return finish(convolve_large_tiles(*maps, whole_kernel(*kernels, len(finish.bias)), window.padding))


_product = native("product", _plain_product, cells_at_a_time)
_rows = native("rows", _plain_rows, rows_at_a_time)
_tiles = native("tiles", _plain_tiles, tiles_at_a_time, takes_narrow=True)
