"""Maps in float16, which lie between operations where products are of whole numbers."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from native_cases import an_epilogue
from tiny import drawn

from dfine_jax.config import DFineConfig
from dfine_jax.cpu import call as native_call
from dfine_jax.cpu.codegen.registers import half
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.channelwise import convolve_depthwise
from dfine_jax.cpu.kernels.packed import convolve_implicit_gemm, convolve_winograd, gemm, pack
from dfine_jax.cpu.kernels.packed16 import convolve_implicit_gemm16, convolve_two_columns16, for_two_columns, gemm16
from dfine_jax.cpu.kernels.packing16 import pack16, pack16_windows, pack16_winograd
from dfine_jax.cpu.kernels.winograd import f4_kernel
from dfine_jax.cpu.kernels.winograd16 import convolve_winograd16
from dfine_jax.inference.fuse import fuse
from dfine_jax.model.dfine import DFine

INT16 = np.dtype("int16")
OUTPUTS = 48
SHAPE = (2, 20, 21)
in_wholes = pytest.mark.skipif(half() != "i16", reason="maps are in float32 on this processor")


def stored(arrays):
    """Arrays as a fused model has them."""
    *kernels, factors = arrays
    return [*(kernel.astype(INT16) for kernel in kernels), np.float32(factors)]


def kernel(*shape):
    return np.float64(drawn(*shape))


def product(maps, epilogue):
    return gemm16(maps, stored(pack16([kernel(1, sum(x.shape[-1] for x in maps), OUTPUTS)], INT16)), epilogue)


def last_channels(maps, epilogue):
    return gemm16(maps, stored(pack16([kernel(1, 40, OUTPUTS)], INT16)), epilogue)


def windows(maps, epilogue, pooled=0):
    kernels = stored(pack16_windows([kernel(3, 3, x.shape[-1], OUTPUTS) for x in maps], INT16))
    return convolve_implicit_gemm16(maps, kernels, 2, (1, 1), epilogue, pooled)


def largest_in_windows(maps, epilogue):
    return windows(maps, epilogue, pooled=1)


def two_cells(maps, epilogue):
    kernels = [for_two_columns(kernel(3, 3, x.shape[-1], OUTPUTS)) for x in maps]
    return convolve_two_columns16(maps, stored(pack16_windows(kernels, INT16)), (1, 1), epilogue)


def tiles(maps, epilogue):
    return convolve_winograd(maps[0], jnp.asarray(pack(large_kernel(maps)), jnp.float32), (1, 1), epilogue)


def tiles_of_wholes(maps, epilogue):
    return convolve_winograd16(maps[0], stored(pack16_winograd(large_kernel(maps), INT16)), (1, 1), epilogue)


def large_kernel(maps):
    return f4_kernel(kernel(3, 3, maps[0].shape[-1], OUTPUTS))


def depthwise(maps, epilogue):
    return convolve_depthwise(maps[0], drawn(5, 5 * OUTPUTS), 1, (2, 2), epilogue)


def halving_depthwise(maps, epilogue):
    return convolve_depthwise(maps[0], drawn(3, 3 * OUTPUTS), 2, (1, 1), epilogue)


def product_in_float32(maps, epilogue):
    return gemm(maps, [pack(drawn(1, x.shape[-1], OUTPUTS)) for x in maps], epilogue)


def rows_in_float32(maps, epilogue):
    panels = [pack(drawn(3, 3 * x.shape[-1], OUTPUTS)) for x in maps]
    return convolve_implicit_gemm(maps, panels, 2, (1, 1), epilogue)


CASES = {
    product: (64, 16, 32),
    last_channels: (64,),
    windows: (16, 6),
    largest_in_windows: (16, 16),
    two_cells: (7,),
    tiles: (32,),
    tiles_of_wholes: (32,),
    depthwise: (OUTPUTS,),
    halving_depthwise: (OUTPUTS,),
    product_in_float32: (5, 64),
    rows_in_float32: (3, 16),
}
"""Functions of maps and what follows, and the maps' channels."""

convolved = pytest.mark.parametrize("convolve", CASES, ids=lambda case: case.__name__)


def a_case(convolve, residual):
    """Maps in float16, what follows, and what both give in float32."""
    maps = [narrow(*SHAPE, width) for width in CASES[convolve]]
    epilogue, wide = an_epilogue(OUTPUTS), [x.astype(np.float32) for x in maps]
    if residual:
        shape = jax.eval_shape(convolve, wide, epilogue).shape
        epilogue = replace(epilogue, residual=drawn(*shape).astype(residual))
    return maps, epilogue, np.asarray(jax.jit(convolve)(wide, epilogue))


def narrow(*shape):
    return drawn(*shape).astype(np.float16)


@in_wholes
@convolved
@pytest.mark.parametrize("residual", [None, "float32", "float16"])
def test_narrow_maps_are_computed_with_as_wide_ones(convolve, residual):
    """To the bit; what is rounded to float16 is nothing else."""
    maps, epilogue, expected = a_case(convolve, residual)
    epilogues = [replace(epilogue, dtype=dtype) for dtype in ("float32", "float16")]
    wide, rounded = jax.jit(lambda maps: [convolve(maps, each) for each in epilogues])(maps)
    np.testing.assert_array_equal(wide, expected)
    assert rounded.dtype == jnp.float16
    np.testing.assert_array_equal(rounded, expected.astype(np.float16))


@in_wholes
def test_wide_and_narrow_maps_are_put_together():
    maps = [narrow(*SHAPE, 64), drawn(*SHAPE, 32), narrow(*SHAPE, 16)]
    expected = product([x.astype(np.float32) for x in maps], an_epilogue(OUTPUTS))
    np.testing.assert_array_equal(product(maps, an_epilogue(OUTPUTS)), expected)


@convolved
def test_without_machine_code_results_are_narrow_too(convolve, monkeypatch):
    maps, epilogue, expected = a_case(convolve, "float16")
    monkeypatch.setattr(native_call, "registers", lambda: None)
    monkeypatch.setattr(native_call, "half", lambda: None)
    result = jax.jit(partial(convolve))(maps, replace(epilogue, dtype="float16"))  # compiled anew, without machine code
    assert result.dtype == jnp.float16
    np.testing.assert_allclose(result, expected, rtol=2e-2, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("native", [True, False])
def test_what_is_beyond_the_range_becomes_its_largest_number(native, monkeypatch):
    if not native:
        monkeypatch.setattr(native_call, "registers", lambda: None)
    biases = jnp.array([1e5, -1e5, 65504, -65504, 3, jnp.inf, -jnp.inf, jnp.nan] * 4)
    epilogue = Epilogue(biases, None, dtype="float16")
    result = gemm([jnp.zeros((9, 16))], [pack(jnp.zeros((1, 16, 32)))], epilogue)
    most = [65504, -65504, 65504, -65504, 3, 65504, -65504, np.nan]
    np.testing.assert_array_equal(result, np.tile(np.array(most, np.float16), (9, 4)))


@pytest.mark.parametrize("halves", ["int16", "float16", "bfloat16", None])
def test_maps_of_a_fused_model_are_narrow_beside_whole_numbers(halves):
    operands, model = halves and jnp.dtype(halves), DFine(DFineConfig.from_size("n"), rng=np.random.default_rng(0))
    fused = fuse(model, for_cpu=True, operands=operands)
    pictures = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    maps = nnx.eval_shape(lambda model, pictures: model.encoder(model.backbone(pictures)), fused, pictures)
    is_narrow = halves == "int16" and native_call.registers() is not None
    assert {x.dtype for x in maps} == {jnp.dtype("float16" if is_narrow else "float32")}
