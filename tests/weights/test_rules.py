"""The two dialects' tables against every name of the ten published checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
from reference import MadeWeights, manifest

from dfine_jax.config import DFineConfig
from dfine_jax.model_shapes import model_shapes
from dfine_jax.weights.fill import CheckpointError, fill, plan
from dfine_jax.weights.layouts import CONV, LINEAR, SAME
from dfine_jax.weights.rules import HUB, ORIGINAL, Ignored, is_ignored, to_jax, to_torch

BOTH = pytest.mark.parametrize(("dialect", "kind"), [(HUB, "huggingface"), (ORIGINAL, "original")], ids=["hub", "pth"])


def shapes_of(size):
    params, batch_stats = model_shapes(DFineConfig.from_size(size))
    return {**params, **batch_stats}


@BOTH
@pytest.mark.parametrize("size", "nsmlx")
def test_every_published_name_is_accounted_for(dialect, kind, size):
    published, targets = manifest(kind, size), shapes_of(size)
    result = plan(dialect, published, targets)
    assert result.problems() == []
    assert result.origins.keys() == targets.keys()
    used = {name for name, _ in result.origins.values()}
    assert used | set(result.ignored) == published.keys()
    assert used.isdisjoint(result.ignored)


@BOTH
@pytest.mark.parametrize("size", "nsmlx")
def test_names_lead_there_and_back(dialect, kind, size):
    for target in shapes_of(size):
        origin = to_torch(dialect, target)
        assert origin.name in manifest(kind, size)
        assert target in [match.name for match in to_jax(dialect, origin.name)]


def test_what_is_ignored_is_named():
    ignored = {name.rpartition(".")[2] for name in manifest("original", "x") if is_ignored(ORIGINAL, name)}
    assert ignored == {"num_batches_tracked", "num_points_scale", "anchors", "valid_mask", "up", "reg_scale"}
    assert is_ignored(HUB, "class_embed.3.weight")
    assert not is_ignored(HUB, "model.decoder.class_embed.3.weight")


def test_layouts_are_undone():
    kernel = np.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    assert CONV.to_jax(kernel).shape == CONV.shape(kernel.shape) == (5, 5, 3, 2)
    assert CONV.to_jax(kernel)[4, 1, 2, 0] == kernel[0, 2, 4, 1]
    np.testing.assert_array_equal(CONV.to_torch(CONV.to_jax(kernel)), kernel)
    matrix = np.arange(6).reshape(2, 3)
    assert LINEAR.to_jax(matrix)[2, 1] == matrix[1, 2]
    np.testing.assert_array_equal(LINEAR.to_torch(LINEAR.to_jax(matrix)), matrix)
    assert SAME.to_jax(matrix) is matrix


@pytest.mark.parametrize("size", ["n", "x"])  # widths 128; 384 in the encoder and 256 in the decoder
def test_fused_attention_is_split_at_thirds(size):
    made = MadeWeights(manifest("original", size), seed=1, reg_scale=4.0)
    result = plan(ORIGINAL, made.shapes, shapes_of(size))
    result.origins = {name: origin for name, origin in result.origins.items() if "self_attention" in name}
    arrays = dict(fill(result, made))
    for here, there in {
        "encoder.attention.0.layers.0.self_attention": "encoder.encoder.0.layers.0.self_attn",
        "decoder.layers.1.self_attention": "decoder.decoder.layers.1.self_attn",
    }.items():
        weight, bias = made.read(f"{there}.in_proj_weight"), made.read(f"{there}.in_proj_bias")
        width = weight.shape[1]
        for i, name in enumerate(("query", "key", "value")):
            part = slice(i * width, (i + 1) * width)
            np.testing.assert_array_equal(arrays[f"{here}.{name}.kernel"], weight[part].T)
            np.testing.assert_array_equal(arrays[f"{here}.{name}.bias"], bias[part])


def test_one_report_lists_everything_that_does_not_fit():
    published, targets = dict(manifest("huggingface", "n")), shapes_of("n")
    del published["model.decoder.up"], published["model.enc_output.0.weight"]
    published["model.decoder.class_embed.0.weight"] = (80, 100)
    published["model.encoder.lateral_convs.0.conv.weight"] = (128, 128, 1)
    published["head.weight"] = (3,)
    published["model.decoder.layers.7.fc1.bias"] = (512,)
    result = plan(HUB, published, targets)
    with pytest.raises(CheckpointError) as caught:
        result.check("my.safetensors", "a hint")
    assert str(caught.value).splitlines() == [
        "my.safetensors does not fit the model: 2 tensors missing, 2 unexpected, 2 of the wrong shape",
        "  a hint",
        "  missing: model.decoder.up",
        "  missing: model.enc_output.0.weight",
        "  unexpected: head.weight",
        "  unexpected: model.decoder.layers.7.fc1.bias",
        "  wrong shape: model.decoder.class_embed.0.weight is [80, 100], the model needs [80, 128]",
        "  wrong shape: model.encoder.lateral_convs.0.conv.weight is [128, 128, 1], the model needs [128, 128, 1, 1]",
    ]


def test_fused_attention_of_another_width_is_misshapen():
    published = {**manifest("original", "n"), "decoder.decoder.layers.0.self_attn.in_proj_weight": (385, 128)}
    result = plan(ORIGINAL, published, shapes_of("n"))
    assert result.misshapen == [
        "decoder.decoder.layers.0.self_attn.in_proj_weight is [385, 128], the model needs [384, 128]"
    ]


def test_a_model_that_the_dialect_has_no_names_for_is_a_mistake_in_the_rules():
    with pytest.raises(AssertionError, match=r"no rule for decoder\.unheard_of"):
        plan(HUB, {}, {"decoder.unheard_of": (1,)})


def test_numbers_beyond_nine_and_other_ignored_names():
    assert to_jax(HUB, "model.decoder.layers.12.fc1.bias")[0].name == "decoder.layers.12.mlp.layers.0.bias"
    more = replace(HUB, ignored=(*HUB.ignored, Ignored(r"extra\..*", "more")))
    assert is_ignored(more, "extra.weight")
    assert not is_ignored(HUB, "extra.weight")
