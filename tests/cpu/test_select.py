from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_convolution import PADDINGS, SHAPES, check_with_derivatives, plain, rounded
from tiny import normal

from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.codegen.work import MOST, TAPS
from dfine_jax.cpu.kernels.packed import pack
from dfine_jax.cpu.kernels.table import KERNELS
from dfine_jax.cpu.kernels.two_columns import convolve_two_columns
from dfine_jax.cpu.kernels.winograd import f2_kernels, f4_kernel
from dfine_jax.cpu.select import NARROW, ROUNDED, RULES, WIDE, in_float32_on_cpu, kernel_on_cpu
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.convolution import convolve_parts


def in_float64(kernel, form, widths=()):
    """What a kernel becomes, after checking that its type stays and its shapes are those that were promised."""
    arrays = KERNELS[form].packed(np.asarray(kernel, np.float64), widths)
    assert {array.dtype for array in arrays} == {np.dtype("float64")}
    assert [array.shape for array in arrays] == KERNELS[form].packed_shapes(kernel.shape, widths)
    return arrays


def test_a_whole_kernel_stays():
    kernel = np.ones((3, 3, 4, 5))
    assert KERNELS["whole"].packed(kernel, (4,))[0] is kernel
    assert KERNELS["whole"].packed_shapes(kernel.shape, (4,)) == [kernel.shape]


def test_kernels_of_tiles():
    kernel = np.asarray(normal(3, 3, 4, 5), np.float64)
    np.testing.assert_array_equal(in_float64(kernel, "Winograd F(2,3)"), f2_kernels(kernel))
    np.testing.assert_array_equal(*in_float64(kernel, "Winograd F(4,3)"), f4_kernel(kernel))


@PADDINGS
@SHAPES
def test_two_cells_at_once(shape, padding):
    x, kernel = normal(2, *shape, 16), normal(3, 3, 16, 11) / 16
    (pairs,) = in_float64(kernel, "two columns")
    ours = partial(convolve_two_columns, kernel=jnp.asarray(pairs, jnp.float32), padding=padding)
    check_with_derivatives(ours, partial(plain, kernel=kernel, padding=padding), x)


def test_two_cells_at_once_give_float32_of_rounded_maps():
    x, kernel = normal(2, 6, 8, 16).astype(jnp.bfloat16), normal(3, 3, 16, 11) / 16
    (pairs,) = in_float64(kernel, "two columns")
    result = convolve_two_columns(x, jnp.asarray(pairs, jnp.float32), (1, 1))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, plain(x.astype(jnp.float32), kernel, (1, 1)), atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("widths", [(4, 4, 4, 4), (4,) * 6, (5, 4, 4), (4, 4, 5, 4), (3, 5)])
def test_parts_are_those_that_a_sum_over_maps_takes(widths, dtype):
    maps, kernel = [rounded(normal(2, 6, 7, width)) for width in widths], rounded(normal(1, 1, sum(widths), 9))
    parts = [np.asarray(part, jnp.dtype(dtype)) for part in in_float64(kernel, "split", widths)]
    compute = Compute.named(dtype)
    convolved = jax.jit(lambda kernels: convolve_parts(maps, kernels, 1, (0, 0), compute))
    by_parts, whole = convolved(parts), convolved([kernel])
    assert by_parts.dtype == jnp.float32
    np.testing.assert_array_equal(by_parts, whole)
    np.testing.assert_allclose(whole, np.concatenate(maps, axis=-1) @ kernel[0, 0], atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "stride", "widths", "form"),
    [
        ((3, 3, WIDE, WIDE), 1, (WIDE,), "Winograd F(4,3)"),
        ((3, 3, WIDE, WIDE), 2, (WIDE,), "whole"),
        ((3, 3, WIDE - 1, NARROW + 1), 1, (WIDE - 1,), "whole"),
        ((3, 3, WIDE, WIDE - 1), 1, (WIDE,), "two columns"),
        ((3, 3, 2 * WIDE, WIDE), 1, (WIDE, WIDE), "whole"),
        ((3, 3, 16, NARROW), 1, (16,), "two columns"),
        ((3, 3, 16, NARROW), 2, (16,), "whole"),
        ((3, 3, 16, NARROW + 1), 1, (16,), "whole"),
        ((3, 3, 8, 8), 1, (8,), "whole"),  # so small that it is a sum of shifted maps
        ((3, 3, 1, 512), 1, (512,), "whole"),
        ((2, 2, 16, 32), 1, (16,), "whole"),
        ((1, 1, 32, 8), 1, (16, 16), "whole"),
        ((1, 1, 40, 8), 1, (16, 24), "split"),
        ((1, 1, 40, 8), 2, (16, 24), "whole"),
    ],
)
def test_the_form_is_chosen_by_shape(shape, stride, widths, form):
    assert kernel_on_cpu(shape, stride, widths, rounded=False, panels=False).name == form


