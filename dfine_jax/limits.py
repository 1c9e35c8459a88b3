"""How large a model that a file describes may be, so that no file makes a program fill the memory or run for ever."""

from collections.abc import Iterator

from dfine_jax.config import DFineConfig
from dfine_jax.errors import InputError

LARGEST_SIDE = 8192
"""Pixels, of the height and the width that pictures are stretched to."""
MOST_PARAMETERS = 2**30
"""About 4 GiB; the largest published model, X, has 63 million."""

MOST = {
    "classes": 65_536,
    "queries": 65_536,
    "width": 65_536,  # channels of any map
    "kernel size": 31,
    "convolutions in the backbone": 1024,  # X has 102
    "blocks in a layer of the encoder": 64,  # X has 3
    "attention layers of the encoder": 64,  # X has 1
    "layers of the decoder": 64,  # X has 6
    "layers that judge quality": 64,  # X has 2
    "levels": 16,  # X has 3
    "points a head": 1024,  # X has 12
    "bins": 4096,  # X has 32
    "denoising queries": 65_536,
}
"""Each is many times what a published model has."""


def check_limits(config: DFineConfig) -> None:
    """``InputError`` names what there is too much of, with its number and the largest that is supported."""
    for what, number in _amounts(config):
        if number > MOST[what]:
            raise InputError(f"{what}: {number:,} is too many, up to {MOST[what]:,} are supported")
    if (count := _parameters(config)) > MOST_PARAMETERS:
        raise InputError(f"parameters: about {count:,.0f} is too many, up to {MOST_PARAMETERS:,} are supported")


def _amounts(config: DFineConfig) -> Iterator[tuple[str, int]]:
    """Cheap to tell, whatever the numbers are; what later ones are computed from comes before them."""
    backbone, encoder, decoder = config.backbone, config.encoder, config.decoder
    yield "classes", config.num_classes
    yield "queries", decoder.queries
    yield "denoising queries", decoder.denoising_queries
    yield "levels", max(len(decoder.points), len(backbone.out_stages), len(encoder.attention_levels))
    yield "points a head", sum(decoder.points)
    yield "bins", decoder.bins
    yield "layers of the decoder", decoder.layers
    yield "layers that judge quality", decoder.quality_layers
    yield "attention layers of the encoder", encoder.attention_layers * len(encoder.attention_levels)
    yield "blocks in a layer of the encoder", encoder.csp_blocks
    yield "convolutions in the backbone", sum((2 if s.light else 1) * s.blocks * s.layers for s in backbone.stages)
    yield "kernel size", max((stage.kernel_size for stage in backbone.stages), default=0)
    stages = [width for s in backbone.stages for width in (s.in_channels, s.mid_channels, s.out_channels)]
    transformers = (encoder.width, encoder.feedforward, decoder.width, decoder.feedforward, decoder.quality_width)
    yield "width", max(*stages, *backbone.stem_channels, *transformers, encoder.csp_channels, decoder.wide)


def _parameters(config: DFineConfig) -> float:
    """About how many, within a factor of two."""
    backbone, encoder, decoder = config.backbone, config.encoder, config.decoder
    count = 0.0
    for stage in backbone.stages:
        taps = 1 if stage.light else stage.kernel_size**2
        inside = stage.blocks * stage.layers * stage.mid_channels * stage.mid_channels * taps
        aggregated = stage.in_channels + stage.layers * stage.mid_channels
        count += inside + stage.blocks * aggregated * stage.out_channels
    width, csp = encoder.width, encoder.csp_channels
    attention = encoder.attention_layers * len(encoder.attention_levels)
    count += sum(backbone.out_channels) * width + attention * (4 * width**2 + 2 * width * encoder.feedforward)
    count += 2 * len(backbone.out_stages) * (4 * width**2 + 2 * csp * (2 * width + encoder.csp_blocks * 10 * csp))
    wide = max(decoder.width, decoder.wide)
    sampled = 3 * decoder.heads * sum(decoder.points) * wide
    heads = wide * (config.num_classes + 4 * (decoder.bins + 1))
    judged = decoder.quality_layers * decoder.quality_width**2
    layer = 8 * wide**2 + 2 * wide * decoder.feedforward + sampled + heads + judged
    count += decoder.layers * layer + decoder.levels * width * decoder.width
    return count + 2 * config.num_classes * decoder.width + decoder.queries * decoder.width * decoder.learned_queries
