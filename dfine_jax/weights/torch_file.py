"""The weights in a PyTorch checkpoint, wherever in it they are."""

import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dfine_jax.weights.file_type import FileType
from dfine_jax.weights.fill import CheckpointError, Shape
from dfine_jax.weights.names import count_known, is_average
from dfine_jax.weights.rules import Dialect
from dfine_jax.weights.torch_pickle import damaged, is_compressed, stand_ins

DEPTH = 4
"""Mappings within mappings that are searched for weights."""
NOTED = ("model_family", "names", "imgsz")
"""Entries beside the weights that are looked at."""
ALMOST = 0.9
"""Of the best match's tensors, what another place must have to be a copy of the model, and not a part of something."""


class TorchFile:
    """The weights in a checkpoint of PyTorch: the moving average where there is one. Needs PyTorch."""

    def __init__(self, path: Path, file_type: FileType, dialects: tuple[Dialect, ...]):
        """``CheckpointError`` for a file that is damaged, without weights or not safe to read, or without PyTorch.

        The place in it with most tensors that the ``dialects`` know is taken.
        """
        try:
            import torch
        except ImportError:
            raise CheckpointError(
                f"reading {path} needs PyTorch: pip install 'dfine-jax[torch]', or give a folder with model.safetensors"
            ) from None
        loaded = _loaded(torch, path, file_type)
        places = list(_places(torch, loaded))
        if not places:
            found = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
            raise CheckpointError(f"{path} holds no tensors by name: {found:.200}; expected a model's state_dict")
        self.place, self._weights = _best(places, dialects)
        self.about = _about(loaded)
        self.shapes: dict[str, Shape] = {name: tuple(value.shape) for name, value in self._weights.items()}
        self.types = {name: _type(torch, value) for name, value in self._weights.items()}
        self._path = path

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32, of a type that ``fill.FLOATS`` names."""
        tensor = self._weights[name]
        held = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.numel() > held:
            raise CheckpointError(f"{self._path}: {name} claims {tensor.numel():,} numbers, and has {held:,}")
        try:
            return tensor.detach().float().numpy().copy()  # not the mapped file, which may change
        except RuntimeError as error:
            raise damaged(self._path, error) from None


def _loaded(torch: Any, path: Path, file_type: FileType) -> Any:
    plain = stand_ins(path, file_type)
    mapped = file_type is FileType.TORCH_ZIP and not is_compressed(path)
    try:
        with torch.serialization.safe_globals(plain), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is old, or could be newer
            if path.name.endswith(".safetensors"):  # of which PyTorch would believe the name
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OSError,
        AssertionError,
        pickle.UnpicklingError,
    ) as error:
        raise damaged(path, error) from None


def _about(loaded: Any) -> dict[str, Any]:
    """What lies beside the weights, in plain data: the family, classes and size of pictures that LibreYOLO notes."""
    if not isinstance(loaded, Mapping):
        return {}
    return {name: value for name, value in loaded.items() if name in NOTED and isinstance(value, str | int | Mapping)}


def _places(torch: Any, loaded: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The mappings that hold tensors, at whatever depth, with the names that lead there; each once."""
    seen: set[int] = set()
    waiting = [((), loaded)]
    for path, value in waiting:
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}
        if tensors:
            yield ".".join(path), tensors
        if len(path) < DEPTH:
            waiting += [((*path, str(name)), inner) for name, inner in value.items() if isinstance(inner, Mapping)]


def _best(places: list[tuple[str, dict[str, Any]]], dialects: tuple[Dialect, ...]) -> tuple[str, dict[str, Any]]:
    """The place with the model: among copies of it an average, then what lies least deep; without any the fullest."""
    known = [max(count_known(dialect, tensors) for dialect in dialects) for _, tensors in places]
    if not any(known):
        return max(places, key=lambda place: len(place[1]))
    copies = [place for place, count in zip(places, known, strict=True) if count >= ALMOST * max(known)]
    return min(copies, key=lambda place: (not is_average(place[0]), place[0].count("."), place[0] != "model"))


def _type(torch: Any, tensor: Any) -> str:
    """Its type of numbers, or what else keeps it from being read."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return "no plain tensor"
    return str(tensor.dtype).removeprefix("torch.")
