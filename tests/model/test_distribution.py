from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.model.distribution import (
    box_to_distance,
    distance_to_box,
    integral,
    inverse_sigmoid,
    weighting_function,
)
from dfine_jax.training.losses import two_hot

REFERENCE = Path(__file__).parents[1] / "reference_numbers" / "criterion.npz"


@pytest.mark.parametrize("reg_scale", [4.0, 8.0])
def test_weighting_function_is_the_formula(reg_scale):
    values = jax.jit(weighting_function, static_argnums=2)(jnp.array([0.5]), jnp.array([reg_scale]), 32)
    step = (0.5 * reg_scale + 1) ** (2 / 30)
    inner = [step**i - 1 for i in range(1, 16)]
    expected = [-reg_scale, *(-w for w in reversed(inner)), 0, *inner, reg_scale]
    assert values.shape == (33,)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_array_equal(values, -values[::-1])


def test_weighting_function_takes_plain_numbers_and_other_sizes():
    np.testing.assert_allclose(weighting_function(0.5, 4, 4), [-4, -2, 0, 2, 4], rtol=1e-6)


def test_integral_is_the_mean_of_each_edge():
    project = weighting_function(0.5, 4.0, 32)
    certain = jnp.stack([jax.nn.one_hot(n, 33) * 1e4 for n in (0, 16, 20, 32)]).reshape(1, 132)
    np.testing.assert_allclose(integral(certain, project)[0], project[jnp.array([0, 16, 20, 32])], atol=1e-6)
    np.testing.assert_allclose(integral(jnp.zeros((2, 3, 132)), project), np.zeros((2, 3, 4)), atol=1e-6)
    corners = np.random.default_rng(0).standard_normal((5, 4, 33))
    probabilities = np.exp(corners) / np.exp(corners).sum(-1, keepdims=True)
    expected = probabilities @ np.asarray(project, np.float64)
    np.testing.assert_allclose(integral(jnp.asarray(corners.reshape(5, 132)), project), expected, atol=1e-6)


def test_everything_is_float32_even_from_bfloat16():
    project = weighting_function(jnp.bfloat16(0.5), jnp.bfloat16(4.0), 32)
    distance = integral(jnp.ones((2, 132), jnp.bfloat16), project)
    box = distance_to_box(jnp.full((2, 4), 0.5, jnp.bfloat16), distance.astype(jnp.bfloat16), jnp.bfloat16(4))
    arrays = project, distance, box, inverse_sigmoid(box.astype(jnp.bfloat16))
    assert {array.dtype for array in arrays} == {jnp.dtype("float32")}


def test_boxes_of_the_original():
    numbers = np.load(REFERENCE)
    project = weighting_function(0.5, 4.0, 32)
    for layer in range(3):
        distance = integral(jnp.asarray(numbers[f"output.layer_{layer}.pred_corners"]), project)
        boxes = distance_to_box(jnp.asarray(numbers[f"output.layer_{layer}.ref_points"]), distance, 4.0)
        np.testing.assert_allclose(boxes, numbers[f"output.layer_{layer}.pred_boxes"], atol=2e-7)


def test_distance_to_box_moves_edges_outwards():
    reference = jnp.array([0.5, 0.4, 0.2, 0.4])
    np.testing.assert_allclose(distance_to_box(reference, jnp.zeros(4), 4.0), reference, atol=1e-7)
    # One unit is w / 4 = 0.05 wide and h / 4 = 0.1 high.
    moved = distance_to_box(reference, jnp.array([1.0, 0.0, 2.0, -1.0]), 4.0)
    np.testing.assert_allclose(moved, [0.525, 0.35, 0.35, 0.3], atol=1e-6)
    crossed = distance_to_box(reference, jnp.array([-4.0, 0.0, -4.0, 0.0]), 4.0)
    np.testing.assert_allclose(crossed, [0.5, 0.4, -0.2, 0.4], atol=1e-6)


def test_box_to_distance_is_the_inverse():
    reference, box = jax.random.uniform(jax.random.key(0), (2, 50, 4), minval=0.05)
    distance = box_to_distance(reference, box, jnp.array([8.0]))
    np.testing.assert_allclose(distance_to_box(reference, distance, jnp.array([8.0])), box, atol=2e-6)


def test_distance_from_a_box_without_size_is_finite():
    box = jnp.array([0.5, 0.5, 0.1, 0.0])
    assert np.isfinite(box_to_distance(jnp.zeros(4), box, 4.0)).all()


def test_two_hot_has_the_distance_as_its_mean():
    project = weighting_function(0.5, 4.0, 32)
    distance = jnp.concatenate([jnp.linspace(-4, 4, 101), project])
    placed = two_hot(distance, project)
    np.testing.assert_allclose(placed @ project, distance, atol=1e-5)
    np.testing.assert_allclose(placed.sum(-1), 1, atol=1e-6)
    assert (placed >= 0).all()
    for row in np.asarray(placed):
        (used,) = np.nonzero(row)
        assert len(used) <= 2
        assert used[-1] - used[0] <= 1


def test_two_hot_outside_the_range_is_the_end_bin():
    project = weighting_function(0.5, 4.0, 32)
    placed = np.asarray(two_hot(jnp.array([-1e30, -4.01, 4.01, 1e30]), project))
    np.testing.assert_array_equal(placed, np.eye(33)[[0, 0, 32, 32]])


def test_inverse_sigmoid():
    x = jnp.array([0.01, 0.3, 0.5, 0.99])
    np.testing.assert_allclose(jax.nn.sigmoid(inverse_sigmoid(x)), x, rtol=1e-5)
    limits = inverse_sigmoid(jnp.array([-1.0, 0.0, 1.0, 2.0]))
    np.testing.assert_allclose(limits, [-11.512925, -11.512925, 11.512925, 11.512925], rtol=1e-6)


def test_gradients_are_finite_where_values_are_extreme():
    project = weighting_function(0.5, 4.0, 32)

    def total(corners, reference):
        return distance_to_box(reference, integral(corners, project), 4.0).sum() + inverse_sigmoid(reference).sum()

    corners = np.zeros((3, 4, 33), np.float32)
    corners[0], corners[1, :, ::2] = 1e30, -1e30
    reference = np.float32([[0.0] * 4, [1.0] * 4, [1e-20] * 4])
    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(corners.reshape(3, 132), reference):
        assert np.isfinite(gradient).all()


def test_distribution_learns_through_the_box():
    project = weighting_function(0.5, 4.0, 32)
    reference, wanted = jnp.array([0.5, 0.5, 0.2, 0.2]), jnp.array([0.52, 0.48, 0.26, 0.22])

    def error(corners):
        return jnp.abs(distance_to_box(reference, integral(corners, project), 4.0) - wanted).sum()

    corners = jnp.zeros(132)
    lower = corners - 0.5 * jax.jit(jax.grad(error))(corners)
    assert error(lower) < error(corners)
