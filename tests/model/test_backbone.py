from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY, drawn, tiny_pictures

from dfine_jax.config import DFineConfig
from dfine_jax.model.dfine import load, variables
from dfine_jax.model.hgnetv2 import Block, HGNetV2
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.resampling import max_pool2x2

COMMON = dict(compute=Compute(), rng=np.random.default_rng(0))


def test_maximum_of_four():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = [[padded[:, i : i + 2, j : j + 2].max((1, 2)) for j in range(4)] for i in range(3)]
    np.testing.assert_array_equal(max_pool2x2(jnp.asarray(x)), np.asarray(expected).transpose(2, 0, 1, 3))


@pytest.mark.parametrize("residual", [False, True])
def test_block_joins_its_input_and_every_output(residual):
    stage = replace(TINY.backbone.stages[1], in_channels=16, layers=2)
    block = Block(16, stage, TINY.backbone, residual=residual, **COMMON)

    @nnx.jit
    def both(block, x):
        first = block.layers[0](x)
        return block(x), block.excite(block.squeeze(x, first, block.layers[1](first))) + (x if residual else 0)

    np.testing.assert_allclose(*both(block, drawn(1, 4, 6, 16)), atol=1e-7)


def test_only_later_blocks_of_a_stage_are_residual():
    stages = HGNetV2(DFineConfig.medium().backbone, compute=Compute(), rng=None).stages
    assert [[block.residual for block in stage.blocks] for stage in stages] == [
        [False],
        [False],
        [False, True, True],
        [False],
    ]


@pytest.mark.parametrize(
    ("size", "strides", "channels"),
    [("n", (16, 32), (512, 1024)), ("s", (8, 16, 32), (256, 512, 1024)), ("x", (8, 16, 32), (512, 1024, 2048))],
)
def test_shapes_of_the_maps(size, strides, channels):
    graph, state = nnx.split(HGNetV2(DFineConfig.from_size(size).backbone, compute=Compute(), rng=None))
    images = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.float32)
    maps = jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, images)
    expected = [(2, 96 // s, 160 // s, c) for s, c in zip(strides, channels, strict=True)]
    assert [x.shape for x in maps] == expected


def test_stages_that_no_map_needs_are_left_out():
    config = replace(TINY.backbone, out_stages=(1,))
    whole, early = (HGNetV2(c, compute=Compute(), rng=np.random.default_rng(0)) for c in (TINY.backbone, config))
    x = tiny_pictures(1, 32, 32)
    (only,), expected = jax.jit(lambda x: (early(x), whole.stages[0](whole.stem(x))))(x)
    np.testing.assert_allclose(only, expected, atol=1e-5)


def test_frozen_norms_keep_their_statistics_in_training():
    config = replace(TINY.backbone, frozen_norms=True)
    backbone = HGNetV2(config, compute=Compute(), rng=np.random.default_rng(0))
    params, batch_stats = variables(backbone)
    load(backbone, {**params, **{name: x + 0.3 for name, x in batch_stats.items()}})
    before = variables(backbone)[1]
    run = nnx.jit(lambda backbone, x, train: backbone(x, train), static_argnums=2)
    x = tiny_pictures(1, 32, 32)
    for training, inference in zip(run(backbone, x, True), run(backbone, x, False), strict=True):
        np.testing.assert_allclose(training, inference, atol=1e-6)
    after = variables(backbone)[1]
    assert all(np.array_equal(after[name], before[name]) for name in before)
