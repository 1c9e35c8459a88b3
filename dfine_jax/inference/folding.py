"""The weights of a fused model, from those of the model that it was: batch norms and RepVGG branches folded in."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import ArrayLike


class FoldedConv(NamedTuple):
    """A convolution of a fused model."""

    branches: tuple[str, ...]
    """Names of the convolutions that become this one, the largest, whose name it has, first."""
    epsilons: tuple[float, ...]
    """Of each branch's batch norm."""


class Folding(NamedTuple):
    """How the variables of a folded model come from those of the model that it was; a plain value, easily kept."""

    convs: tuple[FoldedConv, ...]
    names: frozenset[str]
    """All variables of the folded model."""


class WeightPlan(Protocol):
    """What becomes of a folded model's weights for one machine."""

    def prepare(self, name: str, value: ArrayLike) -> Iterator[tuple[str, ArrayLike]]:
        """The variable, or what it is replaced by."""
        ...

    def register(self) -> None:
        """Makes known to XLA what a program of this plan calls."""
        ...


class Rounding(NamedTuple):
    """The plan for XLA alone: kernels are rounded to the type of their products."""

    dtypes: dict[str, np.dtype]
    """By name. All other variables stay as they are."""

    def prepare(self, name: str, value: ArrayLike) -> Iterator[tuple[str, ArrayLike]]:
        """The variable in its type."""
        yield name, rounded(value, self.dtypes.get(name))

    def register(self) -> None:
        """There is nothing to make known."""


class Fusion(NamedTuple):
    """How a fused model gets its variables; a plain value, easily kept."""

    folding: Folding
    plan: WeightPlan

    def variables(self, variables: Iterable[tuple[str, ArrayLike]]) -> Iterator[tuple[str, ArrayLike]]:
        """Names and values of a fused model's variables, from those of the model that it was, in any order."""
        for name, value in fold(self.folding, variables):
            yield from self.plan.prepare(name, value)


def rounded(value: ArrayLike, dtype: np.dtype | None) -> ArrayLike:
    """In this type, if any, or as it is; but float64, which kernels are folded in, becomes float32 first."""
    value = value.astype(np.float32) if value.dtype == np.float64 else value
    return value if dtype is None else value.astype(dtype)


def fold(folding: Folding, variables: Iterable[tuple[str, ArrayLike]]) -> Iterator[tuple[str, ArrayLike]]:
    """Names and values of a folded model's variables, from those of the model that it was, in any order.

    Kernels are folded on the host, in float64, and given so. What is no longer needed is let go as early as can be.
    """
    needed = {conv: {name for branch in conv.branches for name in _parts(branch)} for conv in folding.convs}
    owners = {name: conv for conv, names in needed.items() for name in names}
    waiting: dict[FoldedConv, dict[str, np.ndarray]] = {conv: {} for conv in folding.convs}
    for name, value in variables:
        conv = owners.get(name)
        if conv is None:
            if name in folding.names:
                yield name, value
            continue
        waiting[conv][name] = value
        if waiting[conv].keys() == needed[conv]:
            kernel, bias = _merged(conv, waiting.pop(conv))
            yield f"{conv.branches[0]}.kernel", kernel
            yield f"{conv.branches[0]}.bias", bias
    if waiting:
        raise ValueError(f"variables of these convolutions are missing: {', '.join(c.branches[0] for c in waiting)}")


def _parts(branch: str) -> Iterator[str]:
    for part in ("kernel", "norm.scale", "norm.bias", "norm.mean", "norm.var"):
        yield f"{branch}.{part}"


def _merged(conv: FoldedConv, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that do what all the branches with their stored statistics do."""
    (kernel, bias), *others = (
        _folded(*(np.asarray(values[name], np.float64) for name in _parts(branch)), epsilon)
        for branch, epsilon in zip(conv.branches, conv.epsilons, strict=True)
    )
    for pointwise, pointwise_bias in others:
        kernel[1, 1] += pointwise[0, 0]
        bias = bias + pointwise_bias
    return kernel, bias


def _folded(kernel, scale, bias, mean, var, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    scale = scale / np.sqrt(var + epsilon)
    return kernel * scale, bias - mean * scale
