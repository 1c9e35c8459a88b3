"""A plain 3x3 convolution, what others are held to, and the cases that they are tried on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

PADDINGS = pytest.mark.parametrize("padding", [(1, 1), (0, 0), (2, 1)])
SHAPES = pytest.mark.parametrize("shape", [(6, 8), (7, 8), (6, 9), (3, 5)])


def plain(x, kernel, padding):
    """Of stride 1, with the same padding along both axes."""
    return lax.conv_general_dilated(x, kernel, (1, 1), (padding, padding), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def check_with_derivatives(ours, reference, x, tolerance=2e-6):
    """Values and derivatives forward within the tolerance, those backward within ten times that."""

    def values_and_derivatives(x, function):
        (gradient,) = jax.vjp(function, x)[1](jnp.sin(reference(x)))
        return *jax.jvp(function, (x,), (x,)), gradient

    both = jax.jit(lambda x: [values_and_derivatives(x, function) for function in (ours, reference)])
    (*results, gradient), (*expected, wanted) = both(x)
    for result, value in zip(results, expected, strict=True):
        assert result.shape == value.shape
        np.testing.assert_allclose(result, value, atol=tolerance)
    np.testing.assert_allclose(gradient, wanted, atol=10 * tolerance)


def rounded(values: jax.Array) -> np.ndarray:
    """To what bfloat16 holds."""
    return np.asarray(values).astype(jnp.bfloat16).astype(np.float32)
