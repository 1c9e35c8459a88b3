"""How far a model's own word can be trusted: what `dfine eval --keep-calibration` found, kept in the model's folder."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dfine_jax.errors import InputError
from dfine_jax.json_fields import Fields
from dfine_jax.json_file import read_object
from dfine_jax.whole_files import write_whole

FILE_NAME = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """Corrections fitted on labelled pictures."""

    levels: tuple[float, ...]
    """Shares of edges that intervals are to cover, rising, each between 0 and 1."""
    factors: tuple[float, ...]
    """By which the interval of each level has to reach farther from the median than the model has it."""
    score_scale: float
    score_shift: float
    """A detection of score s is right with a probability of sigmoid(scale * logit(s) + shift)."""
    boxes: int
    """Of how many objects the edges were compared."""

    def factor(self, level: float) -> float:
        """The factor for an interval; between the levels that were fitted on a straight line, beyond the last's."""
        return float(np.interp(level, self.levels, self.factors))

    def probability(self, scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """How likely detections of such scores are right: on a box of their class with an IoU of at least 0.5."""
        return 1 / (1 + np.exp(-(self.score_scale * logit(scores) + self.score_shift)))


def logit(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """log(s / (1 - s)), kept finite."""
    scores = np.clip(np.asarray(scores, np.float64), 1e-6, 1 - 1e-6)
    return np.log(scores / (1 - scores))


def write_calibration(calibration: Calibration, folder: Path) -> None:
    """Keeps it in a model's folder."""
    edges = [{"level": level, "factor": f} for level, f in zip(calibration.levels, calibration.factors, strict=True)]
    scores = {"scale": calibration.score_scale, "shift": calibration.score_shift}
    text = json.dumps({"boxes": calibration.boxes, "edges": edges, "scores": scores}, indent=1)
    write_whole(folder / FILE_NAME, (text + "\n").encode())


def read_calibration(folder: Path) -> Calibration | None:
    """That of a model in a folder; None where there is none.

    Raises:
        InputError: the file can't be read as such.
    """
    path = Path(folder) / FILE_NAME
    if not os.path.lexists(path):
        return None
    try:
        return _calibration(read_object(path), f"{path}: ")
    except InputError as error:
        raise InputError(f"{error}: delete it, or fit it again with dfine eval --keep-calibration") from None


def _calibration(values: Mapping[str, Any], prefix: str) -> Calibration:
    fields = Fields(values, {"boxes": None, "edges": None, "scores": None}, prefix)
    edges = fields["edges"]
    is_list = isinstance(edges, list) and bool(edges) and all(isinstance(edge, Mapping) for edge in edges)
    fields.require(is_list, "edges", "must be a list of objects")
    nothing = {"level": None, "factor": None}
    read = [Fields(edge, nothing, f"{prefix}edges[{i}].") for i, edge in enumerate(edges)]
    levels = tuple(edge.number("level") for edge in read)
    rising = all(a < b for a, b in zip((0.0, *levels), (*levels, 1.0), strict=True))
    fields.require(rising, "edges", "must have levels that rise, between 0 and 1")
    boxes = fields["boxes"]
    fields.require(type(boxes) is int and boxes >= 0, "boxes", "must be a whole number, 0 or more")
    scores = Fields(fields.object("scores"), {"scale": None, "shift": None}, f"{prefix}scores.")
    return Calibration(
        levels=levels,
        factors=tuple(edge.positive("factor") for edge in read),
        score_scale=scores.positive("scale"),
        score_shift=scores.number("shift"),
        boxes=boxes,
    )
