"""Kernels packed in 16 bits: panels of pairs, and factors that undo the scaling before the rounding."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from dfine_jax.cpu.codegen.wholes import WHOLE
from dfine_jax.cpu.codegen.work import PAIRS, PAIRS_OF_TILES
from dfine_jax.cpu.kernels.packed import pack, unpack

MOST_PAIRS = 144
"""Pairs of numbers of a window, all summed in float16 or as whole numbers: those of 32 channels and 3 by 3 cells."""


def whole_pairs(numbers: int) -> int:
    """As many, or one more, so that there are only pairs."""
    return numbers + numbers % 2


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


def pack16_windows(kernels: Sequence[Float[np.ndarray, "k _ I O"]], dtype: np.dtype) -> list[Float[np.ndarray, "..."]]:
    """What ``pack16`` makes of kernels whose rows follow each other, odd ones filled with a zero; in k parts."""
    size, *_, outputs = kernels[0].shape
    rows = [kernel.reshape(size, -1, outputs) for kernel in kernels]
    filled = [np.pad(each, ((0, 0), (0, each.shape[1] % 2), (0, 0))) for each in rows]
    *halved, factors = pack16([each.reshape(1, -1, outputs) for each in filled], dtype, MOST_PAIRS)
    return [*(each.reshape(size, -1) for each in halved), factors]


def pack16_winograd(kernel: Float[np.ndarray, "36 I O"], dtype: np.dtype) -> list[Float[np.ndarray, "..."]]:
    """What ``pack16`` makes of each entry of a kernel of large tiles: they are of different magnitudes."""
    *entries, factors = pack16(np.split(kernel, len(kernel)), dtype, PAIRS_OF_TILES)
    return [np.concatenate(entries), factors]


def apart(kernels: Sequence[Num[Array, "..."]]) -> list[list[Num[Array, "..."]]]:
    """What ``pack16`` would have made of each kernel by itself, from what it made of several."""
    *halved, factors = kernels
    return [[kernel, factors[index : index + 1]] for index, kernel in enumerate(halved)]


def unpack16(kernels: Sequence[Num[Array, "..."]], outputs: int) -> list[Float[Array, "T I O"]]:
    """The opposite of ``pack16``, but for rounding."""
    *halved, factors = kernels
    return [out_of_pairs(kernel, outputs) * factor for kernel, factor in zip(halved, factors, strict=True)]


def out_of_pairs(kernel: Num[Array, "T size"], outputs: int) -> Float[Array, "T I O"]:
    """What is in panels of pairs, by rows and columns."""
    pairs = kernel.astype(jnp.float32).reshape(len(kernel), -1, 2)
    numbers = jnp.stack([unpack(pairs[..., at], outputs) for at in (0, 1)], axis=2)
    return numbers.reshape(len(kernel), -1, outputs)


def _in_pairs(kernel: Float[np.ndarray, "T I O"]) -> Float[np.ndarray, "T size"]:
    first, second = (pack(kernel[:, start::2]) for start in (0, 1))
    return np.stack([first, second], axis=-1).reshape(len(kernel), -1)


def _size_of_wholes(kernel: Float[np.ndarray, "T I O"], block: int) -> float:
    """What a kernel has to be divided by, that numbers fit in 16 bits and any block's sum, with a map's, in 32."""
    magnitudes = np.abs(kernel)
    sums = np.add.reduceat(magnitudes, np.arange(0, kernel.shape[1], block), axis=1)
    return max(magnitudes.max() / (2**15 - 1), sums.max() / (2 ** (31 - WHOLE) - block))
