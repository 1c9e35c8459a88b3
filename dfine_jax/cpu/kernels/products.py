"""Products of matrices by machine code for CPUs, see ``dfine_jax.cpu.codegen``, and their derivatives by more of it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.cpu.call import call, even, threads
from dfine_jax.cpu.codegen.matrices import beyond_size
from dfine_jax.cpu.codegen.scratch import scratch_size
from dfine_jax.cpu.codegen.targets import register, target
from dfine_jax.ops.bilinear import Bilinear, Forms, Operation, Shape

PLAIN, BY_TRANSPOSED, OF_TRANSPOSED = "ni,io->no", "no,io->ni", "ni,no->io"
"""Forms of a product: of two matrices as they are, or with the second or the first one transposed."""

FORMS = (PLAIN, BY_TRANSPOSED, OF_TRANSPOSED)
"""A product and, of its result's gradient, those for the first and the second matrix."""

ROWS = 768
"""Rows of a result, at most, that a thread computes at a time: what they are computed from fits its second cache."""

LONG = 1024
"""Products in each of the parts, at least, that threads cut long sums into."""


class Plan(NamedTuple):
    """How the matrices lie in memory, and how threads share the work; in numbers of a matrix."""

    pitch: int
    """From row to row of the first one, if need be transposed."""
    step: int
    """From column to column of the first one."""
    down: int
    """From row to row of the second one."""
    across: int
    """From column to column of the second one."""
    depth: int
    """Products in a sum."""
    share: int
    """Products in each part of a sum."""
    size: int
    """Rows of the result that a thread computes at a time."""


def multiply(x: Float[Array, "*B I"], kernel: Float[Array, "I O"]) -> Float[Array, "*B O"]:
    """``x @ kernel`` in float32, in a program for CPUs; derivatives are products of this kind too."""
    cells, kernel = x.astype(jnp.float32).reshape(-1, x.shape[-1]), kernel.astype(jnp.float32)
    out = Shape((len(cells), kernel.shape[1]), "float32")
    return _multiplied(cells, kernel, out, None).reshape(*x.shape[:-1], kernel.shape[1])


def product(form: str, a: Float[Array, "_ _"], b: Float[Array, "_ _"]) -> Float[Array, "_ _"]:
    """The product of float32 matrices in one of the forms above, in a program for CPUs."""
    if not (a.size and b.size):
        return jnp.einsum(form, a, b, precision=lax.Precision.HIGHEST)
    return _natively(a, b, form)


def _in_form(form: str) -> Operation:
    return lambda a, b, *, operands, options: product(form, a, b)


_multiplied = Bilinear("dfine_native_product", {None: Forms(*map(_in_form, FORMS))}, has_batch=True)


@partial(jax.jit, static_argnames="form", inline=True)
def _natively(a: Float[Array, "_ _"], b: Float[Array, "_ _"], form: str) -> Float[Array, "_ _"]:
    register("training")
    rows = a.shape[form == OF_TRANSPOSED]
    columns = b.shape[form != BY_TRANSPOSED]
    plan = _plan(a, b, form, rows)
    parts = -(-plan.depth // plan.share)
    chunks = parts * -(-rows // plan.size)
    scratch = scratch_size("matrices", beyond_count=beyond_size(columns, plan.size))
    shape = (parts, rows, columns)
    sums = call(target("matrices", None), "matrices", [a, b], shape, chunks, scratch, **plan._asdict())
    return sum(sums[1:], sums[0])  # XLA is slow at summing over an axis of so few


def _plan(a: Float[Array, "_ _"], b: Float[Array, "_ _"], form: str, rows: int) -> Plan:
    """Threads share rows of the result or, of a product over many cells, the sums."""
    width, other = a.shape[1], b.shape[1]
    if form == OF_TRANSPOSED:
        depth = len(a)
        parts = max(1, min(threads(), depth // LONG))
        size = even(rows, ROWS) if parts == 1 else rows
        return Plan(1, width, other, 1, depth, -(-depth // parts), size)
    down, across = (other, 1) if form == PLAIN else (1, other)
    return Plan(width, 1, down, across, width, width, even(rows, ROWS))
