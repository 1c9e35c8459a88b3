"""Products of numbers in 16 bits, which some CPUs are twice as fast at as in float32, see ``cpu/codegen/halves.py``.

Kernels are rounded ahead and maps as they are multiplied; all else is in float32. In bfloat16 sums are, too. In float16
sums are rounded as they grow, and added in float32 after 256 products, in tiles 128, and in windows after a map's, 288
at most. With three bits more in each number errors are 0.4 to 0.7 of bfloat16's, those of large tiles up to 1.4 times
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

from dfine_jax.cpu.call import (
    Window,
    native,
    plan_gemm16,
    plan_implicit_gemm16,
    plan_winograd16,
    plan_winograd_int16,
)
from dfine_jax.cpu.codegen.product import whole_columns
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.wholes import WHOLE
from dfine_jax.cpu.codegen.work import PAIRS, PAIRS_OF_TILES
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.packed import pack, packed_size, plain_convolve, plain_gemm, unpack
from dfine_jax.cpu.kernels.winograd import winograd_f4
from dfine_jax.ops.resampling import max_pool2x2

FEW = 32
"""Channels in all, in and out, below which rounding takes longer than is won."""

FEW_WHOLES = 16
"""The same for whole numbers: as few as a map in float16, which products in float32 would want widened, may have."""

FEW_WHOLES_OF_TILES = 96
"""The same for tiles of them."""

MOST_PAIRS = 144
"""Pairs of numbers of a window, all summed in float16 or as whole numbers: those of 32 channels and 3 by 3 cells."""


def takes16(inputs: Sequence[int]) -> bool:
    """Whether there is code for products of halves of maps with so many channels."""
    return sum(inputs) % 2 == 0 and all(width >= WIDEST for width in inputs)


def is_faster16(inputs: Sequence[int], outputs: int, dtype: np.dtype) -> bool:
    """Whether products of maps of so many channels are better those of halves of this type."""
    few = FEW_WHOLES if np.issubdtype(dtype, np.integer) else FEW
    return takes16(inputs) and min(sum(inputs), outputs) >= few


def windows_take16(rows: int, columns: int, step: int, inputs: int) -> bool:
    """Whether there is code for convolutions row by row of halves, of kernels of this size and so many channels.

    Each window, so many columns after another, has to begin with a pair.
    """
    return step * inputs % 2 == 0 and rows * whole_pairs(columns * inputs) <= 2 * MOST_PAIRS


def for_two_columns(kernel: Float[np.ndarray, "k k I O"]) -> Float[np.ndarray, "k k+1 I 2*O"]:
    """The kernel that gives two cells of a row at once."""
    left, right = (np.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0)))
    return np.concatenate([left, right], axis=3)


def whole_pairs(numbers: int) -> int:
    """As many, or one more, so that there are only pairs."""
    return numbers + numbers % 2


def pack16_windows(kernels: Sequence[Float[np.ndarray, "k _ I O"]], dtype: np.dtype) -> list[Float[np.ndarray, "..."]]:
    """What ``pack16`` makes of kernels whose rows follow each other, odd ones filled with a zero; in k parts."""
    size, *_, outputs = kernels[0].shape
    rows = [kernel.reshape(size, -1, outputs) for kernel in kernels]
    filled = [np.pad(each, ((0, 0), (0, each.shape[1] % 2), (0, 0))) for each in rows]
    *halved, factors = pack16([each.reshape(1, -1, outputs) for each in filled], dtype, MOST_PAIRS)
    return [*(each.reshape(size, -1) for each in halved), factors]


def pack16(
    kernels: Sequence[Float[np.ndarray, "T I O"]], dtype: np.dtype, pairs: int = PAIRS
) -> list[Float[np.ndarray, "..."]]:
    """Each kernel's columns in panels, two numbers of a column next to each other; and last, a factor for each.

    Kernels are scaled by powers of two, which factors undo: to numbers from -1 to 1, the largest more than a half; or
    to whole ones, where ``dtype`` is of those, such that sums of so many ``pairs`` don't exceed 32 bits.
    """
    are_whole = np.issubdtype(dtype, np.integer)
    sizes = [_size_of_wholes(kernel, 2 * pairs) if are_whole else np.abs(kernel).max() for kernel in kernels]
    factors = [2.0 ** np.ceil(np.log2(each)) if each else 1.0 for each in sizes]
    scaled = [kernel / factor for kernel, factor in zip(kernels, factors, strict=True)]
    return [*map(_in_pairs, map(np.rint, scaled) if are_whole else scaled), np.array(factors)]


def pack16_winograd(kernel: Float[np.ndarray, "36 I O"], dtype: np.dtype) -> list[Float[np.ndarray, "..."]]:
    """What ``pack16`` makes of each entry of a kernel of large tiles: they are of different magnitudes."""
    *entries, factors = pack16(np.split(kernel, len(kernel)), dtype, PAIRS_OF_TILES)
    return [np.concatenate(entries), factors]


def _size_of_wholes(kernel: Float[np.ndarray, "T I O"], block: int) -> float:
    """What a kernel has to be divided by, that numbers fit in 16 bits and any block's sum, with a map's, in 32."""
    magnitudes = np.abs(kernel)
    sums = np.add.reduceat(magnitudes, np.arange(0, kernel.shape[1], block), axis=1)
    return max(magnitudes.max() / (2**15 - 1), sums.max() / (2 ** (31 - WHOLE) - block))


def apart(kernels: Sequence[Num[Array, "..."]]) -> list[list[Num[Array, "..."]]]:
    """What ``pack16`` would have made of each kernel by itself, from what it made of several."""
    *halved, factors = kernels
    return [[kernel, factors[index : index + 1]] for index, kernel in enumerate(halved)]


def _in_pairs(kernel: Float[np.ndarray, "T I O"]) -> Float[np.ndarray, "T size"]:
    first, second = (pack(kernel[:, start::2]) for start in (0, 1))
    return np.stack([first, second], axis=-1).reshape(len(kernel), -1)


def _wholes(kernels: Sequence[Num[Array, "..."]], outputs: int) -> list[Float[Array, "T I O"]]:
    """The opposite of ``pack16``, but for rounding."""
    *halved, factors = kernels
    return [_out_of_pairs(kernel, outputs) * factor for kernel, factor in zip(halved, factors, strict=True)]


def _out_of_pairs(kernel: Num[Array, "T size"], outputs: int) -> Float[Array, "T I O"]:
    pairs = kernel.astype(jnp.float32).reshape(len(kernel), -1, 2)
    numbers = jnp.stack([unpack(pairs[..., at], outputs) for at in (0, 1)], axis=2)
    return numbers.reshape(len(kernel), -1, outputs)


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
    tops: int = 0,
) -> Float[Array, "B h w O"]:
    """``dfine_jax.cpu.kernels.packed.convolve_implicit_gemm`` by what ``pack16_windows`` made of kernels (k, k, I, O).

    Of the first maps, ``tops`` of them, it convolves ``dfine_jax.cpu.kernels.channelwise.max_pool``.

    ``ValueError`` where windows don't all begin with an even number, for sums of more than 288 numbers of one map, for
    rows of less than 16, for padding as wide as a kernel, and for kernels of other maps.
    """
    window = Window(len(kernels[0]), stride, padding, tops)
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
    window = Window(len(kernels[0]), 1, padding, twice=True)
    _check_windows(maps, kernels, window, 2 * len(epilogue.bias))
    dtype = epilogue.dtype if epilogue.shortcut is None else "float32"
    both = Epilogue(jnp.tile(epilogue.bias, 2), epilogue.activation, epilogue.affine, dtype=dtype)
    pairs = _rows(maps, kernels, both, window)
    cells = pairs.reshape(*pairs.shape[:2], -1, len(epilogue.bias))[:, :, : window.over(maps[0].shape[2])]
    return cells if epilogue.shortcut is None else epilogue.rounded(cells + epilogue.shortcut.astype(dtype))


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


def convolve_winograd16(
    x: Float[Array, "B H W I"], kernels: Sequence[Num[Array, "..."]], padding: tuple[int, int], epilogue: Epilogue
) -> Float[Array, "B h w O"]:
    """``dfine_jax.cpu.kernels.packed.convolve_winograd`` by what ``pack16`` made of a kernel (36, I, O).

    Of one in whole numbers ``pack16_winograd`` has to have made it.

    ``ValueError`` where 16 does not divide the channels, in and out, and where whole numbers have fewer factors.
    """
    channels = x.shape[-1], len(epilogue.bias)
    if any(count % WIDEST for count in channels):
        raise ValueError(f"{channels[0]} channels to {channels[1]}: {WIDEST} has to divide both")
    kernel, factors = kernels
    are_whole = jnp.issubdtype(kernel.dtype, jnp.integer)
    if are_whole and factors.shape != kernel.shape[:1]:
        raise ValueError(f"{len(factors)} factors: whole numbers want one for each of {len(kernel)} entries")
    tiles = _tiles_of_wholes if are_whole else _tiles
    return tiles([x], kernels, epilogue, Window(3, 1, padding))


def _plain_product(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "*B O"]:
    (whole,) = _wholes([kernels[0], kernels[-1]], len(epilogue.bias))
    ends = np.cumsum([x.shape[-1] for x in maps[:-1]])
    return plain_gemm(maps, jnp.split(whole[0], ends), epilogue)


def _plain_rows(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "B h w O"]:
    *halved, factors = kernels
    outputs, size, columns = len(epilogue.bias), window.size, window.columns
    wholes = _wholes([*(kernel.reshape(1, -1) for kernel in halved), factors], outputs)
    rows = [whole.reshape(size, -1, outputs)[:, : columns * x.shape[-1]] for x, whole in zip(maps, wholes, strict=True)]
    maps = [*map(max_pool2x2, maps[: window.tops]), *maps[window.tops :]]
    return plain_convolve(maps, [each.reshape(size, columns, -1, outputs) for each in rows], epilogue, window)


def _plain_tiles(
    maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window
) -> Float[Array, "B h w O"]:
    kernel, factors = kernels
    whole = _out_of_pairs(kernel, len(epilogue.bias)) * factors[:, None, None]
    return epilogue(winograd_f4(*maps, whole, window.padding))


_product = native("halves", _plain_product, plan_gemm16, in_16_bits=True, takes_narrow=True)
_rows = native("rows_of_halves", _plain_rows, plan_implicit_gemm16, in_16_bits=True, takes_narrow=True)
_tiles = native("tiles_of_halves", _plain_tiles, plan_winograd16, in_16_bits=True)
_tiles_of_wholes = native("tiles_of_wholes", _plain_tiles, plan_winograd_int16, in_16_bits=True, takes_narrow=True)
