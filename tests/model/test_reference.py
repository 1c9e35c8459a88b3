"""Every size against the original PyTorch release on the sample COCO picture (``reference_numbers/forward``)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import COCO_IDS, DATA, assert_same_detections, query_errors, reference_model, sampled

from dfine_jax.inference.compiled import compile_lowered
from dfine_jax.inference.fuse import fuse
from dfine_jax.inference.postprocess import postprocess
from dfine_jax.inference.preprocess import preprocess
from dfine_jax.preprocessing import Preprocessing

EVERY_SIZE = ["n", *(pytest.param(size, marks=pytest.mark.slow) for size in "smlx")]


@pytest.fixture
def compiler_options(size, request) -> dict[str, bool]:
    """Nano is compiled with all optimisations, the larger ones as quickly as may be."""
    return request.getfixturevalue("optimised") if size == "n" else {}


@pytest.fixture(scope="module")
def images(sample_picture):
    return jnp.asarray(preprocess(sample_picture, Preprocessing()))[None]


def stages(model, images):
    backbone = model.backbone(images)
    encoder = model.encoder(backbone)
    memory, shapes = model.decoder.flatten(encoder)
    return backbone, encoder, model.decoder.select(memory, shapes).scores, model.decoder(encoder)


def run(function, model, images, compiler_options, compiled_by=jax.stages.Lowered.compile):
    graph, state = nnx.split(model)
    jitted = jax.jit(lambda state, x: function(nnx.merge(graph, state), x), compiler_options=compiler_options)
    return compiled_by(jitted.lower(state, images))(state, images)


def assert_queries_agree(output, reference):
    errors = query_errors(output.logits[0], output.boxes[0], output.selected[0], reference)
    assert errors.logits <= 2e-5
    assert errors.boxes <= 2e-6


def assert_maps_agree(name, maps, reference):
    for i, x in enumerate(maps):
        largest = reference[f"{name}_{i}_stats"][2]
        np.testing.assert_allclose(sampled(x[0]), reference[f"{name}_{i}"], atol=1e-5 * largest, rtol=0)
    assert f"{name}_{len(maps)}" not in reference


@pytest.mark.parametrize("size", EVERY_SIZE)
def test_every_stage(size, images, sample_picture, compiler_options):
    reference = np.load(DATA / "forward" / f"{size}.npz")
    backbone, encoder, scores, output = run(stages, reference_model(size), images, compiler_options)
    assert_maps_agree("backbone", backbone, reference)
    assert_maps_agree("encoder", encoder, reference)
    np.testing.assert_allclose(scores[0], reference["enc_scores"], atol=2e-5)
    assert_queries_agree(output, reference)

    width, height = sample_picture.size
    top = postprocess(output.logits, output.boxes, jnp.asarray([[height, width]]))
    ours = (top.scores[0], COCO_IDS[np.asarray(top.labels[0])], top.boxes[0])
    theirs = (reference["scores"], reference["labels"], reference["boxes_xyxy"])
    assert_same_detections(ours, theirs, score=1e-5, pixels=0.01)


@pytest.mark.parametrize("size", EVERY_SIZE)
def test_fused(size, images, compiler_options):
    def whole(model, images):
        return model(images)

    output = run(whole, fuse(reference_model(size)), images, compiler_options, compile_lowered)
    assert_queries_agree(output, np.load(DATA / "forward" / f"{size}.npz"))
