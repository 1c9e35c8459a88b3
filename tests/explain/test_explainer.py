"""What an explanation says is what the network computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.bundled import SHAPES_PICTURE
from dfine_jax.errors import InputError
from dfine_jax.evaluation.plots import as_png
from dfine_jax.explain.explainer import Explainer
from dfine_jax.explain.explanation import Explanation, attention_at
from dfine_jax.explain.figure import explain_figure
from dfine_jax.explain.watched import CellAttention, attention_rows
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.pictures import load_picture
from dfine_jax.inference.preprocess import preprocess
from dfine_jax.model.dfine import load, variables
from dfine_jax.ops.attention import attend
from dfine_jax.ops.compute import Compute
from dfine_jax.preprocessing import Preprocessing

SETTINGS = Preprocessing(HEIGHT, WIDTH)
SIZE = 240, 80
"""Width and height of the picture, in pixels."""
COUNT = 6


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)


@pytest.fixture(scope="module")
def explainer(model) -> Explainer:
    return Explainer(model, SETTINGS)


@pytest.fixture(scope="module")
def explanation(explainer, picture) -> Explanation:
    return explainer(picture, COUNT)


@pytest.fixture(scope="module")
def network(model, picture):
    """The selection and every layer's prediction of the model as it is, neither folded nor watched."""

    @jax.jit
    def run(images):
        memory, shapes = model.decoder.flatten(model.encoder(model.backbone(images)))
        selection = model.decoder.select(memory, shapes)
        boxes = jax.nn.sigmoid(selection.boxes_unact)
        return selection, model.decoder.refine_all(selection.content, boxes, memory, shapes, None)

    return run(jnp.asarray(preprocess(load_picture(picture), SETTINGS))[None])


def in_pixels(boxes) -> np.ndarray:
    cx, cy, w, h = np.moveaxis(np.asarray(boxes), -1, 0)
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1) * [*SIZE, *SIZE]


def test_what_is_explained_is_what_a_detector_finds(model, picture, explanation):
    found = Detector(model, SETTINGS)(picture, threshold=0)[:COUNT]
    ours = explanation.detections
    np.testing.assert_allclose(ours.scores, found.scores, atol=1e-5)
    np.testing.assert_array_equal(ours.label_ids, found.label_ids)
    np.testing.assert_allclose(ours.boxes, found.boxes, atol=1e-2)
    assert (ours.size, ours.class_names, ours.image) == (found.size, found.class_names, found.image)


def test_a_detector_explains_what_it_finds(model, picture, explanation):
    ours = Detector(model, SETTINGS).explain(picture, COUNT)
    np.testing.assert_array_equal(ours.detections.boxes, explanation.detections.boxes)
    np.testing.assert_array_equal(ours.distributions, explanation.distributions)


@pytest.mark.slow
def test_a_loaded_detector_explains_its_model():
    detector = Detector.from_pretrained("shapes", size=(160, 160))
    explanation = detector.explain(SHAPES_PICTURE, detections=1)
    best = detector(SHAPES_PICTURE, threshold=0)[0]
    np.testing.assert_allclose(explanation.detections.boxes[0], best.box, atol=0.1)
    assert explanation.detections[0].label == best.label


def test_shares_sum_to_one(explanation):
    for shares, axes in (
        (explanation.distributions, -1),
        (explanation.weights, -1),
        (explanation.attention, (-1, -2)),
    ):
        assert shares.min() >= 0
        np.testing.assert_allclose(shares.sum(axes), 1, atol=1e-5)


def test_means_are_the_edges_of_every_layers_box(explanation, network):
    _, predictions = network
    for i, layer in enumerate(predictions.layers):
        boxes = in_pixels(layer.boxes[0])[explanation.ranks]
        np.testing.assert_allclose(explanation.boxes[:, 2 + i], boxes, atol=1e-2)
        np.testing.assert_allclose(explanation.edges[:, i], boxes, atol=1e-2)
    np.testing.assert_allclose(
        explanation.boxes[:, 1], in_pixels(predictions.initial_boxes[0])[explanation.ranks], atol=1e-2
    )
    np.testing.assert_array_equal(explanation.boxes[:, -1], explanation.detections.boxes)


