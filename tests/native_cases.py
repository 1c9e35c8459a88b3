"""Convolutions by kernels in panels, and the same without, for the tests of machine code."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tiny import normal

from dfine_jax.model.channelwise import convolve_channels, largest_of_four, normalise_cells
from dfine_jax.model.kernel_gradients import gradient_for_kernel
from dfine_jax.model.native_call import Finish
from dfine_jax.model.panels import convolve_rows, convolve_tiles, in_panels, multiply_cells
from dfine_jax.model.products import BY_TRANSPOSED, OF_TRANSPOSED, PLAIN, product
from dfine_jax.model.tiles import large_tile_kernel

ACTIVATIONS = {None: lambda x: x, "relu": jax.nn.relu, "silu": jax.nn.silu}


def a_finish(outputs: int, activation: str | None = "relu", affine: bool = True) -> Finish:
    return Finish(normal(outputs), activation, jnp.array([1.5, -0.25]) if affine else None)


def plainly(sums: jax.Array, finish: Finish) -> jax.Array:
    x = ACTIVATIONS[finish.activation](sums + finish.bias)
    return x if finish.affine is None else finish.affine[0] * x + finish.affine[1]


def cells(rows: int, widths: tuple[int, ...], outputs: int, finish: Finish):
    """Both functions of maps, and maps; likewise below."""
    kernels = [normal(1, width, outputs) / np.sqrt(sum(widths)) for width in widths]
    panels = [jnp.asarray(in_panels(np.asarray(kernel))) for kernel in kernels]

    def plain(maps):
        return plainly(sum(x @ kernel[0] for x, kernel in zip(maps, kernels, strict=True)), finish)

    return lambda maps: multiply_cells(maps, panels, finish), plain, [normal(rows, width) for width in widths]


def rows(shape: tuple[int, ...], widths: tuple[int, ...], outputs: int, window: tuple, finish: Finish):
    size, stride, padding = window
    scale = np.sqrt(size**2 * sum(widths))
    kernels = [normal(size, size, width, outputs) / scale for width in widths]
    panels = [jnp.asarray(in_panels(np.asarray(kernel.reshape(size, -1, outputs)))) for kernel in kernels]

    def plain(maps):
        names = ("NHWC", "HWIO", "NHWC")
        pairs = zip(maps, kernels, strict=True)
        strides, around = (stride, stride), (padding, padding)
        sums = [lax.conv_general_dilated(x, k, strides, around, dimension_numbers=names) for x, k in pairs]
        return plainly(sum(sums), finish)

    def ours(maps):
        return convolve_rows(maps, panels, stride, padding, finish)

    return ours, plain, [normal(*shape, width) for width in widths]


def channels(shape: tuple[int, ...], window: tuple, finish: Finish):
    size, stride, padding = window
    kernel = normal(size, size, 1, shape[-1]) / size

    def plain(maps):
        names, strides, around = ("NHWC", "HWIO", "NHWC"), (stride, stride), (padding, padding)
        groups = shape[-1]
        sums = lax.conv_general_dilated(
            *maps, kernel, strides, around, dimension_numbers=names, feature_group_count=groups
        )
        return plainly(sums, finish)

    def ours(maps):
        return convolve_channels(*maps, kernel.reshape(size, -1), stride, padding, finish)

    return ours, plain, [normal(*shape)]


def tiles(shape: tuple[int, ...], inputs: int, outputs: int, padding: tuple[int, int], finish: Finish):
    kernel = normal(3, 3, inputs, outputs) / np.sqrt(9 * inputs)
    panels = jnp.asarray(in_panels(large_tile_kernel(np.asarray(kernel, np.float64))), jnp.float32)

    def plain(maps):
        names = ("NHWC", "HWIO", "NHWC")
        return plainly(lax.conv_general_dilated(*maps, kernel, (1, 1), (padding,) * 2, dimension_numbers=names), finish)

    return lambda maps: convolve_tiles(*maps, panels, padding, finish), plain, [normal(*shape, inputs)]


def largest(shape: tuple[int, ...]):
    def plain(maps):
        x = jnp.pad(*maps, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return jnp.stack([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]).max(0)

    return lambda maps: largest_of_four(*maps), plain, [normal(*shape)]


def normalised(shape: tuple[int, ...]):
    scale, bias = normal(2, shape[-1])

    def plain(maps):
        (x,) = maps
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias

    return lambda maps: normalise_cells(*maps, scale, bias, 1e-5), plain, [3 + normal(*shape)]


def check(ours, plain, maps, tolerance=4e-6):
    result, expected = jax.jit(ours)(maps), plain(maps)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=tolerance)


def matrices(form: str, rows: int, depth: int, columns: int) -> tuple[jax.Array, jax.Array]:
    """Those whose product in this form has so many rows and columns."""
    first, second = normal(rows, depth), normal(depth, columns)
    return first.T if form == OF_TRANSPOSED else first, second.T if form == BY_TRANSPOSED else second


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

    result, vjp = jax.vjp(convolved, kernel)
    gradient = normal(*result.shape)
    ours, (expected,) = gradient_for_kernel(x, gradient, size, stride, padding), vjp(gradient)
    np.testing.assert_allclose(ours, expected, atol=4e-6 * np.abs(expected).max())


def check_all() -> None:
    """One of each kind, of sizes that leave parts of tiles and panels over."""
    for activation in ACTIVATIONS:
        for outputs in (16, 21, 48, 70):
            finish = a_finish(outputs, activation)
            check(*cells(101, (8, 5, 33), outputs, finish))
            check(*rows((2, 9, 37), (3, 17), outputs, (3, 2, (1, 1)), finish))
        for outputs in (16, 48):
            check(*channels((2, 9, 37, outputs), (5, 2, (2, 2)), a_finish(outputs, activation)))
            check(*largest((2, 9, 37, outputs)))
            check(*normalised((101, outputs)))
            check(*channels((2, 9, 37, outputs + 5), (3, 1, (1, 1)), a_finish(outputs + 5, activation)))
            check(*largest((2, 9, 37, outputs + 5)))
            check(*tiles((2, 11, 38), 32, outputs, (1, 1), a_finish(outputs, activation)), 1e-5)
    for form in (PLAIN, BY_TRANSPOSED, OF_TRANSPOSED):
        for size in ((101, 300, 70), (7, 2100, 21), (1, 1, 1)):
            check_product(form, *size)
    for outputs in (16, 21, 48):
        check_kernel_gradient((2, 9, 37, 5), outputs, (3, 2, (1, 1)))
