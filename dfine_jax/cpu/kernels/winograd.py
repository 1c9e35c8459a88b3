"""3x3 convolutions of stride 1 as products of tiles: Winograd's F(m x m, 3x3) (Lavin and Gray, arXiv 1509.09308).

A map is cut into tiles of m x m outputs and the (m + 2) x (m + 2) inputs that they see. Tiles and kernel are
transformed along both axes, multiplied entry by entry, where an entry is a matrix product over channels, and
transformed back: for 2x2 outputs 16 products instead of 36, for 4x4 outputs 36 instead of 144.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dfine_jax.cpu.codegen.transforms import LARGE, SMALL, Transforms
from dfine_jax.cpu.kernels.kernel import HWIO, Layer, Spec, XlaKernel
from dfine_jax.ops.compute import Compute


def f2_kernels(kernel: Float[np.ndarray, "3 3 I O"]) -> list[Float[np.ndarray, "I O"]]:
    """What ``winograd_f2`` takes, in the kernel's type."""
    return _kernel_entries(SMALL, kernel)


def f4_kernel(kernel: Float[np.ndarray, "3 3 I O"]) -> Float[np.ndarray, "36 I O"]:
    """What ``winograd_f4`` takes, in the kernel's type."""
    return np.stack(_kernel_entries(LARGE, kernel))


def _kernel_entries(of_tiles: Transforms, kernel: Float[np.ndarray, "3 3 I O"]) -> list[Float[np.ndarray, "I O"]]:
    return _along_both(of_tiles.kernel, list(kernel.reshape(9, *kernel.shape[2:])))


def winograd_f2(
    x: Float[Array, "B H W I"], kernels: Sequence[Float[Array, "I O"]], padding: tuple[int, int], compute: Compute
) -> Float[Array, "B h w O"]:
    """By tiles of 2x2 outputs, on any backend. Maps' transforms add only, in float32, so products may be rounded.

    Each entry has a product of its own: XLA then transforms inputs along both axes, and rounds them, in one pass.
    """
    x, height, width = _whole_tiles(x, padding, 2)
    rows, columns = ((n - 2) // 2 for n in x.shape[1:3])
    entries = [x[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(4) for j in range(4)]
    tiles = _along_both(SMALL.inputs, [entry.astype(jnp.float32) for entry in entries])
    products = [compute.einsum("bhwi,io->bhwo", *pair) for pair in zip(tiles, kernels, strict=True)]
    top_left, top_right, bottom_left, bottom_right = _along_both(SMALL.outputs, products)

    top, bottom = jnp.stack([top_left, top_right], axis=3), jnp.stack([bottom_left, bottom_right], axis=3)
    outputs = jnp.stack([top, bottom], axis=2).reshape(len(x), 2 * rows, 2 * columns, -1)
    return outputs[:, :height, :width].astype(compute.dtype)


def winograd_f4(
    x: Float[Array, "B H W I"], kernel: Float[Array, "36 I O"], padding: tuple[int, int]
) -> Float[Array, "B h w O"]:
    """By tiles of 4x4 outputs, on any backend, in float32: of rounded products too little would be left.

    Entries are sums of up to 16 inputs, too many for one pass: each axis has its own, and the products are one batch.
    """
    x, height, width = _whole_tiles(x.astype(jnp.float32), padding, 4)
    rows, columns = ((n - 2) // 4 for n in x.shape[1:3])
    along_rows = jnp.stack(_combined(LARGE.inputs, [x[:, i : i + 4 * rows : 4] for i in range(6)]))
    entries = _combined(LARGE.inputs, [along_rows[:, :, :, j : j + 4 * columns : 4] for j in range(6)])
    tiles = jnp.stack(entries, axis=1).reshape(36, -1, x.shape[-1])
    products = Compute().einsum("tni,tio->tno", tiles, kernel).reshape(6, 6, len(x), rows, columns, -1)

    along_rows = jnp.stack(_combined(LARGE.outputs, list(products)), axis=3)
    outputs = jnp.stack(_combined(LARGE.outputs, list(along_rows)), axis=4)
    return outputs.reshape(len(x), 4 * rows, 4 * columns, -1)[:, :height, :width]


def _whole_tiles(
    x: Float[Array, "B H W C"], padding: tuple[int, int], side: int
) -> tuple[Float[Array, "B rows columns C"], int, int]:
    """Pads with zeros for tiles of so many outputs a side; also says how many rows and columns there really are."""
    low, high = padding
    height, width = (n + low + high - 2 for n in x.shape[1:3])
    return _surrounded(x, (low, high + -height % side), (low, high + -width % side)), height, width


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


def _along_both(matrix: np.ndarray, cells: list[Array]) -> list[Array]:
    """Transforms a square of cells, given row by row, along one axis and then the other."""
    side = matrix.shape[1]
    columns = [_combined(matrix, cells[column::side]) for column in range(side)]
    return [cell for row in zip(*columns, strict=True) for cell in _combined(matrix, row)]


def _combined(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
    """One sum of arrays for each row of factors."""
    return [sum(float(factor) * x for factor, x in zip(row, arrays, strict=True) if factor) for row in matrix]


class WinogradF2(XlaKernel):
    """By tiles of 2x2 outputs; an array for each of 16 entries."""

    name = "Winograd F(2,3)"

    def supports(self, spec: Spec) -> bool:
        return spec.is_winograd

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [kernel[2:]] * 16

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return f2_kernels(kernel)

    def sums(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "B h w O"]:
        return winograd_f2(*maps, kernels, layer.padding, layer.compute)


class WinogradF4(XlaKernel):
    """By tiles of 4x4 outputs; one array with 36 entries."""

    name = "Winograd F(4,3)"

    def supports(self, spec: Spec) -> bool:
        return spec.is_winograd

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [(36, *kernel[2:])]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return [f4_kernel(kernel)]

    def sums(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "B h w O"]:
        return winograd_f4(*maps, *kernels, layer.padding)
