import json

import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.calibration import Calibration, read_calibration, write_calibration
from dfine_jax.errors import InputError
from dfine_jax.inference.detections import Detections
from dfine_jax.inference.edges import Edges
from dfine_jax.inference.postprocess import postprocess, postprocess_with_edges
from dfine_jax.model.distribution import distance_to_box, integral, weighting_function
from dfine_jax.model.outputs import DetectedWithEdges

CALIBRATION = Calibration((0.5, 0.8, 0.95), (1.0, 2.0, 3.0), 2.0, -1.0, 100)


@pytest.fixture
def three():
    """One box: places 10, 20 and 40 (of the left edge 40, 20, 10), a quarter, a half and a quarter."""
    origins = np.array([[20, 20, 20, 20]], np.float32)
    units = np.array([[-10, -10, 10, 10]], np.float32)
    offsets = np.array([-1, 0, 2], np.float32)
    return Edges.of(np.broadcast_to(np.array([0.25, 0.5, 0.25], np.float32), (1, 4, 3)), origins, units, offsets)


def test_places_rise_on_every_side(three):
    np.testing.assert_array_equal(three.places[0], [[0, 20, 30], [0, 20, 30], [10, 20, 40], [10, 20, 40]])


def test_mean_and_standard_deviation(three):
    """Right: (10 + 2 * 20 + 40) / 4; squares of -12.5, -2.5 twice, 17.5."""
    np.testing.assert_allclose(three.mean, [[17.5, 17.5, 22.5, 22.5]])
    np.testing.assert_allclose(three.std, np.full((1, 4), np.sqrt((12.5**2 + 2 * 2.5**2 + 17.5**2) / 4)))


def test_quantiles_by_hand(three):
    """Right: a quarter lies evenly in 10..15, a half in 15..30, a quarter in 30..40."""
    shares = (0.125, 0.25, 0.5, 0.75, 0.9)
    np.testing.assert_allclose(three.quantiles(shares)[0, 2], [12.5, 15, 22.5, 30, 36], rtol=1e-6)
    np.testing.assert_allclose(three.interval(0.5)[0, 2], [15, 30], rtol=1e-6)
    np.testing.assert_allclose(three.interval(0.5)[0, 0], [10, 25], rtol=1e-6)  # the mirror image


def test_probability_of_nought_at_an_end():
    edges = Edges(np.array([[[0, 1, 2, 3]] * 4], np.float32), np.array([[[0, 0, 1, 0]] * 4], np.float32))
    np.testing.assert_allclose(edges.interval(0.9)[0], [[1.55, 2.45]] * 4)
    assert (edges.std == 0).all()


def test_quantiles_are_those_of_a_known_distribution():
    """A fine normal distribution."""
    places = np.linspace(-60, 60, 1201)
    probabilities = np.exp(-np.square(places / 10) / 2)
    edges = Edges(np.tile(places, (1, 4, 1)), np.tile(probabilities / probabilities.sum(), (1, 4, 1)))
    np.testing.assert_allclose(edges.interval(0.95)[0, 1], [-19.600, 19.600], atol=2e-3)
    np.testing.assert_allclose(edges.interval(0.5)[0, 1], [-6.745, 6.745], atol=2e-3)
    np.testing.assert_allclose(edges.std, np.full((1, 4), 10), rtol=1e-3)


def test_a_calibration_widens_about_the_median(three):
    wide = Edges(three.places, three.probabilities, CALIBRATION)
    np.testing.assert_allclose(wide.interval(0.5), three.interval(0.5))
    low, high = three.interval(0.8)[0, 2]
    np.testing.assert_allclose(wide.interval(0.8)[0, 2], [22.5 - 2 * (22.5 - low), 22.5 + 2 * (high - 22.5)])
    assert [CALIBRATION.factor(level) for level in (0.3, 0.65, 0.99)] == [1.0, 1.5, 3.0]


@pytest.mark.parametrize("level", [0, 1, -0.5, 80, float("nan")])
def test_a_level_that_is_none(three, level):
    with pytest.raises(InputError, match=r"level=.*between 0 and 1, such as 0\.8"):
        three.interval(level)


