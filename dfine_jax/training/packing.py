"""Many small arrays as few long vectors, for everything that treats their numbers alike.

An optimizer and a moving average work on each number by itself. A thousand arrays would be a thousand times the same
program to compile, which on a CPU takes longer than the network, and as many small files in a checkpoint.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

Values = Mapping[str, Array]
"""Arrays by dotted name, as ``dfine_jax.model.dfine.functional`` gives them."""
Vectors = dict[str, Float[Array, " numbers"]]
"""One vector for each group."""


class Packing(NamedTuple):
    """Which array lies in which vector: for each group the names and shapes in their order."""

    groups: Mapping[str, tuple[tuple[str, tuple[int, ...]], ...]]

    @classmethod
    def of(cls, groups: Mapping[str, tuple[str, ...]], values: Values) -> "Packing":
        """The packing of these groups of names."""
        return cls({group: tuple((name, values[name].shape) for name in names) for group, names in groups.items()})

    def pack(self, values: Values) -> Vectors:
        """The arrays' numbers, one after another."""
        return {
            group: jnp.concatenate([jnp.ravel(values[name]) for name, _ in places])
            for group, places in self.groups.items()
        }

    def unpack(self, vectors: Vectors) -> dict[str, Array]:
        """The inverse of ``pack``; of those groups that are there."""
        values = {}
        for group, vector in vectors.items():
            start = 0
            for name, shape in self.groups[group]:
                end = start + math.prod(shape)
                values[name] = vector[start:end].reshape(shape)
                start = end
        return values
