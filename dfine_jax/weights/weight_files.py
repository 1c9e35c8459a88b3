"""Which files of a folder are a model's weights, and their tensors as one source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from dfine_jax.json_file import read_object
from dfine_jax.weights.file_type import PADDLE_ENDING, TORCH_ENDINGS, WEIGHTS_ENDINGS, FileType, file_type_of
from dfine_jax.weights.fill import MOST_TENSORS, CheckpointError, Shape, Source
from dfine_jax.weights.rules import Dialect
from dfine_jax.weights.safetensors_file import SafetensorsFile

_USUAL = ("model.safetensors", "model.safetensors.index.json")
_BESIDE = ("optimizer.", "scheduler.", "rng_state", "training_args.", "scaler.", "trainer_state.")
"""How the names of files begin that trainers put beside the weights."""
_FOREIGN = (".onnx", ".h5", ".keras", ".msgpack", ".pb", ".tflite", ".engine", ".npz", ".pkl", ".gz", ".zip", ".xml")
"""Endings of other programs' models, to be named where there is nothing better."""


@dataclass(frozen=True)
class Files:
    """The files that hold a model's weights, and what they are called together."""

    paths: tuple[Path, ...]
    name: str
    index: Path | None = None
    """The file that lists them, with what each holds."""

    @property
    def usual(self) -> bool:
        """Whether they have the names that transformers writes."""
        return self.name in _USUAL


class Several:
    """The tensors of several files as one source."""

    def __init__(self, files: Sequence[tuple[Path, Source]]):
        """``CheckpointError`` where a tensor is in two of them."""
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, str] = {}
        self._homes: dict[str, tuple[Path, Source]] = {}
        for path, file in files:
            for name in file.shapes:
                if name in self._homes:
                    raise CheckpointError(f"{name} is both in {self._homes[name][0]} and in {path}")
                self._homes[name] = path, file
            self.shapes.update(file.shapes)
            self.types.update(file.types)

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        return self._homes[name][1].read(name)


def weights_in(folder: Path) -> Files:
    """The weights in a folder, as transformers names them or else what only can be meant.

    ``CheckpointError`` says what is there where there are none, and what to choose from where there are several.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise CheckpointError(f"{folder} can't be read ({error.strerror or error})") from None
    for group in _groups(names):
        if len(group) == 1:
            return listed(folder / group[0]) if is_index(group[0]) else Files((folder / group[0],), group[0])
        if group:
            some = f"{', '.join(group[:8])}{', ...' if len(group) > 8 else ''}"
            raise CheckpointError(f"{folder} holds several weights ({some}): give the file that is meant")
    raise CheckpointError(f"{folder} holds no weights: expected model.safetensors{_instead(folder, names)}")


def listed(index: Path) -> Files:
    """The parts that an index lists; ``CheckpointError`` where it lists none, or one outside its folder."""
    parts = read_object(index, CheckpointError).get("weight_map")
    if not isinstance(parts, Mapping) or not all(isinstance(part, str) for part in parts.values()):
        raise CheckpointError(f'{index}: expected a JSON object with a "weight_map" from names to files')
    files = sorted(set(parts.values()))
    for part in files:
        if not _is_inside(part):
            raise CheckpointError(f"{index} lists {part!r:.100}, which is outside its folder: it is not read")
    if not files:
        raise CheckpointError(f"{index} lists no files")
    if len(parts) > MOST_TENSORS:
        raise CheckpointError(f"{index} lists {len(parts):,} tensors, up to {MOST_TENSORS:,} are read")
    return Files(tuple(index.parent / part for part in files), index.name, index)


class Opened(NamedTuple):
    """The weights in a file, or in several."""

    tensors: Source
    place: str = ""
    """Where in the file they are, where it has several places for them."""
    about: Mapping[str, Any] = {}
    """What lies beside them there."""


def open_weights(files: Files, dialects: tuple[Dialect, ...]) -> Opened:
    """The tensors of all files.

    ``CheckpointError`` for the first file that can't be read, or where the index lists what is in none.
    """
    opened = [_open(path, dialects) for path in files.paths]
    homes = [(path, file.tensors) for path, file in zip(files.paths, opened, strict=True)]
    source = homes[0][1] if len(homes) == 1 else Several(homes)
    if files.index is not None:
        given = read_object(files.index, CheckpointError)["weight_map"]
        if missing := sorted(given.keys() - source.shapes.keys()):
            some = f"{', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}"
            raise CheckpointError(f"{files.index} lists tensors that are in none of its files: {some}")
    return opened[0]._replace(tensors=source)


def _open(path: Path, dialects: tuple[Dialect, ...]) -> Opened:
    file_type = file_type_of(path)
    if file_type is FileType.SAFETENSORS:
        return Opened(SafetensorsFile(path))
    if path.name.endswith(PADDLE_ENDING):
        from dfine_jax.weights.paddle_file import PaddleFile

        return Opened(PaddleFile(path))
    from dfine_jax.weights.torch_file import TorchFile  # with all that looks into pickles

    file = TorchFile(path, file_type, dialects)
    return Opened(file, file.place, file.about)


def is_index(name: str) -> bool:
    """Whether a file of this name lists parts: ``model.safetensors.index.json``, with a variant's name or without."""
    return name.endswith(".json") and ".index." in name


def _groups(names: list[str]) -> Iterator[list[str]]:
    """Candidates, the likeliest first; in each group there has to be one."""
    for name in _USUAL:
        yield [name] if name in names else []
    whole = [name for name in names if "-of-" not in name and not name.startswith(_BESIDE)]
    indices = [name for name in names if is_index(name)]
    for endings, usual in (((".safetensors",), "model."), (TORCH_ENDINGS, "pytorch_model.")):
        files = [name for name in whole if name.endswith(endings)]
        yield [name for name in files if name.startswith(usual)]
        yield [name for name in indices if any(f"{ending}.index." in name for ending in endings)]
        yield files


def _instead(folder: Path, names: list[str]) -> str:
    """What a folder without weights holds that its owner may have meant."""
    foreign = [name for name in names if name.lower().endswith((*_FOREIGN, *WEIGHTS_ENDINGS))]
    inside = [f"{name}/" for name in names[:1000] if (folder / name / "config.json").is_file()]
    said = f"; there is {', '.join(foreign[:5])}" if foreign else ""
    return said + (f"; there is a model in {', '.join(inside[:3])}" if inside else "")


def _is_inside(part: str) -> bool:
    """Whether a part's name leads nowhere but into the folder, by itself."""
    return bool(part) and all(
        not path.is_absolute() and not path.anchor and ".." not in path.parts
        for path in (PurePosixPath(part), PureWindowsPath(part))
    )