def test_a_probability_of_being_right():
    """logit(0.5) = 0, so sigmoid(-1); logit(0.9) = ln 9, so 81 to e."""
    np.testing.assert_allclose(CALIBRATION.probability(np.array([0.5])), [1 / (1 + np.e)])
    np.testing.assert_allclose(CALIBRATION.probability(np.array([0.9])), [81 / (81 + np.e)])
    assert np.isfinite(CALIBRATION.probability(np.array([0.0, 1.0]))).all()


def test_detections_keep_their_edges(three):
    edges = Edges(np.repeat(three.places, 3, 0) + np.arange(3)[:, None, None], np.repeat(three.probabilities, 3, 0))
    found = Detections.above(
        0.4, [0.9, 0.8, 0.1], [0, 1, 0], np.zeros((3, 4)), class_names=("a", "b"), size=(50, 50), edges=edges
    )
    np.testing.assert_allclose(found.edges.mean[:, 2], [22.5, 23.5])
    np.testing.assert_allclose(found.filter(classes="b").edges.mean[:, 2], [23.5])
    assert len(found[[]].edges) == 0
    assert found.edges[1].interval(0.5).shape == (1, 4, 2)
    with pytest.raises(ValueError, match="edges of 1 boxes for 2 scores"):
        Detections(np.zeros((2, 4)), np.ones(2), np.zeros(2, int), ("a",), (9, 9), edges=three)


def test_on_the_device_mean_edges_are_the_boxes():
    """Random logits and boxes, one of which crosses: two pictures of different sizes."""
    rng = np.random.default_rng(0)
    bins, queries = 32, 7
    corners = jnp.asarray(rng.normal(0, 2, (2, queries, 4 * (bins + 1))), jnp.float32)
    reference = jnp.asarray(rng.uniform(0.2, 0.6, (2, queries, 4)), jnp.float32)
    up, scale = jnp.array([0.5]), jnp.array([4.0])
    boxes = distance_to_box(reference, integral(corners, weighting_function(up, scale, bins)), scale)
    logits = jnp.asarray(rng.normal(0, 1, (2, queries, 3)), jnp.float32)
    sizes = jnp.array([[480, 640], [200, 100]])
    output = DetectedWithEdges(logits, boxes, jnp.zeros((2, queries), int), corners, reference, up, scale)
    plain, found = postprocess(logits, boxes, sizes), postprocess_with_edges(output, sizes)
    for name in plain._fields:
        np.testing.assert_array_equal(getattr(plain, name), getattr(found, name))
    for i in range(2):
        edges = Edges.of(*(np.asarray(x[i]) for x in found[3:]))
        np.testing.assert_allclose(edges.mean, found.boxes[i], atol=2e-3)
        assert (np.diff(edges.places, axis=-1) > 0).all()
        np.testing.assert_allclose(edges.probabilities.sum(-1), 1, rtol=1e-5)


class TestFile:
    def test_there_and_back(self, tmp_path):
        assert read_calibration(tmp_path) is None
        write_calibration(CALIBRATION, tmp_path)
        assert read_calibration(tmp_path) == CALIBRATION

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"edges": []}, "edges = [] must be a list of objects"),
            ({"edges": 3}, "edges = 3 must be"),
            ({"edges": [{"level": 0.8}]}, "edges[0].factor = null must be a number"),
            ({"edges": [{"level": 0.8, "factor": -1}]}, "edges[0].factor = -1 must be above 0"),
            ({"edges": [{"level": 0.8, "factor": 1}, {"level": 0.5, "factor": 1}]}, "must have levels that rise"),
            ({"edges": [{"level": 80, "factor": 1}]}, "must have levels that rise, between 0 and 1"),
            ({"scores": None}, "scores = null must be an object"),
            ({"scores": {"scale": float("nan"), "shift": 0}}, "scores.scale = NaN"),
            ({"boxes": "many"}, 'boxes = "many" must be a whole number'),
        ],
    )
    def test_damaged(self, tmp_path, changed, told):
        write_calibration(CALIBRATION, tmp_path)
        file = tmp_path / "calibration.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))
        with pytest.raises(InputError) as error:
            read_calibration(tmp_path)
        assert told in str(error.value)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(str(file))
        assert "delete it, or fit it again with dfine eval --keep-calibration" in str(error.value)

    def test_no_json(self, tmp_path):
        (tmp_path / "calibration.json").write_text("{")
        with pytest.raises(InputError, match="can't be read as JSON"):
            read_calibration(tmp_path)
