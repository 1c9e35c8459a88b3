"""Which PyTorch tensor is which of ours: one table a dialect, read in both directions.

A dialect lists modules (where a module of some kind lies there and here) and, for each kind, its tensors. In names,
``#`` stands for a number; the numbers correspond in order.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from dfine_jax.weights.layouts import CONV, LINEAR, SAME, Layout


@dataclass(frozen=True)
class Leaf:
    """A tensor of a module. ``part`` (i, n): ours is the i-th of n equal slices of the PyTorch tensor's first axis."""

    source: str
    target: str
    layout: Layout = SAME
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Module:
    """A module of some kind: the start of its tensors' names there and here."""

    source: str
    target: str
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True)
class Ignored:
    """Tensors that are left out: a pattern of their names, and why."""

    pattern: str
    why: str


COUNTS = (
    Ignored(r".*\.num_batches_tracked", "counts batches, which norms never look at"),
    Ignored(r"(.*\.)?total_(ops|params)", "what thop, which measures a model's cost, leaves in each module"),
)

Rules = dict[str, list[tuple[re.Pattern[str], str, "Rule"]]]
"""Patterns of names with the counterpart and the rule for them, found by the name without its numbers."""


@dataclass(frozen=True)
class Rule:
    """One tensor's name in two worlds, with ``#`` where numbers are."""

    start: str
    end: str
    leaf: Leaf


@dataclass(frozen=True)
class Dialect:
    """All names of one PyTorch implementation, and which of its tensors are left out."""

    name: str
    modules: tuple[Module, ...]
    ignored: tuple[Ignored, ...]

    @cached_property
    def forward(self) -> Rules:
        """From PyTorch's names to ours."""
        return _compiled((f"{m.source}.{leaf.source}", f"{m.target}.{leaf.target}", leaf) for m, leaf in self._leaves())

    @cached_property
    def backward(self) -> Rules:
        """From our names to PyTorch's."""
        return _compiled((f"{m.target}.{leaf.target}", f"{m.source}.{leaf.source}", leaf) for m, leaf in self._leaves())

    def _leaves(self) -> Iterator[tuple[Module, Leaf]]:
        return ((module, leaf) for module in self.modules for leaf in module.leaves)


@dataclass(frozen=True)
class Match:
    """One name's counterpart in the other world, and the rule that says so."""

    name: str
    layout: Layout
    part: tuple[int, int]
    rule: Rule


TORCH_STATISTICS, PADDLE_STATISTICS = ("running_mean", "running_var"), ("_mean", "_variance")
"""What the two call a batch norm's."""


def _conv_norm(
    conv: str, norm: str, affine: str | None = None, statistics: tuple[str, str] = TORCH_STATISTICS
) -> tuple[Leaf, ...]:
    mean, variance = statistics
    learnable = (Leaf(f"{affine}.scale", "affine.scale"), Leaf(f"{affine}.bias", "affine.bias")) if affine else ()
    return (
        Leaf(f"{conv}.weight", "kernel", CONV),
        Leaf(f"{norm}.weight", "norm.scale"),
        Leaf(f"{norm}.bias", "norm.bias"),
        Leaf(f"{norm}.{mean}", "norm.mean"),
        Leaf(f"{norm}.{variance}", "norm.var"),
        *learnable,
    )


SHARES = Ignored(r".*\.num_points_scale", "follows from the configuration")
MASKS = r"decoder\.mask_(head|decoder)\..*"
"""Names of what draws D-FINE-seg's masks."""

STEM = ("stem1", "stem2a", "stem2b", "stem3", "stem4")
LINEAR_LEAVES = (Leaf("weight", "kernel", LINEAR), Leaf("bias", "bias"))
NORM_LEAVES = (Leaf("weight", "scale"), Leaf("bias", "bias"))
ENCODER_CONV = _conv_norm("conv", "norm")
SEQUENTIAL_CONV = _conv_norm("0", "1")
FUSED_ATTENTION = tuple(
    leaf
    for i, name in enumerate(("query", "key", "value"))
    for leaf in (
        Leaf("in_proj_weight", f"{name}.kernel", LINEAR, (i, 3)),
        Leaf("in_proj_bias", f"{name}.bias", SAME, (i, 3)),
    )
)


