"""What a data set is made of, whatever format it was stored in.

Boxes are `xyxy` in pixels: edges measured from the picture's top left corner, so a box over the whole of a picture is
`[0, 0, width, height]`. Labels count from 0 in the order of the data set's `class_names`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from dfine_jax.errors import InputError
from dfine_jax.inference.decoding import Wanted
from dfine_jax.inference.pictures import PictureError, load_picture, loaded

Split = Literal["train", "val", "test"]
SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What each split is called in the wild."""


class DataError(InputError):
    """A data set that can't be used; the message is one line: what is wrong, where, and what to do."""


class EmptyPartError(DataError):
    """A part of a data set in which no picture can be used, while others may have some."""


class UnreadablePictureError(DataError):
    """A picture that is missing or can't be decoded."""

    def __init__(self, picture: Path, reason: str):
        super().__init__(f"can't decode {picture}: {reason}")
        self.picture = picture
        self.reason = reason

    def __reduce__(self):
        return UnreadablePictureError, (self.picture, self.reason)


class ProblemKind(StrEnum):
    """What can be wrong with one picture or one box."""

    MISSING_PICTURE = "missing picture"
    UNREADABLE_PICTURE = "unreadable picture"
    DUPLICATE_PICTURE = "duplicate picture"
    WRONG_SIZE = "wrong size"
    BROKEN_LABEL = "broken label"
    UNKNOWN_CLASS = "unknown class"
    ZERO_SIZE_BOX = "zero-size box"
    OFF_IMAGE_BOX = "off-image box"
    DUPLICATE_BOX = "duplicate box"
    STRAY_LABELS = "labels of no picture"


class Problem(NamedTuple):
    """One thing that is wrong, where it is written, and what was done about it."""

    kind: ProblemKind
    file: Path
    line: int | None
    """Counted from 1; None where the file has no lines (a picture)."""
    message: str
    times: int = 1
    """More than 1: so many of this kind have no entry of their own."""

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.kind}: {self.message}"


class Findings:
    """What is said of a data set while it is read: problems with one picture or box, and remarks on the whole."""

    MOST_KEPT = 10_000
    """Problems of one kind that are kept one by one; all others are counted."""
    MOST_BROKEN = 100_000
    """Entries of one file that can't be read, before it is taken for something else than labels."""

    def __init__(self):
        self.remarks: list[str] = []
        self._doubts: set[str] = set()
        self._broken: Counter[Path] = Counter()
        self._kept: list[Problem] = []
        self._counts: Counter[ProblemKind] = Counter()

    def add(self, kind: ProblemKind, file: Path, line: int | None, message: str) -> None:
        """Takes down a problem."""
        self._counts[kind] += 1
        if self._counts[kind] <= self.MOST_KEPT:
            self._kept.append(Problem(kind, file, line, message))

    def broken(self, file: Path, line: int | None, message: str) -> None:
        """Takes down that an entry of a file that has many can't be read.

        Raises:
            DataError: there are so many of them that it is no file of labels.
        """
        self._broken[file] += 1
        if self._broken[file] > self.MOST_BROKEN:
            raise DataError(f"{file}: more than {self.MOST_BROKEN:,} entries can't be read; the last: {message}")
        self.add(ProblemKind.BROKEN_LABEL, file, line, message)

    def remark(self, text: str) -> None:
        """Takes down a remark, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def doubt(self, kind: str, file: Path, line: int | None) -> None:
        """Takes down, the first time, how something was read that could be read otherwise."""
        if kind not in self._doubts:
            self._doubts.add(kind)
            self.remarks.append(f"{kind}, such as {file}" if line is None else f"{kind}, such as {file}:{line}")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems; the last of each kind of which there are too many stands for the others."""
        return (*self._kept, *self._others())

    def _others(self) -> Iterator[Problem]:
        for kind, count in self._counts.items():
            if (more := count - self.MOST_KEPT) > 0:
                last = next(problem for problem in reversed(self._kept) if problem.kind is kind)
                yield Problem(kind, last.file, None, f"and {more:,} more of this kind from here on", times=more)


