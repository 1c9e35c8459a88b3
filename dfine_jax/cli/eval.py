"""``dfine eval``: how good a model is on labelled pictures."""

import math
import os
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dfine_jax.cli.inputs import Inputs
from dfine_jax.cli.options import DEFAULT_MODEL, parse_size, say_remarks
from dfine_jax.data.formats import recognise
from dfine_jax.data.samples import Dataset, Split, summarise
from dfine_jax.data.shapes import DrawnRecords
from dfine_jax.display import say, verbatim
from dfine_jax.errors import InputError
from dfine_jax.evaluation.coco_metrics import Evaluation, evaluate
from dfine_jax.evaluation.predictions import Predicted, predict, same_classes
from dfine_jax.evaluation.report import report_files, write_report
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.memory import keep_freed_memory
from dfine_jax.inference.pictures import PictureError
from dfine_jax.pretrained import open_pretrained
from dfine_jax.whole_files import require_writable, require_writable_folder

MOST_SHOWN = 30
"""Classes in the table; of more the best and the worst are shown."""
MOST_REMARKS = 3
"""Of those on a data set; dfine data shows all."""


def run(
    *,
    data: Annotated[str, tyro.conf.arg(metavar="PATH")],
    model: str = DEFAULT_MODEL,
    split: Split | None = None,
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    threshold: float = 0.5,
    batch_size: int = 8,
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> int:
    """Measure how good a model is on labelled pictures.

    Prints COCO's twelve figures and those of each class. AP, the first, is the one to compare models by: the average
    precision, from 0 to 1, over ten degrees of overlap and all classes. Classes are matched by name. The exit code is
    0 if all went well, 1 if some pictures couldn't be read (they are named and left out), 2 if nothing could be done.

    For example, "dfine eval --model runs/cells --data cells --split test --output runs/cells/test" measures a trained
    model on pictures it has not seen and keeps numbers and figures, "dfine eval --model small-coco --data
    annotations/instances_val2017.json" takes a COCO file, and "dfine eval --model runs/shapes --data
    shapes:count=1000" draws what it needs.

    Args:
        data: A folder with pictures and labels (COCO, YOLO or VOC), a COCO .json, a YOLO .yaml, or "shapes".
        model: A short name (nano-coco), a Hub id, a folder, or a .pth of the original release.
        split: Which part of the data; val if not given, or all of it if it is in one piece.
        output: Write metrics.json, predictions.json (as COCO has it) and pictures of curves and finds to this folder.
        threshold: What scores more counts as found, for precision, recall and confusion. AP looks at all scores.
        batch_size: Pictures given to the device at a time; a CPU computes them one by one.
        size: Height and width the pictures are stretched to, each divisible by 32; the model's own if not given.
        dtype: Type of the large products. bfloat16 is faster on some machines and a little less exact; CPUs take
            float16, int16 or float32 where they are faster so.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold={threshold}: expected a score from 0 to 1")
    tables, notes = Console(), Console(stderr=True)
    if output is not None:
        require_writable_folder(output, "--output")  # to fail now rather than at the end
    source = recognise(data)
    split = split or ("val" if source.splits else None)
    dataset = source.open(split)
    for remark in dataset.remarks[:MOST_REMARKS]:
        say(notes, remark, "yellow")
    if output is not None:
        _keep_inputs(output, data, model, dataset)
    if dataset.problems:
        found = summarise(dataset.problems)
        say(notes, f"left out or changed in {data}: {found}; dfine data {data} lists them", "yellow")
    keep_freed_memory()
    stored = open_pretrained(model)
    say_remarks(stored)
    detector = Detector.from_stored(stored, size=parse_size(size), dtype=dtype, batch_size=batch_size)
    unknown = _unknown_classes(detector, dataset)
    if unknown:
        say(notes, f"the model doesn't know {', '.join(unknown)}: these are never found", "yellow")

    predicted, unreadable = _predict(detector, dataset, notes)
    evaluation = evaluate(predicted, Truth.of(dataset), threshold=threshold)
    tables.print(_figures(evaluation, f"{model} on {data}" + (f", {split}" if split else "")))
    tables.print(_classes(evaluation))
    if unreadable:
        say(notes, f"{unreadable} of {len(dataset)} pictures could not be read and are left out", "yellow")
    if output is not None:
        write_report(evaluation, dataset, output, {"model": model, "data": data, "split": split or "all"})
        notes.print(verbatim(f"numbers, predictions and pictures written to {output}"), soft_wrap=True)
    return 1 if unreadable else 0


def _keep_inputs(output: Path, data: str, model: str, dataset: Dataset) -> None:
    """Refuses a folder in which a file that is read would be replaced."""
    targets = [path for path in report_files(output) if os.path.lexists(path)]
    for path in targets:
        require_writable(path, "--output")
    if not targets:
        return
    records = [] if isinstance(dataset.records, DrawnRecords) else dataset.records
    inputs = Inputs(
        path for record in records for path in (record.picture, record.file) if isinstance(path, str | os.PathLike)
    )
    inputs.add(data)
    inputs.add_model(model)
    for path in targets:
        inputs.refuse(path, "--output")


def _unknown_classes(detector: Detector, dataset: Dataset) -> list[str]:
    known = set(same_classes(detector.config.class_names, dataset.class_names).tolist())
    return [name for label, name in enumerate(dataset.class_names) if label not in known]


def _predict(detector: Detector, dataset: Dataset, notes: Console) -> tuple[list[Predicted], int]:
    """What is found in the pictures that can be read, and how many can't."""
    predicted, unreadable = [], 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, disable=not notes.is_terminal, transient=True) as progress:
        task = progress.add_task("detecting", total=len(dataset))
        for outcome in predict(detector, dataset):
            if isinstance(outcome, PictureError):
                unreadable += 1
                say(notes, f"left out {outcome}", "yellow")
            else:
                predicted.append(outcome)
            progress.advance(task)
    return predicted, unreadable


