"""The real checkpoints against outputs that were published with them. Needs the Hugging Face Hub."""

import numpy as np
import pytest

from dfine_jax import Detector

pytestmark = pytest.mark.network


def test_xlarge_finds_what_its_model_card_shows(sample_picture):
    found = Detector.from_pretrained("xlarge-coco")(sample_picture, threshold=0.5)
    expected = [
        ("cat", 0.96, [344.49, 23.4, 639.84, 374.27]),
        ("cat", 0.96, [11.71, 53.52, 316.64, 472.33]),
        ("remote", 0.95, [40.46, 73.7, 175.62, 117.57]),
        ("couch", 0.92, [0.59, 1.88, 640.25, 474.74]),
        ("remote", 0.89, [333.48, 77.04, 370.77, 187.3]),
    ]
    assert len(found) == len(expected)
    for detection, (label, score, box) in zip(found, expected, strict=True):
        assert detection.label.replace("sofa", "couch") == label
        assert detection.score == pytest.approx(score, abs=0.006)  # published with two digits
        np.testing.assert_allclose(detection.box, box, atol=0.02)


def test_small_gives_the_scores_and_boxes_of_transformers_own_test(sample_picture):
    found = Detector.from_pretrained("small-coco")(sample_picture, threshold=0.5)
    np.testing.assert_allclose(found.scores[:4], [0.9642, 0.9542, 0.9536, 0.8548], atol=1e-3)
    assert found.label_ids[:4].tolist() == [15, 65, 15, 57]
    boxes = [
        [13.186, 54.130, 317.27, 472.12],
        [40.275, 72.975, 176.20, 117.77],
        [342.76, 23.428, 639.98, 374.77],
        [0.584, 1.179, 639.33, 474.86],
    ]
    np.testing.assert_allclose(found.boxes[:4], boxes, atol=0.05)


def test_small_gives_the_logits_of_transformers_own_test(sample_picture):
    import jax.numpy as jnp

    from dfine_jax import load_pretrained
    from dfine_jax.inference.pictures import load_picture
    from dfine_jax.inference.preprocess import preprocess

    loaded = load_pretrained("small-coco")
    pixels = preprocess(load_picture(sample_picture), loaded.preprocessing)
    output = loaded.model(jnp.asarray(pixels)[None])
    logits = [[-3.8098, -4.7725, -5.9945], [-5.2975, -9.4991, -6.1654], [-5.3502, -3.9532, -6.3631]]
    boxes = [[0.7678, 0.4148, 0.4644], [0.1691, 0.1987, 0.2124], [0.2582, 0.5482, 0.4751]]
    np.testing.assert_allclose(output.logits[0, :3, :3], logits, atol=2e-4)
    np.testing.assert_allclose(output.boxes[0, :3, :3], boxes, atol=2e-4)
