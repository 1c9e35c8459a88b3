"""An evaluation as files: numbers, detections and pictures."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dfine_jax.data.samples import Dataset
from dfine_jax.evaluation import plots
from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.evaluation.predictions import own_ids
from dfine_jax.evaluation.sheet import comparison_sheet


def write_report(evaluation: Evaluation, dataset: Dataset, folder: str | os.PathLike, about: Mapping[str, str]) -> None:
    """Writes `metrics.json`, `predictions.json` and four pictures into a folder, which is made if need be.

    Args:
        evaluation: what to write.
        dataset: the one that was evaluated on, for its pictures.
        folder: where to; files of these names are replaced.
        about: what was evaluated, such as the model's name; `metrics.json` begins with it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps({**about, **metrics(evaluation)}, indent=1, ensure_ascii=False)
    (folder / "metrics.json").write_text(numbers + "\n", encoding="utf-8")
    with open(folder / "predictions.json", "w", encoding="utf-8") as file:
        json.dump(own_ids(evaluation.predicted, evaluation.truth), file, separators=(",", ":"))
    for figure in (plots.precision_recall, plots.class_bars, plots.confusion_matrix):
        figure(evaluation).savefig(folder / f"{figure.__name__}.png")
    comparison_sheet(dataset, evaluation).save(folder / "pictures.jpg", quality=90)


def metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Plain Python for JSON; what is undefined is None."""
    return {
        "pictures": len(evaluation.predicted),
        "coco": _known(evaluation.figures._asdict()),
        "threshold": evaluation.confusion.threshold,
        "classes": [_known(figures._asdict()) for figures in evaluation.classes],
        "confusion": evaluation.confusion.counts.tolist(),
    }


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}
