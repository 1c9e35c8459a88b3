"""The checks that run in every other test are on, and can be put off."""

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from dfine_jax.inference.postprocess import postprocess


def shapes_of_two_pictures(boxes: int):
    return jax.eval_shape(postprocess, jnp.zeros((2, 5, 3)), jnp.zeros((boxes, 5, 4)), jnp.zeros((2, 2), jnp.int32))


def test_shapes_are_checked_under_transformations_too():
    assert shapes_of_two_pictures(2).boxes.shape == (2, 5, 4)
    with pytest.raises(TypeCheckError, match="boxes"):
        shapes_of_two_pictures(1)


def test_types_are_checked():
    with pytest.raises(TypeCheckError, match="logits"):
        postprocess(jnp.zeros((1, 5, 3), jnp.int32), jnp.zeros((1, 5, 4)), jnp.ones((1, 2), jnp.int32))


@pytest.mark.usefixtures("unchecked")
def test_a_test_may_do_without():
    shapes_of_two_pictures(1)
