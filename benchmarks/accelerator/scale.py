"""How much is measured, what a part is given, and what it gives back."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
"""What was seen of one case: columns of a table by name."""


class Scale(NamedTuple):
    """What every part measures."""

    sizes: str
    """Of the model, those that are timed."""
    all_sizes: str
    """Those whose answers are compared."""
    products: tuple[str, ...]
    """How those products are made that are timed: "float32" exactly, "bfloat16"."""
    rounded: tuple[str, ...]
    """Those that are compared with exact ones; "tf32" is float32 as a device multiplies it that isn't told better."""
    batches: tuple[int, ...]
    """Pictures at a time, in the order of worth."""
    side: int
    """Height and width of the pictures."""
    training: dict[str, int]
    """Pictures in a training step, by size of the model."""
    rounds: int
    pictures: int
    """In the stream that a detector is given."""


ACCELERATOR = Scale(
    sizes="nl",
    all_sizes="nlsmx",
    products=("float32", "bfloat16"),
    rounded=("bfloat16", "tf32"),
    batches=(1, 32, 8),
    side=640,
    training={"n": 16, "l": 8},
    rounds=30,
    pictures=256,
)
SMALLEST = Scale(
    sizes="n",
    all_sizes="n",
    products=("float32",),
    rounded=("tf32",),
    batches=(1,),
    side=256,
    training={"n": 1},
    rounds=1,
    pictures=2,
)
"""For a CPU. Smaller pictures have too few cells for 300 queries."""


class Task(NamedTuple):
    """What a part's process is told."""

    scale: Scale
    scratch: Path
    """A folder that all parts of a run share, empty at first: what is compiled is kept there."""
    earlier: dict[str, list[Row]]
    """The rows of parts that ran before, by name."""


def attempted(cases: Iterable[Row], measure: Callable[..., Row]) -> Iterator[Row]:
    """A row for each case, which is the keywords of ``measure``; one that fails is a row that says why."""
    for case in cases:
        try:
            yield case | measure(**case)
        except Exception as error:
            yield case | {"failed": one_line(error)}


def one_line(error: BaseException) -> str:
    """The kind of an error and the start of what it says."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}"[:240]
