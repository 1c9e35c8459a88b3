"""What a form of a kernel is: which convolutions it takes, how the kernel is packed for it, and the call."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.work import MOST, TAPS
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.ops.compute import Compute

HWIO = tuple[int, int, int, int]
"""A kernel's shape: rows, columns, inputs, outputs."""


class Spec(NamedTuple):
    """A convolution, as far as the choice of a form depends on it."""

    size: tuple[int, int]
    """Rows and columns of the kernel."""
    inputs: int
    """Channels that a number of the result is summed over: those of all maps, or one in a depthwise convolution."""
    outputs: int
    stride: int
    widths: tuple[int, ...]
    """Channels of each map; they are convolved as if concatenated."""

    @classmethod
    def of(cls, kernel: HWIO, stride: int, widths: tuple[int, ...]) -> "Spec":
        """That by a kernel of this shape."""
        rows, columns, inputs, outputs = kernel
        return cls((rows, columns), inputs, outputs, stride, widths)

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a product, cell by cell."""
        return self.size == (1, 1) and self.stride == 1

    @property
    def is_winograd(self) -> bool:
        """Whether it can be done by tiles."""
        return self.size == (3, 3) and self.stride == 1 and len(self.widths) == 1 and self.inputs > 1

    @property
    def is_dense(self) -> bool:
        """Whether machine code takes it row by row: all channels of all maps, of which there are not too many."""
        few = len(self.widths) <= MOST and len(self.widths) * max(self.size) <= TAPS
        return self.inputs == sum(self.widths) and few

    @property
    def is_native_winograd(self) -> bool:
        """Whether machine code does it by tiles: channels, in and out, have to fill registers."""
        return self.is_winograd and self.is_dense and self.inputs % WIDEST == self.outputs % WIDEST == 0


class Layer(NamedTuple):
    """What a convolution is called with, besides maps and kernels."""

    stride: int
    padding: tuple[int, int]
    epilogue: Epilogue
    compute: Compute
    pooled: int = 0
    """Maps, the first ones, that are max-pooled while they are read."""


class Kernel(ABC):
    """A form of a kernel; it has no state."""

    name: ClassVar[str]
    """By which plans and layers know it."""
    is_native: ClassVar[bool] = True
    """Whether machine code takes it."""
    in_16_bits: ClassVar[bool] = False
    """Whether the packed kernel is in 16 bits, with factors in float32 as its last array."""
    reads_last_channels: ClassVar[bool] = False
    """Whether it takes a map's last channels where they lie."""

    @abstractmethod
    def supports(self, spec: Spec) -> bool:
        """Whether it can compute this convolution."""

    @abstractmethod
    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Gives the shapes of what ``pack`` makes of a kernel of this shape for maps of so many channels."""

    @abstractmethod
    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        """Packs a kernel, in its own type; in 16 bits for ``operands``.

        The arrays are apart from each other: XLA for CPUs would copy a part of a larger one before every use.
        """

    @abstractmethod
    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "..."]:
        """Convolves the maps by a packed kernel, with all that follows."""

    def by_map(self, kernels: Sequence[Array]) -> list[list[Array]] | None:
        """Gives what ``convolve`` takes for each map by itself; None for a form that is for all maps together."""
        return None

    def packed(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None = None
    ) -> list[Float[np.ndarray, "..."]]:
        """Packs a kernel; ``ValueError`` where it is to be in 16 bits and ``operands`` doesn't say in which."""
        if self.in_16_bits and operands is None:
            raise ValueError(f"a kernel in the form {self.name!r} is made for one of the types of 16 bits")
        return self.pack(kernel, widths, operands)

    def arrays(
        self, kernel: HWIO, widths: tuple[int, ...], dtype: np.dtype, operands: np.dtype | None
    ) -> list[jax.ShapeDtypeStruct]:
        """Gives the packed kernel's arrays, without values, in a model whose products are in these types."""
        shapes = self.packed_shapes(kernel, widths)
        dtypes = [dtype] * len(shapes)
        if self.in_16_bits:
            dtypes = [operands] * (len(shapes) - 1) + [np.dtype("float32")]
        return [jax.ShapeDtypeStruct(*each) for each in zip(shapes, dtypes, strict=True)]


class XlaKernel(Kernel):
    """A form that XLA computes."""

    is_native = False

    @abstractmethod
    def sums(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "B h w O"]:
        """Convolves, with nothing that follows."""

    def convolve(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "B h w O"]:
        return layer.epilogue(self.sums(maps, kernels, layer)).astype(layer.compute.dtype)


def split(kernel: Float[np.ndarray, "kh kw I O"], widths: Sequence[int]) -> list[Float[np.ndarray, "kh kw _ O"]]:
    """Cuts a kernel along its inputs, a part for each map."""
    return np.split(kernel, np.cumsum(widths)[:-1], axis=2)
