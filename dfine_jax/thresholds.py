"""From which score on a model's detections are worth showing: what training found, kept in the model's folder."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfine_jax.errors import InputError
from dfine_jax.json_fields import shown
from dfine_jax.json_file import read_object

if TYPE_CHECKING:
    from dfine_jax.inference.detections import Detections

FILE_NAME = "thresholds.json"
USUAL = 0.5
"""Where nothing is known."""
FEW_BOXES = 10
"""A class with fewer to measure on takes the threshold of all classes."""


@dataclass(frozen=True)
class Best:
    """The threshold that gives the best F1, the harmonic mean of precision and recall, at an IoU of 0.5."""

    threshold: float
    """What scores more is shown."""
    f1: float
    precision: float
    recall: float
    boxes: int
    """How many there were to be found."""


@dataclass(frozen=True)
class Thresholds:
    """Those of one model."""

    all: Best
    """Of all classes together."""
    classes: dict[str, Best]
    """Of each class that had boxes."""

    def of_class(self, name: str) -> float:
        """The threshold by which to show a class."""
        best = self.classes.get(name)
        return self.all.threshold if best is None or best.boxes < FEW_BOXES else best.threshold

    def least(self) -> float:
        """The smallest of all."""
        return min([self.all.threshold, *map(self.of_class, self.classes)])

    def filter(self, detections: "Detections") -> "Detections":
        """Those that score more than their class's threshold."""
        least = np.array([self.of_class(name) for name in detections.class_names])
        return detections[detections.scores > least[detections.label_ids]]

    def __str__(self) -> str:
        own = {name: self.of_class(name) for name in self.classes}
        if len(set(own.values())) <= 1:
            return f"{next(iter(own.values()), self.all.threshold):.2f}"
        told = [f"{name} {threshold:.2f}" for name, threshold in own.items()]
        more = f" and {len(told) - 8} more" if len(told) > 8 else ""
        return ", ".join(told[:8]) + more


def write_thresholds(thresholds: Thresholds, path: Path) -> None:
    """Keeps them in a file."""
    text = json.dumps(asdict(thresholds), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def read_thresholds(model: str | os.PathLike) -> Thresholds | None:
    """Those of a model given by its folder; None for any other model, and where there are none.

    Raises:
        InputError: the file can't be read as such.
    """
    path = Path(os.path.expanduser(model)) / FILE_NAME
    if not os.path.lexists(path):
        return None
    try:
        return _thresholds(read_object(path), str(path))
    except InputError as error:
        raise InputError(f"{error}: delete it or give --threshold") from None


def _thresholds(values: Mapping[str, Any], path: str) -> Thresholds:
    classes = values.get("classes")
    if not isinstance(classes, Mapping):
        raise InputError(f"{path} holds no thresholds (classes = {shown(classes)}, expected an object)")
    of_classes = {name: _best(best, f"classes.{name}", path) for name, best in classes.items()}
    return Thresholds(_best(values.get("all"), "all", path), of_classes)


def _best(values: Any, place: str, path: str) -> Best:
    told = f"{path} holds no thresholds ({place:.100}"
    if not isinstance(values, Mapping):
        raise InputError(f"{told} = {shown(values)}, expected an object)")
    if missing := [field.name for field in fields(Best) if field.name not in values]:
        raise InputError(f"{told} lacks {', '.join(missing)})")
    for name in ("threshold", "f1", "precision", "recall"):
        if type(values[name]) not in (int, float) or not 0 <= values[name] <= 1:
            raise InputError(f"{told}.{name} = {shown(values[name])}, expected a number in 0..1)")
    if type(values["boxes"]) is not int or values["boxes"] < 0:
        raise InputError(f"{told}.boxes = {shown(values['boxes'])}, expected a whole number, 0 or more)")
    return Best(**{field.name: values[field.name] for field in fields(Best)})
