from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY, tiny_config, tiny_model

from dfine_jax.config import DFineConfig
from dfine_jax.model.decoder import Decoder, anchor_table
from dfine_jax.model.dfine import load, variables
from dfine_jax.model.distribution import distance_to_box, integral, inverse_sigmoid, weighting_function
from dfine_jax.model.outputs import DenoisingQueries, Detected, QueryPredictions, TrainingOutput
from dfine_jax.ops.compute import Compute

QUERIES, CLASSES = TINY.decoder.queries, TINY.num_classes
SHAPES = ((8, 12), (4, 6))


def maps(batch: int = 2, seed: int = 0, width: int = TINY.encoder.width) -> tuple[jnp.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.standard_normal((batch, *shape, width)), jnp.float32) for shape in SHAPES)


def tiny_decoder(config: DFineConfig = TINY) -> Decoder:
    return tiny_model(config).decoder


@partial(nnx.jit, static_argnames="train")
def run(decoder: Decoder, *inputs, train: bool = False) -> Detected | TrainingOutput:
    return decoder(*inputs, train=train)


def assert_close(tree, other, atol: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), tree, other)


# Anchors


def test_anchors_are_cell_centres_of_every_level():
    anchors, valid = anchor_table(SHAPES)
    assert anchors.shape == (120, 4)
    assert valid.all()
    boxes = 1 / (1 + np.exp(-anchors.astype(np.float64)))
    np.testing.assert_allclose(boxes[0], [0.5 / 12, 0.5 / 8, 0.05, 0.05], rtol=1e-6)
    np.testing.assert_allclose(boxes[12 * 3 + 7], [7.5 / 12, 3.5 / 8, 0.05, 0.05], rtol=1e-6)  # row 3, column 7
    np.testing.assert_allclose(boxes[96 + 6 * 2 + 5], [5.5 / 6, 2.5 / 4, 0.1, 0.1], rtol=1e-6)


def test_anchors_at_the_border_are_not_used():
    """0.5 / 50 is 0.01 to the bit, and that is already too near."""
    for cells, first in ((49, True), (50, False), (51, False)):
        anchors, valid = anchor_table(((1, cells),))
        assert valid.ravel().tolist() == [first, *[True] * (cells - 2), first]
        assert (anchors[~valid.ravel()] == np.finfo(np.float32).max).all()


def test_anchors_of_levels_too_coarse_for_them_are_not_used():
    """On the sixth level they would be 1.6 pictures wide."""
    _, valid = anchor_table(((2, 2),) * 6)
    assert valid.ravel().tolist() == [True] * 20 + [False] * 4


# Levels


def test_levels_are_flattened_one_after_another():
    x = maps()
    memory, shapes = tiny_decoder().flatten(x)
    assert shapes == SHAPES
    np.testing.assert_array_equal(memory[:, 12 * 3 + 7], x[0][:, 3, 7])
    np.testing.assert_array_equal(memory[:, 96 + 6 * 2 + 5], x[1][:, 2, 5])


def test_maps_of_the_decoders_width_are_not_projected():
    decoder = tiny_decoder(tiny_config(points=(2, 3, 1, 2)))
    assert len(decoder.input_proj) == 0
    memory, shapes = decoder.flatten(maps())
    assert shapes == (*SHAPES, (4, 6), (4, 6))  # the coarsest map once more, as it is
    np.testing.assert_array_equal(memory[:, 120:144], memory[:, 96:120])


def test_other_maps_are_projected_and_levels_made_from_the_coarsest():
    decoder = tiny_decoder(tiny_config(width=32, points=(2, 3, 1, 2)))
    x = maps()
    memory, shapes = decoder.flatten(x)
    assert shapes == (*SHAPES, (2, 3), (2, 3))
    sources = (*x, x[1], x[1])
    expected = [project(source).reshape(2, -1, 32) for project, source in zip(decoder.input_proj, sources, strict=True)]
    np.testing.assert_allclose(memory, jnp.concatenate(expected, axis=1), atol=1e-6)
    assert [project.kernel.shape[:2] for project in decoder.input_proj] == [(1, 1), (1, 1), (3, 3), (3, 3)]


