import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import TINY, tiny_config, tiny_model

from dfine_jax.config import DFineConfig
from dfine_jax.cpu.blocks import NativeDeformableAttention, NativeLayerNorm, NativeSelfAttention, PooledStem
from dfine_jax.cpu.codegen.registers import WIDEST, registers
from dfine_jax.cpu.layers import PackedConv
from dfine_jax.cpu.select import NARROW, WIDE
from dfine_jax.inference.fuse import fuse, fused_form
from dfine_jax.model.attention import SelfAttention
from dfine_jax.model.deformable import DeformableAttention
from dfine_jax.model.dfine import DFine, functional, variables

TOLERANCE = 2e-5


def names(model) -> set[str]:
    params, batch_stats = variables(model)
    return {*params, *batch_stats}


def test_fused_is_the_same(model, pictures, detected):
    apply, params, batch_stats = functional(fuse(model))
    fused = jax.jit(apply)(params, batch_stats, pictures)
    np.testing.assert_array_equal(fused.selected, detected.selected)
    np.testing.assert_allclose(fused.logits, detected.logits, atol=TOLERANCE)
    np.testing.assert_allclose(fused.boxes, detected.boxes, atol=TOLERANCE / 10)


def test_the_model_stays_as_it_is(model):
    before = {name: x for kind in variables(model) for name, x in kind.items()}
    fuse(model)
    after = {name: x for kind in variables(model) for name, x in kind.items()}
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert model.config == TINY


def test_what_only_training_needs_is_gone(model):
    left = names(fuse(model))
    assert not any(".norm.mean" in name or ".norm.var" in name or "conv1x1" in name for name in left)
    assert "decoder.denoising_embed" not in left
    assert variables(fuse(model))[1].keys() == {"decoder.up", "decoder.reg_scale"}
    assert fuse(model).config == tiny_config(denoising_queries=0)


@pytest.mark.slow
def test_another_model(pictures):
    """Wide layers past the one that counts, projected maps, a level of its own, learned queries, nearest cells."""
    changes = dict(layers=3, eval_layer=1, layer_scale=2, width=32, points=(2, 3, 1), learned_queries=True)
    config = replace(tiny_config(method="discrete", **changes), norm_epsilon=1e-3)
    model = tiny_model(config)
    fused = fuse(model)
    past = [name for name in names(fused) if name.startswith(f"decoder.layers.{config.decoder.last_layer + 1}")]
    assert not past
    outputs = []
    for form in (model, fused):
        apply, params, batch_stats = functional(form)
        outputs.append(jax.jit(apply)(params, batch_stats, pictures[:1]))
    np.testing.assert_array_equal(outputs[0].selected, outputs[1].selected)
    np.testing.assert_allclose(outputs[0].logits, outputs[1].logits, atol=TOLERANCE)
    np.testing.assert_allclose(outputs[0].boxes, outputs[1].boxes, atol=TOLERANCE / 10)


@pytest.mark.slow
@pytest.mark.parametrize("for_cpu", [True, False])
@pytest.mark.usefixtures("without_machine_code")
def test_kernels_get_the_forms_of_cpus(pictures, for_cpu):
    first, second, last = TINY.backbone.stages
    first, width = replace(first, mid_channels=16, layers=2), max(WIDE, NARROW + 1)
    backbone = replace(TINY.backbone, stages=(first, replace(second, mid_channels=width), last))
    model = tiny_model(replace(TINY, backbone=backbone))
    fused = fuse(model, for_cpu=for_cpu)
    narrow, wide = (fused.backbone.stages[i].blocks[0] for i in (0, 1))
    assert wide.layers[0].kernel.shape == (3, 3, 16, width)  # of few channels in
    squeezed = 16 + second.layers * width
    if for_cpu:
        assert [kernel.shape for kernel in narrow.layers[1].kernel] == [(3, 4, 16, 32)]
        assert [kernel.shape for kernel in wide.layers[1].kernel] == [(36, width, width)]
        assert [kernel.shape[2] for kernel in wide.squeeze.kernel] == [16, squeezed - 16]
    else:
        assert narrow.layers[1].kernel.shape == (3, 3, 16, 16)
        assert wide.layers[1].kernel.shape == (3, 3, width, width)
        assert wide.squeeze.kernel.shape[2] == squeezed
    for plain, quick in zip(model.backbone(pictures), fused.backbone(pictures), strict=True):
        np.testing.assert_allclose(quick, plain, atol=1e-5 * float(np.abs(plain).max()))


