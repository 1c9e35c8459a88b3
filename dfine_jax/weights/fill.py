"""A checkpoint's tensors by our names, once every one of them is accounted for; and the way back."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dfine_jax.display import printable
from dfine_jax.errors import InputError
from dfine_jax.model_shapes import Shape
from dfine_jax.weights.rules import Dialect, Match, is_ignored, to_jax, to_torch

FLOATS = ("float64", "float32", "float16", "bfloat16")
"""Types of numbers that are read."""
MOST_TENSORS = 20_000
"""In a checkpoint; that of the largest model has 2,300."""
MOST_LINES = 100
"""Problems of one kind that are listed; of more their number is said."""


class Source(Protocol):
    """A checkpoint whose tensors are read one at a time."""

    shapes: Mapping[str, Shape]
    types: Mapping[str, str]
    """What numbers each tensor holds: one of ``FLOATS``, or something that can't be read."""

    def read(self, name: str) -> np.ndarray:
        """The tensor of that name."""


class CheckpointError(InputError):
    """A checkpoint that can't be read or does not fit; the message says all that is wrong with it."""


@dataclass
class Plan:
    """Where each of our tensors comes from, and all that does not fit."""

    origins: dict[str, tuple[str, Match]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    mistyped: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """One line for each tensor that is missing, unexpected, of another shape or of a type that isn't read."""
        return [
            *_lines("missing", self.missing),
            *_lines("unexpected", self.unexpected),
            *_lines("wrong shape", self.misshapen),
            *_lines("wrong type", self.mistyped),
        ]

    def check(self, source: str, hint: str = "") -> None:
        """Raises ``CheckpointError`` with every problem at once, if there is any, after the ``hint`` at a cause."""
        if problems := self.problems():
            lines = "\n  ".join([hint, *problems] if hint else problems)
            types = f", {len(self.mistyped)} of a type that is not read" if self.mistyped else ""
            raise CheckpointError(
                f"{source} does not fit the model: {len(self.missing)} tensors missing, {len(self.unexpected)} "
                f"unexpected, {len(self.misshapen)} of the wrong shape{types}\n  {lines}"
            )


def plan(
    dialect: Dialect, shapes: Mapping[str, Shape], targets: Mapping[str, Shape], types: Mapping[str, str] | None = None
) -> Plan:
    """Compares a checkpoint's names, shapes and, where they are given, types with the model's, ``targets``."""
    result = Plan()
    for name, shape in sorted(shapes.items()):
        matches = to_jax(dialect, name)
        known = [match for match in matches if match.name in targets]
        if not known:
            (result.ignored if is_ignored(dialect, name) else result.unexpected).append(name)
        for match in known:
            count = match.part[1]
            part_shape = (shape[0] // count, *shape[1:]) if shape else shape
            if match.layout.shape(part_shape) == targets[match.name] and (count == 1 or shape[0] % count == 0):
                result.origins[match.name] = (name, match)
            else:
                expected = torch_shape(match, targets[match.name])
                result.misshapen.append(f"{name} is {list(shape)}, the model needs {list(expected)}")
    missing = set()
    for target in targets:
        origin = to_torch(dialect, target)
        if origin is None:
            raise AssertionError(f"no rule for {target}")
        if origin.name not in shapes:
            missing.add(origin.name)
    used = sorted({name for name, _ in result.origins.values()})
    result.mistyped = [
        f"{name} holds {types[name]}, expected floating-point numbers ({', '.join(FLOATS)})"
        for name in used
        if types and types[name] not in FLOATS
    ]
    result.missing = sorted(missing)
    result.misshapen = sorted(set(result.misshapen))
    return result


def _lines(kind: str, problems: list[str]) -> list[str]:
    lines = [f"{kind}: {printable(problem)}" for problem in problems[:MOST_LINES]]
    more = len(problems) - MOST_LINES
    return [*lines, f"{kind}: {more:,} more"] if more > 0 else lines


def fill(result: Plan, source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """Our names and arrays, float32, one at a time. What is no number or too large for float32 is left so."""
    for target, (name, match) in result.origins.items():
        tensor = source.read(name)
        index, count = match.part
        length = tensor.shape[0] // count if count > 1 else 0
        part = tensor[index * length : (index + 1) * length] if count > 1 else tensor
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(match.layout.to_jax(part), dtype=np.float32)
        yield target, array


def finite(
    arrays: Iterable[tuple[str, np.ndarray]], source: str, called: Mapping[str, str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """The same arrays, as long as all numbers in them are numbers.

    From the first NaN, infinite value or negative variance on none is given any more, and after the last one
    ``CheckpointError`` says how many arrays have such and which are the first. ``called`` are the names to call them.
    """
    bad: list[str] = []
    for name, array in arrays:
        if problem := _not_usable(name, array):
            bad.append(f"{printable((called or {}).get(name, name))} {problem}")
        if not bad:
            yield name, array
    if bad:
        tensors = "1 tensor" if len(bad) == 1 else f"{len(bad):,} tensors"
        some = f"{'; '.join(bad[:3])}{'; ...' if len(bad) > 3 else ''}"
        raise CheckpointError(f"{source}: {tensors} can't be computed with, the weights are spoilt: {some}")


def _not_usable(name: str, array: np.ndarray) -> str:
    """What is wrong with an array's numbers, or nothing."""
    fine = np.isfinite(array)
    if not fine.all():
        nan = int(np.isnan(array).sum())
        infinite = array.size - int(fine.sum()) - nan
        counts = [f"{count:,} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
        return f"has {' and '.join(counts)} of {array.size:,} values"
    if name.endswith(".norm.var") and array.min(initial=0) < 0:
        return f"has a negative variance, {array.min():.3g}"
    return ""


def torch_shape(match: Match, shape: Shape) -> Shape:
    """The shape of the PyTorch tensor that holds an array of ours of this shape."""
    axes = match.layout.axes
    if axes is not None:
        shape = tuple(shape[i] for i in np.argsort(axes))
    return (shape[0] * match.part[1], *shape[1:])
