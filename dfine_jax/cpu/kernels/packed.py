"""Convolutions by kernels in panels, for which CPUs have machine code, see ``dfine_jax.cpu.codegen``.

Padding, bias, activation and affine block are part of it, so that a map is read once and its result written once.

On other backends, and for derivatives, they are what they were before: products and sums of XLA's.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.cpu.call import CELLS, Plan, Window, even, native, plan_gemm, plan_implicit_gemm
from dfine_jax.cpu.codegen.product import PANEL, whole_columns
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.scratch import scratch_size
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.kernel import HWIO, Kernel, Layer, Spec, split
from dfine_jax.cpu.kernels.winograd import f4_kernel, winograd_f4
from dfine_jax.ops.compute import Compute


def pack(kernel: Float[np.ndarray | Array, "T I O"]) -> Float[np.ndarray | Array, "T size"]:
    """The kernel's columns in panels, each row after row; zeros make the last column's panel a whole one."""
    count, _, outputs = kernel.shape
    numpy = np if isinstance(kernel, np.ndarray) else jnp
    kernel = numpy.pad(kernel, ((0, 0), (0, 0), (0, whole_columns(outputs) - outputs)))
    return numpy.concatenate([kernel[..., at].reshape(count, -1) for at in _panels(outputs)], -1)


def packed_size(inputs: int, outputs: int) -> int:
    """How many numbers ``pack`` makes of a kernel."""
    return inputs * whole_columns(outputs)


def _panels(outputs: int) -> list[slice]:
    """The columns of each."""
    columns = whole_columns(outputs)
    return [slice(at, min(at + PANEL, columns)) for at in range(0, columns, PANEL)]


def unpack(kernel: Float[Array, "T size"], outputs: int) -> Float[Array, "T I O"]:
    """The opposite of ``pack``."""
    count, size = kernel.shape
    inputs = size // whole_columns(outputs)
    panels = [kernel[:, inputs * at.start : inputs * at.stop] for at in _panels(outputs)]
    return jnp.concatenate([panel.reshape(count, inputs, -1) for panel in panels], -1)[..., :outputs]


def gemm(
    maps: Sequence[Float[Array, "N *B _"]], kernels: Sequence[Float[Array, "1 _"]], epilogue: Epilogue
) -> Float[Array, "N *B O"]:
    """The sum of products of maps, cell by cell, with kernels in panels. CPUs put no maps together.

    Where a map has more channels than its kernel has inputs, the last of them count.
    """
    return _product(maps, kernels, epilogue, Window(1, 1, (0, 0)))


def convolve_implicit_gemm(
    maps: Sequence[Float[Array, "B H W _"]],
    kernels: Sequence[Float[Array, "k _"]],
    stride: int,
    padding: tuple[int, int],
    epilogue: Epilogue,
) -> Float[Array, "B h w O"]:
    """The sum of convolutions of maps; what a row of a kernel covers in a row of its map is one row of a product."""
    return _rows(maps, kernels, epilogue, Window(len(kernels[0]), stride, padding))


def convolve_winograd(
    x: Float[Array, "B H W I"], kernel: Float[Array, "36 size"], padding: tuple[int, int], epilogue: Epilogue
) -> Float[Array, "B h w O"]:
    """By large tiles, see ``dfine_jax.cpu.kernels.winograd``. CPUs transform and multiply a few of them at a time.

    ``ValueError`` where 16 does not divide the channels, in and out.
    """
    if x.shape[-1] % WIDEST or len(epilogue.bias) % WIDEST:
        raise ValueError(f"{x.shape[-1]} channels to {len(epilogue.bias)}: {WIDEST} has to divide both")
    return _tiles([x], [kernel], epilogue, Window(3, 1, padding))


def _plain_product(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "*B O"]:
    return plain_gemm(maps, [unpack(kernel, len(epilogue.bias))[0] for kernel in kernels], epilogue)


def plain_gemm(
    maps: Sequence[Float[Array, "*B _"]], wholes: Sequence[Float[Array, "_ O"]], epilogue: Epilogue
) -> Float[Array, "*B O"]:
    """``gemm`` by kernels that are in no panels, by XLA."""
    counted = [x[..., x.shape[-1] - len(whole) :] for x, whole in zip(maps, wholes, strict=True)]
    return epilogue(Compute().einsum("...i,io->...o", jnp.concatenate(counted, -1), jnp.concatenate(wholes)))


def _plain_rows(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "B h w O"]:
    size, outputs = window.size, len(epilogue.bias)
    wholes = [unpack(kernel, outputs).reshape(size, size, -1, outputs) for kernel in kernels]
    return plain_convolve(maps, wholes, epilogue, window)


def plain_convolve(
    maps: Sequence[Float[Array, "B H W _"]],
    wholes: Sequence[Float[Array, "k _ _ O"]],
    epilogue: Epilogue,
    window: Window,
) -> Float[Array, "B h w O"]:
    """``convolve_implicit_gemm`` by kernels that are in no panels, by XLA."""

    def convolved(x: Float[Array, "B H W I"], whole: Float[Array, "k _ I O"]) -> Float[Array, "B h w O"]:
        strides, padding = (window.stride, window.step), (window.padding, window.beside(x.shape[2]))
        names, precision = ("NHWC", "HWIO", "NHWC"), Compute().precision
        return lax.conv_general_dilated(x, whole, strides, padding, dimension_numbers=names, precision=precision)

    return epilogue(sum(map(convolved, maps, wholes)))


def _plain_tiles(
    maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window
) -> Float[Array, "B h w O"]:
    return epilogue(winograd_f4(*maps, unpack(*kernels, len(epilogue.bias)), window.padding))


def plan_winograd(
    maps: list[Array], kernels: list[Array], outputs: int, window: Window, kind: str = "tiles", pairs: bool = False
) -> Plan:
    """Tiles of pictures, in scratch memory of this kind, where pairs of a tile's numbers may take one's place."""
    pictures, *sides, inputs = maps[0].shape
    high, wide = (-(-window.over(side) // 4) for side in sides)
    size = even(high * wide, CELLS)
    numbers = dict(channels=inputs, numbers=inputs // 2 if pairs else inputs, pairs=inputs // 2, outputs=outputs)
    scratch = scratch_size(kind, count=size, outside_count=max(inputs, 16 * outputs), **numbers)
    return Plan(size, pictures * -(-high * wide // size), scratch)


_product = native("product", _plain_product, plan_gemm)
_rows = native("rows", _plain_rows, plan_implicit_gemm)
_tiles = native("tiles", _plain_tiles, plan_winograd, takes_narrow=True)


class Gemm(Kernel):
    """A pointwise kernel in panels, for each map apart."""

    name = "GEMM"
    reads_last_channels = True

    def supports(self, spec: Spec) -> bool:
        return spec.is_pointwise and spec.is_dense

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [(1, packed_size(width, kernel[3])) for width in widths]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return [pack(part[0]) for part in split(kernel, widths)]

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return gemm(maps, kernels, layer.epilogue)

    def by_map(self, kernels: Sequence[Array]) -> list[list[Array]]:
        return [[kernel] for kernel in kernels]


class ImplicitGemm(Kernel):
    """Rows of a kernel in panels, for each map apart."""

    name = "implicit GEMM"

    def supports(self, spec: Spec) -> bool:
        return spec.is_dense

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        rows, columns, _, outputs = kernel
        return [(rows, packed_size(columns * width, outputs)) for width in widths]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        rows, *_, outputs = kernel.shape
        return [pack(part.reshape(rows, -1, outputs)) for part in split(kernel, widths)]

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return convolve_implicit_gemm(maps, kernels, layer.stride, layer.padding, layer.epilogue)


class PackedWinograd(Kernel):
    """36 entries in panels."""

    name = "Winograd F(4,3), packed"

    def supports(self, spec: Spec) -> bool:
        return spec.is_native_winograd

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [(36, packed_size(*kernel[2:]))]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return [pack(f4_kernel(kernel))]

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return convolve_winograd(*maps, *kernels, layer.padding, layer.epilogue)
