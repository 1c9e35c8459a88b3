"""Self-attention with positions."""

import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from dfine_jax.model.initial import constant, xavier
from dfine_jax.model.layers import Linear
from dfine_jax.ops.attention import attend
from dfine_jax.ops.compute import Compute


class SelfAttention(nnx.Module):
    """Multi-head self-attention whose queries and keys, but not values, see the position."""

    def __init__(self, width: int, heads: int, *, compute: Compute, rng: np.random.Generator | None):
        common = dict(bias=constant(0), compute=compute, rng=rng)
        inward = dict(kernel=xavier(width, 3 * width), **common)  # as if the three were one matrix
        self.query = Linear(width, width, **inward)
        self.key = Linear(width, width, **inward)
        self.value = Linear(width, width, **inward)
        self.out = Linear(width, width, **common)
        self.heads = heads
        self.compute = compute

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        position: Float[Array, "*B Q D"],
        blocked: Bool[Array, "*B Q Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """``blocked[..., i, j]``: i may not look at j."""
        placed = x + position
        return self.out(self.mix(self.query(placed), self.key(placed), self.value(x), blocked))

    def mix(self, query: Array, key: Array, value: Array, blocked: Array | None) -> Float[Array, "B Q D"]:
        """Values mixed by how much each query attends to each key, all (B, Q, D)."""
        return attend(query, key, value, self.heads, self.compute, blocked)
