"""``dfine convert``: PyTorch weights to a folder for JAX, or back."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from dfine_jax.cli.options import say_remarks
from dfine_jax.display import printable, say, verbatim
from dfine_jax.errors import InputError
from dfine_jax.hub_config import require_expressible
from dfine_jax.json_file import LARGEST
from dfine_jax.model_shapes import model_shapes
from dfine_jax.plain_file import plain_size
from dfine_jax.pretrained import open_pretrained, read_stored
from dfine_jax.weights.atomic import check_target
from dfine_jax.weights.folder import StoredModel, description_in, save_folder
from dfine_jax.weights.hub_layout import save_hub_folder


def run(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    /,
    to: Literal["jax", "hub"] = "jax",
    class_names: Annotated[str | None, tyro.conf.arg(metavar="NAME,NAME")] = None,
    classes_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    size: Literal["n", "s", "m", "l", "x"] | None = None,
    family: Literal["dfine", "deim", "rtdetrv4"] | None = None,
    half: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    revision: str | None = None,
    token: str | None = None,
    verify: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[PICTURE]")] = None,
    explain: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Turn PyTorch weights into a folder for JAX, or back.

    Every tensor is accounted for, or all that are missing, unexpected or misshapen are listed, nothing is written and
    the exit code is 2. The folder appears complete or not at all.

    For example, from the Hub, by name or by a short one:

    dfine convert ustc-community/dfine-small-coco small

    dfine convert nano-coco nano --verify cats.jpg

    From the original release's files, and back for transformers:

    dfine convert dfine_hgnetv2_n_cells/best.pth blood --class-names "red cell,white cell,platelet"

    dfine convert blood blood_for_transformers --to hub

    DEIM's and RT-DETRv4's checkpoints have the same names and shapes and another activation in the decoder. Where
    nothing in the checkpoint or in its name tells whose it is, say so; and look at what became of each tensor:

    dfine convert best.pth blood --family deim --explain

    Args:
        source: A Hub repository (owner/name), a short name (nano-coco), a folder with config.json and weights, a
            folder made by this command, or a file of weights (.safetensors, .pth and others of PyTorch).
        out: The folder to make.
        to: "jax" for a folder to load here, "hub" for one that transformers loads.
        class_names: Names of the classes, in the order of their labels, instead of those that come with the model.
        classes_file: The same from a file, one name a line.
        size: Size of weights without config.json, where their shapes don't tell.
        family: Whose network a checkpoint of PyTorch is: "dfine" (ReLU in its decoder), "deim" or "rtdetrv4" (SiLU).
            Needed where neither the checkpoint nor its name tells.
        half: With --to hub, store matrices and kernels in half precision: half the size, rounded to 11 bits.
        revision: Branch, tag or commit of the Hub repository.
        token: Access token for the Hub, where you aren't logged in.
        verify: Afterwards, run a picture (a made-up one if none is given) through the result and through
            transformers, and print the largest differences; the exit code is 1 if they are not small.
        explain: Also print what each tensor became: its name and shape, of what, by which rule, or why it is ignored.
        force: Replace OUT if it is there already.
    """
    began = time.perf_counter()
    if half and to != "hub":
        raise InputError("--half is for --to hub: a folder for JAX holds float32")
    out = Path(os.path.expanduser(out))
    check_target(out, replace=force, source=Path(source))
    if verify is not None:
        from dfine_jax.evaluation.against_transformers import require_transformers

        require_transformers()
        if len(verify) > 1:
            raise InputError(f"--verify takes one picture, not {len(verify)}: {', '.join(map(str, verify))}")
    names = _class_names(class_names, classes_file)
    model = open_pretrained(source, revision=revision, token=token, size=size, family=family, class_names=names)
    say_remarks(model)
    check_target(out, replace=force, source=model.place)
    if explain and model.explain is None:
        raise InputError(f"--explain is for PyTorch's weights: {model.source} is a folder that this command made")
    if to == "hub" or verify is not None:
        require_expressible(model.config)
    tally = _Tally(model_shapes(model.config)[0])
    arrays = tally.watch(model.arrays())
    options = dict(described_by=model.place if names is None else None, replace=force)
    if to == "jax":
        save_folder(out, model.config, model.preprocessing, arrays, source=model.source, **options)
    else:
        save_hub_folder(out, model.config, model.preprocessing, arrays, half=half, **options)
    console = Console()
    table = tally.table(f"{model.source} -> {out}", _bytes(out), time.perf_counter() - began)
    console.print(table, soft_wrap=True)
    notes = list(model.notes)
    if names is not None and model.place is not None and (left := description_in(model.place)):
        notes.append(f"{' and '.join(left)} left out: what is there is about classes of the former names")
    if explain:
        for entry in model.explain():
            say(console, str(entry))
    for note in notes:
        console.print(printable(note), markup=False, highlight=False, soft_wrap=True)
    return 0 if verify is None else _verify(console, model, out, to, verify)


