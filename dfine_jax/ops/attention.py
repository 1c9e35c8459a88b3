"""Softmax attention, in the form that the backend is fast at."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from dfine_jax.ops.compute import Compute
from dfine_jax.ops.platform import is_portable, on_platform

FEW_SCORES = 1_500_000
"""Scores of an attention's heads, in all, that stay in a CPU's caches."""


def attend(
    query: Float[Array, "B Q D"],
    key: Float[Array, "B Q D"],
    value: Float[Array, "B Q D"],
    heads: int,
    compute: Compute,
    blocked: Bool[Array, "*B Q Q"] | None = None,
) -> Float[Array, "B Q D"]:
    """Mixes values by the softmax of scaled scores, for each of so many heads, whose channels lie together.

    ``blocked[..., i, j]``: i may not look at j.
    """
    batch, count, width = query.shape
    shape = (batch, count, heads, width // heads)
    query, key, value = (
        jnp.moveaxis(projected.reshape(shape), 2, 0) for projected in (query * shape[-1] ** -0.5, key, value)
    )

    def at_once(heads, compute):
        return jax.vmap(partial(attend_head, blocked=blocked, compute=compute))(*heads)

    def in_turn(heads, compute):
        head = jax.checkpoint(partial(attend_head, blocked=blocked, compute=compute))
        return lax.map(lambda each: head(*each), heads)

    default = partial(at_once, compute=compute)
    if is_portable():
        mixed = default((query, key, value))
    else:
        # XLA for CPUs writes out every score, several times in training: one head's stay in its caches. Rounding them
        # would be one more pass, and products of so few channels gain nothing by it.
        few = isinstance(batch, int) and batch * heads * count**2 <= FEW_SCORES  # a symbolic batch may be any
        on_cpu = partial(at_once if few else in_turn, compute=Compute())
        mixed = on_platform((query, key, value), cpu=on_cpu, default=default)
    return jnp.moveaxis(mixed, 0, 2).reshape(batch, count, width)


def attend_head(
    query: Float[Array, "B Q C"],
    key: Float[Array, "B Q C"],
    value: Float[Array, "B Q C"],
    blocked: Bool[Array, "*B Q Q"] | None,
    compute: Compute,
) -> Float[Array, "B Q C"]:
    """Mixes the values of one head. The softmax is divided by its sum last, when there is less to divide."""
    scores = compute.einsum("bqd,bkd->bqk", query, key)
    if blocked is not None:
        scores = jnp.where(blocked, -jnp.inf, scores)
    if is_portable():
        return compute.einsum("bqk,bkd->bqd", jax.nn.softmax(scores, axis=-1), value)
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    return compute.einsum("bqk,bkd->bqd", weights, value) / weights.sum(-1, keepdims=True)
