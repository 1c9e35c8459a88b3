"""Products in 16 bits by emulated instructions: as machine code where a processor has them, exact enough where not."""

import instructions
import jax.numpy as jnp
import numpy as np
import pytest
from native_cases import error, packed16
from tiny import normal

from dfine_jax.cpu.codegen.registers import HALVES, half
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.packed16 import gemm16

ROWS = 24
"""That one thread is given at a time: all are scaled alike."""

SHAPES = [(32, 16), (64, 21), (256, 32), (258, 48), (600, 17)]


def packed(kernel, kind):
    return packed16([kernel], np.dtype(HALVES[kind]))


@pytest.mark.skipif(half() is None, reason="no machine code in 16 bits for this processor")
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_machine_code_does_what_is_emulated_to_the_bit(inputs, outputs):
    x, kernels = normal(ROWS, inputs), packed(normal(1, inputs, outputs), half())
    found = gemm16([x], kernels, Epilogue(jnp.zeros(outputs), None))
    np.testing.assert_array_equal(found, instructions.gemm(half(), x, *kernels, outputs))


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_errors_are_what_they_are_said_to_be(kind, inputs, outputs):
    """In float16 up to three quarters of bfloat16's, of whole numbers a quarter, see ``packed16.py``.

    In bfloat16 they are those of rounding operands, and nothing else.
    """
    x, kernel = np.asarray(normal(ROWS, inputs)), np.asarray(normal(1, inputs, outputs))
    exact = x.astype(np.float64) @ kernel[0].astype(np.float64)
    near, near_kernel = (each.astype(jnp.bfloat16).astype(np.float64) for each in (x, kernel[0]))
    part = {"half": 0.75, "i16": 0.25, "bfloat": 1.001}[kind]
    found = instructions.gemm(kind, x, *packed(kernel, kind), outputs)
    assert 0 < error(found, exact) <= part * error(near @ near_kernel, exact)


@pytest.mark.parametrize("kind", ["half", "i16"])
@pytest.mark.parametrize("inputs", [32, 256, 600])
def test_no_sum_of_a_block_is_too_large(kind, inputs):
    """Each row has the signs of a column of the kernel: no map of such numbers has a larger sum with it."""
    kernel = np.asarray(normal(1, inputs, ROWS))
    x = 1.999 * np.sign(kernel[0].T)
    sums = np.diag(instructions.gemm(kind, x, *packed(kernel, kind), ROWS))
    np.testing.assert_allclose(sums, 1.999 * np.abs(kernel[0]).sum(0), rtol=129 * 2.0**-12)


def test_a_first_row_that_is_small_scales_none_of_the_others_too_much():
    x, kernel = np.array(normal(ROWS, 64)), np.asarray(normal(1, 64, 16))
    x[0] *= 1e-6
    found = instructions.gemm("half", x, *packed(kernel, "half"), 16)
    assert error(found[1:], x[1:] @ kernel[0]) < 2.4e-3


def test_a_sum_beyond_32_bits_is_seen():
    large = np.full((1, 1, 2), 2**15 - 1, np.int16)
    sums = instructions.vpdpwssd(np.zeros((1, 1), np.int32), large, large)
    with pytest.raises(OverflowError):
        instructions.vpdpwssd(sums, large, large)
