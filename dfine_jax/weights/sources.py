"""A model on disk in any of the forms that are known, checked against its configuration before a tensor is read."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dfine_jax.config import DFineConfig
from dfine_jax.display import printable
from dfine_jax.hub_config import from_hub, surplus_layers
from dfine_jax.hub_labels import labels_disagree
from dfine_jax.json_fields import FieldError
from dfine_jax.json_file import read_object
from dfine_jax.model_shapes import model_shapes
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.fill import CheckpointError, Shape, fill, finite, plan
from dfine_jax.weights.folder import (
    StoredModel,
    is_converted,
    open_folder,
    preprocessing_in,
    usual_preprocessing,
)
from dfine_jax.weights.inferred_config import (
    classes_of_shapes,
    inferred_config,
    known_shapes,
    original_picture_side,
    size_of_config,
    size_of_shapes,
)
from dfine_jax.weights.names import Recognised, recognise
from dfine_jax.weights.rules import BACKBONE, HUB, ORIGINAL, Dialect
from dfine_jax.weights.weight_files import Files, is_index, listed, open_weights, weights_in

_PLAIN = (b"{\n", b"{\r", b'{"', b"{ ")
"""How JSON in UTF-8 without a byte order mark begins."""
MOST_NAMED = 5
"""Tensors that are named in a remark about many."""


def open_model(
    path: Path, *, source: str | None = None, size: str | None = None, class_names: Sequence[str] | None = None
) -> StoredModel:
    """Opens a converted folder, one with ``config.json`` and weights, or a file of weights, told by what is in it.

    ``source`` is what messages call it. ``size`` (n, s, m, l, x) is for weights without ``config.json`` whose shapes
    should not tell it; ``class_names`` replace those that come with the model. ``CheckpointError`` says all that is
    wrong at once.
    """
    source = source or str(path)
    if not os.path.lexists(path):
        raise CheckpointError(f"{path}: there is no such file or folder")
    if path.is_dir() and is_converted(path):
        _refuse_size(size, source)
        return _renamed(open_folder(path)._replace(source=source), class_names)
    if path.is_dir():
        config = _read_config(path)
        if config is not None:
            _described(config, source)  # another kind of model is a better reason than what its weights lack
        files = weights_in(path)
    else:
        files = listed(path) if is_index(path.name) else Files((path,), path.name)
        config = _config_beside(path)
    opened = _opened(files, config, path if path.is_dir() else None, source, size)
    return _renamed(opened._replace(place=path), class_names)


def read_backbone(path: Path, config: DFineConfig) -> dict[str, np.ndarray]:
    """The backbone's arrays by our names, from HGNetV2 trained alone: the original release's ``.pth`` or timm's file.

    A whole detector's file of the original release will do as well. ``CheckpointError`` says all that is wrong at once.
    """
    source, _ = open_weights(Files((path,), path.name), (BACKBONE,))
    tensors = recognise(source, (BACKBONE,), str(path)).tensors
    params, batch_stats = model_shapes(config)
    targets = {name: shape for name, shape in {**params, **batch_stats}.items() if name.startswith("backbone.")}
    result = plan(BACKBONE, tensors.shapes, targets, tensors.types)
    result.check(str(path), f"expected HGNetV2 alone, of the size that is trained ({size_of_config(config) or 'own'})")
    return dict(finite(fill(result, tensors), str(path), {ours: name for ours, (name, _) in result.origins.items()}))


def _opened(
    files: Files, given: Mapping[str, Any] | None, folder: Path | None, source: str, size: str | None
) -> StoredModel:
    """The model whose weights are in ``files``; ``given`` is what its ``config.json`` says, where there is one.

    ``folder``: all that lies in it belongs to the model; None where a file was named.
    """
    stored, place = open_weights(files, (HUB, ORIGINAL))
    read = recognise(stored, (HUB, ORIGINAL), source)
    shapes = read.tensors.shapes
    dialect, remarks = read.dialect, _left_out(read)
    if given is None:
        config = inferred_config(dialect, shapes, source, size)
        preprocessing, said = _told_preprocessing(shapes, config, folder)
        if dialect is HUB:
            said = (*said, f"there is no config.json: size {size_of_config(config)} is told from the weights' shapes")
    else:
        _refuse_size(size, source)
        classes = classes_of_shapes(known_shapes(dialect, shapes))
        config, dialect = _described(given, source, classes), _with_surplus(dialect, given)
        preprocessing, said = preprocessing_in(files.paths[0].parent)
        if disagreement := labels_disagree(given):
            remarks = (*remarks, f"{disagreement}; {config.num_classes} classes are taken")
    arrays = _checked(dialect, read, config, source)
    notes = _notes(files, place, read)
    for_transformers = (
        folder is not None and given is not None and files.usual and not notes and _is_plain(folder, given)
    )
    hub_folder = folder if for_transformers else None
    return StoredModel(source, config, preprocessing, arrays, hub_folder, notes=notes, remarks=(*remarks, *said))


def _told_preprocessing(
    shapes: Mapping[str, Shape], config: DFineConfig, folder: Path | None
) -> tuple[Preprocessing, tuple[str, ...]]:
    """How a model without ``config.json`` wants its pictures, and remarks."""
    if side := original_picture_side(shapes, config):
        return Preprocessing(side, side), ()
    if folder is not None:
        return preprocessing_in(folder)
    return usual_preprocessing("nothing says for which size of pictures the weights are")


def _read_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    return read_object(path, CheckpointError) if os.path.lexists(path) else None


def _is_plain(folder: Path, given: Mapping[str, Any]) -> bool:
    """Whether transformers reads the ``config.json`` of a folder, too."""
    return isinstance(given.get("id2label"), Mapping) and (folder / "config.json").read_bytes().lstrip()[:2] in _PLAIN


def _config_beside(path: Path) -> dict[str, Any] | None:
    """The ``config.json`` beside a file of weights; beside others than safetensors only one that is D-FINE's."""
    if path.name.endswith((".safetensors", ".json")):
        return _read_config(path.parent)
    try:
        config = _read_config(path.parent)
    except CheckpointError:
        return None
    return config if config is not None and config.get("model_type") == "d_fine" else None


