import numpy as np
import pytest
from PIL import Image
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.inference import detector as module
from dfine_jax.inference.detections import Detections
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.pictures import PictureError
from dfine_jax.preprocessing import Preprocessing

SETTINGS = Preprocessing(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def single():
    return Detector(tiny_model(), SETTINGS)


@pytest.fixture(scope="module")
def triple():
    return Detector(tiny_model(), SETTINGS, batch_size=3)


@pytest.fixture(scope="module")
def pictures():
    """Seven pictures of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(40, 50), (90, 30), (64, 96), (10, 200), (33, 33), (1, 1), (70, 20)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


def assert_same(ours: Detections, theirs: Detections):
    assert ours.size == theirs.size
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
    np.testing.assert_allclose(np.sort(ours.boxes, axis=0), np.sort(theirs.boxes, axis=0), atol=1e-2)


def test_one_picture_gives_detections_and_a_list_gives_a_list(single, pictures):
    one = single(pictures[0], threshold=0)
    assert isinstance(one, Detections)
    assert one.size == (50, 40)
    assert one.class_names == ("ant", "bee", "cat", "dog", "elk")
    many = single(pictures[:2], threshold=0)
    assert [found.size for found in many] == [(50, 40), (30, 90)]
    assert_same(many[0], one)
    assert single([]) == []


def test_edges_where_they_are_asked_for(single, pictures):
    assert single(pictures[0], threshold=0).edges is None
    found = Detector(tiny_model(), SETTINGS, edges=True)(pictures[:2], threshold=0)
    assert_same(found[0], single(pictures[0], threshold=0))
    for detections in found:
        straight = (detections.boxes[:, 2:] > detections.boxes[:, :2]).all(axis=1)
        np.testing.assert_allclose(detections.edges.mean[straight], detections.boxes[straight], atol=1e-2)
        assert (detections.edges.std > 0).all()


def test_an_array_is_a_picture(single, pictures):
    assert_same(single(np.asarray(pictures[1]), threshold=0), single(pictures[1], threshold=0))


@pytest.mark.slow
def test_batches_that_are_not_full_change_nothing(single, triple, pictures):
    for ours, theirs in zip(triple(pictures, threshold=0), single(pictures, threshold=0), strict=True):
        assert_same(ours, theirs)


def test_boxes_are_in_pixels_of_the_original_picture(single, pictures):
    small = single(pictures[2], threshold=0)
    large = single(pictures[2].resize((WIDTH * 4, HEIGHT * 2), Image.Resampling.NEAREST), threshold=0)
    # Shrinking a picture enlarged by whole steps is not the identity, so pictures differ a little: compare scales.
    scale = np.median(np.abs(large.boxes), axis=0) / np.median(np.abs(small.boxes), axis=0)
    np.testing.assert_allclose(scale, [4, 2, 4, 2], rtol=0.3)


def test_threshold_leaves_out_what_scores_less(single, pictures):
    everything = single(pictures[0], threshold=0)
    middle = float(everything.scores[len(everything) // 2])
    above = single(pictures[0], threshold=middle)
    assert 0 < len(above) < len(everything)
    assert above.scores.min() > middle
    with pytest.raises(ValueError, match="expected a score from 0 to 1"):
        single(pictures[0], threshold=1.5)


def test_stream_keeps_the_order_and_goes_on_after_errors(triple, pictures, tmp_path):
    (tmp_path / "empty.png").touch()
    sources = [pictures[0], tmp_path / "empty.png", *pictures[1:4], "missing.jpg"]
    found = list(triple.stream(sources, 0.0, keep_pictures=True))
    assert [entry.source for entry in found] == sources
    failed = [isinstance(entry.outcome, PictureError) for entry in found]
    assert failed == [False, True, False, False, False, True]
    for entry, expected in zip([found[0], *found[2:5]], pictures, strict=False):
        assert_same(entry.outcome, triple(expected, threshold=0))
        assert entry.picture.size == entry.outcome.size
    assert all(entry.picture is None for entry in triple.stream(pictures[:1]))


def test_stream_of_nothing_but_errors(triple):
    found = list(triple.stream(["missing.jpg"] * 4))
    assert len(found) == 4
    assert all(isinstance(entry.outcome, PictureError) for entry in found)


def test_stream_reads_only_a_few_pictures_ahead(single, pictures):
    read = []

    def sources():
        for i in range(100):
            read.append(i)
            yield pictures[0]

    stream = single.stream(sources())
    next(stream)
    assert len(read) < 20
    stream.close()


def test_a_call_raises_for_an_unreadable_picture(single, pictures):
    with pytest.raises(PictureError, match=r"missing\.jpg"):
        single([pictures[0], "missing.jpg"])


def test_compiles_once_whatever_sizes_come(monkeypatch, pictures):
    compiled = []
    original = module.compile_lowered
    monkeypatch.setattr(module, "compile_lowered", lambda lowered: compiled.append(1) or original(lowered))
    detector = Detector(tiny_model(), SETTINGS, batch_size=2)
    detector(pictures)
    detector(pictures[:1])
    assert len(compiled) == 1


def test_bfloat16_finds_nearly_the_same(single, pictures):
    from reference import with_compute

    low = Detector(with_compute(tiny_model(), "bfloat16"), SETTINGS)(pictures[0], threshold=0)
    high = single(pictures[0], threshold=0)
    np.testing.assert_allclose(low.scores, high.scores, atol=0.02)
    assert (low.scores != high.scores).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preprocessing": Preprocessing(600, 640)}, "600x640"),
        ({"preprocessing": Preprocessing(640, 650)}, "640x650"),
        ({"batch_size": 0}, "batch size 0"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Detector(tiny_model(), **options)
