"""An evaluation as files: numbers, detections and pictures."""

import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfine_jax.data.samples import Dataset
from dfine_jax.display import storable
from dfine_jax.evaluation import plots
from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.evaluation.predictions import own_ids
from dfine_jax.evaluation.sheet import comparison_sheet
from dfine_jax.whole_files import write_whole

FIGURES = (plots.precision_recall, plots.class_bars, plots.confusion_matrix)


def write_report(evaluation: Evaluation, dataset: Dataset, folder: str | os.PathLike, about: Mapping[str, str]) -> None:
    """Writes `metrics.json`, `predictions.json` and four pictures into a folder, which is made if need be.

    Args:
        evaluation: what to write.
        dataset: the one that was evaluated on, for its pictures.
        folder: where to; files of these names are replaced, each once it is complete.
        about: what was evaluated, such as the model's name; `metrics.json` begins with it.
    """
    numbers, predictions, *figures, pictures = report_files(folder)
    about = {name: storable(value) for name, value in about.items()}
    _write_json(numbers, {**about, **metrics(evaluation)}, indent=1)
    _write_json(predictions, own_ids(evaluation.predicted, evaluation.truth), separators=(",", ":"))
    for path, figure in zip(figures, FIGURES, strict=True):
        write_whole(path, plots.as_png(figure(evaluation)))
    content = io.BytesIO()
    comparison_sheet(dataset, evaluation).save(content, "JPEG", quality=90)
    write_whole(pictures, content.getvalue())


def report_files(folder: str | os.PathLike) -> list[Path]:
    """What `write_report` writes into a folder."""
    names = ("metrics.json", "predictions.json", *(f"{figure.__name__}.png" for figure in FIGURES), "pictures.jpg")
    return [Path(folder, name) for name in names]


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Plain Python for JSON; what is undefined is None."""
    return {
        "pictures": len(evaluation.predicted),
        "coco": _known(evaluation.figures._asdict()),
        "threshold": evaluation.confusion.threshold,
        "classes": [{**_known(figures._asdict()), "name": storable(figures.name)} for figures in evaluation.classes],
        "confusion": evaluation.confusion.counts.tolist(),
    }


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}


def _write_json(path: Path, value: Any, **options: Any) -> None:
    write_whole(path, (json.dumps(value, ensure_ascii=False, **options) + "\n").encode())
