"""What the tests check of dfine_jax's signatures: the shapes and types of JAX arrays, and nothing else."""

import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

import jax
import numpy as np
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

UNCHECKED = {"SelfAttention.__call__"}
"""Functions whose annotations say what shapes are, but not in words that jaxtyping can check."""


def install() -> None:
    """Checks every call of a function of dfine_jax; to be called before anything of it is imported."""
    install_import_hook("dfine_jax", f"{__name__}.checked")


def checked(function: Callable) -> Callable:
    """The function with its arrays checked.

    Other annotations are for people and editors. Tuples of arrays are left out too: the maps of several levels share
    one annotation but not one height and width.
    """
    hints = {name: _checkable(hint) for name, hint in function.__annotations__.items()}
    annotations = {name: hint for name, hint in hints.items() if hint is not None}
    if not annotations or function.__qualname__ in UNCHECKED:
        return function
    function.__annotations__ = annotations
    return beartype(function)


def _checkable(hint: Any) -> Any:
    """The hint if it is one of JAX arrays, for which NumPy's are as good; else None."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part if part is type(None) else _checkable(part) for part in get_args(hint)]
        return None if None in parts else Union[tuple(parts)]  # noqa: UP007
    if isinstance(hint, type) and issubclass(hint, AbstractArray) and hint.array_type is jax.Array:
        return hint.dtype[jax.Array | np.ndarray, hint.dim_str]
    return None
