"""Products of numbers in 16 bits, by machine code where there is some for this processor, and else by XLA."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from native_cases import an_epilogue, error, packed16, plainly
from tiny import normal

from dfine_jax.config import DFineConfig
from dfine_jax.cpu import call as native_call
from dfine_jax.cpu.codegen.registers import HALVES, WIDEST, binding, half, registers
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.packed16 import convolve_implicit_gemm16, convolve_two_columns16, gemm16
from dfine_jax.cpu.kernels.packing16 import apart, pack16, pack16_windows, pack16_winograd
from dfine_jax.cpu.kernels.table import KERNELS
from dfine_jax.cpu.kernels.winograd16 import convolve_winograd16
from dfine_jax.inference.fuse import fuse
from dfine_jax.model.dfine import DFine
from dfine_jax.ops.resampling import max_pool2x2

TYPE = jnp.dtype(HALVES.get(half(), "float16"))
native = pytest.mark.skipif(half() is None, reason="no machine code in 16 bits for this processor")
with_tiles = pytest.mark.skipif(half() in (None, "bfloat"), reason="no machine code of tiles in 16 bits here")
WHOLE = jnp.issubdtype(TYPE, jnp.integer)
BFLOAT16 = 2.4e-3
"""Mean error, over the mean, of sums of products whose operands are rounded to bfloat16."""


def rounded(kernels, dtype=TYPE):
    return packed16(kernels, dtype)


def check(result, plain, maps, kernels):
    """The error is below bfloat16's, or in bfloat16 that of rounding these operands and nothing else."""
    plain, most = jax.jit(plain), BFLOAT16
    exact = plain(maps, kernels)
    if jnp.bfloat16 == TYPE:
        narrow = [[np.asarray(x).astype(TYPE).astype(np.float32) for x in arrays] for arrays in (maps, kernels)]
        most = 1.01 * error(plain(*narrow), exact)
    assert result.shape == exact.shape
    assert 0 < error(result, exact) < most


def bare_epilogue(outputs):
    return Epilogue(np.zeros(outputs, np.float32), None)


def a_product(rows, widths, outputs):
    return [normal(rows, width) for width in widths], [normal(1, width, outputs) for width in widths]


def together(kernels):
    """One kernel of all maps, as a fused model has it."""
    return rounded([np.concatenate(kernels, axis=1)])


def summed(maps, kernels):
    return sum(x[:, x.shape[1] - kernel.shape[1] :] @ kernel[0] for x, kernel in zip(maps, kernels, strict=True))


