"""A checkpoint's tensors by our names, once every one of them is accounted for; and the way back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from convert.rules import Dialect, Match, is_ignored, to_jax, to_torch
from dfine_jax.errors import InputError

Shape = tuple[int, ...]


class Source(Protocol):
    """A checkpoint whose tensors are read one at a time."""

    shapes: Mapping[str, Shape]

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
    ignored: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """One line for each tensor that is missing, unexpected or of another shape."""
        return [
            *(f"missing: {name}" for name in self.missing),
            *(f"unexpected: {name}" for name in self.unexpected),
            *(f"wrong shape: {line}" for line in self.misshapen),
        ]

    def check(self, source: str, hint: str = "") -> None:
        """Raises ``CheckpointError`` with every problem at once, if there is any, after the ``hint`` at a cause."""
        if problems := self.problems():
            lines = "\n  ".join([hint, *problems] if hint else problems)
            raise CheckpointError(
                f"{source} does not fit the model: {len(self.missing)} tensors missing, {len(self.unexpected)} "
                f"unexpected, {len(self.misshapen)} of the wrong shape\n  {lines}"
            )


def plan(dialect: Dialect, shapes: Mapping[str, Shape], targets: Mapping[str, Shape]) -> Plan:
    """Compares a checkpoint's names and shapes with the model's, ``targets``."""
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
    result.missing = sorted(missing)
    result.misshapen = sorted(set(result.misshapen))
    return result


def fill(result: Plan, source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """Our names and arrays, float32, one at a time."""
    for target, (name, match) in result.origins.items():
        tensor = source.read(name)
        index, count = match.part
        length = tensor.shape[0] // count if count > 1 else 0
        part = tensor[index * length : (index + 1) * length] if count > 1 else tensor
        yield target, np.ascontiguousarray(match.layout.to_jax(part), dtype=np.float32)


def torch_shape(match: Match, shape: Shape) -> Shape:
    """The shape of the PyTorch tensor that holds an array of ours of this shape."""
    axes = match.layout.axes
    if axes is not None:
        shape = tuple(shape[i] for i in np.argsort(axes))
    return (shape[0] * match.part[1], *shape[1:])
