from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY, normal

from dfine_jax.config import DFineConfig
from dfine_jax.model.hybrid_encoder import (
    AIFI,
    CSPLayer,
    HybridEncoder,
    RepNCSPELAN4,
    RepVGG,
    SCDown,
    position_table,
)
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.resampling import upsample2x


def common() -> dict:
    return dict(compute=Compute(), rng=np.random.default_rng(0))


def test_position_table_goes_row_by_row():
    table = position_table(2, 3, 8, 100.0)
    assert table.shape == (6, 8)
    for row in range(2):
        for column in range(3):
            angles = [row, row / 10], [column, column / 10]  # frequencies 100**0 and 100**-0.5
            expected = [f(angle) for part in angles for f in (np.sin, np.cos) for angle in part]
            np.testing.assert_allclose(table[row * 3 + column], expected, atol=1e-7)


def test_attention_sees_where_cells_are():
    """Cells of equal content, so that a row- and a column-major table would give different maps."""
    encoder = replace(TINY.encoder, position_temperature=100.0)
    aifi = AIFI(encoder, 1e-5, **common())
    x = normal(1, 1, 1, 16) * jnp.ones((1, 2, 3, 16))
    y = np.asarray(aifi(x))
    tokens = x.reshape(1, 6, 16)
    expected = aifi.layers[0](tokens, jnp.asarray(position_table(2, 3, 16, 100.0)))
    np.testing.assert_allclose(y.reshape(1, 6, 16), expected, atol=1e-6)
    changed = np.asarray(aifi(x.at[0, 1, 2].add(3.0)))
    assert (np.abs(changed - y).max(-1) > 1e-6).all()  # every cell sees every other


def test_encoder_layer_normalises_after_adding():
    aifi = AIFI(TINY.encoder, 1e-5, **common())
    (layer,) = aifi.layers
    x, position = normal(2, 6, 16), jnp.asarray(position_table(2, 3, 16, 1e4))
    attended = layer.norm1(x + layer.self_attention(x, position))
    np.testing.assert_allclose(layer(x, position), layer.norm2(attended + layer.mlp(attended)), atol=1e-6)
    assert float(jnp.abs(layer(x, position).mean(-1)).max()) < 1e-5


def test_the_coarser_map_is_upsampled_before_it_is_fused():
    encoder = HybridEncoder(TINY, **common())
    maps = tuple(normal(1, side, 2 * side, c) for side, c in zip((8, 4, 2), TINY.backbone.out_channels, strict=False))
    seen = []
    for block in encoder.fpn:
        block.conv1 = Seen(block.conv1, seen)
    given = jax.jit(lambda maps: (encoder(maps), list(seen))[1])(maps)
    assert len(given) == len(encoder.fpn)
    for coarse, fine in jax.device_get(given):
        assert coarse.shape == fine.shape
        np.testing.assert_array_equal(coarse[:, ::2, ::2], coarse[:, 1::2, 1::2])


class Seen(nnx.Module):
    """Notes what a layer is given."""

    def __init__(self, layer, seen):
        self.layer, self._seen = layer, nnx.static(seen)

    def __call__(self, *maps, train=False):
        self._seen.append(maps)
        return self.layer(*maps, train=train)


def test_rep_vgg_adds_both_branches_before_the_activation():
    block = RepVGG(4, activation="relu", epsilon=1e-5, **common())
    x = normal(1, 5, 6, 4)
    np.testing.assert_array_equal(block(x), jax.nn.relu(block.conv3x3(x) + block.conv1x1(x)))
    assert float(block(x).min()) == 0.0


def test_csp_layer_adds_its_paths():
    layer = CSPLayer(6, 4, 2, "silu", epsilon=1e-5, **common())
    x = normal(1, 3, 4, 6)
    long_way = layer.blocks[1](layer.blocks[0](layer.conv1(x)))
    np.testing.assert_array_equal(layer(x), long_way + layer.conv2(x))


def test_elan_merges_all_on_the_way():
    block = RepNCSPELAN4(TINY.encoder, epsilon=1e-5, **common())
    x = normal(1, 3, 4, 32)
    halves = block.conv1(x)
    first = block.conv2(block.csp1(halves[..., 16:]))
    second = block.conv3(block.csp2(first))
    expected = block.conv4(jnp.concatenate([halves, first, second], axis=-1))
    np.testing.assert_allclose(block(x[..., :16], x[..., 16:]), expected, atol=1e-7)  # a sum of products on CPUs


def test_downsampling_mixes_then_halves():
    down = SCDown(4, epsilon=1e-5, **common())
    x = normal(1, 6, 8, 4)
    assert down(x).shape == (1, 3, 4, 4)
    np.testing.assert_array_equal(down(x), down.depthwise(down.pointwise(x)))
    assert down.depthwise.kernel[...].shape == (3, 3, 1, 4)


@pytest.mark.parametrize("size", ["n", "s"])
def test_maps_keep_their_sizes_and_get_one_width(size):
    config = DFineConfig.from_size(size)
    graph, state = nnx.split(HybridEncoder(config, compute=Compute(), rng=None))
    sizes = [(12, 20), (6, 10), (3, 5)][-len(config.backbone.out_stages) :]
    maps = [
        jax.ShapeDtypeStruct((2, *hw, channels), jnp.float32)
        for hw, channels in zip(sizes, config.backbone.out_channels, strict=True)
    ]
    outputs = jax.eval_shape(lambda state, *maps: nnx.merge(graph, state)(maps), state, *maps)
    assert [x.shape for x in outputs] == [(2, *hw, config.encoder.width) for hw in sizes]


def with_encoder(**changes) -> HybridEncoder:
    return HybridEncoder(replace(TINY, encoder=replace(TINY.encoder, **changes)), **common())


MAPS = (normal(1, 4, 6, 16), normal(1, 2, 3, 24))


def test_the_whole_encoder_is_its_parts_in_order():
    encoder = with_encoder()
    outputs = jax.jit(lambda maps: encoder(maps))(MAPS)

    @jax.jit
    def by_hand(maps):
        fine, coarse = (project(x) for project, x in zip(encoder.input_proj, maps, strict=True))
        top = encoder.lateral[0](encoder.attention[0](coarse))
        down = encoder.fpn[0](upsample2x(top), fine)
        return down, encoder.pan[0](encoder.downsample[0](down), top)

    for ours, expected in zip(outputs, by_hand(MAPS), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_attention_only_on_the_levels_asked_for():
    both, none = with_encoder(attention_levels=(0, 1)), with_encoder(attention_levels=())
    assert len(both.attention) == 2
    assert len(none.attention) == 0
    assert len(with_encoder(attention_layers=2).attention[0].layers) == 2
    for encoder in (both, none):
        assert [x.shape for x in jax.eval_shape(encoder, MAPS)] == [(1, 4, 6, 16), (1, 2, 3, 16)]


def test_a_single_map():
    config = replace(
        TINY, backbone=replace(TINY.backbone, out_stages=(3,)), encoder=replace(TINY.encoder, attention_levels=(0,))
    )
    encoder = HybridEncoder(config, **common())
    (output,) = encoder(MAPS[1:])
    np.testing.assert_allclose(output, encoder.attention[0](encoder.input_proj[0](MAPS[1])), atol=1e-6)
