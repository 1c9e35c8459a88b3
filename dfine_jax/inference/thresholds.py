"""From which score on a model's detections are worth showing: what training found, kept in the model's folder."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dfine_jax.errors import InputError
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

    def filter(self, detections: Detections) -> Detections:
        """Those that score more than their class's threshold."""
        least = np.array([self.of_class(name) for name in detections.class_names])
        return detections[detections.scores > least[detections.label_ids]]

    def __str__(self) -> str:
        own = {name: self.of_class(name) for name in self.classes}
        if len(set(own.values())) <= 1:
            return f"{next(iter(own.values()), self.all.threshold):.2f}"
        shown = [f"{name} {threshold:.2f}" for name, threshold in own.items()]
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        return ", ".join(shown[:8]) + more


def write_thresholds(thresholds: Thresholds, path: Path) -> None:
    """Keeps them in a file."""
    text = json.dumps(asdict(thresholds), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def read_thresholds(model: str | os.PathLike) -> Thresholds | None:
    """Those of a model given by its folder; None for any other model, and where there are none.

    Raises:
        InputError: the file can't be read as such.
    """
    path = Path(model).expanduser() / FILE_NAME
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text("utf-8"))
        classes = {str(name): Best(**best) for name, best in fields["classes"].items()}
        thresholds = Thresholds(Best(**fields["all"]), classes)
        values = [best.threshold for best in (thresholds.all, *classes.values())]
        if not all(0 <= float(value) <= 1 for value in values):
            raise ValueError("a threshold is not in 0..1")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} holds no thresholds ({type(error).__name__}: {error}): delete it or give --threshold"
        ) from None
    return thresholds
