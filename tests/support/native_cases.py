"""What machine code computes, and the same plainly, for its tests."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tiny import drawn, normal

from dfine_jax.config import DFineConfig
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.attention import attend_heads
from dfine_jax.cpu.kernels.channelwise import convolve_depthwise, layer_norm, max_pool
from dfine_jax.cpu.kernels.kernel_gradients import gradient_for_kernel
from dfine_jax.cpu.kernels.packed import convolve_implicit_gemm, convolve_winograd, gemm, pack
from dfine_jax.cpu.kernels.packing16 import pack16
from dfine_jax.cpu.kernels.products import BY_TRANSPOSED, OF_TRANSPOSED, PLAIN, product
from dfine_jax.cpu.kernels.sampling import attend_to_points
from dfine_jax.cpu.kernels.winograd import f4_kernel

ACTIVATIONS = {
    None: lambda x: x,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def an_epilogue(outputs: int, activation: str | None = "relu", affine: bool = True) -> Epilogue:
    return Epilogue(normal(outputs), activation, np.float32([1.5, -0.25]) if affine else None)


def plainly(sums: jax.Array, epilogue: Epilogue) -> jax.Array:
    x = ACTIVATIONS[epilogue.activation](sums + epilogue.bias)
    x = x if epilogue.affine is None else epilogue.affine[0] * x + epilogue.affine[1]
    return x if epilogue.residual is None else x + epilogue.residual


def scaled(kernel: np.ndarray, count: int) -> np.ndarray:
    """Such that sums of so many products are about as large as their factors."""
    return kernel / np.float32(np.sqrt(count))


def cells(rows: int, widths: tuple[int, ...], outputs: int, epilogue: Epilogue):
    """Both functions of maps, and maps; likewise below."""
    kernels = [scaled(drawn(1, width, outputs), sum(widths)) for width in widths]
    panels = [pack(kernel) for kernel in kernels]

    def plain(maps):
        return plainly(sum(x @ kernel[0] for x, kernel in zip(maps, kernels, strict=True)), epilogue)

    return lambda maps: gemm(maps, panels, epilogue), plain, [normal(rows, width) for width in widths]


def last_channels(shape: tuple[int, int, int], widths: tuple[int, ...], inputs: tuple[int, ...], outputs: int):
    """Of maps with more channels than count, and with a map half as large that is added before the activation."""
    pictures, height, width = shape
    coarse = normal(pictures, height // 2, width // 2, outputs)
    epilogue = replace(an_epilogue(outputs, "silu"), coarse=coarse, residual=normal(*shape, outputs))
    kernels = [scaled(drawn(1, each, outputs), sum(inputs)) for each in inputs]
    panels = [pack(kernel) for kernel in kernels]
    rows, columns = (np.arange(size) // 2 for size in (height, width))

    def plain(maps):
        sums = sum(x[..., x.shape[-1] - kernel.shape[1] :] @ kernel[0] for x, kernel in zip(maps, kernels, strict=True))
        return plainly(sums + coarse[:, rows[:, None], columns], epilogue)

    return lambda maps: gemm(maps, panels, epilogue), plain, [normal(*shape, each) for each in widths]


def rows(shape: tuple[int, ...], widths: tuple[int, ...], outputs: int, window: tuple, epilogue: Epilogue):
    size, stride, padding = window
    kernels = [scaled(drawn(size, size, width, outputs), size**2 * sum(widths)) for width in widths]
    panels = [pack(kernel.reshape(size, -1, outputs)) for kernel in kernels]

    def plain(maps):
        names = ("NHWC", "HWIO", "NHWC")
        pairs = zip(maps, kernels, strict=True)
        strides, around = (stride, stride), (padding, padding)
        sums = [lax.conv_general_dilated(x, k, strides, around, dimension_numbers=names) for x, k in pairs]
        return plainly(sum(sums), epilogue)

    def ours(maps):
        return convolve_implicit_gemm(maps, panels, stride, padding, epilogue)

    return ours, plain, [normal(*shape, width) for width in widths]


def channels(shape: tuple[int, ...], window: tuple, epilogue: Epilogue):
    size, stride, padding = window
    kernel = scaled(drawn(size, size, 1, shape[-1]), size**2)

    def plain(maps):
        names, strides, around = ("NHWC", "HWIO", "NHWC"), (stride, stride), (padding, padding)
        groups = shape[-1]
        sums = lax.conv_general_dilated(
            *maps, kernel, strides, around, dimension_numbers=names, feature_group_count=groups
        )
        return plainly(sums, epilogue)

    def ours(maps):
        return convolve_depthwise(*maps, kernel.reshape(size, -1), stride, padding, epilogue)

    return ours, plain, [normal(*shape)]


def tiles(shape: tuple[int, ...], inputs: int, outputs: int, padding: tuple[int, int], epilogue: Epilogue):
    kernel = scaled(drawn(3, 3, inputs, outputs), 9 * inputs)
    panels = np.float32(pack(f4_kernel(np.float64(kernel))))

    def plain(maps):
        names = ("NHWC", "HWIO", "NHWC")
        return plainly(
            lax.conv_general_dilated(*maps, kernel, (1, 1), (padding,) * 2, dimension_numbers=names), epilogue
        )

    return lambda maps: convolve_winograd(*maps, panels, padding, epilogue), plain, [normal(*shape, inputs)]


def largest(shape: tuple[int, ...]):
    def plain(maps):
        x = jnp.pad(*maps, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return jnp.stack([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]).max(0)

    return lambda maps: max_pool(*maps), plain, [normal(*shape)]


def normalised(shape: tuple[int, ...]):
    scale, bias = drawn(2, shape[-1])

    def plain(maps):
        (x,) = maps
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias

    return lambda maps: layer_norm(*maps, scale, bias, 1e-5), plain, [3 + drawn(*shape)]


def heads(shape: tuple[int, int, int], count: int):
    """Queries are large, for weights that differ, and keys have one that no query likes."""
    query, key, value = drawn(3, *shape)
    key[:, 0] -= 20

    def plain(maps):
        query, key, value = (x.reshape(*x.shape[:2], count, -1) for x in maps)
        scores = jnp.einsum("bqhc,bkhc->bhqk", query, key) / np.sqrt(query.shape[-1])
        return jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores), value).reshape(maps[0].shape)

    return lambda maps: attend_heads(*maps, count), plain, [2 * query, key, value]


def points(batch: int, queries: int, levels: tuple[int, ...], channels: int):
    """On maps of 5x7 cells and 3x4 and so on, some of the points beyond them; levels say how many points they have."""
    config = replace(DFineConfig.from_size("n").decoder, heads=3, points=levels)
    shapes = ((5, 7), (3, 4), (1, 2))[: len(levels)]
    count, cells = 3 * sum(levels), sum(height * width for height, width in shapes)
    offsets, scores, boxes = (drawn(batch, queries, numbers) for numbers in (2 * count, count, 4))

    def plain(maps):
        offsets, scores, boxes, memory = maps
        weights = jax.nn.softmax(scores.reshape(batch, queries, 3, -1))
        offsets = offsets.reshape(batch, queries, 3, -1, 2)
        memory = memory.reshape(batch, cells, 3, channels)
        total, cell, point = 0.0, 0, 0
        for (height, width), number in zip(shapes, levels, strict=True):
            part = slice(point, point + number)
            at = boxes[:, :, None, None, :2] + offsets[..., part, :] * boxes[:, :, None, None, 2:] * 0.5 / number
            columns, rows = (
                jnp.maximum(0, 1 - jnp.abs(at[..., axis, None] * size - 0.5 - jnp.arange(size)))
                for axis, size in enumerate((width, height))
            )
            level = memory[:, cell : cell + height * width].reshape(batch, height, width, 3, channels)
            total += jnp.einsum("bqmpy,bqmpx,bqmp,byxmc->bqmc", rows, columns, weights[..., part], level)
            cell, point = cell + height * width, point + number
        return total.reshape(batch, queries, -1)

    def ours(maps):
        return attend_to_points(*maps, shapes, config)

    return ours, plain, [offsets, 2 * scores, 1 / (1 + np.exp(-boxes)), drawn(batch, cells, 3 * channels)]


def check(ours, plain, maps, tolerance=4e-6):
    result, expected = jax.jit(lambda maps: (ours(maps), plain(maps)))(maps)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=tolerance)


def matrices(form: str, rows: int, depth: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Those whose product in this form has so many rows and columns."""
    first, second = drawn(rows, depth), drawn(depth, columns)
    return first.T if form == OF_TRANSPOSED else first, second.T if form == BY_TRANSPOSED else second


