"""The values of a JSON object read by name, checked, with one line naming the field where one is of another kind."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from dfine_jax.errors import InputError


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
            text = json.dumps(self.values[name], default=repr)
            shown = text if len(text) <= 100 else f"{text[:97]}..."
            raise FieldError(f"{self.prefix}{name} = {shown} {rule}")

    def integer(self, name: str, least: int = 1) -> int:
        """A whole number."""
        self.require(_is_integer(self[name], least), name, f"must be a whole number, {least} or more")
        return self[name]

    def number(self, name: str) -> float:
        """Any number."""
        is_number = isinstance(self[name], int | float) and not isinstance(self[name], bool)
        self.require(is_number, name, "must be a number")
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
        """A list of whole numbers."""
        return self._list(name, lambda value: _is_integer(value, least), f"whole numbers, {least} or more")

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
        is_list = isinstance(self[name], list | tuple) and all(map(is_fine, self[name]))
        self.require(is_list, name, f"must be a list of {kind}")
        return tuple(self[name])


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
