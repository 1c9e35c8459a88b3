"""The values of a JSON object read by name, checked, with one line naming the field where one is of another kind."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from dfine_jax.errors import InputError

MOST = 65_536
"""The largest whole number, and the longest list, that any field may have."""
LARGEST_NUMBER = 1e9
"""The largest magnitude of any other number."""


class FieldError(InputError):
    """A field whose value isn't supported; the message names the field, its value and the rule."""


class Fields:
    """Values by name, with defaults; every reader raises ``FieldError`` for a value of another kind.

    ``prefix`` says in messages where the object stands: ``config.json: backbone_config.``.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = ""):
        self.values = {**defaults, **given}
        self.prefix = prefix

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def require(self, condition: bool, name: str, rule: str) -> None:
        """Raises ``FieldError`` with the field's value and ``rule`` unless ``condition`` holds."""
        if not condition:
            raise FieldError(f"{self.prefix}{name} = {shown(self.values[name])} {rule}")

    def integer(self, name: str, least: int = 1) -> int:
        """A whole number, up to ``MOST``."""
        self.require(_is_integer(self[name], least), name, f"must be a whole number, {least} or more")
        self.require(self[name] <= MOST, name, f"must be a whole number up to {MOST:,}")
        return self[name]

    def number(self, name: str) -> float:
        """A finite number of at most ``LARGEST_NUMBER``."""
        is_number = isinstance(self[name], int | float) and not isinstance(self[name], bool)
        self.require(is_number, name, "must be a number")
        is_fine = math.isfinite(self[name]) if isinstance(self[name], float) else True
        self.require(is_fine and abs(self[name]) <= LARGEST_NUMBER, name, f"must lie within {LARGEST_NUMBER:,.0f}")
        return float(self[name])

    def positive(self, name: str) -> float:
        """A number above 0."""
        self.require(self.number(name) > 0, name, "must be above 0")
        return float(self[name])

    def flag(self, name: str) -> bool:
        """True or false."""
        self.require(isinstance(self[name], bool), name, "must be true or false")
        return self[name]

    def integers(self, name: str, least: int = 1) -> tuple[int, ...]:
        """A list of whole numbers, each up to ``MOST``."""
        numbers = self._list(name, lambda value: _is_integer(value, least), f"whole numbers, {least} or more")
        self.require(max(numbers, default=0) <= MOST, name, f"must be a list of whole numbers up to {MOST:,}")
        return numbers

    def flags(self, name: str) -> tuple[bool, ...]:
        """A list of true and false."""
        return self._list(name, lambda value: isinstance(value, bool), "true and false")

    def choices(self, name: str, known: list[str]) -> tuple[str, ...]:
        """A list of some of the known words."""
        return self._list(name, lambda value: isinstance(value, str) and value in known, f"some of {', '.join(known)}")

    def object(self, name: str) -> Mapping[str, Any]:
        """An object."""
        self.require(isinstance(self[name], Mapping), name, "must be an object")
        return self[name]

    def only(self, name: str, *known: str | bool | None) -> Any:
        """One of the values that are supported."""
        is_known = any(self[name] is value or (isinstance(value, str) and self[name] == value) for value in known)
        one = "is" if len(known) == 1 else "are"
        self.require(is_known, name, f"is not supported: only {', '.join(map(json.dumps, known))} {one}")
        return self[name]

    def _list(self, name: str, is_fine: Callable[[Any], bool], kind: str) -> tuple[Any, ...]:
        is_list = isinstance(self[name], list | tuple) and all(map(is_fine, self[name][: MOST + 1]))
        self.require(is_list, name, f"must be a list of {kind}")
        self.require(len(self[name]) <= MOST, name, f"must have {MOST:,} entries at most")
        return tuple(self[name])


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def shown(value: Any) -> str:
    """A value as JSON, short."""
    if isinstance(value, list | tuple | Mapping) and len(value) > 100:
        return f"{'an object' if isinstance(value, Mapping) else 'a list'} of {len(value):,} entries"
    try:
        text = json.dumps(value, default=repr)
    except RecursionError:
        return "a nested value"
    return text if len(text) <= 100 else f"{text[:97]}..."