def _linear(source: str, target: str) -> Module:
    return Module(source, target, LINEAR_LEAVES)


def _layer_norm(source: str, target: str) -> Module:
    return Module(source, target, NORM_LEAVES)


def _backbone(
    stem: str,
    stages: str,
    leaves: tuple[Leaf, ...],
    aggregation: tuple[str, str] = ("aggregation.0", "aggregation.1"),
) -> tuple[Module, ...]:
    block = f"{stages}.#.blocks.#"
    squeeze, excite = aggregation
    return (
        *(Module(f"{stem}.{conv}", f"backbone.stem.{conv}", leaves) for conv in STEM),
        Module(f"{stages}.#.downsample", "backbone.stages.#.downsample", leaves),
        Module(f"{block}.layers.#", "backbone.stages.#.blocks.#.layers.#", leaves),
        Module(f"{block}.layers.#.conv1", "backbone.stages.#.blocks.#.layers.#.pointwise", leaves),
        Module(f"{block}.layers.#.conv2", "backbone.stages.#.blocks.#.layers.#.depthwise", leaves),
        Module(f"{block}.{squeeze}", "backbone.stages.#.blocks.#.squeeze", leaves),
        Module(f"{block}.{excite}", "backbone.stages.#.blocks.#.excite", leaves),
    )


def _elan(source: str, target: str, parts: dict[str, str]) -> tuple[Module, ...]:
    """RepNCSPELAN4; ``parts`` are the dialect's names of its two CSP layers and four convolutions."""
    modules = [Module(f"{source}.{there}", f"{target}.{here}", ENCODER_CONV) for here, there in parts.items()]
    for csp in ("csp1", "csp2"):
        there, here = f"{source}.{parts[csp]}", f"{target}.{csp}"
        modules.remove(Module(there, here, ENCODER_CONV))
        modules += [
            Module(f"{there}.conv1", f"{here}.conv1", ENCODER_CONV),
            Module(f"{there}.conv2", f"{here}.conv2", ENCODER_CONV),
            Module(f"{there}.bottlenecks.#.conv1", f"{here}.blocks.#.conv3x3", ENCODER_CONV),
            Module(f"{there}.bottlenecks.#.conv2", f"{here}.blocks.#.conv1x1", ENCODER_CONV),
        ]
    return tuple(modules)


def _hub_attention(source: str, target: str) -> tuple[Module, ...]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return tuple(_linear(f"{source}.{there}", f"{target}.{here}") for there, here in names.items())


_HUB_ELAN = {
    "conv1": "conv1",
    "csp1": "csp_rep1",
    "conv2": "conv2",
    "csp2": "csp_rep2",
    "conv3": "conv3",
    "conv4": "conv4",
}
_HUB_AIFI = "model.encoder.encoder.#.layers.#"
_HUB_LAYER = "model.decoder.layers.#"

