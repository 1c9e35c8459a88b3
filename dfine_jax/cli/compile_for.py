"""``dfine bench --compile-for tpu:v5e:2x2``: what the programs need on devices that are not there."""

import json as json_format
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jaxlib
from rich import box
from rich.console import Console
from rich.table import Table

from dfine_jax.config import SIZES
from dfine_jax.display import printable, verbatim
from dfine_jax.errors import InputError
from dfine_jax.export.topology import Program, TooLargeError, Topology
from dfine_jax.training.recipe import Recipe
from dfine_jax.whole_files import write_whole

BATCHES = (1, 32)
"""Pictures that inference is compiled for, if nothing else is asked."""
NEEDS = ("program", "batch", "GFLOP", "GB", "Mcycles", "MiB", "seconds")
MOVES = ("program", "batch", "padding", "copies", "MB", "collectives", "in loops", "to host")
"""The columns of two tables; a batch is chips x pictures on each."""


def compile_all(
    name: str, sizes: tuple[str, ...], batches: tuple[int, ...], dtype: str, json: Path | None, console: Console
) -> None:
    """Compiles inference on one chip and the training step over all, and prints what they need.

    ``json`` is written after each program, as all of them together take long. ``InputError`` for what can't be done.
    """
    if wrong := [size for size in sizes if size not in SIZES]:
        raise InputError(f"model {wrong[0]!r}: --compile-for takes one of the sizes {', '.join(SIZES)}")
    if min(batches) < 1:
        raise InputError(f"batch size {min(batches)}: give 1 or more")
    topology = Topology(name)
    programs: list[Program] = []
    too_large: dict[str, str] = {}
    for title, compile_it in _wanted(topology, sizes, batches, dtype):
        try:
            with console.status(f"compiling {title}"):
                programs.append(compile_it())
        except TooLargeError as error:
            too_large[title] = str(error)
            console.print(verbatim(f"{title}: too large"), soft_wrap=True)
        else:
            seconds = programs[-1].compile_seconds
            console.print(verbatim(f"{title}: compiled in {seconds:.0f} s"), soft_wrap=True)
        if json is not None:
            content = json_format.dumps(_as_json(topology, programs, too_large), indent=1) + "\n"
            write_whole(json, content.encode())
    title = f"{name}, {dtype}, on each chip: GB accessed, cycles as the compiler estimates, memory, seconds to compile"
    console.print(_table(title, NEEDS, programs, _needs), soft_wrap=True)
    title = "What computes nothing: share of padding in all that is written, copies to other layouts, exchanges"
    console.print(_table(title, MOVES, programs, _moves), soft_wrap=True)
    fits = _whether_it_fits(topology, programs, too_large)
    console.print(printable(fits, lines=True), soft_wrap=True, markup=False)


def _wanted(
    topology: Topology, sizes: tuple[str, ...], batches: tuple[int, ...], dtype: str
) -> list[tuple[str, Callable[[], Program]]]:
    wanted = []
    for size in sizes:
        for batch in batches:
            wanted.append((f"{size}, inference, batch {batch}", partial(topology.inference, size, batch, dtype)))
        wanted.append((f"{size}, training step", partial(topology.largest_training, size, dtype)))
    return wanted


def _table(
    title: str, headings: tuple[str, ...], programs: list[Program], cells: Callable[[Program], tuple[str, ...]]
) -> Table:
    look = dict(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    table = Table(title=verbatim(title, "italic"), **look)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for program in programs:
        table.add_row(f"{program.size} {program.purpose}", f"{program.chips}x{program.batch}", *cells(program))
    return table


def _needs(program: Program) -> tuple[str, ...]:
    return (
        f"{program.flops / 1e9:,.0f}",
        f"{program.bytes_accessed / 1e9:,.1f}",
        f"{program.cycles / 1e6:,.1f}",
        f"{program.memory_bytes / 2**20:,.0f}",
        f"{program.compile_seconds:.0f}",
    )


def _moves(program: Program) -> tuple[str, ...]:
    return (
        f"{program.padding:.0%}",
        str(program.copies),
        f"{program.copied_bytes / 1e6:,.0f}",
        str(sum(program.collectives.values())),
        str(program.looped_collectives),
        str(program.host_transfers),
    )


def _whether_it_fits(topology: Topology, programs: list[Program], too_large: dict[str, str]) -> str:
    memory = "a chip's memory" if topology.chip_gb is None else f"the {topology.chip_gb} GB of a chip"
    lines = [f"{title} does not fit in {memory}: {reason}" for title, reason in too_large.items()]
    for program in programs:
        if (parts := _parts_of_recipe(program)) > 1:
            lines.append(
                f"{program.size}'s recipe fits in {memory} if each batch goes through in {parts} parts "
                f"(dfine train --optimization.accumulate {parts})."
            )
    if not lines:
        most = max(programs, key=lambda program: program.memory_bytes)
        what = f"{most.size}, {most.purpose}, {most.batch} a chip"
        lines = [f"All fit in {memory}; the largest, {what}, needs {most.memory_bytes / 2**30:.2f} GiB."]
    return "\n".join(lines)


def _parts_of_recipe(program: Program) -> int:
    """Into how many parts the recipe's batch must be split to be trained on as the program does."""
    if program.purpose != "training":
        return 1
    return max(1, Recipe.for_size(program.size).batch_size // (program.batch * program.chips))


def _as_json(topology: Topology, programs: list[Program], too_large: dict[str, str]) -> dict[str, Any]:
    return {
        "compiled_for": topology.name,
        "chip_gb": topology.chip_gb,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "results": [program._asdict() for program in programs],
        "too_large": too_large,
    }
