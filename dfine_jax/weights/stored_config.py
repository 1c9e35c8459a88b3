"""The configuration that a converted folder holds, checked: its ``config.json`` may be damaged or made by hand."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from dfine_jax.config import DFineConfig
from dfine_jax.errors import InputError
from dfine_jax.hub_config import ACTIVATIONS, FIXED_ACTIVATIONS, from_hub, to_hub, with_fixed_activations
from dfine_jax.json_fields import LARGEST_NUMBER, MOST, shown
from dfine_jax.limits import check_limits
from dfine_jax.weights.fill import CheckpointError

_WANTED = {
    float: f"a number within {LARGEST_NUMBER:,.0f}",
    int: f"a whole number up to {MOST:,}",
    str: "text",
    bool: "true or false",
}


def stored_config(values: Any, path: Path) -> DFineConfig:
    """The configuration that ``dataclasses.asdict`` made ``values`` of; ``CheckpointError`` names the field.

    What holds for the Hub's ``config.json`` holds here, too.
    """
    try:
        config = _typed(DFineConfig, values, "")
        check_limits(config)
        from_hub(to_hub(with_fixed_activations(config)))
        for place in FIXED_ACTIVATIONS:
            if (name := getattr(config.decoder, place)) not in ACTIVATIONS:
                raise InputError(
                    f"decoder.{place} = {shown(name)}, expected one of {', '.join(filter(None, ACTIVATIONS))}"
                )
    except (InputError, ArithmeticError) as error:
        raise CheckpointError(f'{path}: "model" describes no model ({error})') from None
    return config


def _typed(kind: Any, value: Any, place: str) -> Any:
    """A value of JSON as what a field's type says it is."""
    options = get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, place)
    if get_origin(kind) in (types.UnionType, typing.Union):
        return None if value is None else _typed(options[0], value, place)
    if get_origin(kind) is tuple and isinstance(value, list) and len(value) <= MOST:
        kinds = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(_typed(inner, v, f"{place}[{i}]") for i, (inner, v) in enumerate(pairs))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if (not isinstance(value, float) or math.isfinite(value)) and abs(value) <= LARGEST_NUMBER:
            return value
    elif kind is int and type(value) is int:
        if abs(value) <= MOST:
            return value
    elif kind in (str, bool) and type(value) is kind:
        return value
    wanted = _WANTED.get(kind, f"a list of up to {MOST:,} entries")
    raise InputError(f"{place or 'it'} = {shown(value)}, expected {wanted}")


def _dataclass(kind: type, value: Any, place: str) -> Any:
    hints = get_type_hints(kind)
    if not isinstance(value, Mapping):
        raise InputError(f"{place or 'it'} = {shown(value)}, expected an object")
    if unknown := sorted(value.keys() - hints.keys()):
        raise InputError(f"{place or 'it'} has no field {unknown[0]!r:.60}")
    needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - value.keys()):
        raise InputError(f"{place or 'it'} lacks {', '.join(missing)}")
    start = f"{place}." if place else ""
    return kind(**{name: _typed(hints[name], v, f"{start}{name}") for name, v in value.items()})
