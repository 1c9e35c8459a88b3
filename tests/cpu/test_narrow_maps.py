"""Maps in float16, which lie between operations where products are of whole numbers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from native_cases import a_finish
from tiny import normal

from dfine_jax.config import DFineConfig
from dfine_jax.cpu import call as native_call
from dfine_jax.cpu.codegen.registers import half
from dfine_jax.cpu.finish import Finish
from dfine_jax.cpu.kernels.channelwise import convolve_channels
from dfine_jax.cpu.kernels.halves import (
    convolve_rows_of_halves,
    convolve_tiles_of_halves,
    convolve_two_cells_of_halves,
    for_two_cells,
    in_halves,
    multiply_halves,
    tiles_in_wholes,
    windows_in_halves,
)
from dfine_jax.cpu.kernels.panels import convolve_rows, convolve_tiles, in_panels, multiply_cells
from dfine_jax.cpu.kernels.tiles import large_tile_kernel
from dfine_jax.inference.fuse import fuse
from dfine_jax.model.dfine import DFine

INT16 = np.dtype("int16")
OUTPUTS = 48
SHAPE = (2, 20, 21)
in_wholes = pytest.mark.skipif(half() != "i16", reason="maps are in float32 on this processor")


def stored(arrays):
    """Arrays as a fused model has them."""
    *kernels, factors = arrays
    return [*(jnp.asarray(kernel.astype(INT16)) for kernel in kernels), jnp.asarray(factors, jnp.float32)]


def kernel(*shape):
    return np.asarray(normal(*shape), np.float64)


def product(maps, finish):
    return multiply_halves(maps, stored(in_halves([kernel(1, sum(x.shape[-1] for x in maps), OUTPUTS)], INT16)), finish)


def last_channels(maps, finish):
    return multiply_halves(maps, stored(in_halves([kernel(1, 40, OUTPUTS)], INT16)), finish)


def windows(maps, finish, tops=0):
    kernels = stored(windows_in_halves([kernel(3, 3, x.shape[-1], OUTPUTS) for x in maps], INT16))
    return convolve_rows_of_halves(maps, kernels, 2, (1, 1), finish, tops)


def largest_in_windows(maps, finish):
    return windows(maps, finish, tops=1)


def two_cells(maps, finish):
    kernels = [for_two_cells(kernel(3, 3, x.shape[-1], OUTPUTS)) for x in maps]
    return convolve_two_cells_of_halves(maps, stored(windows_in_halves(kernels, INT16)), (1, 1), finish)


def tiles(maps, finish):
    return convolve_tiles(maps[0], jnp.asarray(in_panels(large_kernel(maps)), jnp.float32), (1, 1), finish)


def tiles_of_wholes(maps, finish):
    return convolve_tiles_of_halves(maps[0], stored(tiles_in_wholes(large_kernel(maps), INT16)), (1, 1), finish)


def large_kernel(maps):
    return large_tile_kernel(kernel(3, 3, maps[0].shape[-1], OUTPUTS))


def depthwise(maps, finish):
    return convolve_channels(maps[0], normal(5, 5 * OUTPUTS), 1, (2, 2), finish)


def halving_depthwise(maps, finish):
    return convolve_channels(maps[0], normal(3, 3 * OUTPUTS), 2, (1, 1), finish)


def product_in_float32(maps, finish):
    return multiply_cells(maps, [in_panels(normal(1, x.shape[-1], OUTPUTS)) for x in maps], finish)


def rows_in_float32(maps, finish):
    panels = [in_panels(normal(3, 3 * x.shape[-1], OUTPUTS)) for x in maps]
    return convolve_rows(maps, panels, 2, (1, 1), finish)


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


def a_case(convolve, shortcut):
    """Maps in float16, what follows, and what both give in float32."""
    maps = [normal(*SHAPE, width).astype(jnp.float16) for width in CASES[convolve]]
    finish, wide = a_finish(OUTPUTS), [x.astype(jnp.float32) for x in maps]
    if shortcut:
        finish = replace(finish, shortcut=normal(*convolve(wide, finish).shape).astype(shortcut))
    return maps, finish, convolve(wide, finish)


@in_wholes
@convolved
@pytest.mark.parametrize("shortcut", [None, "float32", "float16"])
def test_narrow_maps_are_computed_with_as_wide_ones(convolve, shortcut):
    """To the bit; what is rounded to float16 is nothing else."""
    maps, finish, expected = a_case(convolve, shortcut)
    np.testing.assert_array_equal(convolve(maps, finish), expected)
    narrow = convolve(maps, replace(finish, dtype="float16"))
    assert narrow.dtype == jnp.float16
    np.testing.assert_array_equal(narrow, expected.astype(jnp.float16))


@in_wholes
def test_wide_and_narrow_maps_are_put_together():
    maps = [normal(*SHAPE, 64).astype(jnp.float16), normal(*SHAPE, 32), normal(*SHAPE, 16).astype(jnp.float16)]
    expected = product([x.astype(jnp.float32) for x in maps], a_finish(OUTPUTS))
    np.testing.assert_array_equal(product(maps, a_finish(OUTPUTS)), expected)


@convolved
def test_without_machine_code_results_are_narrow_too(convolve, monkeypatch):
    maps, finish, expected = a_case(convolve, "float16")
    monkeypatch.setattr(native_call, "registers", lambda: None)
    monkeypatch.setattr(native_call, "half", lambda: None)
    narrow = convolve(maps, replace(finish, dtype="float16"))
    assert narrow.dtype == jnp.float16
    np.testing.assert_allclose(narrow, expected, rtol=2e-2, atol=2e-3 * jnp.abs(expected).max())


@pytest.mark.parametrize("native", [True, False])
def test_what_is_beyond_the_range_becomes_its_largest_number(native, monkeypatch):
    if not native:
        monkeypatch.setattr(native_call, "registers", lambda: None)
    biases = jnp.array([1e5, -1e5, 65504, -65504, 3, jnp.inf, -jnp.inf, jnp.nan] * 4)
    finish = Finish(biases, None, dtype="float16")
    result = multiply_cells([jnp.zeros((9, 16))], [in_panels(jnp.zeros((1, 16, 32)))], finish)
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
