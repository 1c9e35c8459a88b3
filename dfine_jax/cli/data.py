"""`dfine data`: what is in a data set, and what is wrong with it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from dfine_jax.cli.sheet import check_sheet, save_sheet, sheet_file
from dfine_jax.data.contact_sheet import contact_sheet
from dfine_jax.data.formats import recognise
from dfine_jax.data.report import Report, Spread, report, same_pictures
from dfine_jax.data.samples import DataError, Dataset, Problem, Split, summarise
from dfine_jax.data.shapes import DrawnRecords
from dfine_jax.data.sources import Source
from dfine_jax.display import say, verbatim

DRAWN = 500
"""Of a drawn data set only so many pictures of each part are looked at: there is no end to them, nor anything wrong."""


def run(
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")],
    /,
    split: Literal["train", "val", "test"] | None = None,
    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    pictures: int = 12,
    problems: int = 20,
) -> int:
    """Inspect a data set: counts, sizes, every problem with file and line, and a page of pictures with their boxes.

    The format is recognised: COCO's JSON; YOLO, with a data.yaml, Darknet's obj.data, a classes.txt or none of these;
    Pascal VOC; image folders with a metadata.jsonl or .csv; CreateML's JSON and other lists; labelme's JSON beside the
    pictures; or `shapes`, the data set that is drawn and needs no files. Every picture is decoded; nothing is changed.
    Training leaves out what can't be used, as each problem says, and goes on.

    Examples:

      dfine data cells/

      dfine data annotations/instances_val2017.json --pictures 0 --problems 0

      dfine data shapes:size=320 --split val --sheet shapes.png

    Args:
        path: A folder or file; or `shapes`, `shapes:size=320,count=500,seed=1`.
        split: Only this part; all there are if not given.
        sheet: Where to save the page of pictures, which are of the first part; contact-sheet.png if not given,
            or contact-sheet-2.png and so on where that is something else.
        pictures: How many pictures to show on it; 0 saves none.
        problems: How many problems to list for each part; 0 lists all.
    """
    console = Console()
    if pictures > 0:
        check_sheet(sheet)
    source = recognise(path)
    parts: list[Split | None] = [split] if split else [*source.splits] or [None]
    datasets = _opened(console, source, parts)
    file = sheet_file(sheet, path, datasets.values()) if pictures > 0 else None
    for part, dataset in datasets.items():
        title = f"{source.path} ({source.format})" if part is None else f"{source.path} ({source.format}), {part}"
        if isinstance(dataset.records, DrawnRecords) and len(dataset) > DRAWN:
            title += f": the first {DRAWN:,} of {len(dataset):,}"
            dataset = replace(dataset, records=replace(dataset.records, pictures=DRAWN))
        with console.status(f"looking at the pictures of {part or 'the data set'}"):
            found = report(dataset)
        print_report(console, found, title, problems)
    if len(datasets) > 1:
        print_shared(console, datasets, problems)
    if file is not None:
        shown = next(iter(datasets.values()))
        save_sheet(contact_sheet(shown, pictures), file)
        console.print()
        say(console, f"{min(pictures, len(shown))} pictures with their boxes: {file}")
    return 0


def _opened(console: Console, source: Source, parts: list[Split | None]) -> dict[Split | None, Dataset]:
    """The parts that can be read; of the others it is said why, unless there is none that can be."""
    datasets: dict[Split | None, Dataset] = {}
    failed: list[DataError] = []
    for part in parts:
        try:
            datasets[part] = source.open(part)
        except DataError as error:
            failed.append(error)
            if len(parts) == len(failed):
                raise failed[0] from None
            say(console, f"{part} is left out: {error}", "yellow")
    return datasets


def print_report(console: Console, found: Report, title: str, most_problems: int) -> None:
    """One part: a table of counts, one of classes, the problems."""
    console.print()
    say(console, title, "bold")
    counts = Table(show_header=False, box=None, pad_edge=False)
    counts.add_column(style="dim")
    counts.add_column()
    counts.add_row("pictures", f"{found.pictures:,}, {found.without_boxes or 'none'} of them without boxes")
    counts.add_row("sizes", f"{_spread(found.widths)} wide, {_spread(found.heights)} high, in pixels")
    small, medium, large = found.box_sizes
    crowds = f", and {found.crowds:,} crowd regions" if found.crowds else ""
    counts.add_row("boxes", f"{found.boxes:,}: {small:,} small, {medium:,} medium, {large:,} large{crowds}")
    counts.add_row("boxes a picture", _spread(found.boxes_per_picture))
    counts.add_row("problems", summarise(found.problems))
    console.print(counts)
    classes = Table(box=None, pad_edge=False, header_style="dim")
    classes.add_column("class")
    for heading in ("id", "boxes", "pictures"):
        classes.add_column(heading, justify="right")
    for label, (name, category_id, boxes, pictures) in enumerate(found.classes):
        classes.add_row(verbatim(name), _shown_id(category_id, label), f"{boxes:,}", f"{pictures:,}")
    console.print(classes)
    for remark in found.remarks:
        say(console, remark, "yellow")
    _print_problems(console, found.problems, most_problems)


def print_shared(console: Console, datasets: dict[Split | None, Dataset], most_problems: int) -> None:
    """Pictures that are in more than one part, which makes a test worth less."""
    shared = same_pictures(datasets.values())
    if shared:
        console.print(f"\n[bold]The same pictures in several parts, or twice in one: {len(shared):,}[/bold]")
        _print_problems(console, shared, most_problems)


def _print_problems(console: Console, problems: tuple[Problem, ...] | list[Problem], most: int) -> None:
    shown = problems[:most] if most > 0 else problems
    for problem in shown:
        say(console, str(problem), "yellow")
    if len(shown) < len(problems):
        console.print(f"... and {len(problems) - len(shown):,} more; --problems 0 lists all", style="yellow")


def _shown_id(category_id: int | str, label: int) -> str:
    """A number for every class: its id, or where that is no number its place in the table."""
    return str(category_id) if isinstance(category_id, int) else str(label)


def _spread(spread: Spread) -> str:
    if spread.least == spread.most:
        return f"{spread.least:g}"
    return f"{spread.least:g} to {spread.most:g} (middle {spread.median:g})"
