from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiny import normal

from dfine_jax.model.compute import Compute
from dfine_jax.model.convolution import convolve_several
from dfine_jax.model.prepared_kernels import (
    NARROW,
    WIDE,
    convolve_pairs,
    convolve_tiles,
    form_on_cpu,
    in_float32_on_cpu,
    in_form,
    shapes_in_form,
)

PADDINGS = pytest.mark.parametrize("padding", [(1, 1), (0, 0), (2, 1)])
SHAPES = pytest.mark.parametrize("shape", [(6, 8), (7, 8), (6, 9), (3, 5)])


def direct(x, kernel, padding):
    return lax.conv_general_dilated(x, kernel, (1, 1), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def in_float64(kernel, form, widths=()):
    """What a kernel becomes, after checking that its type stays and its shapes are those that were promised."""
    arrays = in_form(np.asarray(kernel, np.float64), form, widths)
    assert {array.dtype for array in arrays} == {np.dtype("float64")}
    assert [array.shape for array in arrays] == shapes_in_form(kernel.shape, form, widths)
    return arrays


def check_with_derivatives(ours, reference, x):
    assert ours(x).shape == reference(x).shape
    for result, expected in zip(jax.jvp(ours, (x,), (x,)), jax.jvp(reference, (x,), (x,)), strict=True):
        np.testing.assert_allclose(result, expected, atol=2e-6)
    (gradient,), (wanted,) = (jax.vjp(function, x)[1](jnp.sin(reference(x))) for function in (ours, reference))
    np.testing.assert_allclose(gradient, wanted, atol=2e-5)


def rounded(values: jax.Array) -> jax.Array:
    return values.astype(jnp.bfloat16).astype(jnp.float32)


def test_a_whole_kernel_stays():
    kernel = np.ones((3, 3, 4, 5))
    assert in_form(kernel, "whole", (4,))[0] is kernel
    assert shapes_in_form(kernel.shape, "whole", (4,)) == [kernel.shape]


@PADDINGS
@SHAPES
def test_products_of_tiles(shape, padding):
    x, kernel = normal(2, *shape, 16), normal(3, 3, 16, 19) / 16
    kernels = [jnp.asarray(cell, jnp.float32) for cell in in_float64(kernel, "tiles")]
    ours = partial(convolve_tiles, kernels=kernels, padding=padding, compute=Compute())
    check_with_derivatives(ours, partial(direct, kernel=kernel, padding=padding), x)


def test_products_of_tiles_in_bfloat16():
    """Tiles and kernels are rounded after their transforms, so the sums are off by their own rounding too."""
    x, kernel = rounded(normal(2, 7, 8, WIDE)), rounded(normal(3, 3, WIDE, WIDE))
    kernels = [jnp.asarray(cell, jnp.bfloat16) for cell in in_float64(kernel, "tiles")]
    low = convolve_tiles(x.astype(jnp.bfloat16), kernels, (1, 1), Compute.named("bfloat16"))
    exact = direct(x, kernel, padding=(1, 1))
    assert low.dtype == jnp.bfloat16
    off = low.astype(jnp.float32) - exact
    assert 0 < jnp.sqrt(jnp.mean(off**2)) < 2**-8 * 1.5 * jnp.std(exact)


@PADDINGS
@SHAPES
def test_two_cells_at_once(shape, padding):
    x, kernel = normal(2, *shape, 16), normal(3, 3, 16, 11) / 16
    (pairs,) = in_float64(kernel, "pairs")
    ours = partial(convolve_pairs, kernel=jnp.asarray(pairs, jnp.float32), padding=padding)
    check_with_derivatives(ours, partial(direct, kernel=kernel, padding=padding), x)


def test_two_cells_at_once_give_float32_of_rounded_maps():
    x, kernel = normal(2, 6, 8, 16).astype(jnp.bfloat16), normal(3, 3, 16, 11) / 16
    (pairs,) = in_float64(kernel, "pairs")
    result = convolve_pairs(x, jnp.asarray(pairs, jnp.float32), (1, 1))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, direct(x.astype(jnp.float32), kernel, (1, 1)), atol=2e-6)


@pytest.mark.parametrize("platform", ["cpu", "default"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("widths", [(4, 4, 4, 4), (4,) * 6, (5, 4, 4), (4, 4, 5, 4), (3, 5)])
def test_parts_are_those_that_a_sum_over_maps_takes(widths, dtype, platform, monkeypatch):
    monkeypatch.setattr(lax, "platform_dependent", lambda *operands, **forms: forms[platform](*operands))
    maps, kernel = [rounded(normal(2, 6, 7, width)) for width in widths], rounded(normal(1, 1, sum(widths), 9))
    parts = [jnp.asarray(part, dtype) for part in in_float64(kernel, "parts", widths)]
    compute = Compute.named(dtype)
    by_parts, whole = (convolve_several(maps, kernels, 1, (0, 0), compute) for kernels in (parts, [kernel]))
    assert by_parts.dtype == jnp.float32
    np.testing.assert_array_equal(by_parts, whole)
    np.testing.assert_allclose(whole, jnp.concatenate(maps, axis=-1) @ kernel[0, 0], atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "stride", "widths", "form"),
    [
        ((3, 3, WIDE, WIDE), 1, (WIDE,), "tiles"),
        ((3, 3, WIDE, WIDE), 2, (WIDE,), "whole"),
        ((3, 3, WIDE - 1, WIDE), 1, (WIDE - 1,), "whole"),
        ((3, 3, 2 * WIDE, WIDE), 1, (WIDE, WIDE), "whole"),
        ((3, 3, 16, NARROW), 1, (16,), "pairs"),
        ((3, 3, 16, NARROW), 2, (16,), "whole"),
        ((3, 3, 16, NARROW + 1), 1, (16,), "whole"),
        ((3, 3, 8, 8), 1, (8,), "whole"),  # so small that it is a sum of shifted maps
        ((3, 3, 1, 512), 1, (512,), "whole"),
        ((2, 2, 16, 32), 1, (16,), "whole"),
        ((1, 1, 32, 8), 1, (16, 16), "whole"),
        ((1, 1, 40, 8), 1, (16, 24), "parts"),
        ((1, 1, 40, 8), 2, (16, 24), "whole"),
    ],
)
def test_the_form_is_chosen_by_shape(shape, stride, widths, form):
    assert form_on_cpu(shape, stride, widths) == form


@pytest.mark.parametrize(
    ("shape", "stride", "expected"),
    [
        ((1, 1, 64, 64), 1, False),
        ((3, 3, 1, 64), 2, False),
        ((3, 3, WIDE, WIDE), 1, False),
        ((3, 3, WIDE, WIDE), 2, True),
        ((3, 3, 16, NARROW), 1, True),
        ((3, 3, 3, 16), 2, True),
    ],
)
def test_what_cpus_compute_in_float32(shape, stride, expected):
    assert in_float32_on_cpu(shape, stride) is expected
