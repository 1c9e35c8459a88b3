"""A data set that has been recognised: what every format's reader gives, before anything is read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from dfine_jax.data.checks import Stated, usable
from dfine_jax.data.samples import DataError, Dataset, Split

Format = Literal["coco", "yolo", "voc", "imagefolder", "labelme", "json list", "shapes"]


@dataclass(frozen=True)
class Source:
    """A data set that has been recognised but not read."""

    path: str
    format: Format
    splits: tuple[Split, ...]
    """Those it has; none if it is in one piece."""
    read: Callable[[Split | None], Stated | Dataset]
    """Reads a split, or with None all of what is in one piece; labels from files are yet to be checked."""
    remarks: tuple[str, ...] = ()
    """What was noticed when it was recognised."""

    def open(self, split: Split | None) -> Dataset:
        """Reads a split; None stands for a data set in one piece. Raises DataError as `open_dataset` does."""
        if split is None and self.splits:
            raise DataError(f"{self.path} has the splits {', '.join(self.splits)}: name one")
        if split is not None and split not in self.splits:
            there = ", ".join(self.splits) or "none: it is in one piece"
            raise DataError(f"{self.path} has no {split} split (it has: {there})")
        read = self.read(split)
        dataset = read if isinstance(read, Dataset) else usable(read, self.path)
        return replace(dataset, remarks=(*self.remarks, *dataset.remarks)) if self.remarks else dataset
