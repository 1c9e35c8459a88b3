import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from tiny import normal

from dfine_jax.model.dfine import load
from dfine_jax.model.initial import constant
from dfine_jax.model.layers import (
    ACTIVATIONS,
    MLP,
    Affine,
    BatchNorm,
    ConvNorm,
    LayerNorm,
)
from dfine_jax.ops.compute import Compute

RNG = np.random.default_rng(0)
COMMON = dict(compute=Compute(), rng=RNG)


def filled_norm(**options) -> BatchNorm:
    norm = BatchNorm(4, rng=RNG, **options)
    load(norm, {"scale": normal(4), "bias": normal(4) + 1, "mean": normal(4) * 0.5, "var": jnp.square(normal(4)) + 0.5})
    return norm


def test_batch_norm_in_training_is_pytorchs():
    norm = filled_norm(epsilon=1e-3)
    scale, bias = (np.asarray(v[...], np.float64) for v in (norm.scale, norm.bias))
    x = normal(2, 3, 5, 4) * 2 + 3
    cells = np.asarray(x, np.float64).reshape(-1, 4)
    expected = (cells - cells.mean(0)) / np.sqrt(cells.var(0) + 1e-3) * scale + bias

    np.testing.assert_allclose(norm(x, train=True).reshape(-1, 4), expected, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], cells.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], cells.var(0, ddof=1), rtol=1e-5)


def test_batch_norm_of_large_values_keeps_its_digits():
    """E(x^2) - E(x)^2 would be rounding errors only."""
    norm = BatchNorm(1, rng=RNG)
    x = jnp.asarray([999.0, 1000.0, 1001.0]).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(norm(x, train=True).ravel(), [-math.sqrt(1.5), 0, math.sqrt(1.5)], atol=1e-4)
    np.testing.assert_allclose(norm.var[...], [1.0], rtol=1e-6)


def test_batch_norm_of_a_single_cell_is_finite():
    norm = filled_norm()
    bias = norm.bias[...]
    np.testing.assert_allclose(norm(normal(1, 1, 1, 4), train=True).ravel(), bias, atol=1e-6)
    assert np.isfinite(norm.var[...]).all()


@pytest.mark.parametrize(("options", "train"), [({}, False), ({"frozen": True}, False), ({"frozen": True}, True)])
def test_batch_norm_by_stored_statistics(options, train):
    norm = filled_norm(**options)
    scale, bias, mean, var = (np.asarray(v[...], np.float64) for v in (norm.scale, norm.bias, norm.mean, norm.var))
    x = normal(2, 3, 5, 4)
    expected = (np.asarray(x, np.float64) - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(norm(x, train=train), expected, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], mean.astype(np.float32))
    np.testing.assert_array_equal(norm.var[...], var.astype(np.float32))


def test_layer_norm():
    norm = LayerNorm(6, epsilon=1e-2, rng=RNG)
    load(norm, {"scale": normal(6), "bias": normal(6) + 1})
    x = np.asarray(normal(2, 3, 6), np.float64) + 100
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2)
    expected = expected * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), expected, atol=1e-4)


def test_conv_norm_affine_comes_after_the_activation():
    layer = ConvNorm(2, 2, activation="relu", affine=True, epsilon=0.0, kernel=constant(1), **COMMON)
    load(layer.affine, {"scale": jnp.asarray([2.0]), "bias": jnp.asarray([-1.0])})
    x = jnp.asarray([[-3.0, 1.0], [2.0, 0.5]]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(layer(x)[0, 0], [[-1, -1], [4, 4]], atol=1e-6)
    assert isinstance(layer.affine, Affine)
    assert ConvNorm(2, 2, **COMMON).affine is None


@pytest.mark.parametrize(
    ("kernel_size", "stride", "out"), [(1, 1, (6, 10)), (3, 1, (6, 10)), (3, 2, (3, 5)), (5, 1, (6, 10))]
)
def test_conv_norm_keeps_or_halves_the_size(kernel_size, stride, out):
    layer = ConvNorm(2, 3, kernel_size, stride, **COMMON)
    assert nnx.eval_shape(lambda layer, x: layer(x), layer, normal(1, 6, 10, 2)).shape == (1, *out, 3)


def test_mlp():
    mlp = MLP(3, 5, 2, 3, activation="silu", **COMMON)
    x = normal(4, 3)
    expected = np.asarray(x, np.float64)
    for i, layer in enumerate(mlp.layers):
        expected = expected @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
        expected = expected / (1 + np.exp(-expected)) if i < 2 else expected
    np.testing.assert_allclose(mlp(x), expected, atol=1e-6)


def test_activations():
    x = jnp.linspace(-3, 3, 13)
    sigmoid = 1 / (1 + np.exp(-np.asarray(x)))
    exact = np.asarray([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in np.asarray(x)])
    by_tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    expected = {
        None: x, "relu": np.maximum(x, 0), "silu": x * sigmoid, "swish": x * sigmoid, "gelu": exact,
        "gelu_new": by_tanh, "gelu_pytorch_tanh": by_tanh, "sigmoid": sigmoid, "tanh": np.tanh(x),
    }  # fmt: skip
    assert expected.keys() == ACTIVATIONS.keys()
    for name, wanted in expected.items():
        np.testing.assert_allclose(ACTIVATIONS[name](x), wanted, atol=1e-6, err_msg=str(name))


def test_silu_and_its_slope_are_exact_far_out():
    """Where exponentials overflow or vanish, too."""
    x = jnp.array([-1e30, -200.0, -88.0, -20.0, -1.0, -1e-8, 0.0, 1e-8, 1.0, 20.0, 88.0, 200.0, 1e30])
    values, slopes = jax.vmap(jax.value_and_grad(ACTIVATIONS["silu"]))(x)
    wide = np.asarray(x, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        sigmoid = 1 / (1 + np.exp(-wide))
        slope = sigmoid + wide * sigmoid * (1 - sigmoid)
    np.testing.assert_allclose(values, wide * sigmoid, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(slopes, slope, rtol=1e-6, atol=1e-30)
    _, second = jax.jvp(jax.grad(ACTIVATIONS["silu"]), (jnp.float32(1),), (jnp.float32(1),))
    assert second == pytest.approx(0.3023661, abs=1e-6)


def test_compute_names():
    assert Compute.named("float32") == Compute()
    assert Compute().precision == lax.Precision.HIGHEST
    assert Compute.named("bfloat16").dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"'float16'.*float32 or bfloat16"):
        Compute.named("float16")


def test_bfloat16_products_round_operands_and_not_the_sum():
    a, b = normal(3, 257), normal(257, 2)
    result = Compute.named("bfloat16").einsum("ij,jk->ik", a, b)
    assert result.dtype == jnp.float32
    rounded = [np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32), np.float64) for x in (a, b)]
    np.testing.assert_allclose(result, rounded[0] @ rounded[1], atol=1e-4)
