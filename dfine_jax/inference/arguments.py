"""The arguments of a program: a model's parameters, on a CPU with the short ones in one vector.

There every argument costs microseconds at each call, and a fused model has hundreds, most of them biases.
"""

from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import lax
from jaxtyping import Array

if TYPE_CHECKING:
    from dfine_jax.model.dfine import Variables

PACKED = "packed"
"""The name of the vector; those of parameters have dots."""

ALIGNED = 16
"""Each starts at a multiple of so many numbers, those of a vector register."""


def pack(params: Mapping[str, Array | np.ndarray]) -> dict[str, Array | np.ndarray]:
    """On a CPU, the parameters with all float32 vectors in one; else as they are.

    Where each of them lies depends on their names and shapes alone, so that values loaded later fit a program.
    """
    places = _places(params)
    if not places:
        return dict(params)
    vector = np.zeros(_end(places), np.float32)
    for name, place in places.items():
        vector[place] = params[name]
    return {PACKED: vector, **_others(params, places)}


def of_packed(apply: Callable[..., Any], params: "Variables") -> tuple[Callable[..., Any], "Variables"]:
    """``apply`` as a function of what ``pack`` makes of its first argument, and the shapes of that.

    Of ``params`` only names and shapes matter.
    """
    places = _places(params)

    def function(packed: "Variables", *rest: Any, **options: Any) -> Any:
        short = {name: lax.slice(packed[PACKED], (at.start,), (at.stop,)) for name, at in places.items()}
        return apply({**_others(packed, {PACKED}), **short}, *rest, **options)

    shapes = {PACKED: jax.ShapeDtypeStruct((_end(places),), np.float32)} if places else {}
    return function, {**shapes, **_others(params, places)}


def _others(params: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in names}


def _end(places: dict[str, slice]) -> int:
    return max(place.stop for place in places.values())


def _places(params: Mapping[str, Any]) -> dict[str, slice]:
    """Where each of the parameters that are packed lies."""
    places, end = {}, 0
    if jax.default_backend() != "cpu":
        return places
    for name in sorted(params):
        value = params[name]
        if value.ndim == 1 and value.dtype == np.float32:
            places[name] = slice(end, end + value.shape[0])
            end = -(-places[name].stop // ALIGNED) * ALIGNED
    return places