@pytest.mark.usefixtures("without_machine_code")
def test_a_quick_program_gets_kernels_in_parts_alone():
    """For those need not be copied at every call; tiles take long to compile."""
    first, second, last = TINY.backbone.stages
    backbone = replace(TINY.backbone, stages=(first, replace(second, mid_channels=WIDE), last))
    config = replace(TINY, backbone=backbone)
    forms = [fused_form(tiny_model(config), for_cpu=True, quick=quick)[0] for quick in (False, True)]
    usual, quick = map(forms_of, forms)
    assert usual >= {"whole", "split", "Winograd F(4,3)"}
    assert quick == {"whole", "split"}


def forms_of(model) -> set[str]:
    return {module.form for _, module in nnx.iter_modules(model) if isinstance(module, PackedConv)}


@pytest.mark.slow
@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
def test_where_there_is_machine_code_dense_kernels_are_in_panels(pictures):
    first, second, last = TINY.backbone.stages
    backbone = replace(TINY.backbone, stages=(first, replace(second, mid_channels=32, layers=3), last))
    model = tiny_model(replace(TINY, backbone=backbone))
    form, fusion = fused_form(model)
    assert forms_of(form) == {"GEMM", "implicit GEMM", "depthwise", "Winograd F(4,3), packed"}
    assert isinstance(form.backbone.stem, PooledStem) == (TINY.backbone.stem_channels[1] >= WIDEST)
    assert isinstance(form.decoder.layers[0].norm1, NativeLayerNorm)
    assert "decoder.layers.0.self_attention.query.kernel" in fusion.plan.kernels
    assert fusion.plan.purposes == ("inference",)
    assert not fused_form(model, quick=True)[1].plan.purposes
    assert {x.dtype for x in variables(form)[0].values()} == {np.dtype("float32")}
    for plain, native in zip(model.backbone(pictures), fuse(model).backbone(pictures), strict=True):
        np.testing.assert_allclose(native, plain, atol=1e-5 * float(np.abs(plain).max()))


@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
def test_attention_is_native_where_its_heads_are_wide_enough():
    def attentions(model, **options):
        form, _ = fused_form(model, for_cpu=True, **options)
        layer = form.decoder.layers[0]
        return tuple(map(type, (layer.self_attention, layer.cross_attention)))

    config = DFineConfig.from_size("n")
    discrete = replace(config, decoder=replace(config.decoder, method="discrete"))
    assert attentions(DFine(config)) == (NativeSelfAttention, NativeDeformableAttention)
    assert attentions(DFine(discrete)) == (NativeSelfAttention, DeformableAttention)
    assert attentions(DFine(config), quick=True) == (SelfAttention, DeformableAttention)
    assert attentions(tiny_model()) == (SelfAttention, DeformableAttention)


def test_layers_for_cpus_are_for_cpus(monkeypatch):
    def packed(model):
        return [module for _, module in nnx.iter_modules(model) if isinstance(module, PackedConv)]

    assert packed(fuse(tiny_model()))
    assert not packed(fuse(tiny_model(), for_cpu=False))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert not packed(fuse(tiny_model()))


def test_a_blocks_variables_keep_their_names(model):
    """But for a number after kernels that became several."""
    for options in ({"for_cpu": True}, {"for_cpu": True, "quick": True}):
        left = {re.sub(r"(kernel)\.\d+$", r"\1", name) for name in names(fused_form(model, **options)[0])}
        assert left == names(fused_form(model, for_cpu=False)[0])


def test_weights_stay_float32(model):
    params, batch_stats = variables(fuse(model))
    assert {x.dtype for x in {**params, **batch_stats}.values()} == {np.dtype("float32")}