HUB = Dialect(
    "Hugging Face transformers",
    modules=(
        *_backbone(
            "model.backbone.model.embedder",
            "model.backbone.model.encoder.stages",
            _conv_norm("convolution", "normalization", "lab"),
        ),
        Module("model.encoder_input_proj.#", "encoder.input_proj.#", SEQUENTIAL_CONV),
        *_hub_attention(f"{_HUB_AIFI}.self_attn", "encoder.attention.#.layers.#.self_attention"),
        _linear(f"{_HUB_AIFI}.fc1", "encoder.attention.#.layers.#.mlp.layers.0"),
        _linear(f"{_HUB_AIFI}.fc2", "encoder.attention.#.layers.#.mlp.layers.1"),
        _layer_norm(f"{_HUB_AIFI}.self_attn_layer_norm", "encoder.attention.#.layers.#.norm1"),
        _layer_norm(f"{_HUB_AIFI}.final_layer_norm", "encoder.attention.#.layers.#.norm2"),
        Module("model.encoder.lateral_convs.#", "encoder.lateral.#", ENCODER_CONV),
        *_elan("model.encoder.fpn_blocks.#", "encoder.fpn.#", _HUB_ELAN),
        Module("model.encoder.downsample_convs.#.conv1", "encoder.downsample.#.pointwise", ENCODER_CONV),
        Module("model.encoder.downsample_convs.#.conv2", "encoder.downsample.#.depthwise", ENCODER_CONV),
        *_elan("model.encoder.pan_blocks.#", "encoder.pan.#", _HUB_ELAN),
        Module("model.decoder_input_proj.#", "decoder.input_proj.#", SEQUENTIAL_CONV),
        Module("model", "decoder", (Leaf("denoising_class_embed.weight", "denoising_embed"),)),
        Module("model", "decoder", (Leaf("weight_embedding.weight", "learned_content"),)),
        _linear("model.enc_output.0", "decoder.encoder_proj"),
        _layer_norm("model.enc_output.1", "decoder.encoder_norm"),
        _linear("model.enc_score_head", "decoder.encoder_score"),
        _linear("model.enc_bbox_head.layers.#", "decoder.encoder_box.layers.#"),
        _linear("model.decoder.query_pos_head.layers.#", "decoder.query_position.layers.#"),
        _linear("model.decoder.pre_bbox_head.layers.#", "decoder.pre_box.layers.#"),
        *_hub_attention(f"{_HUB_LAYER}.self_attn", "decoder.layers.#.self_attention"),
        _layer_norm(f"{_HUB_LAYER}.self_attn_layer_norm", "decoder.layers.#.norm1"),
        _linear(f"{_HUB_LAYER}.encoder_attn.sampling_offsets", "decoder.layers.#.cross_attention.sampling_offsets"),
        _linear(f"{_HUB_LAYER}.encoder_attn.attention_weights", "decoder.layers.#.cross_attention.attention_weights"),
        _linear(f"{_HUB_LAYER}.gateway.gate", "decoder.layers.#.gateway.gate"),
        _layer_norm(f"{_HUB_LAYER}.gateway.norm", "decoder.layers.#.gateway.norm"),
        _linear(f"{_HUB_LAYER}.fc1", "decoder.layers.#.mlp.layers.0"),
        _linear(f"{_HUB_LAYER}.fc2", "decoder.layers.#.mlp.layers.1"),
        _layer_norm(f"{_HUB_LAYER}.final_layer_norm", "decoder.layers.#.norm2"),
        _linear("model.decoder.class_embed.#", "decoder.class_heads.#"),
        _linear("model.decoder.bbox_embed.#.layers.#", "decoder.box_heads.#.layers.#"),
        _linear("model.decoder.lqe_layers.#.reg_conf.layers.#", "decoder.quality.#.layers.#"),
        Module("model.decoder", "decoder", (Leaf("up", "up"), Leaf("reg_scale", "reg_scale"))),
    ),
    ignored=(
        *COUNTS,
        SHARES,
        Ignored(r"(class_embed|bbox_embed)\..*", "the decoder's heads once more, under a tied name"),
    ),
)

_ORIGINAL_ELAN = {
    "conv1": "cv1",
    "csp1": "cv2.0",
    "conv2": "cv2.1",
    "csp2": "cv3.0",
    "conv3": "cv3.1",
    "conv4": "cv4",
}
_ORIGINAL_AIFI = "encoder.encoder.#.layers.#"
_ORIGINAL_LAYER = "decoder.decoder.layers.#"

