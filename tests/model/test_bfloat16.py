"""Computing in bfloat16: how far from float32 the outputs are, and what stays float32."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import DATA, reference_model, synthetic_picture, with_compute
from tiny import TINY, tiny_model

from dfine_jax.cpu.codegen.registers import registers
from dfine_jax.cpu.select import ROUNDED
from dfine_jax.inference.fuse import fuse, fused_form
from dfine_jax.model.dfine import functional, variables
from dfine_jax.weights.rules import HUB


@pytest.mark.slow
def test_errors_of_nano_are_bounded():
    """Twice what was measured on these random weights, whose logits spread by 0.8."""
    reference = np.load(DATA / "synthetic" / "n.npz")
    model = with_compute(reference_model("n", HUB, int(reference["seed"])), "bfloat16")
    apply, params, batch_stats = functional(fuse(model))
    output = jax.jit(apply)(params, batch_stats, jnp.asarray(synthetic_picture())[None])
    # Scores move too, so that a few other cells may be chosen.
    shared, ours, theirs = np.intersect1d(output.selected[0], reference["selected"], return_indices=True)
    assert len(shared) >= 290
    logits = np.abs(np.asarray(output.logits[0])[ours] - reference["logits"][theirs])
    boxes = np.abs(np.asarray(output.boxes[0])[ours] - reference["boxes"][theirs])
    assert 1e-3 < logits.max() < 0.1
    assert 1e-4 < boxes.max() < 0.01
    assert logits.mean() < 0.02
    assert boxes.mean() < 0.0012


@pytest.mark.slow
def test_weights_outputs_and_statistics_stay_float32(pictures):
    model = with_compute(tiny_model(), "bfloat16")
    assert {x.dtype for kind in variables(model) for x in kind.values()} == {jnp.dtype("float32")}
    apply, params, batch_stats = functional(model)
    detected = jax.eval_shape(apply, params, batch_stats, pictures)
    assert detected.logits.dtype == detected.boxes.dtype == jnp.float32
    output, new = jax.eval_shape(lambda *x: apply(*x, train=True), params, batch_stats, pictures)
    assert {x.dtype for x in jax.tree.leaves((output, new))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("for_cpu", [True, False])
@pytest.mark.usefixtures("without_machine_code")
def test_fused_kernels_are_rounded_once(pictures, for_cpu):
    """The form for inference holds them in the type of the products; biases, norms and statistics stay float32.

    So do kernels, and the maps between them, that CPUs compute with in float32 anyway.
    """
    wide = replace(TINY.backbone.stages[1], mid_channels=ROUNDED)
    first = replace(TINY.backbone.stages[0], mid_channels=16, layers=2)
    backbone = replace(TINY.backbone, stages=(first, wide, TINY.backbone.stages[2]))
    fused = fuse(with_compute(tiny_model(replace(TINY, backbone=backbone)), "bfloat16"), for_cpu=for_cpu)
    apply, params, batch_stats = functional(fused)
    rounded = {name for name, value in params.items() if value.dtype == jnp.bfloat16}
    kernels = {name for name in params if re.search(r"\.kernel(\.\d+)?$", name)}
    dense = {name: params[name].shape for name in kernels if params[name].ndim == 4 and params[name].shape[2] > 1}
    exact = {name for name, shape in dense.items() if shape[:2] in ((2, 2), (3, 3), (3, 4))}
    assert ((3, 4) in {shape[:2] for shape in dense.values()}) == for_cpu  # for two cells at once
    assert exact
    assert rounded == (kernels - exact if for_cpu else kernels)
    types = nnx.eval_shape(lambda stem, pictures: (stem(pictures), stem.stem1(pictures)), fused.backbone.stem, pictures)
    assert [x.dtype for x in types] == [jnp.bfloat16, jnp.float32 if for_cpu else jnp.bfloat16]
    assert {x.dtype for x in batch_stats.values()} == {jnp.dtype("float32")}
    detected = jax.eval_shape(apply, params, batch_stats, pictures)
    assert detected.logits.dtype == detected.boxes.dtype == jnp.float32


@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
def test_kernels_in_panels_are_not_rounded(pictures):
    form, fusion = fused_form(with_compute(tiny_model(), "bfloat16"))
    types = {name: x.dtype for name, x in variables(form)[0].items()}
    forms = {name: packed.form for name, packed in fusion.plan.kernels.items()}
    native = {name.removesuffix(".kernel") for name, form in forms.items() if form == "implicit GEMM"}
    assert set(forms.values()) == {"split", "implicit GEMM"}  # pointwise and depthwise ones are rounded
    assert fusion.plan.purposes == ("inference",)
    for name, dtype in types.items():
        if re.search(r"\.kernel(\.\d+)?$", name):
            conv, _, _ = name.partition(".kernel")
            assert dtype == (jnp.float32 if conv in native else jnp.bfloat16)


def test_only_products_are_rounded(pictures):
    """The stages in between hand bfloat16 maps on; what is decided from them is computed in float32."""
    model = with_compute(tiny_model(), "bfloat16")

    def stages(x):
        maps = model.encoder(model.backbone(x))
        memory, shapes = model.decoder.flatten(maps)
        return maps, model.decoder.select(memory, shapes)

    maps, selection = jax.eval_shape(stages, pictures)
    assert {x.dtype for x in maps} == {jnp.dtype("bfloat16")}
    assert selection.scores.dtype == selection.boxes_unact.dtype == jnp.float32
    assert len(maps) == TINY.decoder.levels
