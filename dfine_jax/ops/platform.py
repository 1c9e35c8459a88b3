"""Forms of an operation by platform, or for all platforms at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jax import lax
from jaxtyping import Array

_portable = ContextVar("portable", default=False)


@contextmanager
def portable() -> Iterator[None]:
    """While it is open, functions are traced in forms that any platform and any other format can take.

    JAX doesn't know of it: what was traced before, by the same ``jax.jit``, isn't traced anew.
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable() -> bool:
    """Whether ``portable`` is open."""
    return _portable.get()


def on_platform(*arrays: Array, default: Callable[..., Any], **of_platforms: Callable[..., Any]) -> Any:
    """``jax.lax.platform_dependent``, but the default form while ``portable`` is open."""
    if is_portable():
        return default(*arrays)
    return lax.platform_dependent(*arrays, default=default, **of_platforms)
