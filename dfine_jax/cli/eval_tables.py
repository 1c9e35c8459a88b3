"""What ``dfine eval`` prints: tables of figures, errors, likely label errors, and calibration."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from dfine_jax.data.samples import Dataset
from dfine_jax.display import printable, verbatim
from dfine_jax.evaluation.calibration import LEVELS, Measured
from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.evaluation.confusion import NOTHING
from dfine_jax.evaluation.error_kinds import Errors, Kind
from dfine_jax.evaluation.label_errors import Suspect
from dfine_jax.evaluation.truth import Truth

MOST_SHOWN = 30
"""Classes in the table; of more the best and the worst are shown."""
SUSPECTS_SHOWN = 10
MEANING = {
    Kind.CLASS: "on a box of another class",
    Kind.PLACE: "beside its box: IoU under {overlap:g}",
    Kind.BOTH: "beside a box of another class",
    Kind.DUPLICATE: "on a box that is found already",
    Kind.BACKGROUND: "where nothing is labelled",
    Kind.MISSED: "labelled and not found",
}


def figures_table(evaluation: Evaluation, title: str) -> Table:
    """COCO's twelve: precision on the left, recall on the right."""
    f = evaluation.figures
    table = _table(verbatim(title, "bold"))
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


def classes_table(evaluation: Evaluation) -> Table:
    """The figures of each class, the best first; those without boxes come last and have none."""
    threshold = f"{evaluation.confusion.threshold:g}"
    table = _table()
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


def errors_table(errors: Errors) -> Table:
    """Each kind: what AP would gain without it, and how often it is seen above the threshold."""
    ap = f"AP{100 * errors.overlap:.0f}"
    table = _table()
    table.add_column("what went wrong")
    table.add_column("")
    table.add_column(f"costs, of {ap} {_number(errors.ap)}", justify="right")
    table.add_column(f"above {errors.threshold:g}", justify="right")
    for kind in sorted(Kind, key=lambda kind: -errors.costs[kind]):
        meaning = MEANING[kind].format(overlap=errors.overlap)
        cost = round(errors.costs[kind], 3) + 0.0  # never -0.000
        table.add_row(kind, meaning, _number(cost), f"{len(errors.of_kind(kind)):,}")
    return table


def suspects_table(suspects: Sequence[Suspect], dataset: Dataset, truth: Truth) -> Table:
    """The labels most likely wrong."""
    table = _table()
    for heading in ("label in doubt", "picture", "at", "labelled", "found"):
        table.add_column(heading)
    table.add_column("loss", justify="right")
    for suspect in suspects[:SUSPECTS_SHOWN]:
        name = Path(printable(dataset.records[suspect.picture].name)).name
        seen, row, names = suspect.seen, suspect.row, truth.class_names
        label = "-" if row == NOTHING else names[truth.labels[row]]
        found = "-" if seen is None else f"{names[seen.label]} {seen.score:.2f}"
        at = " ".join(f"{edge:.0f}" for edge in (seen.box if row == NOTHING else truth.boxes[row]))
        table.add_row(suspect.doubt, verbatim(name), at, verbatim(label), verbatim(found), f"{suspect.loss:.2f}")
    return table


def scores_table(raw: Measured, corrected: Measured | None) -> Table:
    """How far scores are from the share that is right, by bins of the score as the model has it."""
    table = _table()
    table.add_column("score")
    for heading in ("detections", "mean", "right"):
        table.add_column(heading, justify="right")
    bins = len(raw.reliability.counts)
    for i, (count, score, right) in enumerate(zip(*raw.reliability, strict=True)):
        table.add_row(f"{i / bins:.1f} to {(i + 1) / bins:.1f}", f"{count:,}", _number(score), _number(right))
    for name, measured in (("raw", raw), ("corrected", corrected)):
        if measured is not None:
            table.add_row(f"expected calibration error, {name}", "", "", _number(measured.reliability.error))
    return table


def coverage_table(raw: Measured, corrected: Measured | None) -> Table:
    """The share of true edges in the intervals of each level, by size of object."""
    table = _table()
    table.add_column("true edges within intervals of")
    for heading in ("objects", *(f"{level:.0%}" for level in LEVELS)):
        table.add_column(heading, justify="right")
    for name, measured in (("raw", raw), ("corrected", corrected)):
        for c in () if measured is None else measured.coverage:
            table.add_row(f"{name}, {c.size}", f"{c.boxes:,}", *map(_percent, c.shares))
    return table


def _table(title: Text | None = None) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
