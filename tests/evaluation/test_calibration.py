import math

import numpy as np
import pytest
from evaluation_data import dataset, found, record

from dfine_jax.errors import InputError
from dfine_jax.evaluation.calibration import (
    LEVELS,
    Samples,
    conformal_factor,
    fit,
    fit_scores,
    gathered,
    measure,
    reliability,
    samples_of,
)
from dfine_jax.evaluation.calibration_report import reliability_diagram, write_calibration_report
from dfine_jax.evaluation.confusion import rows_by_picture
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.edges import Edges


def samples(scores=(), right=(), strain=(), areas=()):
    strain = np.array(strain, float).reshape(-1, 1, 1) * np.ones((1, 4, len(LEVELS)))
    areas = np.array(areas, float) if len(areas) else np.full(len(strain), 2000.0)
    return Samples(np.array(scores, float), np.array(right, bool), strain, areas)


def normal_edges(boxes, spread):
    """Each edge a fine normal distribution about the box's."""
    steps = np.linspace(-6, 6, 601)
    density = np.exp(-np.square(steps) / 2)
    places = np.asarray(boxes, float)[..., None] + spread * steps
    return Edges(places, np.broadcast_to(density / density.sum(), places.shape))


def test_expected_calibration_error_by_hand():
    """Two bins: three of mean 0.7 with 2/3 right, one of 0.1 that is right: (3 * |0.7 - 2/3| + 0.9) / 4."""
    told = reliability(np.array([0.6, 0.7, 0.8, 0.1]), np.array([True, False, True, True]), bins=2)
    assert told.counts.tolist() == [1, 3]
    assert told.error == pytest.approx((3 * (0.7 - 2 / 3) + 0.9) / 4)


def test_reliability_of_ends_and_of_nothing():
    assert reliability(np.array([0.0, 1.0]), np.array([False, True])).error == 0
    told = reliability(np.zeros(0), np.zeros(0, bool))
    assert math.isnan(told.error)
    assert np.isnan(told.right).all()


def test_scores_that_mean_what_they_say_have_no_error():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, 100_000)
    right = rng.random(100_000) < scores
    assert reliability(scores, right).error < 0.01
    assert fit_scores(scores, right) == pytest.approx((1, 0), abs=0.02)


def test_a_known_scale_and_shift_are_found():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 100_000)
    right = rng.random(100_000) < 1 / (1 + np.exp(-(1.7 * logits - 0.6)))
    assert fit_scores(1 / (1 + np.exp(-logits)), right) == pytest.approx((1.7, -0.6), abs=0.05)


def test_scores_without_a_mistake_keep_the_fit_finite():
    scale, shift = fit_scores(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
    assert 1 < scale < 100
    assert abs(shift) < 10


def test_conformal_factor_is_the_rank_beyond():
    """Of nine values the eighth: (9 + 1) * 0.8 = 8; of few the greatest."""
    values = np.arange(1, 10) / 10
    assert conformal_factor(values, 0.8) == 0.8
    assert conformal_factor(values[:3], 0.8) == 0.3


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_coverage_of_a_known_distribution(spread):
    """True edges are off by 1 pixel on average of squares; the intervals are for `spread`."""
    rng = np.random.default_rng(0)
    boxes = np.array([[20, 20, 80, 80]] * 400, float)
    records = [record([box + rng.normal(0, 1, 4)], [0], image_id=i) for i, box in enumerate(boxes)]
    truth = Truth.of(dataset(*records))
    rows = rows_by_picture(truth)
    gotten = gathered(
        samples_of(found(i, (0.9, 0, box))._replace(edges=normal_edges([box], spread)), truth, rows[i], 0.5)
        for i, box in enumerate(boxes)
    )
    # Of a normal distribution P(|x| < spread * z) for z = 0.674, 1.282, 1.645, 1.960.
    expected = [math.erf(spread * z / math.sqrt(2)) for z in (0.6745, 1.2816, 1.6449, 1.9600)]
    raw = measure(gotten)
    np.testing.assert_allclose(raw.coverage[0].shares, expected, atol=0.03)
    assert [c.boxes for c in raw.coverage] == [400, 0, 400, 0]
    assert all(map(math.isnan, raw.coverage[1].shares))
    calibration = fit(gotten)
    np.testing.assert_allclose(calibration.factors, 1 / spread, atol=0.1)
    np.testing.assert_allclose(measure(gotten, calibration).coverage[0].shares, LEVELS, atol=0.002)


def test_only_what_is_shown_and_right_has_edges():
    records = [record([[0, 0, 40, 40], [60, 60, 90, 90]], [0, 1], [[100, 0, 160, 60]], [0])]
    truth = Truth.of(dataset(*records))
    boxes = [[0, 0, 40, 40], [60, 60, 90, 90], [100, 0, 160, 60], [170, 70, 190, 90], [0, 0, 40, 40]]
    scores, labels = (0.9, 0.4, 0.8, 0.7, 0.04), (0, 1, 0, 0, 0)
    predicted = found(0, *zip(scores, labels, boxes, strict=True))._replace(edges=normal_edges(boxes, 1.0))
    gotten = samples_of(predicted, truth, np.arange(3), 0.5)
    assert gotten.areas.tolist() == [1600]  # the second scores too little, the third is in a crowd, the fourth is wrong
    np.testing.assert_allclose(gotten.strain, 0, atol=1e-6)
    np.testing.assert_allclose(gotten.scores, [0.9, 0.4, 0.7], rtol=1e-6)
    assert gotten.right.tolist() == [True, True, False]


def test_too_few_to_fit():
    with pytest.raises(InputError, match=r"3 boxes were found, too few to fit a calibration on \(20 at least\)"):
        fit(samples(strain=[1, 2, 3]))


def test_report_files(tmp_path):
    some = samples([0.9, 0.3], [True, False], [0.5] * 30, [500.0] * 30)
    for corrected in (None, measure(some, fit(some))):
        write_calibration_report(measure(some), corrected, tmp_path)
        assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert '"raw"' in (tmp_path / "reliability.json").read_text()
    assert "NaN" not in (tmp_path / "reliability.json").read_text()


def test_diagram_of_nothing():
    texts = [text.get_text() for axes in reliability_diagram(measure(samples())).axes for text in axes.texts]
    assert texts == ["nothing was found", "fewer than 20 labelled boxes were found"]