@pytest.mark.parametrize(
    ("shape", "stride", "widths", "form"),
    [
        ((1, 1, 5, 7), 1, (5,), "GEMM"),
        ((1, 1, 40, 8), 1, (16, 24), "GEMM"),
        ((1, 1, MOST, 8), 1, (1,) * MOST, "GEMM"),
        ((1, 1, MOST + 1, 8), 1, (1,) * (MOST + 1), "split"),
        ((1, 1, 40, 8), 2, (16, 24), "implicit GEMM"),
        ((3, 3, 3, 16), 2, (3,), "implicit GEMM"),
        ((3, 3, 32, 32), 1, (32,), "Winograd F(4,3), packed"),
        ((3, 3, 40, 32), 1, (40,), "implicit GEMM"),
        ((3, 3, 32, 40), 1, (32,), "implicit GEMM"),
        ((3, 3, 32, 32), 1, (16, 16), "implicit GEMM"),
        ((3, 3, 16, 16), 1, (16,), "implicit GEMM"),
        ((2, 2, 16, 8), 1, (16,), "implicit GEMM"),
        ((TAPS // 3, TAPS // 3, 24, 16), 1, (8,) * 3, "implicit GEMM"),
        ((TAPS // 3 + 1, TAPS // 3 + 1, 24, 16), 1, (8,) * 3, "whole"),
        ((3, 3, 1, 512), 1, (512,), "depthwise"),
        ((5, 5, 1, 16), 2, (16,), "depthwise"),
        ((5, 5, 1, WIDEST - 1), 1, (WIDEST - 1,), "whole"),
    ],
)
def test_the_form_where_there_is_machine_code(shape, stride, widths, form):
    assert kernel_on_cpu(shape, stride, widths, rounded=False, panels=True).name == form


@pytest.mark.parametrize(
    ("shape", "widths", "float16", "bfloat16", "int16"),
    [
        ((1, 1, 96, 64), (64, 32), "GEMM, 16 bits", "GEMM, 16 bits", "GEMM, 16 bits"),
        ((1, 1, 96, 32), (64, 32), "GEMM, 16 bits", "GEMM, 16 bits", "GEMM, 16 bits"),
        ((1, 1, 96, 24), (64, 32), "GEMM", "GEMM", "GEMM, 16 bits"),
        ((1, 1, 24, 96), (24,), "GEMM", "GEMM", "GEMM, 16 bits"),
        ((1, 1, 24, 12), (24,), "GEMM", "GEMM", "GEMM"),
        ((1, 1, 88, 64), (80, 8), "GEMM", "GEMM", "GEMM"),
        ((1, 1, 97, 64), (64, 33), "GEMM", "GEMM", "GEMM"),
        ((3, 3, 96, 128), (96,), "Winograd F(4,3), 16 bits", "Winograd F(4,3), packed", "Winograd F(4,3), int16"),
        ((3, 3, 48, 64), (48,), "Winograd F(4,3), 16 bits", "Winograd F(4,3), packed", "Winograd F(4,3), packed"),
        ((3, 3, 32, 64), (32,), "Winograd F(4,3), 16 bits", "Winograd F(4,3), packed", "implicit GEMM, 16 bits"),
        ((3, 3, 32, 16), (16, 16), "implicit GEMM, 16 bits", "implicit GEMM, 16 bits", "implicit GEMM, 16 bits"),
        ((3, 3, 3, 16), (3,), "two columns, 16 bits", "two columns, 16 bits", "two columns, 16 bits"),
        ((3, 3, 21, 21), (21,), "two columns, 16 bits", "two columns, 16 bits", "two columns, 16 bits"),
        ((2, 2, 16, 8), (16,), "two columns, 16 bits", "two columns, 16 bits", "two columns, 16 bits"),
        ((2, 2, 8, 16), (8,), "implicit GEMM, 16 bits", "implicit GEMM, 16 bits", "implicit GEMM, 16 bits"),
        ((3, 3, 34, 16), (34,), "implicit GEMM", "implicit GEMM", "implicit GEMM"),
    ],
)
def test_the_form_where_there_is_machine_code_in_16_bits(shape, widths, float16, bfloat16, int16):
    for name, form in dict(float16=float16, bfloat16=bfloat16, int16=int16).items():
        dtype = jnp.dtype(name)
        assert kernel_on_cpu(shape, 1, widths, rounded=False, panels=True, halves=dtype).name == form
        arrays = KERNELS[form].packed(np.ones(shape), widths, dtype)
        assert [array.shape for array in arrays] == KERNELS[form].packed_shapes(shape, widths)


def test_windows_of_an_odd_map_begin_with_a_pair_where_steps_are_even():
    shape, widths = (3, 3, 3, 16), (3,)
    form = kernel_on_cpu(shape, 2, widths, rounded=False, panels=True, halves=np.dtype("float16"))
    assert form.name == "implicit GEMM, 16 bits"
    kernel, factor = form.packed(np.ones(shape), widths, np.dtype("float16"))
    assert [kernel.shape, factor.shape] == form.packed_shapes(shape, widths)
    pairs = factor * kernel.reshape(3, 5, 16, 2)
    assert (pairs[:, :4] == 1).all()
    assert (pairs[:, 4] == [1, 0]).all()


def test_kernels_of_maps_that_come_apart_are_apart():
    shape, widths = (1, 1, 96, 64), (64, 32)
    options = dict(rounded=False, panels=True, halves=np.dtype("float16"))
    assert kernel_on_cpu(shape, 1, widths, **options, apart=True).name == "GEMM, 16 bits, split"
    assert kernel_on_cpu(shape, 1, widths, rounded=False, panels=True, apart=True).name == "GEMM"
    assert len(KERNELS["GEMM, 16 bits, split"].packed(np.ones(shape), widths, options["halves"])) == len(widths) + 1
    assert len(KERNELS["GEMM, 16 bits"].packed(np.ones(shape), widths, options["halves"])) == 2


def test_a_form_of_16_bits_wants_a_type():
    with pytest.raises(ValueError, match="'GEMM, 16 bits, split' is made for one of the types of 16 bits"):
        KERNELS["GEMM, 16 bits, split"].packed(np.ones((1, 1, 96, 64)), (64, 32))


def test_rows_of_channels():
    kernel = np.asarray(normal(3, 3, 1, 16), np.float64)
    (rows,) = in_float64(kernel, "depthwise", (16,))
    np.testing.assert_array_equal(rows[1, 2 * 16 : 3 * 16], kernel[1, 2, 0])


def test_rounded_kernels_are_not_in_panels():
    shapes = [(1, 1, 128, 128), (3, 3, 128, 128), (3, 3, 1, 128)]
    forms = [kernel_on_cpu(shape, 1, (128,), rounded=True, panels=True).name for shape in shapes]
    assert forms == ["whole", "Winograd F(2,3)", "whole"]


@pytest.mark.parametrize(
    ("size", "widths", "form"),
    [(1, (8, 5), "GEMM"), (2, (8, 5), "implicit GEMM"), (3, (16,), "Winograd F(4,3), packed")],
)
def test_kernels_in_panels(size, widths, form):
    """Their columns are where ``pack`` puts them, each map's apart."""
    kernel = np.asarray(normal(size, size, sum(widths), 21), np.float64)
    arrays = in_float64(kernel, form, widths)
    assert len(arrays) == len(widths)
    if form == "Winograd F(4,3), packed":
        np.testing.assert_array_equal(*arrays, pack(f4_kernel(kernel)))
    else:
        np.testing.assert_array_equal(arrays[0], pack(kernel[:, :, : widths[0]].reshape(size, -1, 21)))


def test_only_wide_rounded_kernels_go_through_small_tiles():
    forms = [
        kernel_on_cpu((3, 3, width, ROUNDED), 1, (width,), rounded=True, panels=False).name
        for width in (ROUNDED - 1, ROUNDED)
    ]
    assert forms == ["Winograd F(4,3)", "Winograd F(2,3)"]


@pytest.mark.parametrize(
    ("shape", "stride", "expected"),
    [
        ((1, 1, 64, 64), 1, False),
        ((3, 3, 1, 64), 2, False),
        ((3, 3, ROUNDED, ROUNDED), 1, False),
        ((3, 3, ROUNDED, ROUNDED), 2, True),
        ((3, 3, WIDE, WIDE), 1, True),
        ((3, 3, 16, NARROW), 1, True),
        ((3, 3, 3, 16), 2, True),
    ],
)
def test_what_cpus_compute_in_float32(shape, stride, expected):
    assert in_float32_on_cpu(shape, stride) is expected


def test_every_form_has_a_rule():
    assert {name for name, _ in RULES} == set(KERNELS)
