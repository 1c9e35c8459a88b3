"""Products of numbers in 16 bits, which some CPUs are twice as fast at as in float32, see ``cpu/codegen/halves.py``.

Kernels are rounded ahead and maps as they are multiplied; all else is in float32. In bfloat16 sums are, too. In float16
sums are rounded as they grow, and added in float32 after 256 products, in tiles 128, and in windows after a map's, 288
at most. With three bits more in each number errors are 0.4 to 0.75 of bfloat16's, those of large tiles up to 1.4 times
what bfloat16's small tiles have. Its range does not matter, for each kernel, and of maps what a thread takes at a time,
is scaled by a power of two.

Other processors multiply whole numbers of 16 bits, int16, and sum them in 32. Maps are scaled to 14 bits and a sign, in
products and transformed tiles cell by cell, in windows what a thread takes at a time; kernels as much as leaves any sum
of a block in 32 bits. Numbers are rounded alike however small they are: if they are normally distributed, errors of
products and windows are up to a quarter of bfloat16's, those of large tiles nine tenths. Sums with what is not finite,
and with all that is scaled like it, are not numbers.

Beside whole numbers a fused model's maps between convolutions are float16, since these processors wait for memory: they
are rounded once they are finished, and what is beyond the range becomes the largest number.

On other backends, and for derivatives, products are in float32, of rounded kernels.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from dfine_jax.cpu.call import ROWS, Plan, Window, even, native, plan_gemm
from dfine_jax.cpu.codegen.product import whole_columns
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.scratch import scratch_size
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.kernel import HWIO, Kernel, Layer, Spec, split
from dfine_jax.cpu.kernels.packed import packed_size, plain_convolve, plain_gemm
from dfine_jax.cpu.kernels.packing16 import MOST_PAIRS, apart, pack16, pack16_windows, unpack16, whole_pairs
from dfine_jax.cpu.kernels.two_columns import for_two_columns
from dfine_jax.ops.resampling import max_pool2x2


def takes16(inputs: Sequence[int]) -> bool:
    """Whether there is code for products of halves of maps with so many channels."""
    return sum(inputs) % 2 == 0 and all(width >= WIDEST for width in inputs)


def windows_take16(rows: int, columns: int, step: int, inputs: int) -> bool:
    """Whether there is code for convolutions row by row of halves, of kernels of this size and so many channels.

    Each window, so many columns after another, has to begin with a pair.
    """
    return step * inputs % 2 == 0 and rows * whole_pairs(columns * inputs) <= 2 * MOST_PAIRS


def gemm16(
    maps: Sequence[Float[Array, "N *B _"]], kernels: Sequence[Num[Array, "..."]], epilogue: Epilogue
) -> Float[Array, "N *B O"]:
    """``dfine_jax.cpu.kernels.packed.gemm`` by what ``pack16`` made of the maps' one kernel (1, I, O).

    ``ValueError`` for less than 16 channels of a map, of a single one those that count, and if they are an odd number
    in all or not the kernel's.
    """
    kernel, factor = kernels
    inputs = kernel.shape[1] // whole_columns(len(epilogue.bias))
    channels = [inputs] if len(maps) == 1 else [x.shape[-1] for x in maps]
    if not takes16(channels) or sum(channels) != inputs:
        raise ValueError(
            f"{', '.join(map(str, channels))} channels: {WIDEST} are the least, all have to be even and as many as the "
            f"kernel's {inputs}"
        )
    return _product(maps, [*[kernel] * len(maps), factor], epilogue, Window(1, 1, (0, 0)))


def convolve_implicit_gemm16(
    maps: Sequence[Float[Array, "B H W _"]],
    kernels: Sequence[Num[Array, "..."]],
    stride: int,
    padding: tuple[int, int],
    epilogue: Epilogue,
    pooled: int = 0,
) -> Float[Array, "B h w O"]:
    """``dfine_jax.cpu.kernels.packed.convolve_implicit_gemm`` by what ``pack16_windows`` made of kernels (k, k, I, O).

    Of the first maps, ``pooled`` of them, it convolves ``dfine_jax.cpu.kernels.channelwise.max_pool``.

    ``ValueError`` where windows don't all begin with an even number, for sums of more than 288 numbers of one map, for
    rows of less than 16, for padding as wide as a kernel, and for kernels of other maps.
    """
    window = Window(len(kernels[0]), stride, padding, pooled)
    _check_windows(maps, kernels, window, len(epilogue.bias))
    return _rows(maps, kernels, epilogue, window)


def convolve_two_columns16(
    maps: Sequence[Float[Array, "B H W _"]],
    kernels: Sequence[Num[Array, "..."]],
    padding: tuple[int, int],
    epilogue: Epilogue,
) -> Float[Array, "B h w O"]:
    """``convolve_implicit_gemm16`` of stride 1, by what ``pack16_windows`` made of kernels ``for_two_columns``.

    It fills vectors where a cell has few channels. ``ValueError`` as there, and where a coarser map is to be added.
    """
    if epilogue.coarse is not None:
        raise ValueError("a coarser map can't be added to two cells at once")
    window = Window(len(kernels[0]), 1, padding, two_columns=True)
    _check_windows(maps, kernels, window, 2 * len(epilogue.bias))
    dtype = epilogue.dtype if epilogue.residual is None else "float32"
    both = Epilogue(jnp.tile(epilogue.bias, 2), epilogue.activation, epilogue.affine, dtype=dtype)
    pairs = _rows(maps, kernels, both, window)
    cells = pairs.reshape(*pairs.shape[:2], -1, len(epilogue.bias))[:, :, : window.over(maps[0].shape[2])]
    return cells if epilogue.residual is None else epilogue.rounded(cells + epilogue.residual.astype(dtype))


def _check_windows(
    maps: Sequence[Float[Array, "B H W _"]], kernels: Sequence[Num[Array, "..."]], window: Window, outputs: int
) -> None:
    if any(each and each >= window.size for each in window.padding):
        raise ValueError(f"padding {window.padding}: a kernel of {window.size} rows takes less")
    *halved, _ = kernels
    for x, kernel in zip(maps, halved, strict=True):
        *_, columns, channels = x.shape
        is_halvable = windows_take16(window.size, window.columns, window.step, channels)
        if not is_halvable or columns * channels < WIDEST:
            raise ValueError(
                f"{columns} columns of {channels} channels, kernel {window.size} by {window.columns}, step "
                f"{window.step}: a step has to be of an even number, {2 * MOST_PAIRS} are the most in a window and "
                f"{WIDEST} the least in a row"
            )
        if kernel.shape != (window.size, packed_size(whole_pairs(window.columns * channels), outputs)):
            raise ValueError(f"a kernel of shape {kernel.shape} is not one for {channels} channels to {outputs}")


def _plain_product(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "*B O"]:
    (whole,) = unpack16([kernels[0], kernels[-1]], len(epilogue.bias))
    ends = np.cumsum([x.shape[-1] for x in maps[:-1]])
    return plain_gemm(maps, jnp.split(whole[0], ends), epilogue)


def _plain_rows(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "B h w O"]:
    *halved, factors = kernels
    outputs, size, columns = len(epilogue.bias), window.size, window.columns
    wholes = unpack16([*(kernel.reshape(1, -1) for kernel in halved), factors], outputs)
    rows = [whole.reshape(size, -1, outputs)[:, : columns * x.shape[-1]] for x, whole in zip(maps, wholes, strict=True)]
    maps = [*map(max_pool2x2, maps[: window.pooled]), *maps[window.pooled :]]
    return plain_convolve(maps, [each.reshape(size, columns, -1, outputs) for each in rows], epilogue, window)


def plan_gemm16(maps: list[Array], kernels: list[Array], outputs: int, window: Window) -> Plan:
    """For products of halves."""
    size, chunks, _ = plan_gemm(maps, kernels, outputs, window)
    columns = whole_columns(outputs)
    pairs = kernels[0].shape[1] // columns // 2
    return Plan(size, chunks, scratch_size("gemm16", count=size, columns=columns, pairs=pairs))


def plan_implicit_gemm16(maps: list[Array], kernels: list[Array], outputs: int, window: Window) -> Plan:
    """The same in halves."""
    pictures, *sides, _ = maps[0].shape
    high, wide = window.over(sides[0]), window.wide(sides[1])
    size = even(high, ROWS)
    rows, columns = (size - 1) * window.stride + window.size, sides[1] + sum(window.beside(sides[1]))
    top = min(window.pooled, 1)
    downs = [(columns + top) * x.shape[-1] // 2 + 1 for x in maps]
    rounded = sum(scratch_size("map16", wide=wide, all_rows=rows + top, down=down) for down in downs)
    sums = scratch_size("rows16", wide=wide, columns=whole_columns(outputs))
    return Plan(size, pictures * -(-high // size), sums + rounded)


_product = native("halves", _plain_product, plan_gemm16, in_16_bits=True, takes_narrow=True)
_rows = native("rows_of_halves", _plain_rows, plan_implicit_gemm16, in_16_bits=True, takes_narrow=True)


class Gemm16(Kernel):
    """A pointwise kernel for all maps together."""

    name = "GEMM, 16 bits"
    in_16_bits = True
    reads_last_channels = True

    def supports(self, spec: Spec) -> bool:
        return spec.is_pointwise and spec.is_dense and takes16(spec.widths)

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [(1, packed_size(*kernel[2:])), (1,)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return pack16([kernel[0]], operands)

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return gemm16(maps, kernels, layer.epilogue)


class SplitGemm16(Kernel):
    """A pointwise kernel in parts, of which each multiplies its own map: one of them is of half the size.

    ``convolve`` takes one map, with its part.
    """

    name = "GEMM, 16 bits, split"
    in_16_bits = True

    def supports(self, spec: Spec) -> bool:
        return spec.is_pointwise and spec.is_dense and all(takes16((width,)) for width in spec.widths)

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [*((1, packed_size(width, kernel[3])) for width in widths), (len(widths),)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return pack16([part[0] for part in split(kernel, widths)], operands)

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return gemm16(maps, kernels, layer.epilogue)

    def by_map(self, kernels: Sequence[Array]) -> list[list[Array]]:
        return apart(kernels)


class ImplicitGemm16(Kernel):
    """Rows of a square kernel, for each map apart."""

    name = "implicit GEMM, 16 bits"
    in_16_bits = True

    def supports(self, spec: Spec) -> bool:
        return _takes_windows(spec, columns=spec.size[1], step=spec.stride)

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        rows, columns, _, outputs = kernel
        sizes = [packed_size(whole_pairs(columns * width), outputs) for width in widths]
        return [*((rows, size) for size in sizes), (len(widths),)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return pack16_windows(split(kernel, widths), operands)

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return convolve_implicit_gemm16(maps, kernels, layer.stride, layer.padding, layer.epilogue, layer.pooled)


class TwoColumns16(Kernel):
    """Rows of a square kernel of stride 1 that give two columns at once, for each map apart."""

    name = "two columns, 16 bits"
    in_16_bits = True

    def supports(self, spec: Spec) -> bool:
        return spec.stride == 1 and _takes_windows(spec, columns=spec.size[1] + 1, step=2)

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        rows, columns, _, outputs = kernel
        sizes = [packed_size(whole_pairs((columns + 1) * width), 2 * outputs) for width in widths]
        return [*((rows, size) for size in sizes), (len(widths),)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return pack16_windows(split(for_two_columns(kernel), widths), operands)

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        return convolve_two_columns16(maps, kernels, layer.padding, layer.epilogue)


def _takes_windows(spec: Spec, columns: int, step: int) -> bool:
    """Whether there is code for the windows of a square kernel, of so many columns and so far from each other."""
    rows = spec.size[0]
    is_square = spec.size[0] == spec.size[1]
    return spec.is_dense and is_square and all(windows_take16(rows, columns, step, width) for width in spec.widths)
