"""What shapes tell about a checkpoint's model: its size, and where there is no ``config.json`` all of it."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from dfine_jax.class_names import class_names_for
from dfine_jax.config import SIZES, DFineConfig
from dfine_jax.errors import InputError
from dfine_jax.hub_config import map_strides
from dfine_jax.limits import MOST, check_limits
from dfine_jax.weights.fill import CheckpointError, Shape
from dfine_jax.weights.rules import Dialect, to_jax


def known_shapes(dialect: Dialect, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Our names and layouts of all tensors that the dialect knows (a fused tensor's parts with the whole's shape)."""
    return {match.name: match.layout.shape(shape) for name, shape in shapes.items() for match in to_jax(dialect, name)}


def size_of_shapes(known: Mapping[str, Shape]) -> str | None:
    """The published size whose stem and encoder have these widths, or None."""
    stem, encoder = known.get("backbone.stem.stem4.kernel"), known.get("encoder.lateral.0.kernel")
    if not stem or not encoder:
        return None
    return next((size for size, make in SIZES.items() if _widths(make()) == (*stem[-2:], encoder[-1])), None)


def size_of_config(config: DFineConfig) -> str | None:
    """The published size whose stem and encoder have the configuration's widths, or None."""
    return next((size for size, make in SIZES.items() if _widths(make()) == _widths(config)), None)


def inferred_config(dialect: Dialect, shapes: Mapping[str, Shape], source: str, size: str | None = None) -> DFineConfig:
    """The configuration of a checkpoint, told from its names and shapes; those of ``size`` count where it is given.

    Told are the size, the classes, the decoder's layers (those past ``eval_idx`` by their width, where they have
    another), whether queries are learned, denoised, and whether the backbone's norms are frozen. ``CheckpointError``
    where no published size has such shapes.
    """
    known = known_shapes(dialect, shapes)
    size = size or size_of_shapes(known)
    if size is None:
        raise CheckpointError(
            f"{source} has the shapes of no published size: say which to take it for (n, s, m, l, x), "
            "or put its config.json beside it"
        )
    config = DFineConfig.from_size(size)
    classes = classes_of_shapes(known) or config.num_classes
    if classes > MOST["classes"]:
        raise CheckpointError(f"{source} scores {classes:,} classes, up to {MOST['classes']:,} are supported")
    decoder = config.decoder
    if layers := _layer_widths(known):
        wide = [i for i, width in enumerate(layers) if width != layers[0]]
        decoder = replace(
            decoder,
            layers=len(layers),
            eval_layer=wide[0] - 1 if wide else -1,
            layer_scale=layers[-1] / max(1, layers[0]),
        )
    if "decoder.denoising_embed" not in known:
        decoder = replace(decoder, denoising_queries=0)
    if "decoder.learned_content" in known:
        queries = next(iter(known["decoder.learned_content"]), 0)
        decoder = replace(decoder, learned_queries=True, queries=max(1, queries))
    counts_batches = any(re.fullmatch(r"(model\.)?backbone\..*\.num_batches_tracked", name) for name in shapes)
    try:
        told = replace(
            config,
            backbone=replace(config.backbone, frozen_norms=not counts_batches),
            decoder=decoder,
            class_names=class_names_for(classes),
        )
        check_limits(told)
    except InputError as error:
        raise CheckpointError(f"{source}: {error}") from None
    return told


def classes_of_shapes(known: Mapping[str, Shape]) -> int | None:
    """How many classes are scored, or None where that isn't told."""
    shape = known.get("decoder.encoder_score.bias", ())
    return shape[0] if len(shape) == 1 and shape[0] > 0 else None


def original_picture_side(shapes: Mapping[str, Shape], config: DFineConfig) -> int | None:
    """Height and width of the square pictures that the anchors stored in a ``.pth`` are for, or None."""
    if len(anchors := shapes.get("decoder.anchors", ())) != 3:
        return None
    strides = map_strides(config.backbone)
    side = math.isqrt(round(anchors[1] / sum(stride**-2 for stride in strides)))
    cells = sum((side // stride) ** 2 for stride in strides)
    return side if side > 0 and side % 32 == 0 and cells == anchors[1] else None


def _widths(config: DFineConfig) -> tuple[int, ...]:
    return (*config.backbone.stem_channels[1:], config.encoder.width)


def _layer_widths(known: Mapping[str, Shape]) -> list[int]:
    """The width of each decoder layer, up to the first that is not there."""
    widths = []
    while shape := known.get(f"decoder.layers.{len(widths)}.norm1.scale"):
        widths.append(shape[0])
    return widths