def packed16(kernels, dtype) -> list[jax.Array]:
    """Kernels (T, I, O) packed together in a type of 16 bits, as a fused model has them."""
    *halved, factors = pack16([np.asarray(kernel, np.float64) for kernel in kernels], dtype)
    return jax.device_put([*(np.asarray(kernel, dtype) for kernel in halved), np.float32(factors)])


def error(result, expected) -> float:
    """The root of the mean square of what is wrong, by that of what is right."""
    result, expected = np.asarray(result), np.asarray(expected)  # NumPy compiles nothing
    return float(np.sqrt(np.square(result - expected).mean() / np.square(expected).mean()))


def check_product(form: str, rows: int, depth: int, columns: int) -> None:
    a, b = matrices(form, rows, depth, columns)
    result = jax.jit(product, static_argnums=0)(form, a, b)
    exact = np.einsum(form, np.float64(a), np.float64(b))
    assert result.shape == (rows, columns)
    np.testing.assert_allclose(result, exact, atol=2e-6 * np.sqrt(depth) + 2e-7 * depth)


def check_kernel_gradient(shape: tuple[int, ...], outputs: int, window: tuple) -> None:
    size, stride, padding = window
    x, kernel = normal(*shape), normal(size, size, shape[-1], outputs)

    def convolved(kernel):
        names, strides, around = ("NHWC", "HWIO", "NHWC"), (stride, stride), (padding, padding)
        return lax.conv_general_dilated(x, kernel, strides, around, dimension_numbers=names)

    gradient = normal(*jax.eval_shape(convolved, kernel).shape)

    @jax.jit
    def both(x, gradient, kernel):
        return gradient_for_kernel(x, gradient, size, stride, padding), jax.vjp(convolved, kernel)[1](gradient)

    ours, (expected,) = both(x, gradient, kernel)
    np.testing.assert_allclose(ours, expected, atol=4e-6 * np.abs(expected).max())


