"""Operations with forms of their own have the derivatives of those without, of every kind and order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_same_derivatives
from jax import lax
from tiny import normal

from dfine_jax.machine import machine_code
from dfine_jax.ops.activations import ACTIVATIONS
from dfine_jax.ops.batch_norm import Learned, normalise
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.convolution import SMALL

CODE = machine_code()
needs_code = pytest.mark.skipif(CODE is None or not CODE.supported(), reason="no machine code for this processor")
COMPUTES = [Compute, pytest.param(lambda: CODE.training_compute(), marks=needs_code)]

CONVOLUTIONS = {
    "depthwise": ((3, 3, 1, 6), 1, (1, 1)),
    "depthwise with a stride": ((3, 3, 1, 6), 2, (1, 1)),
    "small": ((2, 2, 6, 5), 1, (0, 1)),
    "with a stride": ((3, 3, 6, SMALL // 8), 2, (1, 1)),
    "dense": ((3, 3, 6, SMALL // 32), 1, (1, 1)),
    "pointwise": ((1, 1, 6, 7), 1, (0, 0)),
}


def direct(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
        precision=lax.Precision.HIGHEST,
    )


@pytest.mark.slow
@pytest.mark.parametrize("compute", COMPUTES, ids=["xla", "native"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, compute):
    """By map and kernel together: their one vector makes it a function of the second degree."""
    shape, stride, padding = CONVOLUTIONS[name]
    kernel, x = normal(*shape) / 4, normal(2, 5, 4, 6)
    both = jnp.concatenate([x.ravel(), kernel.ravel()])

    def loss(convolve, both):
        x_of, kernel_of = both[: x.size].reshape(x.shape), both[x.size :].reshape(shape)
        return jnp.sum(jnp.sin(convolve(x_of, kernel_of, stride, padding)))

    ours = partial(loss, lambda x, *rest: compute().convolve([x], *rest))
    assert_same_derivatives(ours, partial(loss, direct), both)


@pytest.mark.parametrize(("activation", "affine"), [("relu", True), ("silu", False)])
def test_batch_norm_in_training(activation, affine):
    x = normal(2, 3, 2, 4)
    sizes = [x.size, 4, 4, *([1, 1] if affine else [])]
    both = jnp.concatenate([x.ravel(), normal(sum(sizes[1:])) / 2 + 1])

    def parts(both):
        pieces = jnp.split(both, np.cumsum(sizes)[:-1])
        return pieces[0].reshape(x.shape), Learned(*pieces[1:3], tuple(pieces[3:]) or None)

    def ours(both):
        return jnp.sum(jnp.sin(normalise(*parts(both), ACTIVATIONS[activation], 1e-3).map))

    def theirs(both):
        x, learned = parts(both)
        y = (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1e-3) * learned.scale + learned.bias
        y = ACTIVATIONS[activation](y)
        return jnp.sum(jnp.sin(y if learned.affine is None else y * learned.affine[0] + learned.affine[1]))

    assert_same_derivatives(ours, theirs, both, rtol=2e-4)


def test_a_batch_of_kernels_is_as_one_after_another():
    x, kernels = normal(3, 2, 5, 4, 6), normal(3, 3, 3, 1, 6)
    convolve = partial(Compute().convolve, stride=2, padding=(1, 1))
    for axes in ((0, 0), (0, None), (None, 0)):
        given = [array if axis == 0 else array[0] for array, axis in zip((x, kernels), axes, strict=True)]
        together = jax.vmap(lambda x, kernel: convolve([x], kernel), axes)(*given)
        alone = [convolve([x[i if axes[0] == 0 else 0]], kernels[i if axes[1] == 0 else 0]) for i in range(3)]
        np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-6)
