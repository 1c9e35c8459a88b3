"""A folder as transformers writes one: ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

Tensors are written one at a time, each at its place, so that no second copy of the weights is needed.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dfine_jax.config import DFineConfig
from dfine_jax.errors import InputError
from dfine_jax.hub_config import evaluated, to_hub
from dfine_jax.model_shapes import model_shapes
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.atomic import new_folder
from dfine_jax.weights.fill import Shape, torch_shape
from dfine_jax.weights.folder import CARD, carry_description, write_json
from dfine_jax.weights.rules import HUB, Match, to_torch

_PAST_EVALUATED = re.compile(r"decoder\.(?:layers|class_heads|box_heads|quality)\.(\d+)\.")


def save_hub_folder(
    target: Path,
    config: DFineConfig,
    preprocessing: Preprocessing,
    arrays: Iterable[tuple[str, np.ndarray]],
    *,
    half: bool = False,
    described_by: Path | None = None,
    card: str | None = None,
    replace: bool = False,
) -> None:
    """Writes the Hub's layout, complete or not at all; see ``new_folder`` for what happens to an existing folder.

    Decoder layers past the one that counts are left out. ``half`` rounds matrices and kernels, which are nearly all of
    a model, to float16. ``InputError`` where transformers has no such model, unless ``arrays`` are those of a model of
    this configuration, and where one is too large for float16. Card and thresholds are taken along from a folder that
    the model is ``described_by``, unless another ``card`` is given.
    """
    described, kept = to_hub(config), evaluated(config)
    with new_folder(target, replace=replace) as folder:
        carry_description(described_by, folder)
        if card is not None:
            (folder / CARD).write_text(card, "utf-8")
        _write_safetensors(folder / "model.safetensors", kept, _without_surplus(arrays, kept.decoder.layers), half)
        write_json(folder / "config.json", described)
        write_json(folder / "preprocessor_config.json", preprocessing.to_json())


def _without_surplus(arrays: Iterable[tuple[str, np.ndarray]], layers: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in arrays:
        layer = _PAST_EVALUATED.match(name)
        if layer is None or int(layer[1]) < layers:
            yield name, array


class HubTensors(NamedTuple):
    """What ``model.safetensors`` of a model holds."""

    weights: dict[str, tuple[Match, Shape]]
    """By our name: the tensor there, and the shape here."""
    constants: dict[str, np.ndarray]
    """By the name there: counts of batches and shares of points, which transformers stores beside the weights."""


def hub_tensors(config: DFineConfig) -> HubTensors:
    """What transformers stores for a model of this configuration; ``config`` has no layers past the one that counts."""
    params, batch_stats = model_shapes(config)
    weights = {name: (to_torch(HUB, name), shape) for name, shape in {**params, **batch_stats}.items()}
    constants = {}
    for ours, (match, _) in weights.items():
        frozen = ours.startswith("backbone.") and config.backbone.frozen_norms
        if ours.endswith(".norm.mean") and not frozen:
            constants[match.name.removesuffix("running_mean") + "num_batches_tracked"] = np.zeros((), "<i8")
    share = np.array([1 / count for count in config.decoder.points for _ in range(count)], "<f4")
    for layer in range(config.decoder.layers):
        constants[f"model.decoder.layers.{layer}.encoder_attn.num_points_scale"] = share
    return HubTensors(weights, constants)


def _write_safetensors(path: Path, config: DFineConfig, arrays: Iterable[tuple[str, np.ndarray]], half: bool) -> None:
    weights, constants = hub_tensors(config)
    tensors = {name: (array.dtype, array.shape) for name, array in constants.items()}
    for match, shape in weights.values():
        tensors[match.name] = (np.dtype("<f2" if half and len(shape) > 1 else "<f4"), torch_shape(match, shape))
    header, places = _header(tensors)
    with path.open("wb") as file:
        file.write(header)
        for name, array in constants.items():
            file.seek(places[name])
            file.write(array.tobytes())
        for ours, array in arrays:
            match, shape = weights.pop(ours, (None, None))
            if match is None or tuple(array.shape) != shape:
                raise InputError(f"{ours} of shape {array.shape} is not the model's, or is given twice")
            with np.errstate(over="ignore"):
                stored = match.layout.to_torch(np.asarray(array)).astype(tensors[match.name][0])
            if np.isinf(stored).any() and np.isfinite(array).all():
                raise InputError(f"{ours} has values up to {np.abs(array).max():g}, too large for half precision")
            file.seek(places[match.name])
            file.write(stored.tobytes())
    if weights:
        raise InputError(f"arrays of the model are missing: {', '.join(sorted(weights))}")


def _header(tensors: dict[str, tuple[np.dtype, Shape]]) -> tuple[bytes, dict[str, int]]:
    """The head of a safetensors file, and where in the file each tensor starts: the widest types first, by name."""
    entries: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    places, end = {}, 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        start, end = end, end + dtype.itemsize * math.prod(shape)
        kind = {"i": "I", "f": "F"}[dtype.kind] + str(8 * dtype.itemsize)
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
        places[name] = start
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + start for name, start in places.items()}
