"""How a tensor lies in PyTorch's memory and how in ours, both ways."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """A permutation of axes: ours are those of the PyTorch tensor in the order of ``axes`` (None: the same)."""

    axes: tuple[int, ...] | None = None
    meaning: str = "as it is"

    def shape(self, torch_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Our shape for a PyTorch shape; the same shape where the number of axes does not fit."""
        if self.axes is None or len(self.axes) != len(torch_shape):
            return tuple(torch_shape)
        return tuple(torch_shape[axis] for axis in self.axes)

    def to_jax(self, tensor: np.ndarray) -> np.ndarray:
        """A PyTorch tensor in our layout."""
        return tensor if self.axes is None else tensor.transpose(self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The inverse of ``to_jax``."""
        return array if self.axes is None else array.transpose(np.argsort(self.axes))


SAME = Layout()
CONV = Layout((2, 3, 1, 0), "OIHW to HWIO")  # OIHW to HWIO; depthwise kernels are (C, 1, h, w) and (h, w, 1, C)
LINEAR = Layout((1, 0), "(out, in) to (in, out)")  # (out, in) to (in, out)
