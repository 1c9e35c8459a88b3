"""Kernels that stay as they are, or come apart along their inputs, for XLA."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from dfine_jax.cpu.kernels.kernel import HWIO, Layer, Spec, XlaKernel, split
from dfine_jax.ops.convolution import alike, convolve_parts


class Whole(XlaKernel):
    """The kernel itself."""

    name = "whole"

    def supports(self, spec: Spec) -> bool:
        return True

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [kernel]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return [kernel]

    def sums(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "B h w O"]:
        return layer.compute.convolve(maps, *kernels, layer.stride, layer.padding)


class Split(XlaKernel):
    """A pointwise kernel in parts, one a summand of ``convolve_parts``: no map is copied to put it beside others."""

    name = "split"

    def supports(self, spec: Spec) -> bool:
        return spec.is_pointwise and len(_summands(spec.widths)) > 1

    def packed_shapes(self, kernel: HWIO, widths: tuple[int, ...]) -> list[tuple[int, ...]]:
        *size, _, outputs = kernel
        return [(*size, width, outputs) for width in _summands(widths)]

    def pack(
        self, kernel: Float[np.ndarray, "kh kw I O"], widths: tuple[int, ...], operands: np.dtype | None
    ) -> list[Float[np.ndarray, "..."]]:
        return split(kernel, _summands(widths))

    def sums(self, maps: Sequence[Array], kernels: Sequence[Array], layer: Layer) -> Float[Array, "B h w O"]:
        return convolve_parts(maps, kernels, layer.stride, layer.padding, layer.compute)


def _summands(widths: tuple[int, ...]) -> list[int]:
    """How many channels each product of a pointwise ``convolve_parts`` takes."""
    return [sum(each) for each in alike(widths, int)]
