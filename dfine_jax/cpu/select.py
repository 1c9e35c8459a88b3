"""Kernels of a fused model in the forms that CPUs are fast with, made on the host ahead, and what goes through them."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from dfine_jax.cpu.codegen.product import whole_columns
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.work import MOST, TAPS
from dfine_jax.cpu.kernels.packed import pack, packed_size
from dfine_jax.cpu.kernels.packed16 import (
    FEW,
    FEW_WHOLES_OF_TILES,
    for_two_columns,
    is_faster16,
    pack16,
    pack16_windows,
    pack16_winograd,
    whole_pairs,
    windows_take16,
)
from dfine_jax.cpu.kernels.winograd import f2_kernels, f4_kernel
from dfine_jax.ops.convolution import SMALL, alike

Form = Literal[
    "whole",
    "split",
    "two columns",
    "Winograd F(2,3)",
    "Winograd F(4,3)",
    "GEMM",
    "implicit GEMM",
    "depthwise",
    "Winograd F(4,3), packed",
    "GEMM, 16 bits",
    "GEMM, 16 bits, split",
    "implicit GEMM, 16 bits",
    "two columns, 16 bits",
    "Winograd F(4,3), 16 bits",
    "Winograd F(4,3), int16",
]
"""What becomes of a kernel: nothing; split along its inputs, one part a summand of ``convolve_parts``; one that gives
two output columns a step, see ``kernels/two_columns.py``; transformed by Winograd, see ``kernels/winograd.py``; packed,
for each operand apart, see ``kernels/packed.py`` and ``kernels/packed16.py``; or a depthwise one row after row, see
``kernels/channelwise.py``.
"""

HALVED: tuple[Form, ...] = (
    "GEMM, 16 bits",
    "GEMM, 16 bits, split",
    "implicit GEMM, 16 bits",
    "two columns, 16 bits",
    "Winograd F(4,3), 16 bits",
    "Winograd F(4,3), int16",
)
"""Forms whose kernels are in 16 bits, see ``dfine_jax.cpu.kernels.packed16``."""

NATIVE: tuple[Form, ...] = ("GEMM", "implicit GEMM", "depthwise", "Winograd F(4,3), packed", *HALVED)
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
            if not halves or not all(is_faster16(group, outputs, halves) for group in groups):
                return "GEMM"
            return "GEMM, 16 bits, split" if apart else "GEMM, 16 bits"
        if tiled and inputs % WIDEST == outputs % WIDEST == 0:
            return _tiles_form(inputs, outputs, halves)
        return _rows_form(size, stride, widths, outputs) if halves and len(set(size)) == 1 else "implicit GEMM"
    if panels and not rounded and inputs == 1 and widths == (outputs,) and outputs >= WIDEST and max(size) <= TAPS:
        return "depthwise"
    if size == [1, 1] and stride == 1 and len(_summands(widths)) > 1:
        return "split"
    if size != [3, 3] or stride != 1 or inputs == 1 or len(widths) > 1:
        return "whole"
    if tiled:
        return "Winograd F(2,3)" if rounded and wide >= ROUNDED else "Winograd F(4,3)"
    return "two columns" if outputs <= NARROW and math.prod(kernel) > SMALL else "whole"


def _tiles_form(inputs: int, outputs: int, halves: np.dtype | None) -> Form:
    """Of a 3x3 convolution that is faster by large tiles in float32."""
    wide = min(inputs, outputs)
    if halves == np.float16 and wide >= FEW:
        return "Winograd F(4,3), 16 bits"
    if halves == np.int16 and wide >= FEW_WHOLES_OF_TILES:
        return "Winograd F(4,3), int16"
    if halves == np.int16 and windows_take16(3, 3, 1, inputs):
        return "implicit GEMM, 16 bits"
    return "Winograd F(4,3), packed"


def _rows_form(size: list[int], stride: int, widths: tuple[int, ...], outputs: int) -> Form:
    """Of a convolution row by row, where halves are faster."""
    rows, columns = size
    of_one = all(windows_take16(rows, columns, stride, width) for width in widths)
    of_two = stride == 1 and all(windows_take16(rows, columns + 1, 2, width) for width in widths)
    products_of_one, products_of_two = 2 * columns * whole_columns(outputs), (columns + 1) * whole_columns(2 * outputs)
    if of_two and (products_of_two < products_of_one or not of_one):
        return "two columns, 16 bits"
    return "implicit GEMM, 16 bits" if of_one else "implicit GEMM"


def shapes_in_form(kernel: tuple[int, int, int, int], form: Form, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of the arrays that ``in_form`` makes of a kernel of this shape (HWIO)."""
    *size, inputs, outputs = kernel
    match form:
        case "whole":
            return [kernel]
        case "split":
            return [(*size, width, outputs) for width in _summands(widths)]
        case "GEMM":
            return [(1, packed_size(width, outputs)) for width in widths]
        case "GEMM, 16 bits":
            return [(1, packed_size(inputs, outputs)), (1,)]
        case "GEMM, 16 bits, split":
            return [*((1, packed_size(width, outputs)) for width in widths), (len(widths),)]
        case "implicit GEMM":
            rows, columns = size
            return [(rows, packed_size(columns * width, outputs)) for width in widths]
        case "implicit GEMM, 16 bits":
            rows, columns = size
            return [
                *((rows, packed_size(whole_pairs(columns * width), outputs)) for width in widths),
                (len(widths),),
            ]
        case "two columns, 16 bits":
            rows, columns = size
            numbers = [whole_pairs((columns + 1) * width) for width in widths]
            return [*((rows, packed_size(each, 2 * outputs)) for each in numbers), (len(widths),)]
        case "depthwise":
            rows, columns = size
            return [(rows, columns * outputs)]
        case "two columns":
            return [(3, 4, inputs, 2 * outputs)]
        case "Winograd F(2,3)":
            return [(inputs, outputs)] * 16
        case "Winograd F(4,3)":
            return [(36, inputs, outputs)]
        case "Winograd F(4,3), packed":
            return [(36, packed_size(inputs, outputs))]
        case "Winograd F(4,3), 16 bits":
            return [(36, packed_size(inputs, outputs)), (1,)]
        case "Winograd F(4,3), int16":
            return [(36, packed_size(inputs, outputs)), (36,)]


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
        case "split":
            return _split(kernel, _summands(widths))
        case "GEMM":
            return [pack(part[0]) for part in _split(kernel, widths)]
        case "GEMM, 16 bits":
            return pack16([kernel[0]], halves)
        case "GEMM, 16 bits, split":
            return pack16([part[0] for part in _split(kernel, widths)], halves)
        case "implicit GEMM":
            rows, *_, outputs = kernel.shape
            return [pack(part.reshape(rows, -1, outputs)) for part in _split(kernel, widths)]
        case "implicit GEMM, 16 bits":
            return pack16_windows(_split(kernel, widths), halves)
        case "two columns, 16 bits":
            return pack16_windows(_split(for_two_columns(kernel), widths), halves)
        case "depthwise":
            return [kernel.reshape(len(kernel), -1)]
        case "two columns":
            return [for_two_columns(kernel)]
        case "Winograd F(2,3)":
            return f2_kernels(kernel)
        case "Winograd F(4,3)":
            return [f4_kernel(kernel)]
        case "Winograd F(4,3), packed":
            return [pack(f4_kernel(kernel))]
        case "Winograd F(4,3), 16 bits":
            return pack16([f4_kernel(kernel)], halves)
        case "Winograd F(4,3), int16":
            return pack16_winograd(f4_kernel(kernel), halves)