# Choice of queries


def test_queries_are_the_cells_of_the_best_class():
    decoder = tiny_decoder()
    memory, shapes = decoder.flatten(maps())

    @nnx.jit
    def parts(decoder, memory):
        encoded = decoder.encoder_norm(decoder.encoder_proj(memory))
        return decoder.select(memory, shapes), encoded, decoder.encoder_score(encoded), decoder.encoder_box(encoded)

    selection, encoded, logits, offsets = map(jax.device_get, parts(decoder, memory))
    anchors, _ = anchor_table(shapes)
    for picture in range(2):
        best = np.argsort(-logits[picture].max(-1), kind="stable")[:QUERIES]
        np.testing.assert_array_equal(selection.indices[picture], best)
        np.testing.assert_allclose(selection.content[picture], encoded[picture, best], atol=1e-5)
        np.testing.assert_allclose(selection.logits[picture], logits[picture, best], atol=1e-5)
        boxes = offsets[picture, best] + anchors[best]
        np.testing.assert_allclose(selection.boxes_unact[picture], boxes, atol=1e-5)
    np.testing.assert_allclose(selection.scores, logits.max(-1), atol=1e-5)


def test_cells_without_a_valid_anchor_count_as_empty():
    decoder = tiny_decoder()
    shapes = ((1, 60),)
    memory = jnp.asarray(np.random.default_rng(0).standard_normal((1, 60, 16)), jnp.float32)
    changed = memory.at[:, [0, -1]].add(100.0)
    select = nnx.jit(lambda decoder, memory: decoder.select(memory, shapes).scores)
    np.testing.assert_array_equal(select(decoder, memory), select(decoder, changed))


def test_too_few_cells():
    decoder = tiny_decoder(tiny_config(queries=121))
    with pytest.raises(ValueError, match=r"120 cells, too few for 121 queries: use a larger picture"):
        decoder(maps())


def test_learned_queries_replace_the_content_and_not_the_boxes():
    decoder = tiny_decoder(tiny_config(learned_queries=True, layers=1))
    x = maps()

    @nnx.jit
    def both(decoder, x):
        memory, shapes = decoder.flatten(x)
        selection = decoder.select(memory, shapes)
        content = jnp.broadcast_to(decoder.learned_content[...], selection.content.shape)
        refined, _ = decoder.refine(content, jax.nn.sigmoid(selection.boxes_unact), memory, shapes)
        return decoder(x), Detected(refined.logits, refined.boxes, selection.indices)

    assert_close(*both(decoder, x))


# Refinement


