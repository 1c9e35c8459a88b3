"""Kernels of a fused model in the forms that CPUs are fast with, made on the host ahead, and what goes through them."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from dfine_jax.cpu.codegen.product import whole_columns
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.work import MOST, TAPS
from dfine_jax.cpu.kernels.halves import (
    FEW,
    FEW_WHOLES_OF_TILES,
    are_faster_halved,
    for_two_cells,
    in_halves,
    tiles_in_wholes,
    whole_pairs,
    windows_are_halvable,
    windows_in_halves,
)
from dfine_jax.cpu.kernels.panels import in_panels, size_in_panels
from dfine_jax.cpu.kernels.tiles import large_tile_kernel, small_tile_kernels
from dfine_jax.ops.convolution import SMALL, alike

Form = Literal[
    "whole",
    "parts",
    "pairs",
    "small tiles",
    "large tiles",
    "panels",
    "rows in panels",
    "rows of channels",
    "large tiles in panels",
    "halves in panels",
    "halves apart",
    "rows of halves",
    "two cells of halves",
    "large tiles of halves",
    "large tiles of wholes",
]
"""Of a kernel: as it is; split along its inputs, one part a summand of ``convolve_parts``; one for two cells at once,
see ``kernels/pairs.py``; transformed for products of tiles, see ``kernels/tiles.py``; in panels, one part a map, see
``kernels/panels.py`` and ``kernels/halves.py``; or a depthwise one row after row, see ``kernels/channelwise.py``.
"""

HALVED: tuple[Form, ...] = (
    "halves in panels",
    "halves apart",
    "rows of halves",
    "two cells of halves",
    "large tiles of halves",
    "large tiles of wholes",
)
"""Forms whose kernels are in 16 bits, see ``dfine_jax.cpu.kernels.halves``."""

NATIVE: tuple[Form, ...] = ("panels", "rows in panels", "rows of channels", "large tiles in panels", *HALVED)
"""Forms that machine code takes."""

WIDE = 24
"""Channels in and out from which large tiles beat the other forms on CPUs."""

ROUNDED = 96
"""Channels in and out from which small tiles in bfloat16 beat large ones, which are in float32."""

NARROW = 24
"""Channels out up to which two cells at once are faster: one cell's fill too few of a CPU's vector registers."""


def form_on_cpu(
    kernel: tuple[int, int, int, int],
    stride: int,
    widths: tuple[int, ...],
    rounded: bool,
    panels: bool,
    halves: np.dtype | None = None,
    apart: bool = False,
) -> Form:
    """The form for a kernel of this shape (HWIO) that convolves maps of so many channels put together.

    ``rounded`` says whether its products are in bfloat16 where that is faster, ``panels`` whether those in float32 are
    faster in panels, ``halves`` in which type those are that are faster still, and ``apart`` whether maps are
    multiplied one by one.
    """
    *size, inputs, outputs = kernel
    wide = min(inputs, outputs)
    tiled = size == [3, 3] and stride == 1 and len(widths) == 1 and wide >= WIDE
    if panels and not rounded and inputs == sum(widths) and len(widths) <= MOST and len(widths) * max(size) <= TAPS:
        if size == [1, 1] and stride == 1:
            groups = [(width,) for width in widths] if apart else [widths]
            if not halves or not all(are_faster_halved(group, outputs, halves) for group in groups):
                return "panels"
            return "halves apart" if apart else "halves in panels"
        if tiled and inputs % WIDEST == outputs % WIDEST == 0:
            return _tiles_form(inputs, outputs, halves)
        return _rows_form(size, stride, widths, outputs) if halves and len(set(size)) == 1 else "rows in panels"
    if panels and not rounded and inputs == 1 and widths == (outputs,) and outputs >= WIDEST and max(size) <= TAPS:
        return "rows of channels"
    if size == [1, 1] and stride == 1 and len(_summands(widths)) > 1:
        return "parts"
    if size != [3, 3] or stride != 1 or inputs == 1 or len(widths) > 1:
        return "whole"
    if tiled:
        return "small tiles" if rounded and wide >= ROUNDED else "large tiles"
    return "pairs" if outputs <= NARROW and math.prod(kernel) > SMALL else "whole"


def _tiles_form(inputs: int, outputs: int, halves: np.dtype | None) -> Form:
    """Of a 3x3 convolution that is faster by large tiles in float32."""
    wide = min(inputs, outputs)
    if halves == np.float16 and wide >= FEW:
        return "large tiles of halves"
    if halves == np.int16 and wide >= FEW_WHOLES_OF_TILES:
        return "large tiles of wholes"
    if halves == np.int16 and windows_are_halvable(3, 3, 1, inputs):
        return "rows of halves"
    return "large tiles in panels"


def _rows_form(size: list[int], stride: int, widths: tuple[int, ...], outputs: int) -> Form:
    """Of a convolution row by row, where halves are faster."""
    rows, columns = size
    of_one = all(windows_are_halvable(rows, columns, stride, width) for width in widths)
    of_two = stride == 1 and all(windows_are_halvable(rows, columns + 1, 2, width) for width in widths)
    products_of_one, products_of_two = 2 * columns * whole_columns(outputs), (columns + 1) * whole_columns(2 * outputs)
    if of_two and (products_of_two < products_of_one or not of_one):
        return "two cells of halves"
    return "rows of halves" if of_one else "rows in panels"


def shapes_in_form(kernel: tuple[int, int, int, int], form: Form, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of the arrays that ``in_form`` makes of a kernel of this shape (HWIO)."""
    *size, inputs, outputs = kernel
    match form:
        case "whole":
            return [kernel]
        case "parts":
            return [(*size, width, outputs) for width in _summands(widths)]
        case "panels":
            return [(1, size_in_panels(width, outputs)) for width in widths]
        case "halves in panels":
            return [(1, size_in_panels(inputs, outputs)), (1,)]
        case "halves apart":
            return [*((1, size_in_panels(width, outputs)) for width in widths), (len(widths),)]
        case "rows in panels":
            rows, columns = size
            return [(rows, size_in_panels(columns * width, outputs)) for width in widths]
        case "rows of halves":
            rows, columns = size
            return [
                *((rows, size_in_panels(whole_pairs(columns * width), outputs)) for width in widths),
                (len(widths),),
            ]
        case "two cells of halves":
            rows, columns = size
            numbers = [whole_pairs((columns + 1) * width) for width in widths]
            return [*((rows, size_in_panels(each, 2 * outputs)) for each in numbers), (len(widths),)]
        case "rows of channels":
            rows, columns = size
            return [(rows, columns * outputs)]
        case "pairs":
            return [(3, 4, inputs, 2 * outputs)]
        case "small tiles":
            return [(inputs, outputs)] * 16
        case "large tiles":
            return [(36, inputs, outputs)]
        case "large tiles in panels":
            return [(36, size_in_panels(inputs, outputs))]
        case "large tiles of halves":
            return [(36, size_in_panels(inputs, outputs)), (1,)]
        case "large tiles of wholes":
            return [(36, size_in_panels(inputs, outputs)), (36,)]


