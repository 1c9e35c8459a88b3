"""Self-attention, in the form that the backend is fast at."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from dfine_jax.model.compute import Compute
from dfine_jax.model.finish import Finish
from dfine_jax.model.initial import constant, xavier
from dfine_jax.model.layers import Linear
from dfine_jax.model.native_call import Window, heads_at_a_time, native
from dfine_jax.native.registers import WIDEST

FEW_SCORES = 1_500_000
"""Scores of an attention's heads, in all, that stay in a CPU's caches."""


class SelfAttention(nnx.Module):
    """Multi-head self-attention whose queries and keys, but not values, see the position.

    ``is_native`` is set by ``dfine_jax.model.fuse``.
    """

    def __init__(self, width: int, heads: int, *, compute: Compute, rng: np.random.Generator | None):
        common = dict(bias=constant(0), compute=compute, rng=rng)
        inward = dict(kernel=xavier(width, 3 * width), **common)  # as if the three were one matrix
        self.query = Linear(width, width, **inward)
        self.key = Linear(width, width, **inward)
        self.value = Linear(width, width, **inward)
        self.out = Linear(width, width, **common)
        self.heads = heads
        self.compute = compute
        self.is_native = False

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        position: Float[Array, "*B Q D"],
        blocked: Bool[Array, "*B Q Q"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """``blocked[..., i, j]``: i may not look at j."""
        batch, count, width = x.shape
        heads = (batch, count, self.heads, width // self.heads)
        placed = x + position
        query, key, value = self.query(placed), self.key(placed), self.value(x)
        if self.is_native and blocked is None:
            return self.out(attend_heads(query, key, value, self.heads))
        query, key, value = (
            jnp.moveaxis(projected.reshape(heads), 2, 0) for projected in (query * heads[-1] ** -0.5, key, value)
        )

        def at_once(heads, compute):
            return jax.vmap(partial(_attend, blocked=blocked, compute=compute))(*heads)

        def in_turn(heads, compute):
            attend = jax.checkpoint(partial(_attend, blocked=blocked, compute=compute))
            return lax.map(lambda head: attend(*head), heads)

        # XLA for CPUs writes out every score, several times in training: one head's stay in its caches. Rounding them
        # would be one more pass, and products of so few channels gain nothing by it.
        few = batch * self.heads * count**2 <= FEW_SCORES
        on_cpu = partial(at_once if few else in_turn, compute=Compute())
        default = partial(at_once, compute=self.compute)
        mixed = lax.platform_dependent((query, key, value), cpu=on_cpu, default=default)
        return self.out(jnp.moveaxis(mixed, 0, 2).reshape(batch, count, width))


def _attend(
    query: Float[Array, "B Q C"],
    key: Float[Array, "B Q C"],
    value: Float[Array, "B Q C"],
    blocked: Bool[Array, "*B Q Q"] | None,
    compute: Compute,
) -> Float[Array, "B Q C"]:
    """The values that one head mixes. The softmax is divided by its sum last, when there is less to divide."""
    scores = compute.einsum("bqd,bkd->bqk", query, key)
    if blocked is not None:
        scores = jnp.where(blocked, -jnp.inf, scores)
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    return compute.einsum("bqk,bkd->bqd", weights, value) / weights.sum(-1, keepdims=True)


def attend_heads(
    query: Float[Array, "B Q D"], key: Float[Array, "B Q D"], value: Float[Array, "B Q D"], heads: int
) -> Float[Array, "B Q D"]:
    """Softmax attention of each head, whose channels lie together; CPUs have machine code for it.

    ``ValueError`` where 16 does not divide a head's channels.
    """
    width = query.shape[-1]
    if width % (heads * WIDEST):
        raise ValueError(f"{width} channels of {heads} heads: {WIDEST} has to divide those of each")
    factor = jnp.array([(width // heads) ** -0.5, 0], jnp.float32)
    finish = Finish(jnp.zeros(width), None, factor)
    number_of_heads = jnp.zeros((heads, 0))
    return _heads([query, key, value], [number_of_heads] * 3, finish, Window(1, 1, (0, 0)))


def _plain_heads(maps: list[Array], kernels: list[Array], finish: Finish, window: Window) -> Float[Array, "B Q D"]:
    query, key, value = (jnp.moveaxis(x.reshape(*x.shape[:2], len(kernels[0]), -1), 2, 0) for x in maps)
    mixed = jax.vmap(partial(_attend, blocked=None, compute=Compute()))(query * finish.affine[0], key, value)
    return jnp.moveaxis(mixed, 0, 2).reshape(maps[0].shape)


_heads = native("attention", _plain_heads, heads_at_a_time)