def types_in_form(form: Form, count: int, dtype: np.dtype, halves: np.dtype | None) -> list[np.dtype]:
    """Of the arrays, so many, that ``in_form`` makes, in a model whose products are in these types."""
    if form in HALVED:
        return [halves] * (count - 1) + [np.dtype("float32")]
    return [dtype] * count


def in_float32_on_cpu(kernel: tuple[int, int, int, int], stride: int) -> bool:
    """Whether CPUs convolve with a kernel of this shape (HWIO) in float32 whatever comes in.

    That is a dense one that is neither pointwise nor in the form "Winograd F(2,3)".
    """
    pointwise, depthwise = kernel[:2] == (1, 1), kernel[2] == 1
    form = form_on_cpu(kernel, stride, kernel[2:3], rounded=True, panels=False)
    return not (pointwise or depthwise or form == "Winograd F(2,3)")


def _split(kernel: Float[np.ndarray, "kh kw I O"], widths: Sequence[int]) -> list[Float[np.ndarray, "kh kw _ O"]]:
    return np.split(kernel, np.cumsum(widths)[:-1], axis=2)


def _summands(widths: tuple[int, ...]) -> list[int]:
    """How many channels each product of a pointwise ``convolve_parts`` takes."""
    return [sum(each) for each in alike(widths, int)]