class _Tally:
    """Counts tensors, parameters (what is trained) and bytes on their way."""

    def __init__(self, parameters: Container[str]) -> None:
        self.parameters = parameters
        self.counts = {part: Counter() for part in ("backbone", "encoder", "decoder")}

    def watch(self, arrays: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in arrays:
            parameters = array.size if name in self.parameters else 0
            self.counts[name.split(".")[0]].update(tensors=1, parameters=parameters, bytes=array.nbytes)
            yield name, array

    def table(self, title: str, size: int, seconds: float) -> Table:
        table = Table(title=verbatim(title), title_justify="left", show_footer=True)
        table.add_column("", "all")
        for column in ("tensors", "parameters", "bytes"):
            total = sum(count[column] for count in self.counts.values())
            table.add_column(column, f"{total:,}", justify="right")
        for part, count in self.counts.items():
            table.add_row(part, *(f"{count[column]:,}" for column in ("tensors", "parameters", "bytes")))
        table.caption = f"{size:,} bytes on disk, {seconds:.1f} seconds"
        table.caption_justify = "left"
        return table


def _verify(console: Console, model: StoredModel, out: Path, to: str, pictures: tuple[Path, ...]) -> int:
    from dfine_jax.evaluation.against_transformers import compare, synthetic_picture
    from dfine_jax.inference.pictures import load_picture

    picture = load_picture(pictures[0]) if pictures else synthetic_picture()
    with tempfile.TemporaryDirectory() as scratch:
        if to == "hub":
            hub_folder = out
        elif model.hub_folder is not None:
            hub_folder = model.hub_folder
        else:
            hub_folder = Path(scratch) / "hub"
            save_hub_folder(hub_folder, model.config, model.preprocessing, model.arrays())
        ours = read_stored(model if to == "hub" else open_pretrained(out))
        found = compare(ours.model, hub_folder, ours.preprocessing, picture)
    style = None if found.small else "red"
    console.print(
        f"against transformers: {found.shared} of {found.queries} queries chosen by both, "
        f"logits within {found.logits:.2g}, boxes within {found.boxes:.2g}",
        style=style,
        highlight=False,
        soft_wrap=True,
    )
    return 0 if found.small else 1


def _class_names(text: str | None, file: Path | None) -> tuple[str, ...] | None:
    if text is not None and file is not None:
        raise InputError("give --class-names or --classes-file, not both")
    if file is not None:
        names = _lines(file)
    elif text is not None:
        names = text.split(",")
    else:
        return None
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not all(names) or not names:
        raise InputError("class names: expected one in each place, and at least one")
    return tuple(names)


def _lines(file: Path) -> list[str]:
    if plain_size(file) > LARGEST:
        raise InputError(f"{file} is too large for names of classes")
    try:
        return file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} can't be read as UTF-8 ({error})") from None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
