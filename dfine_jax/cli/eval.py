"""``dfine eval``: how good a model is on labelled pictures."""

import os
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dfine_jax.calibration import FILE_NAME, Calibration, read_calibration, write_calibration
from dfine_jax.cli.eval_tables import (
    classes_table,
    coverage_table,
    errors_table,
    figures_table,
    scores_table,
    suspects_table,
)
from dfine_jax.cli.inputs import Inputs
from dfine_jax.cli.options import DEFAULT_MODEL, parse_size, say_remarks
from dfine_jax.data.formats import recognise
from dfine_jax.data.samples import Dataset, Split, summarise
from dfine_jax.data.shapes import DrawnRecords
from dfine_jax.display import printable, say, verbatim
from dfine_jax.errors import InputError
from dfine_jax.evaluation.calibration import Samples, fit, gathered, measure, samples_of
from dfine_jax.evaluation.calibration_report import calibration_files, write_calibration_report
from dfine_jax.evaluation.coco_metrics import Evaluation, evaluate
from dfine_jax.evaluation.confusion import rows_by_picture
from dfine_jax.evaluation.error_kinds import find_errors
from dfine_jax.evaluation.error_report import error_files, write_errors
from dfine_jax.evaluation.label_errors import rank_labels
from dfine_jax.evaluation.predictions import Predicted, predict, same_classes
from dfine_jax.evaluation.report import report_files, write_report
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.detector import Detector
from dfine_jax.inference.memory import keep_freed_memory
from dfine_jax.inference.pictures import PictureError
from dfine_jax.pretrained import open_pretrained
from dfine_jax.whole_files import require_writable, require_writable_folder

MOST_REMARKS = 3
"""Of those on a data set; dfine data shows all."""


