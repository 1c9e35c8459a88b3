"""Every size against transformers' outputs on a picture the test makes (``make_numbers.py`` made the numbers)."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import DATA, query_errors, reference_model, sampled, synthetic_picture

from dfine_jax.weights.rules import HUB


@nnx.jit
def stages(model, images):
    backbone = model.backbone(images)
    encoder = model.encoder(backbone)
    return {"backbone": backbone, "encoder": encoder}, model.decoder(encoder)


@pytest.mark.parametrize("size", ["n", *(pytest.param(size, marks=pytest.mark.slow) for size in "smlx")])
def test_every_stage(size):
    reference = np.load(DATA / "synthetic" / f"{size}.npz")
    model = reference_model(size, HUB, int(reference["seed"]))
    maps, output = stages(model, jnp.asarray(synthetic_picture())[None])
    for name, features in maps.items():
        for i, x in enumerate(features):
            tolerance = 1e-5 * reference[f"{name}_{i}_largest"]
            np.testing.assert_allclose(sampled(x[0]), reference[f"{name}_{i}"], atol=tolerance, rtol=0)
    errors = query_errors(output.logits[0], output.boxes[0], output.selected[0], reference)
    assert errors.logits <= 2e-5
    assert errors.boxes <= 2e-6
