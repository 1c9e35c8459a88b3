"""Random small models that transformers makes and saves: every tensor arrives, and both compute the same."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from dfine_jax.evaluation.against_transformers import compare
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import load_pretrained
from dfine_jax.weights.hub_layout import save_hub_folder
from dfine_jax.weights.sources import open_model

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def random_backbone(rng):
    stages = int(rng.integers(2, 5))
    maps = int(rng.integers(1, min(3, stages - 1) + 1))
    stem, *channels = (8 * rng.integers(1, 4, stages + 1)).tolist()
    return dict(
        model_type="hgnet_v2",
        depths=[1] * stages,
        hidden_sizes=channels,
        hidden_act=str(rng.choice(["relu", "silu"])),
        out_indices=list(range(stages - maps + 1, stages + 1)),
        stem_channels=[3, int(2 * rng.integers(2, 5)), stem],
        stage_in_channels=[stem, *channels[:-1]],
        stage_mid_channels=(4 * rng.integers(1, 4, stages)).tolist(),
        stage_out_channels=channels,
        stage_num_blocks=rng.integers(1, 3, stages).tolist(),
        stage_downsample=[False] + [True] * (stages - 1),
        stage_downsample_strides=[2] * stages,
        stage_light_block=rng.choice([False, True], stages).tolist(),
        stage_kernel_size=rng.choice([1, 3, 5], stages).tolist(),
        stage_numb_of_layers=rng.integers(1, 4, stages).tolist(),
        use_learnable_affine_block=bool(rng.integers(2)),
    )


def random_config(rng):
    """A config.json's fields with everything different that may differ."""
    backbone = random_backbone(rng)
    maps = len(backbone["out_indices"])
    encoder_heads, decoder_heads = rng.choice([1, 2, 4], 2).tolist()
    width = int(4 * encoder_heads * rng.integers(2, 5))
    decoder_width = width if rng.integers(2) and width % decoder_heads == 0 else int(8 * decoder_heads)
    levels = maps + int(rng.integers(0, 3))
    activations = rng.choice(["relu", "silu", "gelu", "gelu_new", "tanh", "sigmoid"], 3).tolist()
    return dict(
        backbone_config=backbone,
        num_labels=int(rng.integers(1, 9)),
        freeze_backbone_batch_norms=bool(rng.integers(2)),
        batch_norm_eps=float(rng.choice([1e-5, 1e-3])),
        layer_norm_eps=float(rng.choice([1e-5, 1e-3])),
        encoder_hidden_dim=width,
        encoder_in_channels=backbone["stage_out_channels"][-maps:],
        encoder_layers=int(rng.integers(0, 3)),
        encoder_ffn_dim=int(rng.integers(8, 40)),
        encoder_attention_heads=encoder_heads,
        encode_proj_layers=sorted(rng.choice(maps, int(rng.integers(1, maps + 1)), replace=False).tolist()),
        positional_encoding_temperature=int(rng.choice([20, 10000])),
        encoder_activation_function=activations[0],
        activation_function=activations[1],
        decoder_activation_function=activations[2],
        hidden_expansion=float(rng.choice([0.34, 0.5, 1.0, 1.3])),
        depth_mult=float(rng.choice([0.34, 0.67])),
        d_model=decoder_width,
        num_queries=int(rng.integers(5, 20)),
        decoder_in_channels=[width] * maps,
        decoder_ffn_dim=int(rng.integers(8, 40)),
        num_feature_levels=levels,
        decoder_n_points=int(rng.integers(1, 5)) if rng.integers(2) else rng.integers(1, 5, levels).tolist(),
        decoder_layers=int(rng.integers(2, 4)),  # transformers fails to tie the heads of one layer
        decoder_attention_heads=decoder_heads,
        num_denoising=int(rng.choice([0, 10])),
        max_num_bins=int(rng.choice([8, 16])),
        reg_scale=float(rng.uniform(2, 8)),
        up=float(rng.uniform(0.2, 1)),
        top_prob_values=int(rng.integers(1, 5)),
        lqe_hidden_dim=int(rng.integers(4, 20)),
        lqe_layers=int(rng.integers(1, 4)),
        decoder_offset_scale=float(rng.uniform(0.2, 1)),
        decoder_method=str(rng.choice(["default", "discrete"])),
    )


def saved(folder, seed):
    """A random model with random weights in ``folder``."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    model = transformers.DFineForObjectDetection(transformers.DFineConfig(**random_config(np.random.default_rng(seed))))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not name.endswith(("reg_scale", "up", "num_points_scale")):
                noise = torch.randn_like(value)
                value.add_(noise.abs() * 0.2 if name.endswith("running_var") else noise * 0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("seed", range(8))
def test_every_tensor_arrives_and_goes_back_to_the_bit(tmp_path, seed):
    saved(tmp_path / "theirs", seed)
    model = open_model(tmp_path / "theirs")
    save_hub_folder(tmp_path / "ours", model.config, model.preprocessing, model.arrays())
    theirs, ours = (load_file(tmp_path / who / "model.safetensors") for who in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert open_model(tmp_path / "ours").config == model.config


@pytest.mark.parametrize("seed", [4, 10, 17])  # plain; projected, with five levels; nearest cells, with five levels
def test_both_compute_the_same(tmp_path, seed):
    saved(tmp_path / "theirs", seed)
    loaded = load_pretrained(tmp_path / "theirs")
    picture = Image.effect_noise((96, 64), 120).convert("RGB")
    found = compare(loaded.model, tmp_path / "theirs", Preprocessing(64, 96), picture)
    assert found.shared == found.queries
    assert found.logits < 2e-5
    assert found.boxes < 2e-6