def check_all() -> None:
    """One of each kind, of sizes that leave parts of tiles and panels over."""
    check(*last_channels((2, 6, 10), (40, 7), (33, 7), 21), 1e-5)
    check(*heads((2, 31, 96), 2), 1e-5)
    check(*heads((1, 70, 32), 2), 1e-5)
    check(*points(2, 31, (3, 2), 32))
    check(*points(1, 5, (9, 7, 3), 16))
    for activation in ACTIVATIONS:
        for outputs in (16, 21, 48, 70):
            epilogue = an_epilogue(outputs, activation)
            check(*cells(101, (8, 5, 33), outputs, epilogue))
            check(*rows((2, 9, 37), (3, 17), outputs, (3, 2, (1, 1)), epilogue))
        for outputs in (16, 48):
            check(*channels((2, 9, 37, outputs), (5, 2, (2, 2)), an_epilogue(outputs, activation)))
            check(*largest((2, 9, 37, outputs)))
            check(*normalised((101, outputs)))
            check(*channels((2, 9, 37, outputs + 5), (3, 1, (1, 1)), an_epilogue(outputs + 5, activation)))
            check(*largest((2, 9, 37, outputs + 5)))
            check(*tiles((2, 11, 38), 32, outputs, (1, 1), an_epilogue(outputs, activation)), 1e-5)
    for form in (PLAIN, BY_TRANSPOSED, OF_TRANSPOSED):
        for size in ((101, 300, 70), (7, 2100, 21), (1, 1, 1)):
            check_product(form, *size)
    for outputs in (16, 21, 48):
        check_kernel_gradient((2, 9, 37, 5), outputs, (3, 2, (1, 1)))