def test_bins_are_in_order_and_the_middle_one_is_the_plain_box(explanation):
    steps = np.diff(explanation.positions, axis=-1) * np.array([-1, -1, 1, 1])[:, None]
    assert (steps > 0).all()
    middle = explanation.positions[..., explanation.positions.shape[-1] // 2]
    np.testing.assert_allclose(middle, explanation.boxes[:, 1], atol=1e-3)


def test_a_spread_is_a_standard_deviation(explanation):
    probabilities, places = explanation.distributions[1, 0, 2].astype(float), explanation.positions[1, 2].astype(float)
    mean = (probabilities * places).sum()
    assert explanation.spreads[1, 0, 2] == pytest.approx(
        np.sqrt((probabilities * (places - mean) ** 2).sum()), rel=1e-3
    )


def test_the_place_is_that_of_the_selection(explanation, network):
    selection, _ = network
    scores = np.concatenate([scores.ravel() for scores in explanation.score_maps])
    starts = np.cumsum([0, *(scores.size for scores in explanation.score_maps)])
    for i, (rank, level, (row, column)) in enumerate(
        zip(explanation.ranks, explanation.levels, explanation.cells, strict=True)
    ):
        token = starts[level] + row * explanation.score_maps[level].shape[1] + column
        assert token == selection.indices[0, rank]
        assert np.sort(scores)[::-1][rank] == pytest.approx(scores[token], abs=1e-6)
        height, width = explanation.score_maps[level].shape
        centre = (column + 0.5) / width * SIZE[0], (row + 0.5) / height * SIZE[1]
        np.testing.assert_allclose(explanation.cell_centres[i], centre, rtol=1e-6)
    np.testing.assert_allclose(scores, jax.nn.sigmoid(selection.scores[0]), atol=1e-5)
    assert [scores.shape for scores in explanation.score_maps] == [(8, 12), (4, 6)]


def test_quality_is_told_the_largest_probabilities_and_is_in_the_logits(explanation, model):
    largest = -np.sort(-explanation.distributions, axis=-1)[..., :4]
    np.testing.assert_allclose(explanation.quality_inputs[..., :-1], largest, atol=1e-6)
    np.testing.assert_allclose(explanation.quality_inputs[..., -1], largest.mean(-1), atol=1e-6)
    inputs = explanation.quality_inputs[:, 1].reshape(COUNT, -1)
    np.testing.assert_allclose(model.decoder.quality[1](inputs)[:, 0], explanation.quality[:, 1], atol=1e-5)
    labels = explanation.detections.label_ids
    scores = jax.nn.sigmoid(explanation.logits[np.arange(COUNT), -1, labels])
    np.testing.assert_allclose(scores, explanation.detections.scores, atol=1e-6)


def test_without_offsets_a_layer_looks_at_the_middle_of_the_box_before(picture):
    model = tiny_model()
    params, batch_stats = variables(model)
    still = {name: jnp.zeros_like(x) for name, x in params.items() if "sampling_offsets" in name}
    load(model, {**params, **batch_stats, **still})
    explanation = Explainer(model, SETTINGS)(picture, COUNT)
    for layer, before in enumerate((0, 2)):
        x0, y0, x1, y1 = explanation.boxes[:, before].T
        middle = np.stack([(x0 + x1) / 2, (y0 + y1) / 2], axis=-1)
        points = explanation.points[:, layer]
        np.testing.assert_allclose(points, np.broadcast_to(middle[:, None, None], points.shape), atol=1e-2)
    np.testing.assert_array_equal(explanation.point_levels, [0, 0, 1, 1, 1])


def test_attention_is_that_by_which_values_are_mixed():
    rng = np.random.default_rng(0)
    heads, rows, columns, channels = 2, 3, 4, 6
    query, key, value = rng.standard_normal((3, rows * columns, channels)).astype(np.float32)
    mixed = attend(query[None], key[None], value[None], heads, Compute())[0]
    for cell in (0, 7):
        shares = attention_rows(query[cell], key, heads)
        ours = jnp.einsum("mt,tmc->mc", shares, value.reshape(rows * columns, heads, -1)).reshape(-1)
        np.testing.assert_allclose(ours, mixed[cell], atol=1e-5)
    row, column = 1, 3
    place = ((column + 0.5) / columns, (row + 0.5) / rows)
    found = attention_at(CellAttention(query, key), (heads, rows, columns), place)
    np.testing.assert_allclose(found.reshape(heads, -1), attention_rows(query[7], key, heads), atol=1e-6)


def test_attention_of_a_chosen_cell(explanation):
    x, y = (explanation.boxes[2, -1, :2] + explanation.boxes[2, -1, 2:]) / 2
    np.testing.assert_allclose(explanation.attention_from(x, y), explanation.attention[2], atol=1e-6)
    assert explanation.attention_from(*SIZE).shape == (2, 4, 6)
    with pytest.raises(
        InputError, match=r"\(241, 3\) lies outside of the picture: give x from 0 to 240, y from 0 to 80"
    ):
        explanation.attention_from(241, 3)


def test_chosen_ones(explainer, explanation, picture):
    chosen = explainer(picture, [4, 1], name="mine")
    np.testing.assert_array_equal(chosen.ranks, explanation.ranks[[4, 1]])
    np.testing.assert_allclose(chosen.boxes, explanation.boxes[[4, 1]], atol=1e-4)
    assert chosen.detections.image == "mine"
    for detections in (0, 21, [20], [-1], []):
        with pytest.raises(InputError, match="give 1 to 100 of them, or places from 0 to 19"):
            explainer(picture, detections)


def test_the_file_holds_every_array(explanation, tmp_path):
    explanation.save(tmp_path / "a.npz")
    read = np.load(tmp_path / "a.npz")
    for name in ("distributions", "positions", "boxes", "points", "weights", "quality", "attention", "cells"):
        np.testing.assert_array_equal(read[name], getattr(explanation, name))
    np.testing.assert_array_equal(read["score_map_1"], explanation.score_maps[1])
    assert list(read["labels"]) == list(explanation.detections.names)


def test_a_page_says_where_the_edges_are(explanation, picture):
    figure = explain_figure(explanation, 1, load_picture(picture))
    titles = {axes.get_title(loc="left") for part in figure.subfigs for axes in part.axes}
    edges, spreads = explanation.edges[1, -1], explanation.spreads[1, -1]
    assert f"Right edge: x = {edges[2]:.1f} ± {spreads[2]:.1f}" in titles
    assert {"Scores of the 8x12 cells", "Scores of the 4x6 cells", "Layer 1", "Layer 2"} <= titles
    assert f"number {explanation.ranks[1] + 1} of" in figure.subfigs[0]._suptitle.get_text()
    assert as_png(figure).startswith(b"\x89PNG")
