"""What sampling says of maps' gradients, in the form of each platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dfine_jax.ops.sampling import sample_bilinear

LOOKS = 1000


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("derivative", [jax.grad, lambda f: lambda x: jax.jvp(f, [x], [jnp.ones_like(x)])[1]])
def test_those_of_bfloat16_maps_are_summed_in_float32(platform, derivative, monkeypatch):
    """In bfloat16 a sum of ones stops at 256, and a training's cells are looked at a thousand times."""
    monkeypatch.setattr(lax, "platform_dependent", lambda *x, default, **others: others.get(platform, default)(*x))
    values = np.ones((1, 4, 1, 2), jnp.bfloat16)
    locations = np.full((1, LOOKS, 1, 1, 2), 0.25, np.float32)  # the middle of the first of 2x2 cells
    weights = np.ones((1, LOOKS, 1, 1), np.float32)

    def total(values):
        return sample_bilinear(values, ((2, 2),), locations, weights, (1,)).sum()

    looked = jax.jit(derivative(total))(values)
    seen = np.asarray(looked)[0, 0, 0] if looked.ndim else looked / 2
    assert (seen == LOOKS).all()