ORIGINAL = Dialect(
    "the original release",
    modules=(
        *_backbone("backbone.stem", "backbone.stages", _conv_norm("conv", "bn", "lab")),
        Module("encoder.input_proj.#", "encoder.input_proj.#", ENCODER_CONV),
        Module(f"{_ORIGINAL_AIFI}.self_attn", "encoder.attention.#.layers.#.self_attention", FUSED_ATTENTION),
        _linear(f"{_ORIGINAL_AIFI}.self_attn.out_proj", "encoder.attention.#.layers.#.self_attention.out"),
        _linear(f"{_ORIGINAL_AIFI}.linear1", "encoder.attention.#.layers.#.mlp.layers.0"),
        _linear(f"{_ORIGINAL_AIFI}.linear2", "encoder.attention.#.layers.#.mlp.layers.1"),
        _layer_norm(f"{_ORIGINAL_AIFI}.norm1", "encoder.attention.#.layers.#.norm1"),
        _layer_norm(f"{_ORIGINAL_AIFI}.norm2", "encoder.attention.#.layers.#.norm2"),
        Module("encoder.lateral_convs.#", "encoder.lateral.#", ENCODER_CONV),
        *_elan("encoder.fpn_blocks.#", "encoder.fpn.#", _ORIGINAL_ELAN),
        Module("encoder.downsample_convs.#.0.cv1", "encoder.downsample.#.pointwise", ENCODER_CONV),
        Module("encoder.downsample_convs.#.0.cv2", "encoder.downsample.#.depthwise", ENCODER_CONV),
        *_elan("encoder.pan_blocks.#", "encoder.pan.#", _ORIGINAL_ELAN),
        Module("decoder.input_proj.#", "decoder.input_proj.#", ENCODER_CONV),
        Module("decoder", "decoder", (Leaf("denoising_class_embed.weight", "denoising_embed"),)),
        Module("decoder", "decoder", (Leaf("tgt_embed.weight", "learned_content"),)),
        _linear("decoder.enc_output.proj", "decoder.encoder_proj"),
        _layer_norm("decoder.enc_output.norm", "decoder.encoder_norm"),
        _linear("decoder.enc_score_head", "decoder.encoder_score"),
        _linear("decoder.enc_bbox_head.layers.#", "decoder.encoder_box.layers.#"),
        _linear("decoder.query_pos_head.layers.#", "decoder.query_position.layers.#"),
        _linear("decoder.pre_bbox_head.layers.#", "decoder.pre_box.layers.#"),
        Module(f"{_ORIGINAL_LAYER}.self_attn", "decoder.layers.#.self_attention", FUSED_ATTENTION),
        _linear(f"{_ORIGINAL_LAYER}.self_attn.out_proj", "decoder.layers.#.self_attention.out"),
        _layer_norm(f"{_ORIGINAL_LAYER}.norm1", "decoder.layers.#.norm1"),
        _linear(f"{_ORIGINAL_LAYER}.cross_attn.sampling_offsets", "decoder.layers.#.cross_attention.sampling_offsets"),
        _linear(
            f"{_ORIGINAL_LAYER}.cross_attn.attention_weights", "decoder.layers.#.cross_attention.attention_weights"
        ),
        _linear(f"{_ORIGINAL_LAYER}.gateway.gate", "decoder.layers.#.gateway.gate"),
        _layer_norm(f"{_ORIGINAL_LAYER}.gateway.norm", "decoder.layers.#.gateway.norm"),
        _linear(f"{_ORIGINAL_LAYER}.linear1", "decoder.layers.#.mlp.layers.0"),
        _linear(f"{_ORIGINAL_LAYER}.linear2", "decoder.layers.#.mlp.layers.1"),
        _layer_norm(f"{_ORIGINAL_LAYER}.norm3", "decoder.layers.#.norm2"),
        _linear("decoder.dec_score_head.#", "decoder.class_heads.#"),
        _linear("decoder.dec_bbox_head.#.layers.#", "decoder.box_heads.#.layers.#"),
        _linear("decoder.decoder.lqe_layers.#.reg_conf.layers.#", "decoder.quality.#.layers.#"),
        Module("decoder", "decoder", (Leaf("up", "up"), Leaf("reg_scale", "reg_scale"))),
    ),
    ignored=(
        *COUNTS,
        SHARES,
        Ignored(r"decoder\.(anchors|valid_mask)", "computed for the picture at hand"),
        Ignored(r"decoder\.decoder\.(up|reg_scale)", "the same parameters under a second name"),
        Ignored(r"encoder\.feature_projector\..*", "what RT-DETRv4 compares with its teacher, in training alone"),
        Ignored(MASKS, "D-FINE-seg's masks; boxes are found without them"),
    ),
)