def run(
    *,
    data: Annotated[str, tyro.conf.arg(metavar="PATH")],
    model: str = DEFAULT_MODEL,
    split: Split | None = None,
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    threshold: float = 0.5,
    errors: bool = False,
    calibration: bool = False,
    keep_calibration: bool = False,
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
    shapes:count=1000" draws what it needs. With "--errors --output wrong" there are also pictures of what went wrong
    and of labels that are likely wrong. "--keep-calibration --split val" lets a model learn how far its word can be
    trusted, and "--calibration --split test" tells whether that holds on other pictures.

    Args:
        data: A folder with pictures and labels (COCO, YOLO or VOC), a COCO .json, a YOLO .yaml, or "shapes".
        model: A short name (nano-coco), a Hub id, a folder, or a .pth of the original release.
        split: Which part of the data; val if not given, or all of it if it is in one piece.
        output: Write metrics.json, predictions.json (as COCO has it) and pictures of curves and finds to this folder.
        threshold: What scores more counts as found, for precision, recall and confusion. AP looks at all scores.
        errors: Also show what went wrong, in TIDE's kinds with the AP50 that each costs, and which labels are likely
            wrong, ranked. With --output the worst of each as pictures, and all as JSON.
        calibration: Also show whether scores are the share that is right (reliability, expected calibration error), and
            whether intervals of edges hold as many true edges as they should, by size of object.
        keep_calibration: Fit corrections for both on these pictures (take the val part) and keep them with the model,
            which is a folder, as calibration.json; Detector.from_pretrained(..., edges=True) goes by it.
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
    calibration = calibration or keep_calibration
    if output is not None:
        written = report_files(output)
        written += error_files(output) if errors else []
        written += calibration_files(output) if calibration else []
        _keep_inputs(written, data, model, dataset)
    if dataset.problems:
        found = summarise(dataset.problems)
        say(notes, f"left out or changed in {data}: {found}; dfine data {data} lists them", "yellow")
    keep_freed_memory()
    stored = open_pretrained(model)
    say_remarks(stored)
    kept = None
    if keep_calibration:
        _require_own_folder(model)
    elif calibration and stored.place is not None:
        kept = read_calibration(stored.place)
    options = dict(size=parse_size(size), dtype=dtype, batch_size=batch_size, edges=calibration)
    detector = Detector.from_stored(stored, **options)
    unknown = _unknown_classes(detector, dataset)
    if unknown:
        say(notes, f"the model doesn't know {', '.join(unknown)}: these are never found", "yellow")

    truth = Truth.of(dataset)
    predicted, samples, unreadable = _predict(detector, dataset, truth, threshold, notes)
    evaluation = evaluate(predicted, truth, threshold=threshold)
    tables.print(figures_table(evaluation, f"{model} on {data}" + (f", {split}" if split else "")))
    tables.print(classes_table(evaluation))
    if errors:
        _show_errors(evaluation, dataset, output, tables)
    if calibration:
        fitted = fit(samples) if keep_calibration else kept
        _show_calibration(samples, fitted, output, tables)
        if keep_calibration:
            _keep(fitted, model, notes)
        elif fitted is None:
            say(notes, "the model has no calibration: --keep-calibration --split val fits one")
    if unreadable:
        say(notes, f"{unreadable} of {len(dataset)} pictures could not be read and are left out", "yellow")
    if output is not None:
        write_report(evaluation, dataset, output, {"model": model, "data": data, "split": split or "all"})
        notes.print(verbatim(f"numbers, predictions and pictures written to {output}"), soft_wrap=True)
    return 1 if unreadable else 0


def _show_errors(evaluation: Evaluation, dataset: Dataset, output: Path | None, tables: Console) -> None:
    truth = evaluation.truth
    errors = find_errors(evaluation.predicted, truth, threshold=evaluation.confusion.threshold)
    suspects = rank_labels(evaluation.predicted, truth)
    tables.print("", errors_table(errors), "", suspects_table(suspects, dataset, truth), sep="\n")
    if output is not None:
        write_errors(errors, suspects, dataset, truth, output)


def _show_calibration(samples: Samples, fitted: Calibration | None, output: Path | None, tables: Console) -> None:
    raw, corrected = measure(samples), None if fitted is None else measure(samples, fitted)
    tables.print("", scores_table(raw, corrected), "", coverage_table(raw, corrected), sep="\n")
    if output is not None:
        write_calibration_report(raw, corrected, output)


def _require_own_folder(model: str) -> None:
    """Refuses a model that is no folder of the user's before any work."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"--keep-calibration: {printable(model)} is no folder of a model, in which a calibration could be kept; "
            "dfine convert makes one of it"
        )
    require_writable(folder / FILE_NAME, "--keep-calibration")


def _keep(fitted: Calibration, model: str, notes: Console) -> None:
    folder = Path(model).expanduser()
    write_calibration(fitted, folder)
    say(notes, f"corrected on the pictures that it was fitted on, and kept in {folder / FILE_NAME}")


def _keep_inputs(written: list[Path], data: str, model: str, dataset: Dataset) -> None:
    """Refuses a folder in which a file that is read would be replaced."""
    targets = [path for path in written if os.path.lexists(path)]
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


def _predict(
    detector: Detector, dataset: Dataset, truth: Truth, threshold: float, notes: Console
) -> tuple[list[Predicted], Samples, int]:
    """What is found in the pictures that can be read, how it compares with the labels, and how many can't be read.

    Edges are compared at once: those of all detections of many pictures would take much memory.
    """
    predicted, samples, unreadable, rows_of = [], [], 0, rows_by_picture(truth)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, disable=not notes.is_terminal, transient=True) as progress:
        task = progress.add_task("detecting", total=len(dataset))
        for outcome in predict(detector, dataset):
            if isinstance(outcome, PictureError):
                unreadable += 1
                say(notes, f"left out {outcome}", "yellow")
            else:
                if outcome.edges is not None:
                    samples.append(samples_of(outcome, truth, rows_of[outcome.picture], threshold))
                predicted.append(outcome._replace(edges=None))
            progress.advance(task)
    return predicted, gathered(samples), unreadable
