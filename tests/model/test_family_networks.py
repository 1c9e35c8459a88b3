"""DEIM's and RT-DETRv4's networks: D-FINE's with SiLU in the decoder (``make_family_numbers.py`` made the numbers)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import DATA, SOME_CLASSES, query_errors, reference_model, square_picture

from dfine_jax.config import DECODER_ACTIVATIONS, DFineConfig
from dfine_jax.inference.compiled import compile_lowered
from dfine_jax.inference.fuse import fuse

EVERY_SIZE = ["n", *(pytest.param(size, marks=pytest.mark.slow) for size in "smlx")]


def reference(size):
    return dict(np.load(DATA / "families" / f"{size}.npz"))


def model(size, activation="silu"):
    return reference_model(size, seed=int(reference(size)["seed"]), decoder_activation=activation)


def errors(network, size):
    graph, state = nnx.split(network)
    picture = jnp.asarray(square_picture())[None]
    lowered = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, picture)
    output = compile_lowered(lowered)(state, picture)
    return query_errors(output.logits[0][:, SOME_CLASSES], output.boxes[0], output.selected[0], reference(size))


@pytest.mark.parametrize("size", EVERY_SIZE)
def test_outputs(size):
    found = errors(model(size), size)
    assert found.logits <= 2e-5
    assert found.boxes <= 2e-6


@pytest.mark.parametrize("size", EVERY_SIZE)
def test_outputs_folded(size):
    found = errors(fuse(model(size)), size)
    assert found.logits <= 2e-5
    assert found.boxes <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("place", DECODER_ACTIVATIONS)
def test_every_place_counts(place):
    from tiny import tiny_config, tiny_model, tiny_pictures

    silu = dict.fromkeys(DECODER_ACTIVATIONS, "silu")
    outputs = [
        tiny_model(tiny_config(**decoder))(tiny_pictures(1)) for decoder in (silu, {**silu, place: "relu"}, silu)
    ]
    assert float(jnp.abs(outputs[0].logits - outputs[1].logits).max()) > 1e-4
    assert float(jnp.abs(outputs[0].logits - outputs[2].logits).max()) == 0


def test_one_activation_everywhere_in_the_decoder():
    config = DFineConfig.large().with_decoder_activation("silu")
    assert {getattr(config.decoder, place) for place in DECODER_ACTIVATIONS} == {"silu"}
    assert config.with_decoder_activation("relu") == DFineConfig.large()
