"""The whole configuration of a training as one value, and as a JSON file beside the results that can be given back."""

import dataclasses
import json
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from dfine_jax.errors import InputError
from dfine_jax.json_file import read_object
from dfine_jax.training.recipe import Recipe, Size
from dfine_jax.training.trainer import RunOptions

FILE_NAME = "training.json"
HARMLESS = {"workers", "log_every", "checkpoint_every", "keep", "patience"}
"""Run options that may change when a training is gone on with."""


@dataclass(frozen=True)
class Configuration:
    """What is trained, on what, and how."""

    data: str
    """A folder with pictures and labels (COCO, YOLO or VOC), a COCO .json, a YOLO .yaml; or "shapes", drawn ones."""
    output: Path
    """Folder for everything that comes out."""
    model: str | None = None
    """Start from this trained detector: a short name (nano-coco), a Hub id, a folder, or a .pth of the original."""
    size: Size = "n"
    """Without a model: start from untrained weights of this size."""
    architecture: Path | None = None
    """Without a model: a config.json, as the Hub has it, of what to build instead of a published size."""
    backbone: Path | None = None
    """Without a model: start the backbone from HGNetV2 trained alone, a .pth of the original release, timm's or
    transformers' .safetensors or PaddlePaddle's .pdparams; all else is untrained."""
    queries: int | None = None
    """How many things a picture can hold at most; the model's own number (300) if not given. The feature maps must
    have as many cells: a picture of 192 pixels has 180 in size N."""
    holdout: bool = False
    """Where the data has no val part, hold a tenth of the pictures out to choose the best model by (at least 5, at most
    1,000, fixed by the seed)."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = Recipe.for_size("n")
    run: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()


def write_configuration(configuration: Configuration, path: Path) -> None:
    """As JSON that people can read and change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(configuration), "utf-8")


def read_configuration(path: Path) -> Configuration:
    """The inverse; ``InputError`` names the file and the field that is wrong."""
    values = read_object(path)
    try:
        return _typed(Configuration, values, "")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is no training's configuration: {error}") from None


def to_json(configuration: Configuration) -> str:
    """The text of ``write_configuration``."""
    return json.dumps(_plain(configuration), indent=2) + "\n"


def from_json(text: str) -> Configuration:
    """The inverse; ``ValueError`` or ``TypeError`` names the field that is wrong."""
    return _typed(Configuration, json.loads(text), "")


def differences(one: Configuration, other: Configuration) -> list[str]:
    """Fields that decide the outcome and are not the same, with both values."""
    first, second = _flat(_plain(one)), _flat(_plain(other))
    names = sorted(first.keys() | second.keys())
    return [
        f"{name} {first.get(name)!r} and {second.get(name)!r}"
        for name in names
        if first.get(name) != second.get(name) and name.removeprefix("run.") not in HARMLESS and name != "output"
    ]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result = {}
    for name, value in values.items():
        nested = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        result.update(nested)
    return result


def _typed(kind: Any, value: Any, place: str) -> Any:
    """The value of a JSON file as what a field's type says it is."""
    origin, options = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or (unknown := value.keys() - hints.keys()):
            wrong = f"has no {', '.join(sorted(unknown))}" if isinstance(value, dict) else "must be an object"
            raise InputError(f"{place or 'it'} {wrong}")
        return kind(**{name: _typed(hints[name], v, f"{place}.{name}".lstrip(".")) for name, v in value.items()})
    if origin in (Union, types.UnionType):
        return None if value is None else _typed(next(o for o in options if o is not type(None)), value, place)
    if origin is tuple and isinstance(value, list):
        inner = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(inner) == len(value):
            return tuple(_typed(option, v, place) for option, v in zip(inner, value, strict=True))
    if origin is Literal and value in options:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    expected = " or ".join(map(repr, options)) if origin is Literal else str(kind).replace("<class ", "").rstrip(">")
    raise InputError(f"{place} is {value!r:.80}, expected {expected}")
