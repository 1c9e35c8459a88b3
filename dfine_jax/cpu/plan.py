"""How a folded model's weights become those of layers for CPUs."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from dfine_jax.cpu.codegen.targets import Purpose
from dfine_jax.cpu.kernels.table import KERNELS


class PackedKernel(NamedTuple):
    """What a kernel becomes."""

    form: str
    """Its name in ``dfine_jax.cpu.kernels.table``."""
    widths: tuple[int, ...]
    """Channels of each map that it convolves, put together."""


class PackingPlan(NamedTuple):
    """A plain value, easily kept."""

    kernels: dict[str, PackedKernel]
    """By name, those that become lists of arrays."""
    dtypes: dict[str, np.dtype]
    """The types that kernels, or the arrays they become, are rounded to. All other variables stay as they are."""
    operands: np.dtype | None
    """The type of 16 bits that kernels are packed for."""
    purposes: tuple[Purpose, ...]
    """The machine code that the model calls, by what it is compiled for."""

    def prepare(self, name: str, value: ArrayLike) -> Iterator[tuple[str, ArrayLike]]:
        """The variable, or the arrays that it becomes, in their types."""
        from dfine_jax.inference.folding import rounded

        packed = self.kernels.get(name)
        if packed is None:
            yield name, rounded(value, self.dtypes.get(name))
            return
        kernel = np.asarray(value)
        kernel = kernel[None, None] if kernel.ndim == 2 else kernel
        for index, part in enumerate(KERNELS[packed.form].packed(kernel, packed.widths, self.operands)):
            yield f"{name}.{index}", rounded(part, self.dtypes[f"{name}.{index}"])

    def register(self) -> None:
        """Compiles the machine code and makes it known to XLA."""
        from dfine_jax.cpu.codegen.targets import register

        for purpose in self.purposes:
            register(purpose)
