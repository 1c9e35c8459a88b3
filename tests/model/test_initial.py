"""Fresh weights are those of the original release."""

import math
import re

import jax
import numpy as np
import pytest
from tiny import TINY, tiny_config

from dfine_jax.model.dfine import DFine, load, variables

CONFIG = tiny_config(learned_queries=True, points=(2, 3, 1), width=32)  # projected maps and a level of its own


@pytest.fixture(scope="module")
def fresh() -> dict[str, np.ndarray]:
    params, batch_stats = variables(DFine(CONFIG, rng=np.random.default_rng(0)))
    return {name: np.asarray(x) for name, x in {**params, **batch_stats}.items()}


def matching(values: dict[str, np.ndarray], pattern: str) -> dict[str, np.ndarray]:
    found = {name: x for name, x in values.items() if re.fullmatch(pattern, name)}
    assert found, pattern
    return found


def test_everything_is_float32(fresh):
    assert {x.dtype for x in fresh.values()} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (r"decoder\.(encoder_score|class_heads\.\d)\.bias", -math.log(99)),
        (r"decoder\.(encoder_box|pre_box|box_heads\.\d)\.layers\.2\.(kernel|bias)", 0),
        (r"decoder\.quality\.\d\.layers\.1\.(kernel|bias)", 0),
        (r"decoder\.layers\.\d\.cross_attention\.sampling_offsets\.kernel", 0),
        (r"decoder\.layers\.\d\.cross_attention\.attention_weights\.(kernel|bias)", 0),
        (r"decoder\.layers\.\d\.gateway\.gate\.(kernel|bias)", 0),
        (r".*\.self_attention\.\w+\.bias", 0),
        (r".*(norm|norm1|norm2|affine|encoder_norm)\.scale", 1),
        (r".*(norm|norm1|norm2|affine|encoder_norm)\.bias", 0),
        (r".*\.mean", 0),
        (r".*\.var", 1),
        (r"decoder\.up", 0.5),
        (r"decoder\.reg_scale", 4),
    ],
)
def test_constants(fresh, pattern, value):
    for name, x in matching(fresh, pattern).items():
        np.testing.assert_allclose(x, value, rtol=1e-6, err_msg=name)


def xavier(inputs: int, outputs: int) -> float:
    return math.sqrt(6 / (inputs + outputs))


WIDTH, ENCODER = CONFIG.decoder.width, CONFIG.encoder.width


@pytest.mark.parametrize(
    ("pattern", "bound"),
    [
        (r"decoder\.encoder_proj\.kernel", xavier(WIDTH, WIDTH)),
        (r"decoder\.query_position\.layers\.0\.kernel", xavier(4, 2 * WIDTH)),
        (r"decoder\.query_position\.layers\.1\.kernel", xavier(2 * WIDTH, WIDTH)),
        (r"decoder\.input_proj\.[01]\.kernel", xavier(ENCODER, WIDTH)),
        (r"decoder\.input_proj\.2\.kernel", xavier(9 * ENCODER, 9 * WIDTH)),
        (r"decoder\.learned_content", xavier(CONFIG.decoder.queries, WIDTH)),
        (r"decoder\.layers\.\d\.self_attention\.(query|key|value)\.kernel", xavier(WIDTH, 3 * WIDTH)),
        (r"decoder\.layers\.\d\.self_attention\.out\.kernel", WIDTH**-0.5),
        (r"decoder\.class_heads\.\d\.kernel", WIDTH**-0.5),
        (r"decoder\.box_heads\.\d\.layers\.[01]\.(kernel|bias)", WIDTH**-0.5),
        (r"encoder\.input_proj\.0\.kernel", 16**-0.5),
        (r"encoder\.fpn\.0\.conv2\.kernel", (9 * 8) ** -0.5),
        (r"backbone\.stem\.stem1\.kernel", 27**-0.5),
        (r"backbone\.stages\.2\.blocks\.\d\.layers\.0\.depthwise\.kernel", 25**-0.5),
    ],
)
def test_uniform_values_fill_their_range(fresh, pattern, bound):
    values = np.concatenate([x.ravel() for x in matching(fresh, pattern).values()])
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > 0.85 * bound
    assert abs(values.std() / (bound / math.sqrt(3)) - 1) < 0.2


def test_sampling_points_lie_in_circles(fresh):
    """Head by head in another direction, the points of a level one step further each."""
    heads = CONFIG.decoder.heads
    angles = 2 * math.pi * np.arange(heads) / heads
    steps = [*range(1, 3), *range(1, 4), 1]
    for x in matching(fresh, r"decoder\.layers\.\d\.cross_attention\.sampling_offsets\.bias").values():
        offsets = x.reshape(heads, len(steps), 2)
        np.testing.assert_allclose(np.abs(offsets).max(-1), np.broadcast_to(steps, (heads, len(steps))), rtol=1e-6)
        directions = np.arctan2(offsets[..., 1], offsets[..., 0])
        np.testing.assert_allclose(np.cos(directions - angles[:, None]), 1, atol=1e-6)


def test_class_embedding_has_a_zero_for_padding(fresh):
    table = fresh["decoder.denoising_embed"]
    assert table.shape == (CONFIG.num_classes + 1, WIDTH)
    np.testing.assert_array_equal(table[-1], 0)
    assert abs(table[:-1].std() - 1) < 0.2
    assert abs(table[:-1].mean()) < 0.3


def test_no_embedding_without_denoising():
    params, _ = variables(DFine(tiny_config(denoising_queries=0)))
    assert "decoder.denoising_embed" not in params


def test_the_same_generator_gives_the_same_model():
    first, again, other = (variables(DFine(TINY, rng=np.random.default_rng(seed)))[0] for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["decoder.encoder_proj.kernel"], other["decoder.encoder_proj.kernel"])


def test_without_a_generator_there_are_only_shapes_until_loaded(fresh):
    model = DFine(CONFIG)
    params, batch_stats = variables(model)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in {**params, **batch_stats}.values())
    assert {name: x.shape for name, x in {**params, **batch_stats}.items()} == {n: x.shape for n, x in fresh.items()}
    load(model, {name: jax.device_put(x) for name, x in fresh.items()})
    assert all(np.array_equal(x, fresh[name]) for name, x in variables(model)[0].items())
