"""Gradients of dense convolutions' kernels by machine code for CPUs, see ``dfine_jax.cpu.codegen``."""

from functools import partial

import jax
from jaxtyping import Array, Float

from dfine_jax.cpu.call import call, threads
from dfine_jax.cpu.codegen.matrices import beyond_size
from dfine_jax.cpu.codegen.scratch import scratch_size
from dfine_jax.cpu.codegen.targets import register, target


@partial(jax.jit, static_argnames=("size", "stride", "padding"), inline=True)
def gradient_for_kernel(
    x: Float[Array, "B H W I"], gradient: Float[Array, "B h w O"], size: int, stride: int, padding: tuple[int, int]
) -> Float[Array, "size size I O"]:
    """That of a square kernel, in float32, from what was convolved and the result's gradient."""
    register("training")
    batch, high, wide, outputs = gradient.shape
    covered = size * x.shape[-1]
    share = -(-batch * high // threads())
    parts = -(-batch * high // share)
    row_size = ((wide - 1) * stride + size) * x.shape[-1]
    beyond = beyond_size(outputs, size * covered)
    scratch = scratch_size("gradients", taps=size, row_size=row_size, beyond_count=beyond)
    shape = (parts, size, covered, outputs)
    numbers = dict(low=padding[0], share=share, stride=stride)
    sums = call(target("kernel_gradients", None), "gradients", [x, gradient], shape, parts, scratch, **numbers)
    return sum(sums[1:], sums[0]).reshape(size, size, x.shape[-1], outputs)
