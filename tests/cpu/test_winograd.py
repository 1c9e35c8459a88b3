from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_convolution import PADDINGS, SHAPES, check_with_derivatives, plain, rounded
from tiny import drawn, normal

from dfine_jax.cpu.codegen.transforms import transforms
from dfine_jax.cpu.kernels.winograd import (
    f2_kernels,
    f4_kernel,
    winograd_f2,
    winograd_f4,
)
from dfine_jax.ops.compute import Compute


def small(x, kernel, padding, compute=Compute()):
    kernels = [np.asarray(entry, compute.dtype) for entry in f2_kernels(np.asarray(kernel, np.float64))]
    return winograd_f2(x, kernels, padding, compute)


def large(x, kernel, padding):
    return winograd_f4(x, np.float32(f4_kernel(np.asarray(kernel, np.float64))), padding)


@pytest.mark.parametrize("points", [(0, 1, -1), (0, 0.75, -0.75, 1.5, -1.5), (0, 1, -1, 2)])
def test_transforms_give_a_convolution(points):
    inputs, kernel, outputs = transforms(*points)
    x, weights = np.arange(len(points) + 1) ** 2.0, np.array([3.0, -1.0, 5.0])
    np.testing.assert_allclose(outputs @ ((inputs @ x) * (kernel @ weights)), np.correlate(x, weights), rtol=1e-12)


@pytest.mark.parametrize("form", [small, large])
@PADDINGS
@SHAPES
def test_tiles_of_any_size_of_map(shape, padding, form):
    x, kernel = normal(2, *shape, 16), drawn(3, 3, 16, 19) / 16
    tolerance = 2e-6 if form is small else 6e-6
    check_with_derivatives(
        partial(form, kernel=kernel, padding=padding), partial(plain, kernel=kernel, padding=padding), x, tolerance
    )


@pytest.mark.parametrize(("form", "most"), [(small, 5e-7), (large, 1.5e-6)])
def test_errors_are_those_of_good_points(form, most):
    """Half as much again as was measured; with the usual points large tiles are off by 2.1e-6."""
    x, kernel = normal(1, 24, 24, 128), drawn(3, 3, 128, 128) / np.float32(np.sqrt(9 * 128))
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(x[0], np.float64), (3, 3), (0, 1))
    exact = np.einsum("hwcij,ijco->hwo", windows, np.asarray(kernel, np.float64), optimize=True)
    off = np.asarray(jax.jit(partial(form, kernel=kernel, padding=(0, 0)))(x)[0]) - exact
    assert np.sqrt(np.mean(off**2)) < most * np.std(exact)


def test_small_tiles_in_bfloat16():
    """Tiles and kernels are rounded after their transforms, so the sums are off by their own rounding too."""
    x, kernel = rounded(normal(2, 7, 8, 48)), rounded(normal(3, 3, 48, 48))
    form = partial(small, kernel=kernel, padding=(1, 1), compute=Compute.named("bfloat16"))
    low, exact = jax.jit(form)(x.astype(jnp.bfloat16)), np.asarray(plain(x, kernel, padding=(1, 1)))
    assert low.dtype == jnp.bfloat16
    off = np.asarray(low, np.float32) - exact
    assert 0 < np.sqrt(np.mean(off**2)) < 2**-8 * 1.5 * np.std(exact)


def test_large_tiles_of_rounded_maps_give_float32():
    x, kernel = drawn(2, 6, 8, 16).astype(jnp.bfloat16), drawn(3, 3, 16, 11) / 16
    result = jax.jit(partial(large, kernel=kernel, padding=(1, 1)))(x)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, plain(x.astype(np.float32), kernel, (1, 1)), atol=6e-6)
