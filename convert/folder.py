"""The converted folder: ``config.json``, ``preprocessor_config.json`` and an Orbax checkpoint, ``weights``.

The checkpoint holds two flat dictionaries from dotted names to float32 arrays, ``params`` and ``batch_stats``.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from convert.atomic import new_folder
from convert.fill import CheckpointError, Shape
from dfine_jax.config import BackboneConfig, DecoderConfig, DFineConfig, EncoderConfig, StageConfig
from dfine_jax.inference.preprocess import Preprocessing
from dfine_jax.kept import kept

if TYPE_CHECKING:
    from convert.orbax_stream import Shapes

FORMAT, VERSION = "dfine-jax", 1


class StoredModel(NamedTuple):
    """A model on disk, known to fit its configuration. Its arrays are read when ``arrays`` is called."""

    source: str
    config: DFineConfig
    preprocessing: Preprocessing
    arrays: Callable[[], Iterator[tuple[str, np.ndarray]]]
    """A call gives the names and values of all variables, one at a time."""
    hub_folder: Path | None = None
    """The folder that transformers can load, where this model is one."""


@lru_cache(maxsize=8)
def model_shapes(config: DFineConfig) -> tuple[Mapping[str, Shape], Mapping[str, Shape]]:
    """Names and shapes of the parameters and of the batch statistics that a model of this configuration has."""

    def shapes() -> tuple[dict[str, Shape], dict[str, Shape]]:
        from dfine_jax.model.dfine import DFine, variables

        params, batch_stats = variables(DFine(config))
        return tuple({name: value.shape for name, value in kind.items()} for kind in (params, batch_stats))

    params, batch_stats = kept("shapes", config, shapes, dump=_as_json, load=_from_json)
    return MappingProxyType(params), MappingProxyType(batch_stats)


def _as_json(shapes: tuple[dict[str, Shape], ...]) -> bytes:
    return json.dumps(shapes).encode()


def _from_json(text: bytes) -> tuple[dict[str, Shape], ...]:
    return tuple({name: tuple(shape) for name, shape in kind.items()} for kind in json.loads(text))


def save_folder(
    target: Path,
    config: DFineConfig,
    preprocessing: Preprocessing,
    arrays: Iterable[tuple[str, np.ndarray]],
    *,
    source: str = "",
    replace: bool = False,
) -> None:
    """Writes a converted folder, complete or not at all; see ``new_folder`` for what happens to an existing one.

    ``source`` is kept as a note. ``ValueError`` unless ``arrays`` are those of a model of this configuration.
    """
    from convert.orbax_stream import save_streamed  # Orbax takes a while to load

    params, batch_stats = model_shapes(config)
    with new_folder(target, replace=replace) as folder:
        save_streamed(folder / "weights", {"params": params, "batch_stats": batch_stats}, arrays)
        write_json(folder / "preprocessor_config.json", preprocessing.to_json())
        about = {"format": FORMAT, "version": VERSION, "source": source, "model": dataclasses.asdict(config)}
        write_json(folder / "config.json", about)


def is_converted(folder: Path) -> bool:
    """Whether a folder's ``config.json`` is one that ``save_folder`` wrote."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("format") == FORMAT


def open_folder(folder: Path) -> StoredModel:
    """A converted folder; ``CheckpointError`` where it is damaged or does not fit its own configuration."""
    from convert.orbax_stream import read_streamed, stored_shapes

    about = read_json(folder / "config.json")
    if about.get("version") != VERSION:
        raise CheckpointError(f"{folder}: format version {about.get('version')!r}, this release reads {VERSION}")
    config = _config(about.get("model"), folder)
    params, batch_stats = model_shapes(config)
    wanted = {"params": params, "batch_stats": batch_stats}
    weights = folder / "weights"
    found = stored_shapes(weights)
    _check_fit(folder, wanted, found)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        return read_streamed(weights, wanted)

    return StoredModel(str(folder), config, Preprocessing.from_json(folder / "preprocessor_config.json"), arrays)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ``CheckpointError`` where there is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {value!r:.60}")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an object as JSON that people can read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _check_fit(folder: Path, wanted: "Shapes", found: "Shapes") -> None:
    wanted_shapes = {name: shape for kind in wanted.values() for name, shape in kind.items()}
    found_shapes = {name: shape for kind in found.values() for name, shape in kind.items()}
    problems = [f"missing: {name}" for name in sorted(wanted_shapes.keys() - found_shapes.keys())]
    problems += [f"unexpected: {name}" for name in sorted(found_shapes.keys() - wanted_shapes.keys())]
    for name in sorted(wanted_shapes.keys() & found_shapes.keys()):
        if wanted_shapes[name] != found_shapes[name]:
            problems.append(f"wrong shape: {name} is {found_shapes[name]}, the model needs {wanted_shapes[name]}")
    if problems:
        raise CheckpointError("\n  ".join([f"{folder}: the weights do not fit config.json", *problems]))


_NESTED = {"backbone": BackboneConfig, "encoder": EncoderConfig, "decoder": DecoderConfig}


def _config(values: Any, folder: Path) -> DFineConfig:
    try:
        nested = {name: kind(**_tuples(values[name])) for name, kind in _NESTED.items()}
        stages = tuple(StageConfig(**_tuples(stage)) for stage in values["backbone"]["stages"])
        nested["backbone"] = dataclasses.replace(nested["backbone"], stages=stages)
        return DFineConfig(**{**_tuples(values), **nested})
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise CheckpointError(f'{folder / "config.json"}: "model" describes no model ({error})') from None


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