def summarise(problems: Iterable[Problem]) -> str:
    """How many problems of each kind, in one line: `2 zero-size box, 1 missing picture`; `no problems` if none."""
    counts: Counter[ProblemKind] = Counter()
    for problem in problems:
        counts[problem.kind] += problem.times
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "no problems"


class Sample(NamedTuple):
    """One decoded picture with its boxes: what the transforms take and give."""

    picture: UInt8[np.ndarray, "H W 3"]
    boxes: Float32[np.ndarray, "N 4"]
    labels: Int32[np.ndarray, " N"]


def no_boxes() -> Float32[np.ndarray, "0 4"]:
    """The boxes of a picture that has none."""
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One picture of a data set and what is labelled in it, not decoded yet."""

    picture: Path | UInt8[np.ndarray, "H W 3"]
    """The file to decode, or the pixels themselves where there is no file."""
    image_id: int | str
    """The picture's id in its data set, as predictions in COCO's format must repeat it."""
    width: int
    height: int
    boxes: Float32[np.ndarray, "N 4"]
    labels: Int32[np.ndarray, " N"]
    areas: Float32[np.ndarray, " N"]
    """Square pixels; COCO's own value (the area of its mask) where the file has one. The metric sorts boxes by it."""
    crowd_boxes: Float32[np.ndarray, "M 4"] = field(default_factory=no_boxes)
    """Regions the metric must not hold against a detector and training leaves alone: COCO's crowd, VOC's difficult."""
    crowd_labels: Int32[np.ndarray, " M"] = field(default_factory=lambda: np.zeros(0, np.int32))
    crowd_areas: Float32[np.ndarray, " M"] = field(default_factory=lambda: np.zeros(0, np.float32))
    as_stored: bool = False
    """The boxes are for the pixels as stored: the file's EXIF orientation must not be applied."""
    file: Path | None = None
    """Where the picture is listed, and in which line."""
    line: int | None = None

    @property
    def name(self) -> str:
        """The picture's file, for messages."""
        return str(self.picture) if isinstance(self.picture, Path) else f"drawn picture {self.image_id}"

    def pixels(self) -> UInt8[np.ndarray, "H W 3"]:
        """Decodes the picture as `dfine_jax.inference.pictures` does, upright unless `as_stored`.

        Raises:
            UnreadablePictureError: the file is missing or can't be decoded.
        """
        if not isinstance(self.picture, Path):
            return self.picture
        with _unreadable(self.picture):
            return np.asarray(load_picture(self.picture, upright=not self.as_stored))

    def check(self) -> None:
        """Decodes the picture for its errors alone, which takes less memory where it is large.

        Raises:
            UnreadablePictureError: the file is missing or can't be decoded.
        """
        if isinstance(self.picture, Path):
            with _unreadable(self.picture), loaded(self.picture, wanted=Wanted(1, 1, Image.Resampling.NEAREST)):
                pass


@contextmanager
def _unreadable(picture: Path) -> Iterator[None]:
    try:
        yield
    except PictureError as error:
        raise UnreadablePictureError(picture, str(error).removeprefix(f"{picture}: ")) from error


@dataclass(frozen=True, eq=False)
class Dataset:
    """The usable pictures and boxes of one split, and everything that was wrong with the others."""

    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    """The id each label has in the data set's own files; COCO's have gaps."""
    records: Sequence[Record]
    most_boxes: int
    """No picture has more boxes than this."""
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()
    """What else is worth knowing of it, each in a line."""

    def __len__(self) -> int:
        return len(self.records)

    def check_boxes(self, source: str) -> None:
        """Raises DataError if no picture has a box: then there is nothing to learn."""
        if self.most_boxes == 0:
            raise DataError(
                f"none of the {len(self):,} pictures to train with has a box, so there is nothing to learn: "
                f"dfine data {source} says where labels were looked for"
            )

    def sample(self, index: int) -> Sample:
        """Decodes one picture.

        Raises:
            UnreadablePictureError: the file is missing or can't be decoded.
        """
        record = self.records[index]
        return Sample(record.pixels(), record.boxes, record.labels)
