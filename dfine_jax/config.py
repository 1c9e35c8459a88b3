"""What a D-FINE model is made of, as frozen and hashable values.

The five published sizes are class methods: ``DFineConfig.nano()`` to ``DFineConfig.xlarge()``, also reachable by their
letter through ``DFineConfig.from_size("n")``. ``dfine_jax.hub_config`` reads and writes the ``config.json`` of the Hub.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dfine_jax.class_names import COCO_CLASSES
from dfine_jax.errors import InputError


@dataclass(frozen=True)
class StageConfig:
    """One stage of HGNetV2: ``blocks`` blocks of ``layers`` convolutions whose outputs are all aggregated."""

    in_channels: int
    mid_channels: int
    out_channels: int
    blocks: int
    layers: int
    kernel_size: int
    downsample: bool
    light: bool  # pointwise + depthwise pairs instead of dense convolutions


@dataclass(frozen=True)
class BackboneConfig:
    """HGNetV2 (B0, B2, B4 and B5 are those D-FINE uses)."""

    stem_channels: tuple[int, int, int]  # picture, inside, out
    stages: tuple[StageConfig, ...]
    out_stages: tuple[int, ...]  # counted from 1; the maps handed to the encoder
    learnable_affine: bool  # a learnable scale and shift after each activation
    activation: str = "relu"  # the stem's; blocks always use ReLU
    frozen_norms: bool = False  # batch norms use and keep their stored statistics in training too

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each map handed to the encoder."""
        return tuple(self.stages[stage - 1].out_channels for stage in self.out_stages)


