from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import with_gradients
from jax import lax
from tiny import drawn, normal

from dfine_jax.ops.compute import Compute
from dfine_jax.ops.convolution import SMALL


def convolve(x, kernel, stride, padding, compute):
    return compute.convolve([x], kernel, stride, padding)


BFLOAT16 = Compute.named("bfloat16")


def direct(x, kernel, stride, padding, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=numbers, feature_group_count=groups
    )


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(8, 12), (7, 10)])
def test_depthwise_convolution_and_its_gradients(size, stride, shape):
    x, kernel, padding = normal(2, *shape, 6), normal(size, size, 1, 6), (size // 2,) * 2
    check_with_gradients(x, kernel, stride, padding, groups=6)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(1, 1, (0, 0)), (1, 2, (0, 0)), (2, 1, (0, 1)), (3, 2, (1, 1))]
)
def test_dense_convolution(size, stride, padding):
    x, kernel = normal(2, 6, 10, 4), normal(size, size, 4, 5)
    check_with_gradients(x, kernel, stride, padding, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(2, 1), (3, 1), (3, 2), (2, 2), (5, 2), (5, 3)])
@pytest.mark.parametrize("padding", [(1, 1), (0, 1), (0, 0)])
def test_small_convolutions_and_their_gradients(size, stride, padding):
    """Of maps whose height a stride may divide, and whose width not."""
    check_with_gradients(normal(2, 9, 10, 3), normal(size, size, 3, 5), stride, padding)


@pytest.mark.parametrize("shape", [(8, 12), (7, 9)])
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (5, 3)])
def test_small_convolutions_of_maps_of_any_size(shape, size, stride):
    check_with_gradients(normal(2, *shape, 3), normal(size, size, 3, 5), stride, (1, 1))


@pytest.mark.parametrize("shape", [(8, 12), (7, 10)])
@pytest.mark.parametrize("size", [2, 3])
def test_large_convolutions_with_a_stride_and_their_gradients(shape, size):
    check_with_gradients(normal(2, *shape, 3), normal(size, size, 3, SMALL // 8), 2, (1, 1))


def check_with_gradients(x, kernel, stride, padding, groups=1, atol=2e-5):
    window = dict(stride=stride, padding=padding)
    y, *ours = with_gradients(partial(convolve, **window, compute=Compute()), jnp.sin, x, kernel)
    expected, *wanted = with_gradients(partial(direct, **window, groups=groups), jnp.sin, x, kernel)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=atol)
    for gradient, plain in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(gradient, plain, atol=1e-4)


@pytest.mark.parametrize(
    ("widths", "size", "stride"), [((5, 4, 4, 4), 1, 1), ((4,) * 6, 1, 1), ((4, 6), 3, 2), ((4, 4), 1, 2)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_several_maps_are_as_if_put_together(widths, size, stride, dtype):
    window = dict(stride=stride, padding=(size // 2,) * 2)
    maps = [narrow(2, 6, 7, width) for width in widths]
    kernel = narrow(size, size, sum(widths), 9)
    together = np.concatenate(maps, axis=-1)
    expected, *wanted = with_gradients(partial(direct, **window), lambda y: rounded(jnp.sin(y)), together, kernel)

    def apart(kernel, *maps):
        return Compute.named(dtype).convolve(maps, kernel, **window)

    y, for_kernel, *for_maps = with_gradients(apart, lambda _: rounded(np.sin(expected)), kernel, *maps)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    for ours, plain in zip((np.concatenate(for_maps, axis=-1), for_kernel), wanted, strict=True):
        if dtype == "float32":
            np.testing.assert_allclose(ours, plain, atol=1e-4)
        else:
            assert_near(ours, plain)


def test_one_channel_is_dense_and_depthwise_alike():
    x, kernel = normal(1, 5, 6, 1), normal(3, 3, 1, 1)
    check_with_gradients(x, kernel, 1, (1, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 1, (0, 1)), (3, 1, (1, 1)), (3, 2, (1, 1)), (5, 1, (2, 2))]
)
def test_bfloat16_convolution_and_its_gradients(size, stride, padding):
    """Of rounded operands: the result is the exact one, rounded, and gradients are as near."""
    x, kernel = narrow(2, 6, 9, 6), narrow(size, size, 6, 5)
    window = dict(stride=stride, padding=padding)
    exact, *wanted = with_gradients(partial(direct, **window), lambda y: rounded(jnp.sin(y)), x, kernel)
    above = rounded(np.sin(exact)).astype(jnp.bfloat16)
    low, *ours = with_gradients(partial(convolve, **window, compute=BFLOAT16), lambda _: above, x, kernel)
    assert low.dtype == jnp.bfloat16
    for rough, fine in zip((low, *ours), (exact, *wanted), strict=True):
        assert_near(rough, fine)


@pytest.mark.parametrize("kernel", [(3, 3, 1, 6), (1, 1, 6, 4)])
def test_bfloat16_depthwise_and_pointwise(kernel):
    x, kernel = narrow(1, 8, 8, 6), narrow(*kernel)
    padding, groups = ((1, 1), 6) if len(kernel) == 3 else ((0, 0), 1)
    assert_near(convolve(x, kernel, 1, padding, BFLOAT16), direct(x, kernel, 1, padding, groups))


def narrow(*shape: int) -> np.ndarray:
    """Numbers that bfloat16 has, too."""
    return rounded(drawn(*shape))


def rounded(values: jax.Array) -> jax.Array:
    return values.astype(jnp.bfloat16).astype(jnp.float32)


def assert_near(ours: jax.Array, wanted: jax.Array) -> None:
    """Half of a bfloat16's last place of the largest value, and a little for another order of sums."""
    np.testing.assert_allclose(np.asarray(ours, np.float32), wanted, atol=0.0041 * np.abs(wanted).max())
