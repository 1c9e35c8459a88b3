"""``dfine info``: sizes, cost, levels, classes, and the tree of modules with shapes."""

from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from dfine_jax.cli.options import model_of, parse_size
from dfine_jax.config import SIZES, DFineConfig
from dfine_jax.display import verbatim
from dfine_jax.explain.maps import Shapes, output_shapes
from dfine_jax.inference.compiled import count_operations
from dfine_jax.model.dfine import DFine, variables
from dfine_jax.published import PUBLISHED


def run(
    model: str | None = None,
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None,
    tree: bool = False,
    depth: int | None = None,
) -> int:
    """Show what a model is made of.

    Without --model: the five sizes, and the published models. With it: parameters, operations (counted from the
    program, for one picture), the decoder's levels, the classes, and the tree of modules with the shapes of their
    variables.

    For example, "dfine info" compares the sizes, "dfine info --model nano-coco --depth 4" shows one in detail, and
    "dfine info --model n --tree" how large maps are from stage to stage.

    Args:
        model: A size (n, s, m, l, x), a short name (nano-coco), a Hub id, a folder, or a .pth.
        size: Height and width of the picture, each divisible by 32; the model's own if not given.
        tree: Show the shape of what each module gives for a picture (height x width x channels).
        depth: How deep the tree of modules goes; 2 if not given, 3 with --tree.
    """
    console = Console()
    if model is None:
        console.print(_sizes())
        console.print(_published())
        console.print("dfine info --model NAME counts operations and shows classes and modules", style="dim")
        return 0
    network, settings = model_of(model, parse_size(size))
    with console.status("counting operations"):
        operations = count_operations(network, settings)
    console.print(_summary(model, network, operations, settings.height, settings.width))
    given = output_shapes(network, settings) if tree else {}
    console.print(_tree(network, (3 if tree else 2) if depth is None else depth, given))
    return 0


def _sizes() -> Table:
    table = Table(title="D-FINE's sizes", title_justify="left")
    for name in ("size", "parameters", "decoder layers", "width", "levels", "queries"):
        table.add_column(name, justify="right")
    for size in SIZES:
        config = DFineConfig.from_size(size)
        decoder = config.decoder
        numbers = (decoder.layers, decoder.width, decoder.levels, decoder.queries)
        table.add_row(size, f"{_count(DFine(config)):,}", *map(str, numbers))
    return table


def _published() -> Table:
    """The published models, in the order of their families."""
    table = Table(title="Published models", title_justify="left")
    for name in ("--model", "family", "size", "trained on", "COCO AP", "licence"):
        table.add_column(name, justify="right" if name == "COCO AP" else "left")
    for name, model in PUBLISHED.items():
        ap = f"{model.ap:.1f}" if model.ap else ""
        table.add_row(name, model.family, model.size, model.trained_on, ap, model.licence)
    table.caption = "AP on val2017, as the projects state it"
    table.caption_justify = "left"
    return table


def _summary(name: str, network: DFine, operations: float, height: int, width: int) -> Table:
    config = network.config
    backbone, encoder, decoder = (_count(part) for part in (network.backbone, network.encoder, network.decoder))
    strides = [2 ** (stage + 1) for stage in config.backbone.out_stages]
    names = ", ".join(config.class_names[:8]) + (", ..." if config.num_classes > 8 else "")
    table = Table(title=verbatim(name), title_justify="left", show_header=False)
    table.add_row("parameters", f"{_count(network):,}")
    table.add_row("", f"backbone {backbone:,}, encoder {encoder:,}, decoder {decoder:,}")
    table.add_row("operations", f"{operations / 1e9:.1f} GFLOPs for one picture of {height}x{width}")
    table.add_row("maps", f"strides {strides}, {config.encoder.width} channels")
    table.add_row("decoder", f"{decoder_layers(network)}, {config.decoder.queries} queries")
    table.add_row("points a head", ", ".join(map(str, config.decoder.points)) + " (level by level)")
    table.add_row("classes", verbatim(f"{config.num_classes}: {names}"))
    return table


def decoder_layers(network: DFine) -> str:
    """How many layers the decoder has, and which one counts where it isn't the last."""
    decoder = network.config.decoder
    text = f"{decoder.layers} layers of width {decoder.width}"
    return text if decoder.last_layer == decoder.layers - 1 else f"{text}, evaluated at layer {decoder.last_layer}"


def _count(module: object) -> int:
    params, _ = variables(module)
    return sum(int(np.prod(value.shape)) for value in params.values())


def _tree(network: DFine, depth: int, given: dict[str, Shapes]) -> Tree:
    """Modules with their parameters and, where they are known, with the shapes of what they give."""
    params, batch_stats = variables(network)
    tree = Tree(f"DFine  {_count(network):,}{_arrow(given.get(''))}", highlight=False)
    branches = {(): tree}
    totals: dict[tuple[str, ...], int] = {}
    everything = {**params, **batch_stats}
    for name, value in everything.items():
        path = tuple(name.split("."))
        for end in range(1, len(path) + 1):
            totals[path[:end]] = totals.get(path[:end], 0) + int(np.prod(value.shape))
    for path, total in sorted(totals.items(), key=lambda item: [(part.isdigit(), part.zfill(4)) for part in item[0]]):
        if len(path) > depth:
            continue
        name = ".".join(path)
        value = everything.get(name)
        text = f"{total:,}{_arrow(given.get(name))}" if value is None else f"{list(value.shape)}"
        branches[path] = branches[path[:-1]].add(f"{path[-1]}  {text}", highlight=False)
    return tree


def _arrow(shapes: Shapes | None) -> str:
    """What a module gives, as the end of its line."""
    return "" if not shapes else "  -> " + ", ".join("x".join(map(str, shape)) for shape in shapes)
