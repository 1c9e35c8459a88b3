"""The arithmetic of ``fuse``, on arrays by name: batch norms and RepVGG branches folded into convolutions."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from dfine_jax.model.prepared_kernels import Form, in_form
from dfine_jax.native.targets import Purpose


class FoldedConv(NamedTuple):
    """A convolution of a fused model."""

    branches: tuple[str, ...]
    """Names of the convolutions that become this one, the largest, whose name it has, first."""
    epsilons: tuple[float, ...]
    """Of each branch's batch norm."""
    form: Form
    """What the kernel becomes."""
    widths: tuple[int, ...]
    """Channels of each map that it convolves, put together."""


class Folding(NamedTuple):
    """How the variables of a fused model come from those of the model that it was; a plain value, easily kept."""

    convs: tuple[FoldedConv, ...]
    linears: dict[str, Form]
    """What kernels of linear layers become, by name."""
    dtypes: dict[str, np.dtype]
    """The types that kernels are rounded to, by name. All other variables stay as they are."""
    names: frozenset[str]
    """All variables of the fused model."""
    native: tuple[Purpose, ...]
    """The machine code of ``dfine_jax.native`` that the fused model calls, by what it is compiled for."""


def fold(folding: Folding, variables: Iterable[tuple[str, ArrayLike]]) -> Iterator[tuple[str, ArrayLike]]:
    """Names and values of a fused model's variables, from those of the model that it was, in any order.

    Kernels are folded on the host, in float64. What is no longer needed is let go as early as can be.
    """
    needed = {conv: {name for branch in conv.branches for name in _parts(branch)} for conv in folding.convs}
    owners = {name: conv for conv, names in needed.items() for name in names}
    waiting: dict[FoldedConv, dict[str, np.ndarray]] = {conv: {} for conv in folding.convs}
    for name, value in variables:
        conv = owners.get(name)
        if conv is None:
            if name in folding.linears:
                yield from _linear(folding, name, np.asarray(value))
            elif name in folding.names:
                yield name, _rounded(folding, name, value)
            continue
        waiting[conv][name] = value
        if waiting[conv].keys() == needed[conv]:
            halves = folding.dtypes.get(f"{conv.branches[0]}.kernel.0")
            for part, folded in _merged(conv, waiting.pop(conv), halves):
                target = f"{conv.branches[0]}.{part}"
                yield target, _rounded(folding, target, folded.astype(np.float32))
    if waiting:
        raise ValueError(f"variables of these convolutions are missing: {', '.join(c.branches[0] for c in waiting)}")


def _linear(folding: Folding, name: str, kernel: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What a linear layer's kernel becomes."""
    halves = folding.dtypes.get(f"{name}.0")
    for index, part in enumerate(in_form(kernel[None, None], folding.linears[name], kernel.shape[:1], halves)):
        yield f"{name}.{index}", _rounded(folding, f"{name}.{index}", part)


def _parts(branch: str) -> Iterator[str]:
    for part in ("kernel", "norm.scale", "norm.bias", "norm.mean", "norm.var"):
        yield f"{branch}.{part}"


def _merged(
    conv: FoldedConv, values: dict[str, np.ndarray], halves: np.dtype | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Kernel or kernels, and bias, that do what all the branches with their stored statistics do."""
    (kernel, bias), *others = (
        _folded(*(np.asarray(values[name], np.float64) for name in _parts(branch)), epsilon)
        for branch, epsilon in zip(conv.branches, conv.epsilons, strict=True)
    )
    for pointwise, pointwise_bias in others:
        kernel[1, 1] += pointwise[0, 0]
        bias = bias + pointwise_bias
    if conv.form == "whole":
        yield "kernel", kernel
    else:
        yield from ((f"kernel.{i}", part) for i, part in enumerate(in_form(kernel, conv.form, conv.widths, halves)))
    yield "bias", bias


def _folded(kernel, scale, bias, mean, var, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    scale = scale / np.sqrt(var + epsilon)
    return kernel * scale, bias - mean * scale


def _rounded(folding: Folding, name: str, value: ArrayLike) -> ArrayLike:
    dtype = folding.dtypes.get(name)
    return value if dtype is None else value.astype(dtype)
