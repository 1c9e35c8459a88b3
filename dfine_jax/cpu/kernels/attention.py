"""Self-attention by machine code for CPUs."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dfine_jax.cpu.call import Plan, Window, native
from dfine_jax.cpu.codegen.product import whole_columns
from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.scratch import scratch_size
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.ops.attention import attend_head
from dfine_jax.ops.compute import Compute


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
    epilogue = Epilogue(jnp.zeros(width), None, factor)
    number_of_heads = jnp.zeros((heads, 0))
    return _heads([query, key, value], [number_of_heads] * 3, epilogue, Window(1, 1, (0, 0)))


def _plain_heads(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Float[Array, "B Q D"]:
    query, key, value = (jnp.moveaxis(x.reshape(*x.shape[:2], len(kernels[0]), -1), 2, 0) for x in maps)
    mixed = jax.vmap(partial(attend_head, blocked=None, compute=Compute()))(query * epilogue.affine[0], key, value)
    return jnp.moveaxis(mixed, 0, 2).reshape(maps[0].shape)


def _plan(maps: list[Array], kernels: list[Array], outputs: int, window: Window) -> Plan:
    """Heads of pictures."""
    pictures, tokens, width = maps[0].shape
    heads = len(kernels[0])
    scratch = scratch_size("attention", tokens=tokens, columns=whole_columns(tokens), channels=width // heads)
    return Plan(1, pictures * heads, scratch)


_heads = native("attention", _plain_heads, _plan)
