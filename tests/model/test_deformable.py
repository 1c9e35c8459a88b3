import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from dfine_jax.model.deformable import DeformableAttention
from dfine_jax.model.dfine import load
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.sampling import sample_bilinear, sample_nearest

SHAPES = ((4, 6), (2, 3))
POINTS = (3, 2)
CELLS = sum(height * width for height, width in SHAPES)


def inputs(batch: int = 2, queries: int = 4, heads: int = 2, channels: int = 3, spread: float = 0.8):
    """Values, locations (some far outside) and weights."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((batch, CELLS, heads, channels))
    locations = 0.5 + spread * (2 * rng.random((batch, queries, heads, sum(POINTS), 2)) - 1)
    weights = rng.random((batch, queries, heads, sum(POINTS)))
    return tuple(jnp.asarray(x, jnp.float32) for x in (values, locations, weights))


def by_loops(values, locations, weights, look):
    """``look(map, x, y)`` gives the value of one map (H, W, C) at a place in fractions of it."""
    batch, queries, heads, _ = weights.shape
    result = np.zeros((batch, queries, heads, values.shape[-1]))
    for b, q, h in np.ndindex(batch, queries, heads):
        start, point = 0, 0
        for (height, width), count in zip(SHAPES, POINTS, strict=True):
            level = values[b, start : start + height * width, h].reshape(height, width, -1)
            for p in range(point, point + count):
                result[b, q, h] += weights[b, q, h, p] * look(level, *locations[b, q, h, p])
            start, point = start + height * width, point + count
    return result


def bilinear(level, x, y):
    height, width, channels = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = np.zeros(channels)
    for i in range(height):
        for j in range(width):
            total += max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j)) * level[i, j]
    return total


def nearest(level, x, y):
    height, width, _ = level.shape
    row, column = int(y * height + 0.5), int(x * width + 0.5)
    return level[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]


@pytest.mark.parametrize("quick", [True, False])
def test_places_next_to_the_middle_of_a_cell_are_not_sampled_a_cell_away(quick, request):
    """However often and in whatever way XLA rounds such a place, cells and shares go with the same one."""
    side, queries = 16, 2000
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, side * side, 1, 1)).astype(np.float32)
    cells = rng.integers(0, side, (1, queries, 1, 4, 2))
    boxes = rng.uniform(0.2, 0.8, (1, queries, 1, 1, 4)).astype(np.float32)
    offsets = (((cells + 0.5) / side - boxes[..., :2]) / boxes[..., 2:]).astype(np.float32)
    weights = np.full((1, queries, 1, 4), 0.25, np.float32)

    def sample(values, boxes, offsets, weights):
        locations = boxes[..., :2] + offsets * boxes[..., 2:]
        return sample_bilinear(values, ((side, side),), locations, weights, (4,))

    options = {} if quick else request.getfixturevalue("optimised")
    result = jax.jit(sample, compiler_options=options)(values, boxes, offsets, weights)
    middle = values.reshape(side, side)[cells[..., 1], cells[..., 0]].mean(-1)
    np.testing.assert_allclose(result[..., 0], middle, atol=1e-4)


@pytest.mark.parametrize(("sample", "look"), [(sample_bilinear, bilinear), (sample_nearest, nearest)])
def test_sampling_is_that_of_plain_loops(sample, look):
    values, locations, weights = inputs()
    assert (locations < 0).any()
    assert (locations > 1).any()
    result = jax.jit(sample, static_argnums=(1, 4))(values, SHAPES, locations, weights, POINTS)
    expected = by_loops(*(np.asarray(x, np.float64) for x in (values, locations, weights)), look)
    np.testing.assert_allclose(result, expected, atol=2e-6)


def sample_map(sample, level: list[list[float]], places: list[tuple[float, float]]) -> np.ndarray:
    """Samples of one map of one channel."""
    level = np.asarray(level)
    values = jnp.asarray(level, jnp.float32).reshape(1, -1, 1, 1)
    locations = jnp.asarray(places, jnp.float32).reshape(1, -1, 1, 1, 2)
    weights = jnp.ones((1, len(places), 1, 1))
    return np.asarray(jax.jit(sample, static_argnums=(1, 4))(values, (level.shape,), locations, weights, (1,))).ravel()


def test_cell_centres_lie_at_halves():
    level = np.arange(1.0, 13.0).reshape(3, 4)
    centres = [((column + 0.5) / 4, (row + 0.5) / 3) for row in range(3) for column in range(4)]
    np.testing.assert_allclose(sample_map(sample_bilinear, level, centres), level.ravel(), rtol=1e-6)


def test_bilinear_samples_fade_to_zero_beyond_the_border():
    samples = {
        (0.5, 0.5): 2.5,  # the middle of all four
        (0.0, 0.25): 0.5,  # half of the left cell is all there is at the border
        (1.0, 0.25): 1.0,
        (0.25, 0.0): 0.5,
        (0.0, 0.0): 0.25,  # a corner
        (-0.25, 0.25): 0.0,  # a cell beyond
        (1.3, 0.25): 0.0,
        (0.25, -1e30): 0.0,
    }
    result = sample_map(sample_bilinear, [[1, 2], [3, 4]], list(samples))
    np.testing.assert_allclose(result, list(samples.values()), atol=1e-6)


def test_nearest_samples_take_the_border_beyond_it():
    samples = {
        (0.0, 0.0): 1.0,
        (0.24, 0.0): 1.0,
        (0.26, 0.0): 2.0,  # 0.26 * 2 + 0.5 = 1.02
        (0.99, 0.99): 4.0,
        (1.5, 0.0): 2.0,
        (-0.9, 0.0): 1.0,
        (-0.3, 7.0): 3.0,
        (1e30, -1e30): 2.0,
    }
    np.testing.assert_array_equal(sample_map(sample_nearest, [[1, 2], [3, 4]], list(samples)), list(samples.values()))


def test_gradients_of_bilinear_sampling():
    """Against central differences; places are kept away from cell centres, where the slope jumps."""
    values, locations, weights = inputs(batch=1, queries=2, spread=0.45)
    steps = jnp.asarray([[w, h] for (h, w), n in zip(SHAPES, POINTS, strict=True) for _ in range(n)], jnp.float32)
    locations = (jnp.floor(locations * steps) + 0.8) / steps

    @jax.jit
    def total(*x):
        sampled = sample_bilinear(x[0], SHAPES, x[1], x[2], POINTS)
        return jnp.vdot(sampled.ravel(), jnp.sin(jnp.arange(sampled.size)))

    point = (values, locations, weights)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*point)
    for i, gradient in enumerate(gradients):
        direction = jnp.asarray(np.random.default_rng(i).standard_normal(gradient.shape), jnp.float32)
        step = 1e-2 * direction / jnp.abs(direction).max()
        there, back = ((*point[:i], point[i] + sign * step, *point[i + 1 :]) for sign in (1, -1))
        slope = float(total(*there) - total(*back)) / 2
        assert float(jnp.vdot(gradient, step)) == pytest.approx(slope, rel=2e-3)


def test_bfloat16_maps_are_summed_in_float32():
    values, locations, weights = inputs()
    values = values.astype(jnp.bfloat16)
    sample = jax.jit(sample_bilinear, static_argnums=(1, 4))
    exact, low = (sample(x, SHAPES, locations, weights, POINTS) for x in (values.astype(jnp.float32), values))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, exact, atol=1e-6)


@pytest.mark.parametrize("method", ["default", "discrete"])
def test_attention_looks_around_the_box(method):
    config = tiny_config(points=POINTS, method=method, offset_scale=0.7).decoder
    width, heads, total = config.width, config.heads, sum(POINTS)
    rng = np.random.default_rng(1)
    attention = DeformableAttention(config, width, compute=Compute(), rng=rng)
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in {
        "sampling_offsets.kernel": (width, 2 * heads * total), "sampling_offsets.bias": (2 * heads * total,),
        "attention_weights.kernel": (width, heads * total), "attention_weights.bias": (heads * total,),
    }.items()}  # fmt: skip
    load(attention, {name: jnp.asarray(x) for name, x in values.items()})
    query, memory = rng.standard_normal((2, 4, width)), rng.standard_normal((2, CELLS, width))
    boxes = rng.uniform(0.1, 0.6, (2, 4, 4))

    offsets = query @ values["sampling_offsets.kernel"] + values["sampling_offsets.bias"]
    offsets = offsets.reshape(2, 4, heads, total, 2) / np.repeat(POINTS, POINTS)[:, None]
    logits = (query @ values["attention_weights.kernel"] + values["attention_weights.bias"]).reshape(2, 4, heads, total)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    places = boxes[:, :, None, None, :2] + 0.7 * offsets * boxes[:, :, None, None, 2:]
    maps = memory.reshape(2, CELLS, heads, width // heads)
    expected = by_loops(maps, places, weights, bilinear if method == "default" else nearest)

    result = attention(*(jnp.asarray(x, jnp.float32) for x in (query, boxes, memory)), SHAPES)
    np.testing.assert_allclose(result, expected.reshape(2, 4, width), atol=1e-5)
