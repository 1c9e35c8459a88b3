"""Transforms of tiles along an axis, for convolutions with fewer products, see ``dfine_jax.cpu.kernels.winograd``."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Transforms(NamedTuple):
    """Of one axis, see ``transforms``."""

    inputs: Float[np.ndarray, "m+2 m+2"]
    kernel: Float[np.ndarray, "m+2 3"]
    outputs: Float[np.ndarray, "m m+2"]


def transforms(*points: float) -> Transforms:
    """Those of Toom and Cook, from m + 1 points.

    Kernel and outputs, as polynomials, are multiplied by their values at the points and at infinity; the transform of
    inputs is that of the product's values, transposed.
    """
    at = np.array(points, float)
    others = [np.delete(at, i) for i in range(len(at))]
    polynomials = [np.append(np.poly(roots)[::-1], 0) for roots in others]
    values = [point ** np.arange(3) / np.prod(point - roots) for point, roots in zip(at, others, strict=True)]
    powers = np.vander(at, len(at) - 1, increasing=True).T
    infinity = np.eye(len(at) - 1)[:, -1:]
    return Transforms(
        np.stack([*polynomials, np.poly(at)[::-1]]), np.stack([*values, [0, 0, 1]]), np.hstack([powers, infinity])
    )


SMALL = transforms(0, 1, -1)
"""For tiles of 2x2 outputs."""

LARGE = transforms(0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)
"""For tiles of 4x4 outputs.

With these points their errors are three times those of small ones; with the usual 0, 1, -1, 2, -2 six times.
"""
