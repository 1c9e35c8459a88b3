import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normal

from dfine_jax.model.activations import ACTIVATIONS
from dfine_jax.model.normalisation import Shares, normalise

EPSILON = 1e-3


def plainly(x, shares, activation):
    """Every step as it is written, for gradients by JAX."""
    cells = x.reshape(-1, x.shape[-1])
    variance = jnp.square(cells - cells.mean(0)).mean(0)
    y = activation((x - cells.mean(0)) / jnp.sqrt(variance + EPSILON) * shares.scale + shares.bias)
    return y if shares.affine is None else y * shares.affine[0] + shares.affine[1]


@pytest.mark.parametrize("with_affine", [True, False])
@pytest.mark.parametrize("name", [None, "relu", "silu"])
def test_the_map_and_all_gradients(name, with_affine):
    x, activation = normal(2, 5, 6, 4) * 2 + 3, ACTIVATIONS[name]
    affine = (jnp.asarray([-0.7]), jnp.asarray([0.2])) if with_affine else None
    shares = Shares(normal(4), normal(4) + 0.5, affine)
    y, pull_back = jax.vjp(lambda x, shares: normalise(x, shares, activation, EPSILON).map, x, shares)
    expected, pull_back_plainly = jax.vjp(lambda x, shares: plainly(x, shares, activation), x, shares)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    weights = jnp.cos(3 * expected)
    ours, wanted = pull_back(weights), pull_back_plainly(weights)
    assert jax.tree.structure(ours) == jax.tree.structure(wanted)
    for gradient, right in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        assert gradient.shape == right.shape
        np.testing.assert_allclose(gradient, right, atol=1e-5 * max(1.0, float(jnp.abs(right).max())))


def test_an_affine_scale_of_zero_still_has_a_gradient():
    x, shares = normal(2, 3, 3, 4), Shares(jnp.ones(4), jnp.ones(4), (jnp.zeros(1), jnp.zeros(1)))
    gradient = jax.grad(lambda shares: normalise(x, shares, jax.nn.relu, EPSILON).map.sum())(shares)
    relu_sum = plainly(x, shares._replace(affine=None), jax.nn.relu).sum()
    np.testing.assert_allclose(gradient.affine[0], [relu_sum], rtol=1e-5)
    np.testing.assert_array_equal(gradient.scale, 0)


def test_statistics_of_the_batch_have_no_gradient():
    x, shares = normal(2, 3, 3, 4), Shares(jnp.ones(4), jnp.zeros(4))

    def statistics(x):
        result = normalise(x, shares, jax.nn.relu, EPSILON)
        return result.mean.sum() + result.variance.sum()

    np.testing.assert_array_equal(jax.grad(statistics)(x), 0)


def test_bfloat16_maps_have_bfloat16_gradients():
    x, shares = normal(2, 3, 3, 4).astype(jnp.bfloat16), Shares(jnp.ones(4), jnp.zeros(4))
    y, pull_back = jax.vjp(lambda x: normalise(x, shares, jax.nn.silu, EPSILON).map, x)
    exact, pull_back_exact = jax.vjp(lambda x: plainly(x, shares, jax.nn.silu), x.astype(jnp.float32))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact, atol=1e-5)
    (gradient,), (wanted,) = pull_back(jnp.sin(y)), pull_back_exact(jnp.sin(exact))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), wanted, atol=0.01 * float(jnp.abs(wanted).max()))
