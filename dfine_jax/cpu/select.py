"""Which form a convolution's kernel gets on CPUs: the first of an ordered list of rules, with measured thresholds."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dfine_jax.cpu.codegen.product import whole_columns
from dfine_jax.cpu.kernels.kernel import HWIO, Kernel, Spec
from dfine_jax.cpu.kernels.table import KERNELS
from dfine_jax.ops.convolution import SMALL

WIDE = 24
"""Channels in and out from which large tiles beat the other forms on CPUs."""

ROUNDED = 96
"""Channels in and out from which small tiles in bfloat16 beat large ones, which are in float32."""

NARROW = 24
"""Channels out up to which two cells at once are faster: one cell's fill too few of a CPU's vector registers."""

FEW16 = 32
"""Channels in all, in and out, below which rounding takes longer than is won by products in 16 bits."""

FEW_INT16 = 16
"""The same for whole numbers: as few as a map in float16, which products in float32 would want widened, may have."""

FEW_IN_TILES = 96
"""The same for tiles of them."""


class Case(NamedTuple):
    """What the choice depends on."""

    spec: Spec
    rounded: bool
    """Whether products are in bfloat16 where that is faster."""
    panels: bool
    """Whether machine code can be called."""
    halves: np.dtype | None
    """The type of 16 bits whose products are faster still, if there is one."""
    apart: bool
    """Whether maps are multiplied one by one."""

    @property
    def is_native(self) -> bool:
        """Whether machine code is to compute it."""
        return self.panels and not self.rounded

    @property
    def wide(self) -> int:
        """Channels in or out, the smaller number."""
        return min(self.spec.inputs, self.spec.outputs)

    def is_faster_in_16_bits(self, inputs: int) -> bool:
        """Whether products over so many channels are."""
        if self.halves is None:
            return False
        few = FEW_INT16 if np.issubdtype(self.halves, np.integer) else FEW16
        return min(inputs, self.spec.outputs) >= few

    @property
    def is_faster_by_tiles(self) -> bool:
        """Whether large tiles by machine code beat its other forms in float32."""
        return self.is_native and self.wide >= WIDE and self.spec.is_native_winograd

    @property
    def two_columns_are_fewer(self) -> bool:
        """Whether there are fewer products, with what fills registers, where a step gives two columns."""
        _, columns = self.spec.size
        outputs = self.spec.outputs
        return (columns + 1) * whole_columns(2 * outputs) < 2 * columns * whole_columns(outputs)


RULES: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    ("GEMM, 16 bits, split", lambda c: c.is_native and c.apart and all(map(c.is_faster_in_16_bits, c.spec.widths))),
    ("GEMM, 16 bits", lambda c: c.is_native and not c.apart and c.is_faster_in_16_bits(c.spec.inputs)),
    ("GEMM", lambda c: c.is_native),
    ("Winograd F(4,3), 16 bits", lambda c: c.is_faster_by_tiles and c.halves == np.float16 and c.wide >= FEW16),
    (
        "Winograd F(4,3), int16",
        lambda c: c.is_faster_by_tiles and c.halves == np.int16 and c.wide >= FEW_IN_TILES,
    ),
    ("implicit GEMM, 16 bits", lambda c: c.is_faster_by_tiles and c.halves == np.int16),
    ("Winograd F(4,3), packed", lambda c: c.is_faster_by_tiles),
    (
        "two columns, 16 bits",
        lambda c: (
            c.is_native
            and c.halves is not None
            and (c.two_columns_are_fewer or not KERNELS["implicit GEMM, 16 bits"].supports(c.spec))
        ),
    ),
    ("implicit GEMM, 16 bits", lambda c: c.is_native and c.halves is not None),
    ("implicit GEMM", lambda c: c.is_native),
    ("depthwise", lambda c: c.is_native),
    ("split", lambda c: True),
    ("Winograd F(2,3)", lambda c: c.rounded and c.wide >= ROUNDED),
    ("Winograd F(4,3)", lambda c: c.wide >= WIDE),
    ("two columns", lambda c: c.spec.outputs <= NARROW and _is_large(c.spec)),
    ("whole", lambda c: True),
)
"""A form is taken where it can compute the convolution and its rule holds."""


def kernel_on_cpu(
    kernel: HWIO,
    stride: int,
    widths: tuple[int, ...],
    rounded: bool,
    panels: bool,
    halves: np.dtype | None = None,
    apart: bool = False,
) -> Kernel:
    """Chooses the form for a kernel of this shape that convolves maps of so many channels; see ``Case``."""
    case = Case(Spec.of(kernel, stride, widths), rounded, panels, halves, apart)
    return next(KERNELS[name] for name, holds in RULES if KERNELS[name].supports(case.spec) and holds(case))


def in_float32_on_cpu(kernel: HWIO, stride: int) -> bool:
    """Whether CPUs convolve with a kernel of this shape in float32 whatever comes in.

    That is a dense one that is neither pointwise nor in the form "Winograd F(2,3)".
    """
    pointwise, depthwise = kernel[:2] == (1, 1), kernel[2] == 1
    form = kernel_on_cpu(kernel, stride, kernel[2:3], rounded=True, panels=False)
    return not (pointwise or depthwise or form.name == "Winograd F(2,3)")


def _is_large(spec: Spec) -> bool:
    """Whether the kernel has more numbers than what is a sum of shifted maps."""
    return math.prod(spec.size) * spec.inputs * spec.outputs > SMALL
