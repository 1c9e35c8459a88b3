"""Views of maps, which a convolution makes its own while it reads or after it has multiplied.

The layers of ``dfine_jax.cpu.layers`` take them in place of the maps that they stand for.
"""

from typing import NamedTuple

from jaxtyping import Array, Float


class Upsampled(NamedTuple):
    """``upsample2x(map)``: the product is made at the coarse size, and added in the epilogue."""

    map: Float[Array, "B h w C"]


class MaxPooled(NamedTuple):
    """``max_pool2x2(map)``: made while the map is read."""

    map: Float[Array, "B H W C"]


class LastChannels(NamedTuple):
    """The last ``count`` channels, read where they are."""

    map: Float[Array, "B H W C"]
    count: int

    def copied(self) -> Float[Array, "B H W count"]:
        """As a map of its own."""
        return self.map[..., self.map.shape[-1] - self.count :]


Operand = Array | Upsampled | MaxPooled | LastChannels