def _described(given: Mapping[str, Any], source: str, classes: int | None = None) -> DFineConfig:
    """The configuration that a ``config.json`` describes."""
    try:
        return from_hub(given, classes)
    except FieldError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _refuse_size(size: str | None, source: str) -> None:
    if size is not None:
        raise CheckpointError(f"{source}: a size can be given for a .pth only; config.json says it here")


def _with_surplus(dialect: Dialect, given: Mapping[str, Any]) -> Dialect:
    """Decoder layers past ``eval_idx``, which ``config.json`` speaks of and nothing computes, are passed over."""
    surplus = "|".join(map(str, surplus_layers(given)))
    if not surplus or dialect is not HUB:
        return dialect
    unused = rf"model\.decoder\.(layers|class_embed|bbox_embed|lqe_layers)\.({surplus})\..*"
    return replace(dialect, ignored=(*dialect.ignored, unused))


def _checked(
    dialect: Dialect, read: Recognised, config: DFineConfig, source: str
) -> Callable[[], Iterator[tuple[str, np.ndarray]]]:
    """What gives the arrays of a checkpoint, which is known to fit."""
    tensors = read.tensors
    params, batch_stats = model_shapes(config)
    result = plan(dialect, tensors.shapes, {**params, **batch_stats}, tensors.types)
    known = known_shapes(dialect, tensors.shapes)
    found, expected = size_of_shapes(known), size_of_config(config)
    hints = [f"{read.taken_off} is taken off its names"] if read.taken_off else []
    if found != expected and found is not None:
        named = f"size {expected}" if expected else "no published size"
        hints.append(f"the weights look like size {found}, the configuration is that of {named}")
    result.check(source, "; ".join(hints))
    called = {ours: name for ours, (name, _) in result.origins.items()}

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        return finite(fill(result, tensors), source, called)

    return arrays


def _notes(files: Files, place: str, read: Recognised) -> tuple[str, ...]:
    notes = [] if files.usual else [f"weights of {read.dialect.name} in {files.name}"]
    if place:
        notes.append(f"those under {printable(place)}")
    if read.taken_off:
        notes.append(f"{printable(read.taken_off)} taken off their names")
    return tuple(notes)


def _left_out(read: Recognised) -> tuple[str, ...]:
    names = read.left_out
    if not names:
        return ()
    some = ", ".join(map(printable, names[:MOST_NAMED]))
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    why = f", because their names don't begin with {printable(read.taken_off)}" if read.taken_off else ""
    return (f"left out{why}: {some}{more}",)


def _renamed(model: StoredModel, class_names: Sequence[str] | None) -> StoredModel:
    if class_names is None:
        return model
    if len(class_names) != model.config.num_classes:
        raise CheckpointError(
            f"{model.source} has {model.config.num_classes} classes, but {len(class_names)} names were given"
        )
    for name in class_names:
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise CheckpointError(f"the class name {name!r:.100} is no text: it has bytes that are no UTF-8")
    return model._replace(config=model.config.with_classes(tuple(class_names)))
