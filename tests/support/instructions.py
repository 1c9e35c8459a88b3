"""What processors' instructions for products in 16 bits do, and a GEMM by them, in NumPy: for those not at hand, too.

Each takes a register of sums, and two of operands as pairs ``(..., 2)``: ``gemm`` does with them what the code in
``dfine_jax.cpu.codegen.halves`` does, in its order.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dfine_jax.cpu.codegen.product import whole_columns
from dfine_jax.cpu.codegen.rounding import GUESS, LARGEST
from dfine_jax.cpu.codegen.wholes import WHOLE
from dfine_jax.cpu.codegen.work import PAIRS
from dfine_jax.cpu.kernels.packing16 import out_of_pairs

UNPACK = jax.jit(out_of_pairs, static_argnums=1)


def vfmaddph(sums, a, b):
    """AVX512-FP16: each number of a pair is multiplied and added by itself, rounded once to float16.

    Rounded to float64 in between, which is finer than half of what float16 drops by 30 bits.
    """
    return (a.astype(np.float64) * b + sums).astype(np.float16)


def vdpbf16ps(sums, a, b):
    """AVX512-BF16: the pair's first product is added, then its second, each rounded once to float32."""
    for at in (1, 0):
        sums = (a[..., at].astype(np.float64) * b[..., at].astype(np.float64) + sums).astype(np.float32)
    return sums


def vpdpwssd(sums, a, b):
    """AVX512-VNNI: both products are added in 32 bits; ``OverflowError`` where those don't hold the sum."""
    exact = sums.astype(np.int64) + (a.astype(np.int64) * b).sum(-1)
    if np.abs(exact).max() >= 2**31:
        raise OverflowError("a sum of a block is beyond 32 bits")
    return exact.astype(np.int32)


def gemm(kind, x, packed, factor, outputs):
    """``gemm16`` of one map (rows, I) that one thread takes at a time, by what ``pack16`` made of its kernel."""
    operands = x.shape[1] // 2
    kernel = np.asarray(UNPACK(np.asarray(packed).astype(np.float32), whole_columns(outputs)))[0]
    pairs = kernel.reshape(operands, 2, -1).transpose(0, 2, 1)[:, :outputs]
    rounded, scales = ROUNDED[kind](np.asarray(x, np.float32), np.float32(factor[0]))
    total = np.zeros((len(x), outputs), np.float32)
    block = operands if kind == "bfloat" else PAIRS
    for first in range(0, operands, block):
        sums = SUMS[kind](len(x), outputs)
        for at in range(first, min(first + block, operands)):
            sums = MULTIPLY[kind](sums, rounded[:, None, 2 * at : 2 * at + 2], pairs[None, at].astype(rounded.dtype))
        if kind == "half":
            sums = sums[..., 0] + sums[..., 1]
        total = total + sums.astype(np.float32) * scales
    return total


def _scale(largest, power):
    """The power of two by which numbers become less than 2 to ``power``, and its inverse."""
    exponent = np.maximum(np.float32(largest).view(np.int32) >> 23, power)
    return np.ldexp(np.float32(1), 126 + power - exponent), np.ldexp(np.float32(1), exponent - power - 126)


def _to_float16(x, factor):
    scale, inverse = _scale(np.abs(x[0]).max(), GUESS)
    if np.abs(x).max() * scale >= 2.0**LARGEST:
        scale, inverse = _scale(np.abs(x).max(), LARGEST)
    return (x * scale).astype(np.float16), inverse * factor


def _to_bfloat16(x, factor):
    return np.asarray(x * factor).astype(jnp.bfloat16), np.float32(1)


def _to_int16(x, factor):
    scale, inverse = _scale(np.abs(x).max(1, keepdims=True), WHOLE)
    return np.rint(x * scale).astype(np.int16), inverse * factor


ROUNDED = {"half": _to_float16, "bfloat": _to_bfloat16, "i16": _to_int16}
MULTIPLY = {"half": vfmaddph, "bfloat": vdpbf16ps, "i16": vpdpwssd}
SUMS = {
    "half": lambda rows, columns: np.zeros((rows, columns, 2), np.float16),
    "bfloat": lambda rows, columns: np.zeros((rows, columns), np.float32),
    "i16": lambda rows, columns: np.zeros((rows, columns), np.int32),
}
