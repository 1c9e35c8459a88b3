"""Configurations read from a Hub config.json and written back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TINY, tiny_config

from dfine_jax.config import DFineConfig
from dfine_jax.hub_config import evaluated, from_hub, map_strides, surplus_layers, to_hub
from dfine_jax.hub_labels import labels_disagree
from dfine_jax.json_fields import FieldError

REFERENCE = json.loads((Path(__file__).parent / "reference_numbers" / "hub_configs.json").read_text())
UNREAD = {"depths", "hidden_sizes"}  # of theirs only the length and the last entries matter


def small(**fields):
    """A config.json that says almost everything, with other fields."""
    return {**to_hub(TINY), **fields}


def small_backbone(**fields):
    return small(backbone_config={**to_hub(TINY)["backbone_config"], **fields})


@pytest.mark.parametrize("size", "nsmlx")
def test_published_config_is_the_size_of_that_name(size):
    expected = DFineConfig.from_size(size)
    expected = replace(
        expected,
        backbone=replace(expected.backbone, frozen_norms=True),
        decoder=replace(expected.decoder, reg_scale=4.0),  # X's weights say 8
        class_names=tuple(f"LABEL_{i}" for i in range(80)),
    )
    assert from_hub(REFERENCE[size]) == expected


@pytest.mark.parametrize("size", "nsmlx")
def test_written_config_says_what_the_published_one_says(size):
    written = to_hub(from_hub(REFERENCE[size]))
    for name, value in written.pop("backbone_config").items():
        assert name in UNREAD or REFERENCE[size]["backbone_config"].get(name, value) == value, name
    assert len(written.pop("id2label")) == len(written.pop("label2id")) == 80
    assert {name: REFERENCE[size][name] for name in written} == written


@pytest.mark.parametrize(
    "config",
    [TINY, tiny_config(method="discrete", learned_queries=True, denoising_queries=0), DFineConfig.xlarge()],
)
def test_there_and_back(config):
    assert from_hub(json.loads(json.dumps(to_hub(config)))) == config


def test_an_empty_config_has_transformers_defaults():
    config = from_hub({})
    assert config.class_names == ("LABEL_0", "LABEL_1")
    assert config.decoder == replace(DFineConfig.large().decoder, points=(4, 4, 4))
    assert config.encoder == DFineConfig.large().encoder
    assert config.backbone == replace(DFineConfig.large().backbone, frozen_norms=True)


def test_a_backbone_that_names_no_outputs_hands_on_the_last_stage():
    one_map = dict(encoder_in_channels=[2048], decoder_in_channels=[256], encode_proj_layers=[0])
    assert from_hub({"backbone_config": {"model_type": "hgnet_v2"}, **one_map}).backbone.out_stages == (4,)


def test_one_number_of_points_is_for_every_level():
    assert from_hub(small(decoder_n_points=5)).decoder.points == (5, 5)


def test_more_levels_than_maps():
    config = from_hub(small(num_feature_levels=4, decoder_n_points=[1, 2, 3, 4]))
    assert config.decoder.points == (1, 2, 3, 4)
    assert config.extra_levels == 2


@pytest.mark.parametrize(("eval_idx", "kept"), [(-1, 6), (5, 6), (2, 3), (-6, 1)])
def test_layers_past_eval_idx_are_left_out(eval_idx, kept):
    given = small(decoder_layers=6, eval_idx=eval_idx, layer_scale=2)
    config = from_hub(given)
    assert (config.decoder.layers, config.decoder.eval_layer, config.decoder.layer_scale) == (kept, -1, 1.0)
    assert surplus_layers(given) == range(kept, 12 - kept)


def test_writing_leaves_layers_past_the_one_that_counts_out():
    wide = tiny_config(layers=4, eval_layer=1, layer_scale=2.0)
    assert evaluated(wide) == tiny_config(layers=2)
    assert to_hub(wide) == to_hub(tiny_config(layers=2))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"id2label": {"1": "b", "0": "a", "2": "c"}}, ("a", "b", "c")),
        ({"id2label": {0: "a"}}, ("a",)),
        ({"id2label": {"0": "a"}, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": ["b", "A", "a"]}, ("b", "A", "a")),
        ({"id2label": {"00": "a", 1: 7}}, ("a", "7")),
        ({"id2label": None, "num_labels": 1}, ("LABEL_0",)),
        ({"id2label": None}, ("LABEL_0", "LABEL_1")),
        ({"id2label": None, "label2id": {"b": 1, "a": "0"}}, ("a", "b")),
    ],
)
def test_class_names(fields, names):
    assert from_hub(small(**{"label2id": None, **fields})).class_names == names


def test_the_weights_decide_where_the_numbers_of_classes_disagree():
    fields = small(id2label={"0": "a", "1": "b"}, num_labels=80)
    assert from_hub(fields, classes=2).class_names == ("a", "b")
    assert len(from_hub(fields, classes=80).class_names) == len(from_hub(fields).class_names) == 80
    assert labels_disagree(fields) == "config.json: num_labels = 80, but id2label names 2"
    assert labels_disagree(small()) is None


@pytest.mark.parametrize(
    "outputs",
    [
        {"out_indices": [2, 3], "out_features": None},
        {"out_indices": [-2, -1], "out_features": None},
        {"out_indices": None, "out_features": ["stage2", "stage3"]},
        {"out_indices": [2, 3], "out_features": ["stage2", "stage3"]},
    ],
)
def test_outputs_by_name_or_number(outputs):
    assert from_hub(small_backbone(**outputs)).backbone.out_stages == (2, 3)


def test_maps_are_counted_from_the_end_too():
    assert from_hub(small(encode_proj_layers=[-1])).encoder.attention_levels == (1,)


def test_an_encoder_without_attention_may_name_any_map():
    encoder = from_hub(small(encoder_layers=0, encode_proj_layers=[7])).encoder
    assert (encoder.attention_layers, encoder.attention_levels) == (0, ())


def test_aliases_of_transformers():
    config = from_hub({"hidden_size": 128, "num_attention_heads": 4})
    assert (config.decoder.width, config.encoder.heads) == (128, 4)


def test_what_transformers_does_not_look_at_is_not_looked_at():
    ignored = dict(feat_strides=[1], dropout=0.3, anchor_image_size=[64, 64], encoder_in_channels=[1, 1], foo="bar")
    assert from_hub(small(**ignored)) == TINY


def test_strides_of_the_maps():
    assert map_strides(DFineConfig.nano().backbone) == [16, 32]
    assert map_strides(TINY.backbone) == [8, 16]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "rt_detr"}, 'model_type = "rt_detr" is not supported'),
        ({"normalize_before": True}, "normalize_before = true is not supported"),
        ({"eval_size": [640, 640]}, r"eval_size = \[640, 640\] is not supported"),
        ({"activation_function": "mish"}, 'activation_function = "mish" is not supported: only "relu", "silu"'),
        ({"encoder_activation_function": None}, "encoder_activation_function = null is not supported"),
        ({"decoder_method": "nearest"}, 'decoder_method = "nearest" is not supported: only "default", "discrete"'),
        ({"use_timm_backbone": True}, "use_timm_backbone = true is not supported"),
        ({"backbone_config": None, "backbone": "resnet50"}, 'backbone = "resnet50" is not supported'),
        ({"backbone_config": {"model_type": "resnet"}}, 'backbone_config.model_type = "resnet" is not supported'),
        ({"decoder_n_points": [3, 6, 3]}, r"decoder_n_points = \[3, 6, 3\] must have num_feature_levels, 2, entries"),
        ({"num_feature_levels": 1}, "num_feature_levels = 1 must be at least the number of maps, 2"),
        ({"encoder_in_channels": [16, 24, 24]}, r"encoder_in_channels = \[16, 24, 24\] must have as many entries"),
        ({"decoder_in_channels": [16, 32]}, r"decoder_in_channels = \[16, 32\] must be encoder_hidden_dim, 16"),
        ({"encode_proj_layers": [2]}, r"encode_proj_layers = \[2\] must be below 2"),
        ({"eval_idx": 2}, "eval_idx = 2 must name one of 2 layers"),
        ({"eval_idx": -3}, "eval_idx = -3 must be a whole number, -2 or more"),
        ({"max_num_bins": 9}, "max_num_bins = 9 must be even"),
        ({"top_prob_values": 10}, "top_prob_values = 10 must be at most max_num_bins [+] 1, 9"),
        ({"encoder_hidden_dim": 18}, "encoder_hidden_dim = 18 must be divisible by 4"),
        ({"encoder_attention_heads": 3}, "encoder_attention_heads = 3 must divide encoder_hidden_dim, 16"),
        ({"decoder_attention_heads": 5}, "decoder_attention_heads = 5 must divide d_model, 16"),
        ({"hidden_expansion": 0.01}, "hidden_expansion = 0.01 leaves no channels"),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label = .* must name labels 0, 1, 2, ... in full: 0 is missing"),
        ({"id2label": {"0": "a", "3": "b", "4": "c", "9": "d"}}, "id2label = .* in full: 1, 2 are missing"),
        ({"id2label": {"0": "a", "00": "b"}}, "id2label = .* must name each label once: 0 is there twice"),
        ({"id2label": {"zero": "a"}}, "id2label = .* must have whole numbers for labels, not 'zero'"),
        ({"id2label": ["a", None]}, "id2label = .* must have text for names: that of label 1 is null"),
        ({"id2label": {"0": "a\ud800"}}, "id2label = .* that of label 0 has half a character"),
        ({"id2label": None, "label2id": {"a": [0]}}, "label2id = .* must have whole numbers for labels"),
        ({"reg_scale": "4"}, 'reg_scale = "4" must be a number'),
    ],
)
def test_unsupported_is_refused_by_field_and_value(fields, words):
    with pytest.raises(FieldError, match=f"^config.json: {words}"):
        from_hub(small(**fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stem_strides": [2, 1, 1, 1, 1]}, r"stem_strides = \[2, 1, 1, 1, 1\] must be \[2, 1, 1, 2, 1\]"),
        ({"stage_downsample_strides": [2, 2, 3]}, r"stage_downsample_strides = \[2, 2, 3\] must be 2"),
        ({"stage_mid_channels": [8, 8]}, r"stage_mid_channels = \[8, 8\] must have as many entries"),
        ({"stage_numb_of_layers": [1]}, r"stage_numb_of_layers = \[1\] must have as many entries"),
        ({"stage_in_channels": [8, 16, 24]}, r"stage_in_channels = \[8, 16, 24\] must be .* \[8, 16, 16\]"),
        ({"stage_kernel_size": [3, 3, 4]}, r"stage_kernel_size = \[3, 3, 4\] must be odd"),
        ({"hidden_sizes": [16, 16, 32]}, r"hidden_sizes = \[16, 16, 32\] must agree with stage_out_channels"),
        ({"num_channels": 4}, r"stem_channels = \[3, 8, 8\] must start with num_channels"),
        ({"hidden_act": None}, "hidden_act = null is not supported"),
        ({"out_features": ["stage3"]}, r'out_features = \["stage3"\] contradicts out_indices, \[2, 3\]'),
        ({"out_features": ["stem", "stage2"], "out_indices": None}, "out_features = .* must be among the 3 stages"),
        ({"out_features": None, "out_indices": [3, 2]}, r"out_indices = \[3, 2\] must be in order"),
        ({"out_features": None, "out_indices": [1, 3]}, "stage_downsample = .* must halve the map once"),
    ],
)
def test_unsupported_backbones_are_refused_by_field_and_value(fields, words):
    with pytest.raises(FieldError, match=f"^config.json: backbone_config.{words}"):
        from_hub(small_backbone(**fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"decoder_layers": 10**6}, "decoder_layers = 1000000 must be a whole number up to 65,536"),
        ({"decoder_layers": 33}, "layers of the decoder: 33 is too many, up to 32 are supported"),
        ({"decoder_layers": 10**300}, "decoder_layers = 1000.* must be a whole number up to 65,536"),
        ({"decoder_n_points": 10**9}, "decoder_n_points = 1000000000 must be a whole number up to"),
        ({"decoder_n_points": [1000, 1000]}, "points a head: 2,000 is too many, up to 1,024"),
        ({"num_labels": 10**8, "id2label": None}, "num_labels = 100000000 must be a whole number up to"),
        ({"num_feature_levels": 60_000, "decoder_n_points": 1}, "levels: 60,000 is too many, up to 16"),
        ({"depth_mult": 1e308}, r"depth_mult = 1e\+308 must lie within 1,000,000,000"),
        ({"depth_mult": float("nan")}, "depth_mult = NaN must lie within"),
        ({"depth_mult": float("inf")}, "depth_mult = Infinity must lie within"),
        ({"depth_mult": 1000}, "blocks in a layer of the encoder: 3,000 is too many, up to 32"),
        ({"hidden_expansion": 10**6}, "width: 8,000,000 is too many"),
        ({"reg_scale": 10**400}, "reg_scale = 1000.* must lie within"),
        ({"encoder_ffn_dim": 65_536, "encoder_layers": 32, "encoder_hidden_dim": 65_536}, "decoder_in_channels"),
        ({"decoder_ffn_dim": 65_536, "d_model": 65_536}, "parameters: about .* is too many, up to 1,073,741,824"),
        ({"lqe_layers": 33}, "layers that judge quality: 33 is too many"),
        ({"decoder_n_points": [1] * 100_000}, "decoder_n_points = a list of 100,000 entries must have 65,536"),
    ],
)
def test_what_would_fill_the_memory_is_refused(fields, words):
    with pytest.raises(FieldError, match=f"^config.json: {words}"):
        from_hub(small(**fields))


def test_a_backbone_that_would_fill_the_memory_is_refused():
    with pytest.raises(FieldError, match=r"convolutions in the backbone: 6,553,[0-9]+ is too many, up to 256"):
        from_hub(small_backbone(stage_num_blocks=[100, 65_536, 2], stage_numb_of_layers=[1, 100, 1]))


STRANGE = [None, -1, 0, 1, 2.5, 1e9, "x", "", True, [], {}, [None], ["x"], [[2, 2]], [True], {"0": 1}, [1, 2, 3, 4]]


@pytest.mark.parametrize("inside", [False, True], ids=["model", "backbone"])
def test_strange_values_are_refused_and_never_crash(inside):
    fields = to_hub(TINY)["backbone_config"] if inside else to_hub(TINY)
    messages = []
    for name in fields:
        for value in STRANGE:
            try:
                from_hub(small_backbone(**{name: value}) if inside else small(**{name: value}))
            except FieldError as error:
                messages.append(str(error))
    assert len(messages) > 5 * len(fields)
    assert not any("\n" in message for message in messages)


@pytest.mark.parity
def test_transformers_reads_what_is_written():
    transformers = pytest.importorskip("transformers")
    written = to_hub(from_hub(REFERENCE["s"]))
    read = transformers.DFineConfig(**written).to_dict()
    read["id2label"] = {str(label): name for label, name in read["id2label"].items()}
    for name, value in written.items():
        assert name == "torch_dtype" or name == "backbone_config" or read[name] == value, name
    for name, value in written["backbone_config"].items():
        assert read["backbone_config"][name] == value, name


@pytest.mark.parity
def test_missing_fields_have_the_defaults_of_the_transformers_installed():
    transformers = pytest.importorskip("transformers")
    assert from_hub(transformers.DFineConfig().to_dict()) == from_hub({})
    bare = transformers.HGNetV2Config(out_indices=[2, 3, 4]).to_dict()
    assert from_hub({"backbone_config": bare}) == from_hub({})
