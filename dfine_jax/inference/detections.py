"""What was found in one picture, on the host."""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int

from dfine_jax.display import printable, storable
from dfine_jax.errors import InputError
from dfine_jax.inference.edges import Edges

if TYPE_CHECKING:
    import supervision


class Box(NamedTuple):
    """Corners in pixels of the original picture."""

    x0: float
    y0: float
    x1: float
    y1: float


class Detection(NamedTuple):
    """One thing found."""

    label: str
    label_id: int
    score: float
    box: Box


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The things found in one picture, best first.

    Iterating gives each `Detection`, as does an index; a slice, a boolean mask or an array of indices gives
    `Detections`.
    """

    boxes: Float[np.ndarray, "N 4"]
    """x0, y0, x1, y1 in pixels of the original picture; may reach a little beyond it."""
    scores: Float[np.ndarray, " N"]
    label_ids: Int[np.ndarray, " N"]
    class_names: tuple[str, ...]
    """Of every class the model knows, in the order of their ids."""
    size: tuple[int, int]
    """Width and height of the original picture."""
    image: str = "picture"
    """The picture's path or address, or what it was given as."""
    edges: Edges | None = None
    """How sure each edge's place is, where the detector was asked for it (`Detector.from_pretrained(edges=True)`)."""

    def __post_init__(self):
        n = len(self.scores)
        if np.shape(self.boxes) != (n, 4) or np.shape(self.label_ids) != (n,):
            raise ValueError(
                f"boxes of shape {np.shape(self.boxes)} and label_ids of shape {np.shape(self.label_ids)} "
                f"for {n} scores; expected ({n}, 4) and ({n},)"
            )
        if self.edges is not None and len(self.edges) != n:
            raise ValueError(f"edges of {len(self.edges)} boxes for {n} scores")

    @classmethod
    def above(
        cls,
        threshold: float,
        scores: Float[np.ndarray, " T"],
        label_ids: Int[np.ndarray, " T"],
        boxes: Float[np.ndarray, "T 4"],
        *,
        class_names: Sequence[str],
        size: tuple[int, int],
        image: str = "picture",
        edges: Edges | None = None,
    ) -> Self:
        """One picture's row of `TopDetections`, less what scores no more than `threshold` (0 to 1)."""
        everything = cls(
            boxes=np.asarray(boxes, np.float32),
            scores=np.asarray(scores, np.float32),
            label_ids=np.asarray(label_ids, np.int32),
            class_names=tuple(class_names),
            size=size,
            image=image,
            edges=edges,
        )
        return everything.filter(threshold=threshold)

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each detection."""
        return tuple(self.class_names[i] for i in self.label_ids)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, which):
        if isinstance(which, int | np.integer):
            label_id = int(self.label_ids[which])
            box = Box(*map(float, self.boxes[which]))
            return Detection(self.class_names[label_id], label_id, float(self.scores[which]), box)
        if not isinstance(which, slice):
            which = np.asarray(which) if len(which) else np.zeros(0, int)  # an empty list would be of floats
        return dataclasses.replace(
            self,
            boxes=self.boxes[which],
            scores=self.scores[which],
            label_ids=self.label_ids[which],
            edges=None if self.edges is None else self.edges[which],
        )

    def filter(self, *, threshold: float | None = None, classes: Iterable[str | int] | None = None) -> Self:
        """Those that score more than `threshold` (0 to 1) and are of one of `classes`, given by name or id.

        Raises ValueError for a threshold outside 0..1 or a class that the model doesn't know.
        """
        keep = np.ones(len(self), bool)
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise InputError(f"threshold={threshold}: expected a score from 0 to 1")
            keep &= self.scores > threshold
        if classes is not None:
            keep &= np.isin(self.label_ids, class_ids(classes, self.class_names))
        return self[keep]

    def to_dict(self) -> dict[str, Any]:
        """Gives plain Python for JSON, scores and boxes with all their digits; names as `storable` text."""
        width, height = self.size
        return {
            "image": storable(self.image),
            "width": int(width),
            "height": int(height),
            "detections": [{**d._asdict(), "label": storable(d.label), "box": list(d.box)} for d in self],
        }

    def to_supervision(self) -> "supervision.Detections":
        """The same as `supervision.Detections`, names under `class_name`. Needs the package supervision."""
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision needs the package supervision: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.label_ids.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def __repr__(self) -> str:
        width, height = self.size
        shown = [
            f"  {printable(d.label)} {d.score:.2f} [{', '.join(f'{edge:.1f}' for edge in d.box)}]" for d in self[:10]
        ]
        if len(self) > len(shown):
            shown.append(f"  and {len(self) - len(shown)} more")
        head = f"Detections: {len(self)} in {printable(self.image)} ({width}x{height})"
        return "\n".join([head, *shown])


def class_ids(classes: Iterable[str | int], class_names: Sequence[str]) -> list[int]:
    """The ids of `classes`, each a name (in any case), an id, or an id as text, sorted.

    A name that several classes share gives all of them. Raises ValueError for a name or an id that isn't
    there, listing the names closest to it.
    """
    if isinstance(classes, str | int):
        classes = [classes]
    known: dict[str, list[int]] = {}
    for i, name in enumerate(class_names):
        known.setdefault(name.casefold(), []).append(i)
    ids: list[int] = []
    for wanted in classes:
        name = str(wanted).strip().casefold()
        if isinstance(wanted, str) and name in known:
            ids += known[name]
        elif name.isdecimal() and int(name) < len(class_names):
            ids.append(int(name))
        else:
            raise InputError(f"no class {wanted!r}; {printable(_advice(name, class_names))}")
    return sorted(set(ids))


def _advice(name: str, class_names: Sequence[str]) -> str:
    if name.lstrip("-").isdecimal():
        return f"ids go from 0 to {len(class_names) - 1}"
    spelt = {known.casefold(): known for known in class_names}
    # A part of a name ("light") is as good a hint as a slip of the keyboard ("trafic light").
    close = difflib.get_close_matches(name, spelt, n=5, cutoff=0.6) or [k for k in spelt if name and name in k][:5]
    if close:
        return f"did you mean {', '.join(spelt[k] for k in close)}?"
    first = ", ".join(class_names[:8])
    return f"the {len(class_names)} classes are {first}{', ...' if len(class_names) > 8 else ''}"