def refined_by_hand(decoder: Decoder, x: tuple[jnp.ndarray, ...]) -> list[tuple[jnp.ndarray, ...]]:
    """(logits, boxes, corners) of every layer, the plain ones of layer 0 first; no gradients, no mask."""
    config = decoder.config
    memory, shapes = decoder.flatten(x)
    selection = decoder.select(memory, shapes)
    project = weighting_function(decoder.up[...], decoder.reg_scale[...], config.bins)
    hidden, reference = selection.content, jax.nn.sigmoid(selection.boxes_unact)
    results, previous, corners = [], 0.0, 0.0
    for i, layer in enumerate(decoder.layers):
        position = jnp.clip(decoder.query_position(reference), -10, 10)
        if i > config.last_layer:  # nearest-neighbour interpolation along the channels
            position = jnp.repeat(position, config.wide // config.width, -1)
            if hidden.shape[-1] != config.wide:
                hidden = jnp.repeat(hidden, config.wide // config.width, -1)
                previous, memory = hidden, jnp.repeat(memory, config.wide // config.width, -1)
        hidden = layer(hidden, position, reference, memory, shapes)
        plain = decoder.class_heads[i](hidden)
        if i == 0:
            initial = jax.nn.sigmoid(decoder.pre_box(hidden) + inverse_sigmoid(reference))
            results.append((plain, initial))
        corners = decoder.box_heads[i](hidden + previous) + corners
        boxes = distance_to_box(initial, integral(corners, project), decoder.reg_scale[...])
        probabilities = jax.nn.softmax(corners.reshape(*corners.shape[:2], 4, -1), -1)
        best = jnp.sort(probabilities, -1)[..., ::-1][..., : config.quality_top]
        statistics = jnp.concatenate([best, best.mean(-1, keepdims=True)], -1).reshape(*corners.shape[:2], -1)
        results.append((plain + decoder.quality[i](statistics), boxes, corners))
        reference, previous = boxes, hidden
    return results


@pytest.mark.parametrize(
    "changes", [{}, {"layers": 3, "eval_layer": 1, "layer_scale": 2}, {"eval_layer": 0}], ids=["last", "wide", "first"]
)
def test_layers_are_the_parts_in_order(changes):
    """In training every layer, at inference the one that counts."""
    decoder = tiny_decoder(tiny_config(**changes))

    @nnx.jit
    def everything(decoder, x):
        selection = decoder.select(*decoder.flatten(x))
        encoder = selection.logits, jax.nn.sigmoid(selection.boxes_unact)
        return refined_by_hand(decoder, x), encoder, decoder(x, train=True), decoder(x)

    (pre, *layers), encoder, output, detected = everything(decoder, maps())
    assert len(output.queries.layers) == decoder.config.layers
    assert_close(tuple(output.queries.pre), pre)
    assert_close([tuple(layer) for layer in output.queries.layers], layers, atol=5e-5)
    assert_close(output.queries.initial_boxes, pre[1])
    assert_close(tuple(output.encoder), encoder)
    assert output.denoising is None
    logits, boxes, _ = layers[decoder.config.last_layer]
    assert_close((detected.logits, detected.boxes), (logits, boxes), atol=2e-5)


def test_wide_layers_are_wide():
    decoder = Decoder(tiny_config(layers=3, eval_layer=1, layer_scale=2), compute=Compute(), rng=None)
    shapes = {name: x.shape for name, x in variables(decoder)[0].items()}
    assert shapes["layers.1.self_attention.query.kernel"] == (16, 16)
    assert shapes["layers.2.self_attention.query.kernel"] == (32, 32)
    assert shapes["layers.2.mlp.layers.0.kernel"] == (32, 48)
    assert shapes["class_heads.2.kernel"] == (32, CLASSES)
    assert shapes["box_heads.2.layers.2.kernel"] == (32, 4 * 9)


def test_reg_scale_and_up_are_the_weights_own():
    decoder = tiny_decoder()
    x = maps()
    before = run(decoder, x)
    params, batch_stats = variables(decoder)
    load(decoder, {**params, **batch_stats, "reg_scale": jnp.asarray([8.0])})
    after = run(decoder, x)
    assert float(jnp.abs(before.boxes - after.boxes).max()) > 1e-4


# Denoising


def denoising(slots: int = 6, batch: int = 2, seed: int = 0) -> DenoisingQueries:
    """Two groups of which neither sees the other; ordinary queries see none."""
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(slots) // (slots // 2), np.full(QUERIES, -1)])
    blocked = (group[:, None] != group) & (group >= 0)
    return DenoisingQueries(
        labels=jnp.asarray(rng.integers(0, CLASSES + 1, (batch, slots)), jnp.int32),
        boxes_unact=jnp.asarray(rng.standard_normal((batch, slots, 4)), jnp.float32),
        blocked=jnp.asarray(blocked),
        box=jnp.zeros((batch, slots), jnp.int32),
        positive=jnp.ones((batch, slots), bool),
        used=jnp.ones(slots, bool),
        groups=jnp.asarray(2, jnp.int32),
    )


def test_denoising_queries_influence_only_their_group():
    decoder = tiny_decoder()
    x, first, second = maps(), denoising(), denoising(seed=1)
    plain, output, other = (run(decoder, x, queries, train=True) for queries in (None, first, second))
    assert_close(output.queries, plain.queries)
    assert_close(output.encoder, plain.encoder)
    assert_close(output.queries, other.queries, atol=0)
    assert [layer.logits.shape for layer in output.denoising.layers] == [(2, 6, CLASSES)] * 2
    assert float(jnp.abs(output.denoising.layers[1].logits - other.denoising.layers[1].logits).min()) > 0

    half = first._replace(labels=first.labels.at[:, 3:].set(0), boxes_unact=first.boxes_unact.at[:, 3:].set(0.0))
    changed = run(decoder, x, half, train=True).denoising
    assert_close(slots(changed, 0, 3), slots(output.denoising, 0, 3), atol=0)
    moved = jnp.abs(slots(changed, 3, 6).layers[1].logits - slots(output.denoising, 3, 6).layers[1].logits)
    assert float(moved.max()) > 1e-3


def slots(predictions: QueryPredictions, start: int, end: int) -> QueryPredictions:
    return jax.tree.map(lambda x: x[:, start:end], predictions)


def test_denoising_queries_start_from_their_class_and_box():
    """The same class and box in both groups predict the same; another class or box does not."""
    decoder = tiny_decoder()
    queries = denoising()
    twice = queries._replace(
        labels=jnp.tile(queries.labels[:, :3], 2), boxes_unact=jnp.tile(queries.boxes_unact[:, :3], (1, 2, 1))
    )
    output = run(decoder, maps(), twice, train=True).denoising
    assert_close(slots(output, 0, 3), slots(output, 3, 6))
    other_box = twice._replace(boxes_unact=twice.boxes_unact.at[:, 3:].add(0.5))
    other_class = twice._replace(labels=twice.labels.at[:, 3:].set((twice.labels[:, 3:] + 1) % CLASSES))
    for other in (other_box, other_class):
        output = run(decoder, maps(), other, train=True).denoising
        assert float(jnp.abs(output.pre.logits[:, :3] - output.pre.logits[:, 3:]).max()) > 1e-3


# Gradients


@pytest.mark.slow
def test_gradients_stop_where_the_original_stops_them():
    """Rows: layer 0's boxes, layer 1's, the plain boxes, the encoder's; columns: parameters of each head."""
    graph, params, rest = nnx.split(tiny_decoder(), nnx.Param, ...)
    x = maps(1)

    @jax.jit
    @jax.jacrev
    def sums(params):
        output = nnx.merge(graph, params, rest)(x, None, True)
        boxes = [*(layer.boxes for layer in output.queries.layers), output.queries.pre.boxes, output.encoder.boxes]
        return jnp.stack([jnp.sum(jnp.sin(3 * b)) for b in boxes])

    slopes = sums(params)
    heads = {
        "box_heads.0": slopes.box_heads[0], "box_heads.1": slopes.box_heads[1], "layers.0": slopes.layers[0],
        "layers.1": slopes.layers[1], "pre_box": slopes.pre_box, "encoder_box": slopes.encoder_box,
        "encoder_proj": slopes.encoder_proj, "query_position": slopes.query_position,
    }  # fmt: skip
    moves = {
        name: [bool(max(np.abs(leaf[row]).max() for leaf in jax.tree.leaves(head)) > 0) for row in range(4)]
        for name, head in heads.items()
    }
    assert moves == {
        "box_heads.0": [True, True, False, False],  # corners add up with their gradient
        "box_heads.1": [False, True, False, False],
        "layers.0": [True, True, True, False],
        "layers.1": [False, True, False, False],
        "pre_box": [False, False, True, False],  # boxes are measured from where it stopped
        "encoder_box": [False, False, False, True],
        "encoder_proj": [False, False, False, True],  # the queries' content and reference are stopped
        "query_position": [True, True, True, False],
    }
