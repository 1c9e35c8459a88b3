import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.boxes import cxcywh_to_xyxy, giou, iou, pairwise_giou, pairwise_iou, xyxy_to_cxcywh


def test_formats_are_inverse_to_one_another():
    np.testing.assert_allclose(cxcywh_to_xyxy(jnp.array([0.5, 0.4, 0.2, 0.6])), [0.4, 0.1, 0.6, 0.7], atol=1e-7)
    boxes = jax.random.uniform(jax.random.key(0), (3, 5, 4))
    np.testing.assert_allclose(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes, atol=1e-6)


def test_a_negative_size_counts_as_none():
    np.testing.assert_allclose(cxcywh_to_xyxy(jnp.array([0.5, 0.4, -0.2, 0.6])), [0.5, 0.1, 0.5, 0.7], atol=1e-7)


@pytest.mark.parametrize(
    ("a", "b", "overlap", "generalised"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1),
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),
        ([0, 0, 4, 4], [1, 1, 2, 3], 2 / 16, 2 / 16),
        ([0, 0, 1, 1], [2, 0, 3, 1], 0, -1 / 3),
        ([0, 0, 1, 1], [1, 0, 2, 1], 0, 0),
        ([1, 1, 1, 1], [0, 0, 2, 2], 0, 0),
        ([1, 1, 1, 1], [3, 3, 3, 3], 0, -1),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0, 0),
    ],
)
def test_overlaps_worked_out_by_hand(a, b, overlap, generalised):
    a, b = jnp.array(a, jnp.float32), jnp.array(b, jnp.float32)
    for x, y in ((a, b), (b, a)):
        np.testing.assert_allclose(iou(x, y), overlap, atol=1e-6)
        np.testing.assert_allclose(giou(x, y), generalised, atol=1e-6)


def test_pairwise_is_elementwise_of_every_pair():
    a = cxcywh_to_xyxy(jax.random.uniform(jax.random.key(1), (2, 3, 4)))
    b = cxcywh_to_xyxy(jax.random.uniform(jax.random.key(2), (2, 5, 4)))
    for pairwise, single in ((pairwise_iou, iou), (pairwise_giou, giou)):
        table = pairwise(a, b)
        assert table.shape == (2, 3, 5)
        for i in range(3):
            for j in range(5):
                np.testing.assert_allclose(table[:, i, j], single(a[:, i], b[:, j]), rtol=1e-6)


def test_boxes_without_area_give_no_nan():
    sizes = [0.0, 1e-30, 1e-20, 1e-12, 1e-7, 1.0, 1e15]
    a = jnp.array([[centre, centre, w, h] for centre in (0.0, 0.5) for w in sizes for h in sizes])

    def total(a, b):
        a, b = cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)
        return pairwise_iou(a, b).sum() + pairwise_giou(a, b).sum()

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(a, a)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
