from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.inference.postprocess import postprocess


def logit(score):
    score = np.asarray(score, np.float32)
    return np.log(score / (1 - score))


def random_outputs(batch: int, queries: int, classes: int, seed: int = 0):
    """Logits, boxes and sizes as a model and a folder of pictures could give them.

    The scores of one picture are further apart than sigmoids differ in their rounding, so that their order is sure.
    """
    rng = np.random.default_rng(seed)
    grid = np.linspace(-9, 3, queries * classes, dtype=np.float32)
    logits = rng.permuted(np.tile(grid, (batch, 1)), axis=1).reshape(batch, queries, classes)
    boxes = rng.uniform(0, 1, (batch, queries, 4)).astype(np.float32)
    sizes = rng.integers(1, 5000, (batch, 2))
    return logits, boxes, sizes


def test_by_hand():
    # Two queries, three classes, one picture, 100 high and 200 wide.
    logits = logit([[[0.1, 0.9, 0.2], [0.8, 0.3, 0.7]]])
    boxes = np.array([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.75, 0.5, 0.5]]], np.float32)
    top = jax.jit(postprocess, static_argnames="top")(logits, boxes, np.array([[100, 200]]), top=4)
    np.testing.assert_allclose(top.scores, [[0.9, 0.8, 0.7, 0.3]], rtol=1e-6)
    np.testing.assert_array_equal(top.labels, [[1, 0, 2, 1]])
    assert top.labels.dtype == jnp.int32
    first, second = [80, 30, 120, 70], [0, 50, 100, 100]
    np.testing.assert_allclose(top.boxes, [[first, second, second, second]], atol=1e-5)


def test_as_many_as_queries_unless_told():
    logits, boxes, sizes = random_outputs(2, 7, 5)
    assert postprocess(logits, boxes, sizes).scores.shape == (2, 7)
    assert postprocess(logits, boxes, sizes, top=12).boxes.shape == (2, 12, 4)


def test_fewer_pairs_than_asked_for():
    logits, boxes, sizes = random_outputs(1, 4, 3)
    top = postprocess(logits, boxes, sizes, top=300)
    assert top.scores.shape == (1, 12)
    np.testing.assert_allclose(np.sort(top.scores[0]), np.sort(1 / (1 + np.exp(-logits[0].ravel()))), rtol=1e-5)


def test_one_class():
    logits, boxes, sizes = random_outputs(1, 6, 1)
    top = postprocess(logits, boxes, sizes)
    np.testing.assert_array_equal(top.labels, 0)
    order = np.argsort(-logits[0, :, 0])
    centre = (top.boxes[0, :, :2] + top.boxes[0, :, 2:]) / 2
    np.testing.assert_allclose(centre, boxes[0, order, :2] * sizes[0, ::-1], rtol=1e-5)


def test_equal_scores_come_in_the_order_of_queries():
    boxes = np.tile(np.linspace(0.1, 0.9, 5, dtype=np.float32)[:, None], (1, 1, 4))
    top = postprocess(np.zeros((1, 5, 2), np.float32), boxes, np.array([[10, 10]]), top=10)
    np.testing.assert_array_equal(top.labels, [[0, 1] * 5])
    assert (np.diff(top.boxes[0, :, 2]) >= 0).all()


def test_pictures_do_not_mix():
    logits, boxes, sizes = random_outputs(3, 10, 4)
    together = jax.device_get(postprocess(logits, boxes, sizes))
    for i in range(3):
        alone = jax.device_get(postprocess(logits[i : i + 1], boxes[i : i + 1], sizes[i : i + 1]))
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a[0], b[i])


def test_bfloat16_is_computed_in_float32():
    logits, boxes, sizes = random_outputs(1, 10, 4)
    half = postprocess(jnp.bfloat16(logits), jnp.bfloat16(boxes), sizes)
    full = postprocess(jnp.float32(jnp.bfloat16(logits)), jnp.float32(jnp.bfloat16(boxes)), sizes)
    assert half.scores.dtype == half.boxes.dtype == jnp.float32
    np.testing.assert_array_equal(half.scores, full.scores)
    np.testing.assert_array_equal(half.boxes, full.boxes)


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(1, 300, 80), (3, 300, 366), (2, 100, 5), (1, 10, 1)])
def test_against_transformers(shape):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        processor = transformers.RTDetrImageProcessor()
    else:
        from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

        processor = RTDetrImageProcessorPil()
    logits, boxes, sizes = random_outputs(*shape)
    outputs = SimpleNamespace(logits=torch.from_numpy(logits), pred_boxes=torch.from_numpy(boxes))
    expected = processor.post_process_object_detection(
        outputs, threshold=0.0, target_sizes=torch.from_numpy(sizes), use_focal_loss=True
    )
    top = postprocess(logits, boxes, sizes)
    for i, one in enumerate(expected):
        np.testing.assert_array_equal(top.labels[i], one["labels"].numpy())
        np.testing.assert_allclose(top.scores[i], one["scores"].numpy(), rtol=1e-6)
        np.testing.assert_allclose(top.boxes[i], one["boxes"].numpy(), rtol=1e-6, atol=1e-4)
