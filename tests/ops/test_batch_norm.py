import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import with_gradients
from tiny import drawn, normal

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
    x, activation = drawn(2, 5, 6, 4) * 2 + 3, ACTIVATIONS[name]
    affine = (np.float32([-0.7]), np.float32([0.2])) if with_affine else None
    learned = Learned(drawn(4), drawn(4) + np.float32(0.5), affine)

    def above(y):
        return jnp.cos(3 * y)

    y, *ours = with_gradients(lambda x, learned: normalise(x, learned, activation, EPSILON).map, above, x, learned)
    expected, *wanted = with_gradients(lambda x, learned: plainly(x, learned, activation), above, x, learned)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert jax.tree.structure(ours) == jax.tree.structure(wanted)
    for gradient, right in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        assert gradient.shape == right.shape
        np.testing.assert_allclose(gradient, right, atol=1e-5 * max(1.0, np.abs(right).max()))


def test_an_affine_scale_of_zero_still_has_a_gradient():
    x, learned = normal(2, 3, 3, 4), Learned(jnp.ones(4), jnp.ones(4), (jnp.zeros(1), jnp.zeros(1)))
    gradient = jax.jit(jax.grad(lambda learned: normalise(x, learned, jax.nn.relu, EPSILON).map.sum()))(learned)
    relu_sum = plainly(x, learned._replace(affine=None), jax.nn.relu).sum()
    np.testing.assert_allclose(gradient.affine[0], [relu_sum], rtol=1e-5)
    np.testing.assert_array_equal(gradient.scale, 0)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.silu])
def test_statistics_of_the_batch_have_no_gradient(activation):
    x, learned = normal(2, 3, 3, 4), Learned(jnp.ones(4), jnp.zeros(4), (jnp.ones(1), jnp.zeros(1)))

    def statistics(x):
        result = normalise(x, learned, activation, EPSILON)
        return result.mean.sum() + result.variance.sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(statistics))(x), 0)


def test_bfloat16_maps_have_bfloat16_gradients():
    x, learned = drawn(2, 3, 3, 4).astype(jnp.bfloat16), Learned(jnp.ones(4), jnp.zeros(4))
    y, gradient = with_gradients(lambda x: normalise(x, learned, jax.nn.silu, EPSILON).map, jnp.sin, x)
    exact, wanted = with_gradients(lambda x: plainly(x, learned, jax.nn.silu), jnp.sin, x.astype(np.float32))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact, atol=1e-5)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gradient, np.float32), wanted, atol=0.01 * np.abs(wanted).max())
