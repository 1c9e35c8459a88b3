"""What went wrong, and which labels are likely wrong, as files."""

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dfine_jax.data.samples import Dataset
from dfine_jax.display import storable
from dfine_jax.evaluation.confusion import NOTHING
from dfine_jax.evaluation.error_kinds import Error, Errors, Kind
from dfine_jax.evaluation.error_sheets import error_sheet, label_sheet
from dfine_jax.evaluation.label_errors import Suspect
from dfine_jax.evaluation.predictions import xywh
from dfine_jax.evaluation.truth import Truth
from dfine_jax.whole_files import write_whole

LISTED = 0.1
"""Share of the labels that are written, the most suspicious first."""
LEAST_LISTED = 100


def error_files(folder: str | os.PathLike) -> list[Path]:
    """What `write_errors` writes into a folder."""
    sheets = (f"errors_{kind}.jpg" for kind in Kind)
    return [Path(folder, name) for name in ("errors.json", "label_errors.json", "label_errors.jpg", *sheets)]


def write_errors(
    errors: Errors, suspects: Sequence[Suspect], dataset: Dataset, truth: Truth, folder: str | os.PathLike
) -> None:
    """Writes `errors.json`, `label_errors.json` and a sheet of the worst of each kind; files there are replaced."""
    of_errors, of_labels, labels, *sheets = error_files(folder)
    _write_json(of_errors, error_table(errors, dataset, truth))
    most = max(LEAST_LISTED, round(LISTED * len(truth.labels)))
    _write_json(of_labels, [suspect_row(suspect, dataset, truth) for suspect in suspects[:most]])
    _write_page(labels, label_sheet(dataset, truth, suspects))
    for kind, sheet in zip(Kind, sheets, strict=True):
        _write_page(sheet, error_sheet(dataset, truth, errors.of_kind(kind)))


def error_table(errors: Errors, dataset: Dataset, truth: Truth) -> dict[str, Any]:
    """Plain Python for JSON; boxes as x, y, width, height, as COCO has them."""
    return {
        "ap": _known(errors.ap),
        "overlap": errors.overlap,
        "threshold": errors.threshold,
        "kinds": {kind: {"ap_cost": _known(errors.costs[kind]), "count": len(errors.of_kind(kind))} for kind in Kind},
        "errors": [_error_row(error, dataset, truth) for error in errors.found],
    }


def suspect_row(suspect: Suspect, dataset: Dataset, truth: Truth) -> dict[str, Any]:
    """Plain Python for JSON: where to look, what is labelled, and what was found."""
    labelled = suspect.row != NOTHING
    seen = suspect.seen
    return {
        **_place(suspect.picture, dataset, truth),
        "doubt": suspect.doubt,
        "loss": suspect.loss,
        "label": storable(truth.class_names[truth.labels[suspect.row]]) if labelled else None,
        "bbox": _box(truth.boxes[suspect.row]) if labelled else None,
        "found": None
        if seen is None
        else {"label": storable(truth.class_names[seen.label]), "score": seen.score, "bbox": _box(seen.box)},
    }


def _error_row(error: Error, dataset: Dataset, truth: Truth) -> dict[str, Any]:
    labelled = error.row != NOTHING
    return {
        **_place(error.picture, dataset, truth),
        "kind": error.kind,
        "found": None
        if error.kind is Kind.MISSED
        else {"label": storable(truth.class_names[error.label]), "score": error.score, "bbox": _box(error.box)},
        "label": storable(truth.class_names[truth.labels[error.row]]) if labelled else None,
        "bbox": _box(truth.boxes[error.row]) if labelled else None,
    }


def _place(picture: int, dataset: Dataset, truth: Truth) -> dict[str, Any]:
    image_id = truth.image_ids[picture]
    name = storable(dataset.records[picture].name)
    return {"image_id": storable(image_id) if isinstance(image_id, str) else image_id, "picture": name}


def _box(box: Any) -> list[float]:
    return xywh(box[None])[0].tolist()


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def _write_page(path: Path, page: Image.Image) -> None:
    content = io.BytesIO()
    page.save(content, "JPEG", quality=90)
    write_whole(path, content.getvalue())
