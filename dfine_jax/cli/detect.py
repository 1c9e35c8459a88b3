"""``dfine detect``: what is where in pictures, as a table, as JSON and drawn."""

import json as json_format
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dfine_jax.bundled import SHAPES_PICTURE
from dfine_jax.cli.drawn import drawn_files, save_drawn, without_drawn
from dfine_jax.cli.inputs import Inputs
from dfine_jax.cli.options import DEFAULT_MODEL, parse_size, say_remarks
from dfine_jax.display import printable, verbatim
from dfine_jax.errors import InputError
from dfine_jax.inference.detections import Detections, class_ids
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.draw import draw
from dfine_jax.inference.memory import keep_freed_memory
from dfine_jax.inference.pictures import PictureError, find_pictures, local_path
from dfine_jax.pretrained import open_pretrained
from dfine_jax.thresholds import USUAL, Thresholds, read_thresholds
from dfine_jax.whole_files import require_writable, require_writable_folder, write_whole

FEW = 5
"""Up to so many pictures each get a table of their own; more get a line each, and a progress bar."""

EXAMPLE_FOLDER = "detected"
"""Where the picture that comes with the package is drawn, in the current folder."""

STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
"""Names under which --json writes there; tables then go to standard error."""


def run(
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PATH ...]")] = (),
    /,
    model: str | None = None,
    threshold: float | None = None,
    save: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None,
    batch_size: int = 1,
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    classes: Annotated[str | None, tyro.conf.arg(metavar="NAME,NAME")] = None,
) -> int:
    """Find things in pictures.

    With no arguments, "dfine detect" tries a small model that comes with the package on a picture of drawn shapes, and
    writes what it found to the folder detected; nothing is downloaded.

    Prints what was found, as a table a picture; from six pictures on, as a line a picture. The exit code is 0 if all
    went well, 1 if some pictures couldn't be read (they are named and skipped), 2 if nothing could be done.

    For example, "dfine detect holiday/ 'scans/*.png' --save drawn --json found.json" searches a folder and a pattern,
    and "dfine detect cats.jpg --model small-obj2coco --classes cat,dog --threshold 0.3" looks for two classes only.

    Args:
        paths: Picture files, folders (searched with their subfolders), patterns such as 'a/*.jpg', or URLs.
        model: A short name (nano-coco, the default for pictures of yours, or shapes, which comes with the package), a
            Hub id, a folder, or a .pth of the original release.
        threshold: Show what scores more than this, from 0 to 1. If not given it is what a model trained by dfine train
            found best for each class (thresholds.json in its folder), for other models 0.5.
        save: Write the pictures with boxes drawn on them to this folder.
        json: Write all detections to this file ("-" for standard output): a list, one object a picture.
        batch_size: Pictures given to the device at a time; a CPU computes them one by one.
        size: Height and width the pictures are stretched to, each divisible by 32; the model's own if not given.
        dtype: Type of the large products. bfloat16 is faster on some machines and a little less exact; CPUs take
            float16, int16 or float32 where they are faster so.
        classes: Show these classes only, by name or number.
    """
    if not paths:
        paths, save = (str(SHAPES_PICTURE),), save or Path(EXAMPLE_FOLDER)
        model = model or "shapes"
    model = model or DEFAULT_MODEL
    pictures = find_pictures(paths)
    if save is not None:
        require_writable_folder(save, "--save")
        pictures = without_drawn(pictures, save)
    inputs = Inputs(path for path in map(local_path, pictures) if path is not None)
    targets = drawn_files(pictures, save, inputs) if save is not None else {}
    if json is not None and json not in STANDARD_OUTPUT:
        require_writable(json, "--json")
        inputs.refuse(json, "--json")
        if os.path.realpath(json) in map(os.path.realpath, targets.values()):
            raise InputError(f"--json {printable(json)} is where a picture would be drawn: choose another file")
    stored = open_pretrained(model)
    inputs.add_model(model)
    if json is not None and json not in STANDARD_OUTPUT:
        inputs.refuse(json, "--json")
    say_remarks(stored)
    wanted = None if classes is None else class_ids(classes.split(","), stored.config.class_names)
    thresholds = read_thresholds(model) if threshold is None else None
    if threshold is None:
        threshold = thresholds.least() if thresholds else USUAL
    options = dict(size=parse_size(size), dtype=dtype, batch_size=batch_size)
    if len(pictures) > 1:
        keep_freed_memory()
    detector = Detector.from_stored(stored, **options, quick=len(pictures) == 1)

    notes = Console(stderr=True)
    tables = notes if json in STANDARD_OUTPUT else Console()
    results, skipped = [], 0
    with _progress(notes, len(pictures)) as progress:
        task = progress.add_task("detecting", total=len(pictures))
        for found in detector.stream(pictures, threshold, keep_pictures=save is not None):
            if isinstance(found.outcome, PictureError):
                skipped += 1
                notes.print(verbatim(f"skipped {found.outcome}", "red"), soft_wrap=True)
            else:
                outcome = thresholds.filter(found.outcome) if thresholds else found.outcome
                detections = outcome.filter(classes=wanted)
                results.append(detections)
                shown = _line(detections) if len(pictures) > FEW else _table(detections, thresholds)
                tables.print(shown, soft_wrap=True)
                if save is not None:
                    save_drawn(draw(found.picture, detections), targets[found.source])
            progress.advance(task)

    if json is not None:
        _write_json([detections.to_dict() for detections in results], json)
    if save is not None:
        pictures_drawn = "1 picture" if len(results) == 1 else f"{len(results)} pictures"
        notes.print(verbatim(f"{pictures_drawn} drawn in {save}"), soft_wrap=True)
    if skipped:
        notes.print(f"{skipped} of {len(pictures)} pictures could not be read", style="red", highlight=False)
    return 1 if skipped else 0


def _progress(console: Console, count: int) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=count <= FEW or not console.is_terminal, transient=True)


def _table(detections: Detections, thresholds: Thresholds | None) -> Table:
    width, height = detections.size
    title = verbatim(f"{detections.image}  {width}x{height}", "bold")
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("label")
    for name in ("score", "x0", "y0", "x1", "y1"):
        table.add_column(name, justify="right")
    for detection in detections:
        table.add_row(verbatim(detection.label), f"{detection.score:.3f}", *(f"{edge:.1f}" for edge in detection.box))
    if thresholds is not None:
        table.caption = verbatim(f"above the model's own thresholds: {thresholds}")
        table.caption_justify = "left"
    if not len(detections):
        table.add_row("nothing found", "", "", "", "", "", style="dim")
    return table


def _line(detections: Detections) -> Text:
    counts = ", ".join(f"{count} {name}" for name, count in Counter(detections.names).most_common())
    width, height = detections.size
    return verbatim(f"{detections.image}  {width}x{height}  {counts or 'nothing found'}")


def _write_json(results: list[dict], target: str) -> None:
    if target not in STANDARD_OUTPUT:
        write_whole(target, (json_format.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
        return
    takes_all = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(json_format.dumps(results, indent=1, ensure_ascii=not takes_all))