CLASSIFIER = Ignored(r"(last_conv|fc|head|classifier)\..*", "the classifier that it was trained with")

BACKBONES = (
    Dialect(  # the original release's pretrained backbones, and timm's, which have the same names
        "HGNetV2 alone",
        modules=_backbone("stem", "stages", _conv_norm("conv", "bn", "lab")),
        ignored=(*COUNTS, CLASSIFIER),
    ),
    Dialect(
        "PaddlePaddle's HGNetV2",
        modules=_backbone(
            "stem",
            "stages",
            _conv_norm("conv", "bn", "lab", PADDLE_STATISTICS),
            ("aggregation_squeeze_conv", "aggregation_excitation_conv"),
        ),
        ignored=(*COUNTS, CLASSIFIER),
    ),
    Dialect(
        "Hugging Face transformers' HGNetV2",
        modules=_backbone("embedder", "encoder.stages", _conv_norm("convolution", "normalization", "lab")),
        ignored=(*COUNTS, CLASSIFIER),
    ),
)
"""Names of HGNetV2 trained alone, for pictures of one thing."""

WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel, DistributedDataParallel or an average",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
}
"""What compiling, training in parallel and saving memory put into names, at any place."""

BOOKKEEPING = frozenset({"n_averaged", "num_updates", "updates", "decay", "initted", "step"})
"""What averages store beside a model: numbers, not arrays."""

AVERAGE = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?|shadow)(?![a-z])|EMA")
"""What is in the names of places that hold a moving average of the weights."""


def to_jax(dialect: Dialect, name: str) -> tuple[Match, ...]:
    """Our tensors that a PyTorch tensor holds: one, or three where attention's projections are fused, or none."""
    return _matches(dialect.forward, name)


def to_torch(dialect: Dialect, name: str) -> Match | None:
    """The PyTorch tensor that holds ours."""
    return next(iter(_matches(dialect.backward, name)), None)


def why_ignored(dialect: Dialect, name: str) -> str | None:
    """Why the PyTorch tensor is left out, or None where it isn't on the dialect's list of those."""
    return next((entry.why for entry in dialect.ignored if re.fullmatch(entry.pattern, name)), None)


def is_ignored(dialect: Dialect, name: str) -> bool:
    """Whether the PyTorch tensor is on the dialect's list of those that are left out."""
    return why_ignored(dialect, name) is not None


def _matches(rules: Rules, name: str) -> tuple[Match, ...]:
    found = []
    for pattern, counterpart, rule in rules.get(_without_numbers(name), ()):
        if match := pattern.fullmatch(name):
            found.append(Match(counterpart.format(*match.groups()), rule.leaf.layout, rule.leaf.part, rule))
    return tuple(found)


def _compiled(rules: Iterable[tuple[str, str, Leaf]]) -> Rules:
    result: Rules = {}
    for start, end, leaf in rules:
        pattern = re.compile(re.escape(start).replace(r"\#", r"(\d+)"))
        rule = Rule(start, end, leaf)
        result.setdefault(_without_numbers(start), []).append((pattern, end.replace("#", "{}"), rule))
    return result


def _without_numbers(name: str) -> str:
    return ".".join("#" if part.isdigit() else part for part in name.split("."))