def in_form(
    kernel: Float[np.ndarray, "kh kw I O"], form: Form, widths: tuple[int, ...], halves: np.dtype | None = None
) -> list[Float[np.ndarray, "..."]]:
    """What a kernel becomes, in its own type; ``HALVED`` forms are made for ``halves``, and a ``ValueError`` without.

    The arrays of a form are apart from each other: XLA for CPUs would copy a part of a larger one before every use.
    """
    if form in HALVED and halves is None:
        raise ValueError(f"a kernel in the form {form!r} is made for one of the types of 16 bits")
    match form:
        case "whole":
            return [kernel]
        case "parts":
            return _split(kernel, _summands(widths))
        case "panels":
            return [in_panels(part[0]) for part in _split(kernel, widths)]
        case "halves in panels":
            return in_halves([kernel[0]], halves)
        case "halves apart":
            return in_halves([part[0] for part in _split(kernel, widths)], halves)
        case "rows in panels":
            rows, *_, outputs = kernel.shape
            return [in_panels(part.reshape(rows, -1, outputs)) for part in _split(kernel, widths)]
        case "rows of halves":
            return windows_in_halves(_split(kernel, widths), halves)
        case "two cells of halves":
            return windows_in_halves(_split(for_two_cells(kernel), widths), halves)
        case "rows of channels":
            return [kernel.reshape(len(kernel), -1)]
        case "pairs":
            return [for_two_cells(kernel)]
        case "small tiles":
            return small_tile_kernels(kernel)
        case "large tiles":
            return [large_tile_kernel(kernel)]
        case "large tiles in panels":
            return [in_panels(large_tile_kernel(kernel))]
        case "large tiles of halves":
            return in_halves([large_tile_kernel(kernel)], halves)
        case "large tiles of wholes":
            return tiles_in_wholes(large_tile_kernel(kernel), halves)


def types_in_form(form: Form, count: int, dtype: np.dtype, halves: np.dtype | None) -> list[np.dtype]:
    """Of the arrays, so many, that ``in_form`` makes, in a model whose products are in these types."""
    if form in HALVED:
        return [halves] * (count - 1) + [np.dtype("float32")]
    return [dtype] * count


def in_float32_on_cpu(kernel: tuple[int, int, int, int], stride: int) -> bool:
    """Whether CPUs convolve with a kernel of this shape (HWIO) in float32 whatever comes in.

    That is a dense one that is neither pointwise nor in the form "small tiles".
    """
    pointwise, depthwise = kernel[:2] == (1, 1), kernel[2] == 1
    form = form_on_cpu(kernel, stride, kernel[2:3], rounded=True, panels=False)
    return not (pointwise or depthwise or form == "small tiles")


def _split(kernel: Float[np.ndarray, "kh kw I O"], widths: Sequence[int]) -> list[Float[np.ndarray, "kh kw _ O"]]:
    return np.split(kernel, np.cumsum(widths)[:-1], axis=2)


def _summands(widths: tuple[int, ...]) -> list[int]:
    """How many channels each product of a pointwise ``convolve_parts`` takes."""
    return [sum(each) for each in alike(widths, int)]
