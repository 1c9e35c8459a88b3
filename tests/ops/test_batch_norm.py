import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normal

from dfine_jax.ops.activations import ACTIVATIONS
from dfine_jax.ops.batch_norm import Learned, normalise

EPSILON = 1e-3


def plainly(x, learned, activation):
    """Every step as it is written, for gradients by JAX."""
    cells = x.reshape(-1, x.shape[-1])
    variance = jnp.square(cells - cells.mean(0)).mean(0)
    y = activation((x - cells.mean(0)) / jnp.sqrt(variance + EPSILON) * learned.scale + learned.bias)
    return y if learned.affine is None else y * learned.affine[0] + learned.affine[1]


@pytest.mark.parametrize("with_affine", [True, False])
@pytest.mark.parametrize("name", [None, "relu", "silu"])
def test_the_map_and_all_gradients(name, with_affine):
    x, activation = normal(2, 5, 6, 4) * 2 + 3, ACTIVATIONS[name]
    affine = (jnp.asarray([-0.7]), jnp.asarray([0.2])) if with_affine else None
    learned = Learned(normal(4), normal(4) + 0.5, affine)
    y, pull_back = jax.vjp(lambda x, learned: normalise(x, learned, activation, EPSILON).map, x, learned)
    expected, pull_back_plainly = jax.vjp(lambda x, learned: plainly(x, learned, activation), x, learned)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    weights = jnp.cos(3 * expected)
    ours, wanted = pull_back(weights), pull_back_plainly(weights)
    assert jax.tree.structure(ours) == jax.tree.structure(wanted)
    for gradient, right in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        assert gradient.shape == right.shape
        np.testing.assert_allclose(gradient, right, atol=1e-5 * max(1.0, float(jnp.abs(right).max())))


def test_an_affine_scale_of_zero_still_has_a_gradient():
    x, learned = normal(2, 3, 3, 4), Learned(jnp.ones(4), jnp.ones(4), (jnp.zeros(1), jnp.zeros(1)))
    gradient = jax.grad(lambda learned: normalise(x, learned, jax.nn.relu, EPSILON).map.sum())(learned)
    relu_sum = plainly(x, learned._replace(affine=None), jax.nn.relu).sum()
    np.testing.assert_allclose(gradient.affine[0], [relu_sum], rtol=1e-5)
    np.testing.assert_array_equal(gradient.scale, 0)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.silu])
def test_statistics_of_the_batch_have_no_gradient(activation):
    x, learned = normal(2, 3, 3, 4), Learned(jnp.ones(4), jnp.zeros(4), (jnp.ones(1), jnp.zeros(1)))

    def statistics(x):
        result = normalise(x, learned, activation, EPSILON)
        return result.mean.sum() + result.variance.sum()

    np.testing.assert_array_equal(jax.grad(statistics)(x), 0)


def test_bfloat16_maps_have_bfloat16_gradients():
    x, learned = normal(2, 3, 3, 4).astype(jnp.bfloat16), Learned(jnp.ones(4), jnp.zeros(4))
    y, pull_back = jax.vjp(lambda x: normalise(x, learned, jax.nn.silu, EPSILON).map, x)
    exact, pull_back_exact = jax.vjp(lambda x: plainly(x, learned, jax.nn.silu), x.astype(jnp.float32))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact, atol=1e-5)
    (gradient,), (wanted,) = pull_back(jnp.sin(y)), pull_back_exact(jnp.sin(exact))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), wanted, atol=0.01 * float(jnp.abs(wanted).max()))