def _figures(evaluation: Evaluation, title: str) -> Table:
    """COCO's twelve: precision on the left, recall on the right."""
    f = evaluation.figures
    table = Table(title=verbatim(title, "bold"), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("average precision", "average recall"):
        table.add_column(heading, style="dim", header_style="dim")
        table.add_column("", justify="right")
    table.add_row("[bold]AP[/bold], IoU 0.50 to 0.95", f"[bold]{_number(f.ap)}[/bold]", "1 a picture", _number(f.ar1))
    table.add_row("IoU 0.50", _number(f.ap50), "10 a picture", _number(f.ar10))
    table.add_row("IoU 0.75", _number(f.ap75), "100 a picture", _number(f.ar100))
    table.add_row("small, under 32x32", _number(f.ap_small), "small", _number(f.ar_small))
    table.add_row("medium", _number(f.ap_medium), "medium", _number(f.ar_medium))
    table.add_row("large, over 96x96", _number(f.ap_large), "large", _number(f.ar_large))
    return table


def _classes(evaluation: Evaluation) -> Table:
    """The figures of each class, the best first; those without boxes come last and have none."""
    threshold = f"{evaluation.confusion.threshold:g}"
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class")
    for heading in ("boxes", "AP", "AP50", "AP75", f"precision at {threshold}", f"recall at {threshold}"):
        table.add_column(heading, justify="right")
    rows = sorted(evaluation.classes, key=lambda c: (c.boxes == 0, -c.ap))
    for i, c in enumerate(rows):
        if MOST_SHOWN // 2 <= i < len(rows) - MOST_SHOWN // 2:
            if i == MOST_SHOWN // 2:
                table.add_row(f"... {len(rows) - MOST_SHOWN} more", style="dim")
            continue
        numbers = map(_number, (c.ap, c.ap50, c.ap75, c.precision, c.recall))
        table.add_row(verbatim(c.name), f"{c.boxes:,}", *numbers, style="dim" if c.boxes == 0 else None)
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