@pytest.mark.parametrize("outputs", [16, 21, 48, 80])
def test_kernels_are_scaled_and_paired(outputs):
    kernels = [7 * np.random.default_rng(0).standard_normal((2, 32, outputs)), np.full((2, 32, outputs), 1e-9)]
    first, second, factors = pack16(kernels, jnp.dtype("float16"))
    assert factors.shape == (2,)
    assert (np.log2(factors) % 1 == 0).all()
    for halved, kernel, factor in zip((first, second), kernels, factors, strict=True):
        assert 0.5 < np.abs(halved).max() <= 1
        width = min(outputs, 32)
        start = factor * halved[1, : 2 * -(-width // 16) * 16].reshape(-1, 2)[:width]
        np.testing.assert_array_equal(start, kernel[1, :2, :width].T)


@pytest.mark.parametrize("inputs", [16, 200, 1024])
@pytest.mark.parametrize(("make", "block"), [(pack16, 256), (pack16_winograd, 128), (pack16_windows, 288)])
def test_whole_numbers_of_a_kernel_leave_room_for_a_map(make, block, inputs):
    inputs = min(inputs, block // 3) if make is pack16_windows else inputs
    kernel = np.random.default_rng(0).standard_normal((3, inputs, 32)) ** 3
    kernels = {pack16: [kernel], pack16_winograd: kernel, pack16_windows: [kernel[:, None]]}[make]
    halved, factors = make(kernels, jnp.dtype("int16"))
    assert (halved == np.rint(halved)).all()
    assert np.abs(halved).max() < 2**15
    columns = halved.reshape(3, -1, 32, 2).transpose(0, 1, 3, 2).reshape(kernel.shape)
    np.testing.assert_allclose(factors[:, None, None] * columns, kernel, atol=factors.max() / 2)
    blocks = columns.reshape(1, -1, 32) if make is pack16_windows else columns
    sums = [np.abs(blocks[:, start : start + block]).sum(1).max() for start in range(0, blocks.shape[1], block)]
    assert max(sums) * 2**14 < 2**31
    assert max(2 * max(sums) * 2**14 / 2**31, 2 * np.abs(halved).max() / 2**15) > 0.99


def test_few_numbers_of_a_kernel_fit_in_16_bits():
    halved, (factor,) = pack16([np.diag(np.full(32, 2.0**7))[None]], jnp.dtype("int16"))
    assert (halved.max(), factor) == (2**14, 2.0**-7)


def test_a_kernel_of_zeros_stays_one():
    halved, factors = pack16([np.zeros((1, 32, 16))], TYPE)
    assert not halved.any()
    assert factors == [1]


def test_kernels_apart_are_those_of_each_alone():
    kernels = [np.random.default_rng(0).standard_normal((1, 32, 16)) * scale for scale in (1, 9)]
    for of_several, alone in zip(
        apart(pack16(kernels, TYPE)), [pack16([kernel], TYPE) for kernel in kernels], strict=True
    ):
        for array, expected in zip(of_several, alone, strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("rows", [1, 13, 300, 1100])
@pytest.mark.parametrize(
    ("widths", "outputs"), [((32,), 4), ((64, 48), 17), ((320,), 80), ((16,) * 8, 32), ((64, 21, 21), 16)]
)
def test_products(rows, widths, outputs):
    maps, kernels = a_product(rows, widths, outputs)
    epilogue = an_epilogue(outputs, "silu")
    result = jax.jit(gemm16)(maps, together(kernels), epilogue)
    check(result, lambda *operands: plainly(summed(*operands), epilogue), maps, kernels)


def test_the_last_channels_of_a_map():
    x, kernel = normal(50, 97), normal(1, 64, 32)
    result = gemm16([x], rounded([kernel]), bare_epilogue(32))
    assert error(result, summed([x], [kernel])) < BFLOAT16


def test_no_cells():
    assert gemm16([normal(0, 32)], rounded([normal(1, 32, 16)]), bare_epilogue(16)).shape == (0, 16)


@native
@pytest.mark.parametrize("power", [-90, -30, 30, 90])
def test_scaled_maps_give_scaled_sums_to_the_bit(power):
    maps, kernels = a_product(100, (64, 32), 48)
    multiply = partial(gemm16, kernels=together(kernels), epilogue=bare_epilogue(48))
    scaled = multiply([jnp.ldexp(x, power) for x in maps])
    np.testing.assert_array_equal(scaled, jnp.ldexp(multiply(maps), power))


def test_a_scaled_kernel_gives_scaled_sums_to_the_bit():
    maps, kernels = a_product(100, (64,), 48)
    sums, scaled = (gemm16(maps, rounded([scale * kernels[0]]), bare_epilogue(48)) for scale in (1, 2.0**40))
    np.testing.assert_array_equal(scaled, sums * 2.0**40)


@pytest.mark.parametrize("x", [0.0, 1.0, 1.999, -1.999, 3e38 / 512, 1e-30 if WHOLE else 1e-36])
def test_the_largest_sums_are_not_too_large(x):
    """Of numbers that are all as large as the largest, so that no sum of products with a kernel could be larger.

    Each of a block's 128 sums, all rounded the same way, may be off by 2 to the -12.
    """
    sums = gemm16([jnp.full((60, 512), x)], rounded([np.ones((1, 512, 32))]), bare_epilogue(32))
    np.testing.assert_allclose(sums, np.float32(512 * np.float32(x)), rtol=129 * 2.0**-12, atol=1e-38)


@pytest.mark.parametrize("inputs", [32, 256, 600])
def test_sums_of_the_largest_magnitude_are_right(inputs):
    """Each row has the signs of a column of the kernel: no map of such numbers has a larger sum with it."""
    kernel = normal(1, inputs, 32)
    x = 1.999 * jnp.sign(kernel[0].T)
    sums = gemm16([x], rounded([kernel]), bare_epilogue(32))
    assert error(sums, x @ kernel[0]) < BFLOAT16
    np.testing.assert_allclose(jnp.diag(sums), 1.999 * jnp.abs(kernel[0]).sum(0), rtol=129 * 2.0**-12)


def test_one_large_number_leaves_others_what_they_are():
    x, kernel = normal(100, 64), normal(1, 64, 32)
    sums = gemm16([x.at[3, 5].set(1e4)], rounded([kernel]), bare_epilogue(32))
    others = jnp.arange(100) != 3
    assert error(sums[others], (x @ kernel[0])[others]) < 2 * BFLOAT16


def test_what_is_not_a_number_stays_so_and_alone():
    x = normal(100, 64).at[3, 5].set(jnp.nan)
    sums = gemm16([x], rounded([normal(1, 64, 32)]), bare_epilogue(32))
    assert jnp.isnan(sums[3]).all()
    assert not jnp.isnan(jnp.delete(sums, 3, axis=0)).any()


@native
def test_infinite_numbers_leave_no_finite_sum():
    sums = gemm16([normal(100, 64).at[3, 5].set(-jnp.inf)], rounded([normal(1, 64, 32)]), bare_epilogue(32))
    assert not jnp.isfinite(sums[3]).any()
    assert jnp.isfinite(jnp.delete(sums, 3, axis=0)).all()


@native
def test_what_is_not_a_number_in_a_window_stays_so():
    x, kernels = normal(1, 40, 40, 16).at[0, 8, 9, 3].set(jnp.nan), rows_of_halves(normal(3, 3, 16, 16), (16,))
    sums = convolve_implicit_gemm16([x], kernels, 1, (1, 1), bare_epilogue(16))
    assert jnp.isnan(sums[0, 7:10, 8:11]).all()
    assert not jnp.isnan(sums[0, 20:]).any()


def convolved(x, kernel, stride, padding):
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, (padding,) * 2, dimension_numbers=names)


def rows_of_halves(kernel, widths, dtype=TYPE, form="implicit GEMM, 16 bits"):
    *halved, factors = KERNELS[form].packed(np.asarray(kernel, np.float64), widths, dtype)
    return jax.device_put([*(np.asarray(part, dtype) for part in halved), np.float32(factors)])


@pytest.mark.parametrize("shape", [(1, 20, 20), (2, 39, 37), (1, 2, 16)])
@pytest.mark.parametrize(
    ("size", "stride", "padding", "widths", "outputs"),
    [
        (3, 1, (1, 1), (16,), 16),
        (3, 2, (1, 1), (16, 12), 48),
        (2, 1, (0, 1), (24,), 8),
        (3, 2, (1, 0), (2,), 21),
        (5, 1, (2, 2), (10,), 16),
        (1, 2, (0, 0), (288,), 16),
        (3, 2, (1, 1), (3, 4), 16),
        (3, 2, (1, 0), (5,), 24),
    ],
)
def test_convolutions_row_by_row(shape, size, stride, padding, widths, outputs):
    maps = [normal(*shape, width) for width in widths]
    kernel = normal(size, size, sum(widths), outputs)
    epilogue = an_epilogue(outputs, "silu")
    result = jax.jit(convolve_implicit_gemm16, static_argnums=(2, 3))(
        maps, rows_of_halves(kernel, widths), stride, padding, epilogue
    )

    def plain(maps, kernels):
        return plainly(convolved(jnp.concatenate(maps, -1), *kernels, stride, padding), epilogue)

    check(result, plain, maps, [kernel])


@pytest.mark.parametrize("shape", [(1, 20, 20), (2, 39, 37), (1, 2, 16)])
@pytest.mark.parametrize(
    ("size", "padding", "widths", "outputs"), [(2, (0, 1), (16,), 8), (3, (1, 1), (21,), 21), (3, (1, 0), (3, 4), 24)]
)
def test_two_cells_at_once(shape, size, padding, widths, outputs):
    maps = [normal(*shape, width) for width in widths]
    kernel = normal(size, size, sum(widths), outputs)
    shape = jax.eval_shape(partial(convolved, stride=1, padding=padding), np.concatenate(maps, -1), kernel).shape
    epilogue = replace(an_epilogue(outputs, "silu"), residual=normal(*shape))
    kernels = rows_of_halves(kernel, widths, form="two columns, 16 bits")
    result = jax.jit(convolve_two_columns16, static_argnums=2)(maps, kernels, padding, epilogue)

    def plain(maps, kernels):
        return plainly(convolved(jnp.concatenate(maps, -1), *kernels, 1, padding), epilogue)

    check(result, plain, maps, [kernel])


@pytest.mark.parametrize(("shape", "width"), [((2, 39, 37), 16), ((1, 3, 20), 24), ((1, 40, 64), 3), ((1, 1, 8), 2)])
def test_rows_of_the_largest_of_four_cells(shape, width):
    x, other, kernels = (
        normal(*shape, width),
        normal(*shape, 4),
        rows_of_halves(normal(3, 3, width + 4, 16), (width, 4)),
    )
    convolve = partial(convolve_implicit_gemm16, kernels=kernels, stride=2, padding=(1, 1), epilogue=bare_epilogue(16))
    largest = convolve([max_pool2x2(x), other])
    assert error(convolve([x, other], pooled=1), largest) < 2e-3  # scaled by numbers that may be larger
    assert error(convolve([x, other]), largest) > 0.1


def test_scaled_rows_give_scaled_sums_to_the_bit():
    x, kernels = normal(1, 40, 20, 16), rows_of_halves(normal(3, 3, 16, 16), (16,))
    convolve = partial(convolve_implicit_gemm16, kernels=kernels, stride=1, padding=(1, 1), epilogue=bare_epilogue(16))
    np.testing.assert_array_equal(convolve([jnp.ldexp(x, 40)]), jnp.ldexp(convolve([x]), 40))


def test_the_largest_sums_of_windows_are_not_too_large():
    kernels = rows_of_halves(np.ones((1, 1, 288, 16)), (288,))
    sums = convolve_implicit_gemm16([jnp.full((1, 4, 4, 288), 1.999)], kernels, 1, (0, 0), bare_epilogue(16))
    np.testing.assert_allclose(sums, np.float32(288 * 1.999), rtol=145 * 2.0**-12)


@pytest.mark.parametrize(("width", "columns"), [(15, 20), (290, 20), (2, 7)])
def test_rows_that_there_is_no_code_for_are_refused(width, columns):
    with pytest.raises(ValueError, match=f"{columns} columns of {width} channels, kernel 1 by 1, step 1: a step has"):
        convolve_implicit_gemm16(
            [normal(1, 4, columns, width)], [jnp.zeros((1, width * 16)), jnp.ones(1)], 1, (0, 0), bare_epilogue(16)
        )


def of_tiles(kernel):
    form = "Winograd F(4,3), int16" if WHOLE else "Winograd F(4,3), 16 bits"
    halved, factors = KERNELS[form].packed(np.asarray(kernel, np.float64), (kernel.shape[2],), TYPE)
    return jax.device_put((np.asarray(halved, TYPE), np.float32(factors)))


@with_tiles
@pytest.mark.parametrize("shape", [(1, 20, 20), (2, 9, 37), (1, 1, 1)])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (32, 48), (160, 64)])
def test_tiles(shape, inputs, outputs):
    x, kernel = normal(*shape, inputs), normal(3, 3, inputs, outputs) / np.sqrt(9 * inputs)
    epilogue = an_epilogue(outputs)
    kernels = of_tiles(kernel)
    result = jax.jit(convolve_winograd16, static_argnums=2)(x, kernels, (1, 1), epilogue)
    plain = convolved(x, kernel, 1, (1, 1))
    assert result.shape == plain.shape
    assert 0 < error(result, plainly(plain, epilogue)) < (BFLOAT16 if WHOLE else 2 * BFLOAT16)
    unfinished_by = partial(convolve_winograd16, kernels=kernels, padding=(1, 1), epilogue=bare_epilogue(outputs))
    np.testing.assert_array_equal(unfinished_by(jnp.ldexp(x, 40)), jnp.ldexp(unfinished_by(x), 40))


@with_tiles
def test_tiles_of_the_largest_numbers():
    kernel = jnp.sign(normal(3, 3, 256, 32))
    x = jnp.sign(normal(1, 12, 12, 256)) * 1.99
    sums = convolve_winograd16(x, of_tiles(kernel), (1, 1), bare_epilogue(32))
    assert jnp.isfinite(sums).all()
    if WHOLE:  # a sum that is too large would come back with another sign
        assert error(sums, convolved(x, kernel, 1, (1, 1))) < 2 * BFLOAT16


def test_slopes_are_those_of_products_in_float32():
    maps, kernels = a_product(30, (64,), 32)
    kernels = rounded(kernels)

    def total(x):
        return jnp.square(gemm16([x], kernels, bare_epilogue(32))).sum()

    whole = gemm16([jnp.eye(64)], kernels, bare_epilogue(32))
    expected = 2 * (maps[0] @ whole) @ whole.T
    assert error(jax.grad(total)(*maps), expected) < BFLOAT16


def test_without_machine_code_xla_multiplies(monkeypatch):
    maps, kernels = a_product(30, (64, 32), 33)
    monkeypatch.setattr(native_call, "half", lambda: None)
    result = gemm16(maps, together(kernels), bare_epilogue(33))
    assert error(result, summed(maps, kernels)) < BFLOAT16


@pytest.mark.parametrize("width", [8, 41])
def test_narrow_or_odd_maps_are_refused(width):
    with pytest.raises(ValueError, match=f"{width} channels: 16 are the least, all have to be even"):
        gemm16([normal(5, width)], [jnp.zeros((1, width * 32), TYPE), jnp.ones(1)], bare_epilogue(32))


@pytest.mark.parametrize("padding", [(0, 2), (2, 0)])
def test_padding_as_wide_as_a_kernel_is_refused(padding):
    kernels = rows_of_halves(normal(2, 2, 16, 16), (16,))
    with pytest.raises(ValueError, match=r"padding .*: a kernel of 2 rows takes less"):
        convolve_implicit_gemm16([normal(1, 8, 8, 16)], kernels, 1, padding, bare_epilogue(16))


def test_a_kernel_of_other_maps_is_refused():
    with pytest.raises(ValueError, match=r"64, 32 channels: .* as many as the kernel's 64"):
        gemm16([normal(5, 64), normal(5, 32)], rounded([normal(1, 64, 32)]), bare_epilogue(32))


@pytest.mark.parametrize(("width", "outputs"), [(14, 16), (24, 16), (16, 48)])
def test_kernels_of_other_windows_are_refused(width, outputs):
    kernels, x = rows_of_halves(normal(2, 2, 16, 16), (16,)), normal(1, 8, 8, width)
    with pytest.raises(ValueError, match=f"not one for {width} channels to {outputs}"):
        convolve_implicit_gemm16([x], kernels, 1, (0, 0), bare_epilogue(outputs))
    kernels = rows_of_halves(normal(2, 2, 16, 16), (16,), form="two columns, 16 bits")
    with pytest.raises(ValueError, match=f"not one for {width} channels to {2 * outputs}"):
        convolve_two_columns16([x], kernels, (0, 0), bare_epilogue(outputs))


@native
@pytest.mark.slow
def test_maps_of_a_model_are_nearly_what_they_are_in_float32():
    config = DFineConfig.from_size("m")
    model = DFine(config, rng=np.random.default_rng(0))
    pictures, maps = normal(1, 128, 128, 3), []
    for operands in (None, TYPE):
        fused = fuse(model, operands=operands)
        forms = {module.form for _, module in nnx.iter_modules(fused) if hasattr(module, "form")}
        assert ("GEMM, 16 bits" in forms) == (operands is TYPE)
        tiles = {"half": "Winograd F(4,3), 16 bits", "i16": "Winograd F(4,3), int16"}.get(half())
        assert (tiles in forms) == (operands is TYPE and tiles is not None)
        maps.append(fused.encoder(fused.backbone(pictures)))
    for expected, result in zip(*maps, strict=True):
        assert 0 < error(result, expected) < 0.02


@pytest.mark.slow
@pytest.mark.skipif(
    half() == "i16" or registers() is None or not binding().get_host_cpu_features().get("avx512vnni"),
    reason="no instructions for whole numbers, or they are what is tested here",
)
def test_code_in_whole_numbers():
    """All that is here, on a processor that is given another type; and it does what is emulated."""
    emulated = str(Path(__file__).with_name("test_instructions.py"))
    program = f"""
import pytest
from dfine_jax.cpu.codegen import registers
registers.half = lambda: "i16"
from dfine_jax.cpu import call as native_call
assert native_call.half() == "i16"
raise SystemExit(pytest.main(["-q", "-n", "0", "-m", "not slow", {__file__!r}, {emulated!r}]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    registers() is None or registers().lanes != WIDEST or not binding().get_host_cpu_features().get("avx512bf16"),
    reason="no instructions for bfloat16",
)
def test_code_in_bfloat16_rounds_operands_alone():
    """On a processor that would not be given it, too."""
    program = """
import jax, jax.numpy as jnp, numpy as np
from dfine_jax.cpu import call as native_call
from dfine_jax.cpu.codegen import targets
native_call.half = targets.half = lambda: "bfloat"
import test_packed16 as cases
for rows, widths, outputs in ((100, (64, 48), 21), (300, (320,), 80), (1, (32,), 16)):
    maps, kernels = cases.a_product(rows, widths, outputs)
    kernel = cases.rounded([jnp.concatenate(kernels, axis=1)], jnp.bfloat16)
    result = jax.jit(cases.gemm16)(maps, kernel, cases.bare_epilogue(outputs))
    near = lambda x: x.astype(jnp.bfloat16).astype(jnp.float32)
    expected = cases.summed(list(map(near, maps)), list(map(near, kernels)))
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.sqrt(sum(widths)))
for size, stride, width in ((3, 1, 16), (2, 1, 24), (3, 2, 3)):
    x, kernel = cases.normal(2, 20, 37, width), cases.normal(size, size, width, 48)
    halved = cases.rows_of_halves(kernel, (width,), jnp.bfloat16)
    result = cases.convolve_implicit_gemm16([x], halved, stride, (1, 1), cases.bare_epilogue(48))
    expected = cases.convolved(near(x), near(kernel), stride, (1, 1))
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.sqrt(size**2 * width))
print("all agree")
"""
    folders = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1] / "support")))
    environment = {**os.environ, "PYTHONPATH": folders}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.stdout == "all agree\n", result.stderr


@native
@pytest.mark.slow
def test_a_program_that_was_kept_finds_its_code(tmp_path):
    """The second process doesn't compile: of machine code it knows what was kept."""
    program = """
import sys
from pathlib import Path
import numpy as np
from dfine_jax import Detector
from dfine_jax.inference import program
from dfine_jax.kept import keep_in
keep_in(Path(sys.argv[1]))
if sys.argv[2] == "second":
    program._compiled = None
detector = Detector.from_pretrained("shapes", dtype="bfloat16")
print(detector(np.full((64, 96, 3), 99, np.uint8), 0.0).scores.tolist())
"""
    found = [
        subprocess.run([sys.executable, "-c", program, tmp_path, turn], check=True, capture_output=True).stdout
        for turn in ("first", "second")
    ]
    assert found[0] == found[1]
