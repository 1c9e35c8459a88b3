"""A Hub ``config.json`` (transformers' ``model_type`` "d_fine") as our configuration, and back.

Fields that are left out have transformers' defaults. Not looked at are those that only concern training (dropout,
noise, losses, initial values), ``feat_strides`` and ``anchor_image_size`` (anchors are computed for the picture at
hand), and the values, but not the number, of ``encoder_in_channels``, which transformers does not read either.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from dfine_jax.config import BackboneConfig, DecoderConfig, DFineConfig, EncoderConfig, StageConfig
from dfine_jax.errors import InputError
from dfine_jax.hub_labels import class_names
from dfine_jax.json_fields import FieldError, Fields
from dfine_jax.limits import check_limits
from dfine_jax.ops.activations import ACTIVATIONS

_DEFAULTS = {
    "model_type": "d_fine",
    "backbone": None,
    "backbone_config": None,
    "use_timm_backbone": False,
    "freeze_backbone_batch_norms": True,
    "layer_norm_eps": 1e-5,
    "batch_norm_eps": 1e-5,
    "encoder_hidden_dim": 256,
    "encoder_in_channels": (512, 1024, 2048),
    "encoder_layers": 1,
    "encoder_ffn_dim": 1024,
    "encoder_attention_heads": 8,
    "encode_proj_layers": (2,),
    "positional_encoding_temperature": 10000,
    "encoder_activation_function": "gelu",
    "activation_function": "silu",
    "eval_size": None,
    "normalize_before": False,
    "hidden_expansion": 1.0,
    "depth_mult": 1.0,
    "d_model": 256,
    "num_queries": 300,
    "decoder_in_channels": (256, 256, 256),
    "decoder_ffn_dim": 1024,
    "num_feature_levels": 3,
    "decoder_n_points": 4,
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "decoder_activation_function": "relu",
    "num_denoising": 100,
    "learn_initial_query": False,
    "eval_idx": -1,
    "max_num_bins": 32,
    "reg_scale": 4.0,
    "up": 0.5,
    "top_prob_values": 4,
    "lqe_hidden_dim": 64,
    "lqe_layers": 2,
    "decoder_offset_scale": 0.5,
    "decoder_method": "default",
    "id2label": None,
    "label2id": None,
    "num_labels": None,
}
FIXED_ACTIVATIONS, FIXED = ("quality_activation", "position_activation", "box_activation"), "relu"
"""Places in the decoder where transformers has one activation, and which."""
_ACTIVATIONS = [name for name in ACTIVATIONS if name is not None]
_ALIASES = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}

_BACKBONE_DEFAULTS = {
    "model_type": "hgnet_v2",
    "num_channels": 3,
    "depths": (3, 4, 6, 3),
    "hidden_sizes": (256, 512, 1024, 2048),
    "hidden_act": "relu",
    "out_features": None,
    "out_indices": None,
    "stem_channels": (3, 32, 48),
    "stem_strides": (2, 1, 1, 2, 1),
    "stage_in_channels": (48, 128, 512, 1024),
    "stage_mid_channels": (48, 96, 192, 384),
    "stage_out_channels": (128, 512, 1024, 2048),
    "stage_num_blocks": (1, 1, 3, 1),
    "stage_downsample": (False, True, True, True),
    "stage_downsample_strides": (2, 2, 2, 2),
    "stage_light_block": (False, False, True, True),
    "stage_kernel_size": (3, 3, 5, 5),
    "stage_numb_of_layers": (6, 6, 6, 6),
    "use_learnable_affine_block": False,
}


def from_hub(config: Mapping[str, Any], classes: int | None = None) -> DFineConfig:
    """The configuration that a parsed ``config.json`` describes; ``FieldError`` where it isn't supported.

    Decoder layers past ``eval_idx`` are left out: transformers has no use for them. ``classes``, how many the weights
    score, decides where ``num_labels`` and the names of labels disagree.
    """
    fields = Fields({_ALIASES.get(name, name): value for name, value in config.items()}, _DEFAULTS, "config.json: ")
    fields.only("model_type", "d_fine")
    fields.only("normalize_before", False)  # transformers puts the norm elsewhere than the original does
    fields.only("eval_size", None)  # transformers would leave the position table out
    backbone = _backbone(fields)
    maps = len(backbone.out_stages)
    fields.require(
        len(fields.integers("encoder_in_channels")) == maps,
        "encoder_in_channels",
        f"must have as many entries as the backbone has outputs, {maps}",
    )
    built = DFineConfig(
        backbone=backbone,
        encoder=_encoder(fields, maps),
        decoder=_decoder(fields, maps),
        class_names=class_names(fields, classes),
        norm_epsilon=fields.positive("batch_norm_eps"),
        layer_norm_epsilon=fields.positive("layer_norm_eps"),
    )
    try:
        check_limits(built)
    except InputError as error:
        raise FieldError(f"config.json: {error}") from None
    return built


def to_hub(config: DFineConfig) -> dict[str, Any]:
    """What ``config.json`` has to say for transformers to build the same model; ready for JSON.

    Decoder layers past the one that counts are left out, see ``evaluated``. ``InputError`` where transformers has no
    such model, see ``require_expressible``.
    """
    require_expressible(config)
    config = evaluated(config)
    encoder, decoder = config.encoder, config.decoder
    temperature = encoder.position_temperature
    return {
        "architectures": ["DFineForObjectDetection"],
        "model_type": "d_fine",
        "torch_dtype": "float32",
        "id2label": {str(i): name for i, name in enumerate(config.class_names)},
        "label2id": {name: i for i, name in enumerate(config.class_names)},
        "backbone_config": _hub_backbone(config.backbone),
        "freeze_backbone_batch_norms": config.backbone.frozen_norms,
        "layer_norm_eps": config.layer_norm_epsilon,
        "batch_norm_eps": config.norm_epsilon,
        "encoder_hidden_dim": encoder.width,
        "encoder_in_channels": list(config.backbone.out_channels),
        "feat_strides": map_strides(config.backbone),
        "encoder_layers": encoder.attention_layers,
        "encoder_ffn_dim": encoder.feedforward,
        "encoder_attention_heads": encoder.heads,
        "encode_proj_layers": list(encoder.attention_levels),
        "positional_encoding_temperature": int(temperature) if temperature == int(temperature) else temperature,
        "encoder_activation_function": encoder.attention_activation,
        "activation_function": encoder.activation,
        "normalize_before": False,
        "eval_size": None,
        "hidden_expansion": encoder.expansion,
        "depth_mult": encoder.depth,
        "d_model": decoder.width,
        "num_queries": decoder.queries,
        "decoder_in_channels": [encoder.width] * len(config.backbone.out_stages),
        "decoder_ffn_dim": decoder.feedforward,
        "num_feature_levels": decoder.levels,
        "decoder_n_points": list(decoder.points),
        "decoder_layers": decoder.layers,
        "decoder_attention_heads": decoder.heads,
        "decoder_activation_function": decoder.activation,
        "num_denoising": decoder.denoising_queries,
        "learn_initial_query": decoder.learned_queries,
        "anchor_image_size": None,
        "eval_idx": -1,
        "layer_scale": 1,
        "max_num_bins": decoder.bins,
        "reg_scale": float(decoder.reg_scale),
        "up": float(decoder.up),
        "top_prob_values": decoder.quality_top,
        "lqe_hidden_dim": decoder.quality_width,
        "lqe_layers": decoder.quality_layers,
        "decoder_offset_scale": decoder.offset_scale,
        "decoder_method": decoder.method,
    }


def require_expressible(config: DFineConfig) -> None:
    """``InputError`` unless transformers can compute what a model of this configuration does.

    Of the activations in the decoder it lets only those of the feed-forward parts be chosen.
    """
    others = {name: getattr(config.decoder, name) for name in FIXED_ACTIVATIONS}
    if any(value != FIXED for value in others.values()):
        said = ", ".join(f"{name} = {value!r}" for name, value in others.items() if value != FIXED)
        raise InputError(
            f"transformers can't compute this model: its decoder has {said}, where transformers' D-FINE always has "
            f"{FIXED!r}, so it would find something else in silence (DEIM's and RT-DETRv4's models are such)"
        )


def with_fixed_activations(config: DFineConfig) -> DFineConfig:
    """The same model with the activations that transformers has where none can be chosen."""
    return replace(config, decoder=replace(config.decoder, **dict.fromkeys(FIXED_ACTIVATIONS, FIXED)))


def evaluated(config: DFineConfig) -> DFineConfig:
    """The same model without decoder layers past the one that counts, which only training uses."""
    count = config.decoder.last_layer + 1
    return replace(config, decoder=replace(config.decoder, layers=count, eval_layer=-1, layer_scale=1.0))


def surplus_layers(config: Mapping[str, Any]) -> range:
    """Numbers of the decoder layers past ``eval_idx`` that a checkpoint with this ``config.json`` may hold.

    transformers makes such layers, some of them twice, but fails when it comes to run them.
    """
    kept = from_hub(config).decoder.layers
    layers = config.get("decoder_layers", _DEFAULTS["decoder_layers"])
    return range(kept, 2 * layers - kept)


def map_strides(backbone: BackboneConfig) -> list[int]:
    """How many pixels a cell of each map handed to the encoder is high and wide."""
    return [4 * 2 ** sum(stage.downsample for stage in backbone.stages[:end]) for end in backbone.out_stages]


def _backbone(fields: Fields) -> BackboneConfig:
    fields.only("use_timm_backbone", False, None)
    if fields["backbone_config"] is None:
        fields.only("backbone", None)  # the name of a model on the Hub
        given = {"out_indices": [2, 3, 4]}
    else:
        given = fields.object("backbone_config")
    inner = Fields(given, _BACKBONE_DEFAULTS, "config.json: backbone_config.")
    inner.only("model_type", "hgnet_v2")
    stem = inner.integers("stem_channels")
    inner.require(len(stem) == 3, "stem_channels", "must have 3 entries")
    inner.require(stem[0] == inner["num_channels"], "stem_channels", "must start with num_channels")
    inner.require(inner.integers("stem_strides") == (2, 1, 1, 2, 1), "stem_strides", "must be [2, 1, 1, 2, 1]")
    stages = _stages(inner, stem[2])
    out_stages = _out_stages(inner, len(stages))
    widths = inner.integers("hidden_sizes")
    inner.require(
        all(widths[stage - 1 : stage] == (stages[stage - 1].out_channels,) for stage in out_stages),
        "hidden_sizes",
        "must agree with stage_out_channels for the stages that are handed on",
    )
    for finer, coarser in pairwise(out_stages):
        halvings = sum(stage.downsample for stage in stages[finer:coarser])
        inner.require(halvings == 1, "stage_downsample", "must halve the map once between stages that are handed on")
    return BackboneConfig(
        stem_channels=stem,
        stages=stages,
        out_stages=out_stages,
        learnable_affine=inner.flag("use_learnable_affine_block"),
        activation=inner.only("hidden_act", *_ACTIVATIONS),
        frozen_norms=fields.flag("freeze_backbone_batch_norms"),
    )


def _stages(inner: Fields, stem_channels: int) -> tuple[StageConfig, ...]:
    channels = inner.integers("stage_in_channels")
    count = len(channels)
    lists = {
        "in_channels": channels,
        "mid_channels": inner.integers("stage_mid_channels"),
        "out_channels": inner.integers("stage_out_channels"),
        "blocks": inner.integers("stage_num_blocks"),
        "layers": inner.integers("stage_numb_of_layers"),
        "kernel_size": inner.integers("stage_kernel_size"),
        "downsample": inner.flags("stage_downsample"),
        "light": inner.flags("stage_light_block"),
    }
    hub_names = {"blocks": "stage_num_blocks", "layers": "stage_numb_of_layers", "light": "stage_light_block"}
    for name, values in lists.items():
        rule = f"must have as many entries as stage_in_channels, {count}"
        inner.require(len(values) == count, hub_names.get(name, f"stage_{name}"), rule)
    strides = inner.integers("stage_downsample_strides")
    halves = [stride == 2 for stride, used in zip(strides, lists["downsample"], strict=False) if used]
    inner.require(
        all(halves) and len(strides) >= count, "stage_downsample_strides", f"must be 2 for each of {count} stages"
    )
    inner.require(all(size % 2 for size in lists["kernel_size"]), "stage_kernel_size", "must be odd")
    before = (stem_channels, *lists["out_channels"][:-1])
    inner.require(channels == before, "stage_in_channels", f"must be what comes before each stage, {list(before)}")
    return tuple(StageConfig(**{name: values[i] for name, values in lists.items()}) for i in range(count))


def _out_stages(inner: Fields, count: int) -> tuple[int, ...]:
    """The stages handed to the encoder, counted from 1; without a word about them, the last."""
    names = ["stem", *(f"stage{i + 1}" for i in range(len(inner.integers("depths"))))]
    chosen, name = [len(names) - 1], "out_indices"
    if inner["out_indices"] is not None:
        indices = inner.integers("out_indices", least=-len(names))
        inner.require(all(i < len(names) for i in indices), "out_indices", f"must be below {len(names)}")
        chosen = [i % len(names) for i in indices]
    if inner["out_features"] is not None:
        named = [names.index(feature) for feature in inner.choices("out_features", names)]
        agree = inner["out_indices"] is None or named == chosen
        inner.require(agree, "out_features", f"contradicts out_indices, {inner['out_indices']}")
        chosen, name = named, "out_features"
    inner.require(all(a < b for a, b in pairwise(chosen)), name, "must be in order and without repetition")
    inner.require(
        bool(chosen) and chosen[0] >= 1 and chosen[-1] <= count,
        name,
        f"must be among the {count} stages after the stem",
    )
    return tuple(chosen)


def _encoder(fields: Fields, maps: int) -> EncoderConfig:
    width, heads = fields.integer("encoder_hidden_dim"), fields.integer("encoder_attention_heads")
    fields.require(width % 4 == 0, "encoder_hidden_dim", "must be divisible by 4")
    fields.require(width % heads == 0, "encoder_attention_heads", f"must divide encoder_hidden_dim, {width}")
    layers = fields.integer("encoder_layers", least=0)
    levels = fields.integers("encode_proj_layers", least=-maps) if layers else ()
    fields.require(all(level < maps for level in levels), "encode_proj_layers", f"must be below {maps}")
    encoder = EncoderConfig(
        width=width,
        heads=heads,
        feedforward=fields.integer("encoder_ffn_dim"),
        attention_layers=layers,
        attention_levels=tuple(level % maps for level in levels),
        attention_activation=fields.only("encoder_activation_function", *_ACTIVATIONS),
        position_temperature=fields.positive("positional_encoding_temperature"),
        activation=fields.only("activation_function", *_ACTIVATIONS, None),
        expansion=fields.positive("hidden_expansion"),
        depth=fields.number("depth_mult"),
    )
    fields.require(encoder.csp_channels >= 1, "hidden_expansion", f"leaves no channels of {width}")
    return encoder


def _decoder(fields: Fields, maps: int) -> DecoderConfig:
    width, heads = fields.integer("d_model"), fields.integer("decoder_attention_heads")
    fields.require(width % heads == 0, "decoder_attention_heads", f"must divide d_model, {width}")
    channels, encoder_width = fields.integers("decoder_in_channels"), fields["encoder_hidden_dim"]
    fields.require(
        len(channels) == maps and channels[-1] == encoder_width,
        "decoder_in_channels",
        f"must be encoder_hidden_dim, {encoder_width}, for each of {maps} maps",
    )
    levels = fields.integer("num_feature_levels")
    fields.require(levels >= maps, "num_feature_levels", f"must be at least the number of maps, {maps}")
    if isinstance(fields["decoder_n_points"], list | tuple):
        points = fields.integers("decoder_n_points")
    else:
        points = (fields.integer("decoder_n_points"),) * levels
    fields.require(len(points) == levels, "decoder_n_points", f"must have num_feature_levels, {levels}, entries")
    layers = fields.integer("decoder_layers")
    last = fields.integer("eval_idx", least=-layers)
    fields.require(last < layers, "eval_idx", f"must name one of {layers} layers")
    bins, top = fields.integer("max_num_bins", least=4), fields.integer("top_prob_values")
    fields.require(bins % 2 == 0, "max_num_bins", "must be even")
    fields.require(top <= bins + 1, "top_prob_values", f"must be at most max_num_bins + 1, {bins + 1}")
    return DecoderConfig(
        width=width,
        heads=heads,
        feedforward=fields.integer("decoder_ffn_dim"),
        layers=last % layers + 1,
        points=points,
        activation=fields.only("decoder_activation_function", *_ACTIVATIONS),
        queries=fields.integer("num_queries"),
        bins=bins,
        quality_top=top,
        quality_width=fields.integer("lqe_hidden_dim"),
        quality_layers=fields.integer("lqe_layers"),
        offset_scale=fields.number("decoder_offset_scale"),
        method=fields.only("decoder_method", "default", "discrete"),
        learned_queries=fields.flag("learn_initial_query"),
        denoising_queries=fields.integer("num_denoising", least=0),
        up=fields.number("up"),
        reg_scale=fields.number("reg_scale"),
    )


def _hub_backbone(backbone: BackboneConfig) -> dict[str, Any]:
    stages = backbone.stages
    return {
        "model_type": "hgnet_v2",
        "num_channels": backbone.stem_channels[0],
        "depths": [stage.blocks for stage in stages],
        "hidden_sizes": [stage.out_channels for stage in stages],
        "hidden_act": backbone.activation,
        "out_features": [f"stage{i}" for i in backbone.out_stages],
        "out_indices": list(backbone.out_stages),
        "stem_channels": list(backbone.stem_channels),
        "stem_strides": [2, 1, 1, 2, 1],
        "stage_in_channels": [stage.in_channels for stage in stages],
        "stage_mid_channels": [stage.mid_channels for stage in stages],
        "stage_out_channels": [stage.out_channels for stage in stages],
        "stage_num_blocks": [stage.blocks for stage in stages],
        "stage_downsample": [stage.downsample for stage in stages],
        "stage_downsample_strides": [2] * len(stages),
        "stage_light_block": [stage.light for stage in stages],
        "stage_kernel_size": [stage.kernel_size for stage in stages],
        "stage_numb_of_layers": [stage.layers for stage in stages],
        "use_learnable_affine_block": backbone.learnable_affine,
    }