@dataclass(frozen=True)
class EncoderConfig:
    """The hybrid encoder: attention within the coarsest map (AIFI), then FPN and PAN across maps."""

    width: int = 256
    heads: int = 8
    feedforward: int = 1024
    attention_layers: int = 1
    attention_levels: tuple[int, ...] = (2,)  # which maps get AIFI
    attention_activation: str = "gelu"
    position_temperature: float = 10000.0
    activation: str | None = "silu"
    expansion: float = 1.0  # inner width of the RepNCSPELAN4 blocks, relative to ``width``
    depth: float = 1.0  # RepVGG blocks in each CSP layer, relative to 3

    @property
    def csp_channels(self) -> int:
        """Inner width of the RepNCSPELAN4 blocks."""
        return round(self.expansion * self.width // 2)

    @property
    def csp_blocks(self) -> int:
        """RepVGG blocks in each CSP layer."""
        return round(3 * self.depth)


@dataclass(frozen=True)
class DecoderConfig:
    """Query selection and the layers that refine each box edge as a distribution (FDR)."""

    width: int = 256
    heads: int = 8
    feedforward: int = 1024
    layers: int = 6
    points: tuple[int, ...] = (3, 6, 3)  # sampling points a head takes on each level
    activation: str = "relu"  # of the feed-forward parts of its layers
    quality_activation: str = "relu"
    position_activation: str = "relu"  # of what tells queries where they are
    box_activation: str = "relu"  # of all heads that predict boxes
    queries: int = 300
    bins: int = 32  # an edge's distribution has ``bins + 1`` values
    eval_layer: int = -1  # the layer whose outputs count; a negative number counts from the end
    layer_scale: float = 1.0  # width of the layers past ``eval_layer``, relative to ``width``
    quality_top: int = 4  # probabilities of each edge that location quality looks at
    quality_width: int = 64
    quality_layers: int = 2
    offset_scale: float = 0.5
    method: str = "default"  # "default" samples bilinearly, "discrete" takes the nearest cell
    learned_queries: bool = False
    denoising_queries: int = 100  # 0: no denoising, and no embedding for it
    up: float = 0.5  # initial values of the two numbers that shape W(n); the weights' own count once loaded
    reg_scale: float = 4.0

    @property
    def levels(self) -> int:
        """Feature maps the decoder samples from."""
        return len(self.points)

    @property
    def last_layer(self) -> int:
        """``eval_layer`` counted from the front."""
        return self.eval_layer % self.layers

    @property
    def wide(self) -> int:
        """Width of the layers past ``eval_layer``."""
        return round(self.layer_scale * self.width)


DECODER_ACTIVATIONS = ("activation", "quality_activation", "position_activation", "box_activation")
"""Fields of ``DecoderConfig`` in which the families that share D-FINE's weights differ."""


@dataclass(frozen=True)
class DFineConfig:
    """A whole model. Values are checked on construction; an impossible one raises ``InputError`` by field name."""

    backbone: BackboneConfig
    encoder: EncoderConfig
    decoder: DecoderConfig
    class_names: tuple[str, ...] = field(default=COCO_CLASSES, repr=False)
    norm_epsilon: float = 1e-5  # batch norms of encoder and decoder; the backbone's is always 1e-5
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        encoder, decoder = self.encoder, self.decoder
        maps = len(self.backbone.out_stages)
        _require(self.num_classes > 0, "class_names", self.class_names, "needs at least one class")
        _require(maps > 0, "backbone.out_stages", self.backbone.out_stages, "needs at least one stage")
        stages = len(self.backbone.stages)
        _require(all(1 <= stage <= stages for stage in self.backbone.out_stages), "backbone.out_stages",
                 self.backbone.out_stages, f"must lie in 1..{stages}")  # fmt: skip
        _require(encoder.heads >= 1, "encoder.heads", encoder.heads, "must be at least 1")
        _require(decoder.heads >= 1, "decoder.heads", decoder.heads, "must be at least 1")
        _require(encoder.width % 4 == 0, "encoder.width", encoder.width, "must be divisible by 4")
        _require(encoder.width % encoder.heads == 0, "encoder.heads", encoder.heads, "must divide the width")
        _require(all(0 <= i < maps for i in encoder.attention_levels), "encoder.attention_levels",
                 encoder.attention_levels, f"must lie in 0..{maps - 1}")  # fmt: skip
        _require(decoder.width % decoder.heads == 0, "decoder.heads", decoder.heads, "must divide the width")
        _require(decoder.levels >= maps, "decoder.points", decoder.points, f"needs {maps} levels or more")
        _require(decoder.queries >= 1, "decoder.queries", decoder.queries, "must be at least 1")
        _require(decoder.layers >= 1, "decoder.layers", decoder.layers, "must be at least 1")
        _require(-decoder.layers <= decoder.eval_layer < decoder.layers, "decoder.eval_layer", decoder.eval_layer,
                 f"must name one of {decoder.layers} layers")  # fmt: skip
        _require(
            decoder.bins >= 4 and decoder.bins % 2 == 0,
            "decoder.bins",
            decoder.bins,
            "must be even, 4 or more",
        )
        _require(decoder.quality_top <= decoder.bins + 1, "decoder.quality_top", decoder.quality_top,
                 f"must be at most {decoder.bins + 1}")  # fmt: skip
        _require(decoder.method in ("default", "discrete"), "decoder.method", decoder.method,
                 'must be "default" or "discrete"')  # fmt: skip
        _require(decoder.last_layer == decoder.layers - 1 or decoder.wide % decoder.width == 0, "decoder.layer_scale",
                 decoder.layer_scale, "must be a whole number for layers past eval_layer")  # fmt: skip

    @property
    def num_classes(self) -> int:
        """How many classes the heads score."""
        return len(self.class_names)

    @property
    def extra_levels(self) -> int:
        """Decoder levels beyond the encoder's maps, made from its coarsest one."""
        return self.decoder.levels - len(self.backbone.out_stages)

    @classmethod
    def nano(cls) -> "DFineConfig":
        """D-FINE-N: 4 M parameters, strides 16 and 32."""
        return cls(
            _hgnetv2(
                (16, 16),
                (16, 32, 64, 128),
                (64, 256, 512, 1024),
                (1, 1, 2, 1),
                3,
                affine=True,
                out_stages=(3, 4),
            ),
            EncoderConfig(width=128, feedforward=512, attention_levels=(1,), expansion=0.34, depth=0.5),
            DecoderConfig(width=128, feedforward=512, layers=3, points=(6, 6)),
        )

    @classmethod
    def small(cls) -> "DFineConfig":
        """D-FINE-S: 10 M parameters."""
        return cls(
            _hgnetv2((16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3, affine=True),
            EncoderConfig(expansion=0.5, depth=0.34),
            DecoderConfig(layers=3),
        )

    @classmethod
    def medium(cls) -> "DFineConfig":
        """D-FINE-M: 19 M parameters."""
        return cls(
            _hgnetv2((24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4, affine=True),
            EncoderConfig(depth=0.67),
            DecoderConfig(layers=4),
        )

    @classmethod
    def large(cls) -> "DFineConfig":
        """D-FINE-L: 31 M parameters."""
        return cls(
            _hgnetv2((32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6, affine=False),
            EncoderConfig(),
            DecoderConfig(),
        )

    @classmethod
    def xlarge(cls) -> "DFineConfig":
        """D-FINE-X: 62 M parameters."""
        return cls(
            _hgnetv2((32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6, affine=False),
            EncoderConfig(width=384, feedforward=2048),
            DecoderConfig(reg_scale=8.0),
        )

    @classmethod
    def from_size(cls, size: str) -> "DFineConfig":
        """The published size called ``n``, ``s``, ``m``, ``l`` or ``x``; ``InputError`` for anything else."""
        if size not in SIZES:
            raise InputError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}")
        return SIZES[size]()

    def with_classes(self, class_names: tuple[str, ...]) -> "DFineConfig":
        """The same model for other classes."""
        return replace(self, class_names=tuple(class_names))

    def with_decoder_activation(self, name: str) -> "DFineConfig":
        """The same model with one activation in every place of the decoder: "relu" in D-FINE, "silu" in DEIM."""
        places = dict.fromkeys(DECODER_ACTIVATIONS, name)
        return replace(self, decoder=replace(self.decoder, **places))

    def with_queries(self, queries: int) -> "DFineConfig":
        """The same model for at most so many things a picture. Only learned queries have weights that depend on it."""
        return replace(self, decoder=replace(self.decoder, queries=queries))


SIZES: dict[str, Callable[[], DFineConfig]] = {
    "n": DFineConfig.nano,
    "s": DFineConfig.small,
    "m": DFineConfig.medium,
    "l": DFineConfig.large,
    "x": DFineConfig.xlarge,
}


def _hgnetv2(
    stem: tuple[int, int],
    mid: tuple[int, ...],
    out: tuple[int, ...],
    blocks: tuple[int, ...],
    layers: int,
    *,
    affine: bool,
    out_stages: tuple[int, ...] = (2, 3, 4),
) -> BackboneConfig:
    """What all sizes of HGNetV2 share: four stages, the last two light with 5x5 kernels, all but the first halving."""
    into = (stem[1], *out[:-1])
    stages = tuple(
        StageConfig(into[i], mid[i], out[i], blocks[i], layers, 5 if i >= 2 else 3, downsample=i > 0, light=i >= 2)
        for i in range(4)
    )
    return BackboneConfig((3, *stem), stages, out_stages, affine)


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise InputError(f"{name} = {value!r:.100} {rule}")
