"""The converted folder: ``config.json``, ``preprocessor_config.json`` and an Orbax checkpoint, ``weights``.

The checkpoint holds two flat dictionaries from dotted names to float32 arrays, ``params`` and ``batch_stats``;
``SHA256SUMS`` tells whether its files are what was written.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dfine_jax import calibration
from dfine_jax.checksums import SUMS, DamagedError, listed, verify_sums, write_sums
from dfine_jax.config import DFineConfig
from dfine_jax.display import printable
from dfine_jax.json_file import read_object
from dfine_jax.model_shapes import model_shapes
from dfine_jax.plain_file import plain_size
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.thresholds import FILE_NAME, read_thresholds
from dfine_jax.weights.atomic import new_folder
from dfine_jax.weights.fill import CheckpointError, finite
from dfine_jax.weights.replaceable import FORMAT, WEIGHTS
from dfine_jax.weights.stored_config import stored_config

if TYPE_CHECKING:
    from dfine_jax.weights.explanation import Became
    from dfine_jax.weights.orbax_stream import Shapes

VERSION = 1
"""Of the format."""
CARD = "README.md"
_NEEDED = ("_METADATA", "manifest.ocdbt")
"""What Orbax doesn't say that it misses."""
MOST_FILES = 10_000
"""In a folder of weights; of the largest model there are eight."""


class StoredModel(NamedTuple):
    """A model on disk, known to fit its configuration. Its arrays are read when ``arrays`` is called."""

    source: str
    config: DFineConfig
    preprocessing: Preprocessing
    arrays: Callable[[], Iterator[tuple[str, np.ndarray]]]
    """A call gives the names and values of all variables, one at a time."""
    hub_folder: Path | None = None
    """The folder that transformers can load, where this model is one."""
    place: Path | None = None
    """The file or folder that it was read from."""
    notes: tuple[str, ...] = ()
    """What was made of it where that isn't plain: which part of a checkpoint, and what was taken off its names."""
    remarks: tuple[str, ...] = ()
    """What the user should know before relying on it: what was assumed or left out."""
    explain: Callable[[], "list[Became]"] | None = None
    """A call tells what became of each tensor of a checkpoint of PyTorch's."""


def save_folder(
    target: Path,
    config: DFineConfig,
    preprocessing: Preprocessing,
    arrays: Iterable[tuple[str, np.ndarray]],
    *,
    source: str = "",
    described_by: Path | None = None,
    replace: bool = False,
) -> None:
    """Writes a converted folder, complete or not at all; see ``new_folder`` for what happens to an existing one.

    ``source`` is kept as a note; card and thresholds are taken along from a folder that the model is ``described_by``.
    ``InputError`` unless ``arrays`` are those of a model of this configuration.
    """
    from dfine_jax.weights.orbax_stream import save_streamed  # Orbax takes a while to load

    params, batch_stats = model_shapes(config)
    with new_folder(target, replace=replace) as folder:
        carry_description(described_by, folder)
        save_streamed(folder / WEIGHTS, {"params": params, "batch_stats": batch_stats}, arrays)
        files = sorted(path for path in (folder / WEIGHTS).rglob("*") if path.is_file())
        write_sums(folder, [path.relative_to(folder).as_posix() for path in files])
        write_json(folder / "preprocessor_config.json", preprocessing.to_json())
        about = {"format": FORMAT, "version": VERSION, "source": printable(source), "model": dataclasses.asdict(config)}
        write_json(folder / "config.json", about)


def carry_description(source: Path | None, folder: Path) -> None:
    """Copies a model's card, thresholds and calibration from another folder, where it has them.

    ``InputError`` for thresholds or a calibration that are damaged.
    """
    if source is not None and source.is_dir():
        read_thresholds(source)
        calibration.read_calibration(source)
        for name in description_in(source):
            shutil.copyfile(source / name, folder / name)


def description_in(folder: Path) -> list[str]:
    """The files of a folder that tell people and programs how to use the model in it."""
    return [name for name in (CARD, FILE_NAME, calibration.FILE_NAME) if (folder / name).is_file()]


def is_converted(folder: Path) -> bool:
    """Whether a folder's ``config.json`` is one that ``save_folder`` wrote."""
    path = folder / "config.json"
    return os.path.lexists(path) and read_object(path, CheckpointError).get("format") == FORMAT


def open_folder(folder: Path) -> StoredModel:
    """A converted folder; ``CheckpointError`` where it is damaged or does not fit its own configuration."""
    about = read_object(folder / "config.json", CheckpointError)
    if about.get("version") != VERSION:
        raise CheckpointError(f"{folder}: format version {about.get('version')!r:.40}, this release reads {VERSION}")
    config = stored_config(about.get("model"), folder / "config.json")
    params, batch_stats = model_shapes(config)
    wanted = {"params": params, "batch_stats": batch_stats}
    weights = folder / WEIGHTS
    _require_plain(weights)
    summed = _summed(folder)
    from dfine_jax.weights.orbax_stream import read_streamed, stored_shapes  # Orbax takes a while to load

    try:
        found = stored_shapes(weights)
    except CheckpointError:
        _verify(folder, summed)  # which says what file it is
        raise
    _check_fit(folder, wanted, found)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        _verify(folder, summed)
        return finite(read_streamed(weights, wanted), str(folder))

    preprocessing, remarks = preprocessing_in(folder)
    return StoredModel(str(folder), config, preprocessing, arrays, place=folder, remarks=remarks)


def preprocessing_in(folder: Path) -> tuple[Preprocessing, tuple[str, ...]]:
    """A folder's ``preprocessor_config.json``; without one what is usual, and a remark that says so."""
    path = folder / "preprocessor_config.json"
    if os.path.lexists(path):
        return Preprocessing.from_json(path), ()
    return usual_preprocessing(f"there is no {path}")


def usual_preprocessing(reason: str) -> tuple[Preprocessing, tuple[str, ...]]:
    """Preprocessing as it is for the published models, and a remark that it is assumed."""
    usual = Preprocessing()
    return usual, (
        f"{reason}: {usual.height}x{usual.width} is assumed to be the height and width of the pictures that the model "
        "was trained on",
    )


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


def _require_plain(weights: Path) -> None:
    """``CheckpointError`` unless there are files and folders only: Orbax would wait for a named pipe."""
    if not weights.is_dir():
        raise CheckpointError(f"{weights} is damaged or no Orbax checkpoint (there is no such folder)")
    for count, path in enumerate(weights.rglob("*")):
        if count > MOST_FILES:
            raise CheckpointError(f"{weights} is damaged or no Orbax checkpoint (more than {MOST_FILES:,} files)")
        if not path.is_dir():
            plain_size(path, CheckpointError)
    for name in _NEEDED:
        if not (weights / name).is_file():
            raise CheckpointError(f"{weights} is damaged: {name} is missing")


def _summed(folder: Path) -> list[str]:
    """The files of the weights whose checksums are kept, all of which are there; none in folders of older releases."""
    if not os.path.lexists(folder / SUMS):
        return []
    with _damage_of(folder):
        return listed(folder)


def _verify(folder: Path, summed: list[str]) -> None:
    if summed:
        with _damage_of(folder):
            verify_sums(folder, summed)


@contextmanager
def _damage_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise CheckpointError(f"{folder} is damaged ({error}): make or copy it again") from None
