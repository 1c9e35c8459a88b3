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
from dfine_jax.limits import LARGEST_SIDE
from dfine_jax.model_shapes import model_shapes
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.explanation import Became, explained
from dfine_jax.weights.families import Signs, Told, masks_left_out, told_family
from dfine_jax.weights.fill import CheckpointError, Shape, Source, fill, finite, plan
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
from dfine_jax.weights.names import Recognised, count_known, recognise
from dfine_jax.weights.rules import BACKBONES, HUB, ORIGINAL, Dialect, Ignored
from dfine_jax.weights.weight_files import Files, Opened, is_index, listed, open_weights, weights_in

DETECTORS = (HUB, ORIGINAL)
"""Dialects of whole detectors."""

_PLAIN = (b"{\n", b"{\r", b'{"', b"{ ")
"""How JSON in UTF-8 without a byte order mark begins."""
MOST_NAMED = 5
"""Tensors that are named in a remark about many."""


def open_model(
    path: Path,
    *,
    source: str | None = None,
    size: str | None = None,
    family: str | None = None,
    class_names: Sequence[str] | None = None,
) -> StoredModel:
    """Opens a converted folder, one with ``config.json`` and weights, or a file of weights, told by what is in it.

    ``source`` is what messages call it. ``size`` (n, s, m, l, x) is for weights without ``config.json`` whose shapes
    should not tell it, ``family`` (dfine, deim, rtdetrv4) for those where nothing tells it; ``class_names`` replace
    those that come with the model. ``CheckpointError`` says all that is wrong at once.
    """
    source = source or str(path)
    if not os.path.lexists(path):
        raise CheckpointError(f"{path}: there is no such file or folder")
    if path.is_dir() and is_converted(path):
        _refuse("size", size, source)
        _refuse("family", family, source)
        return _renamed(open_folder(path)._replace(source=source), class_names)
    if path.is_dir():
        config = _read_config(path)
        if config is not None:
            _described(config, source)  # another kind of model is a better reason than what its weights lack
        files = weights_in(path)
    else:
        files = listed(path) if is_index(path.name) else Files((path,), path.name)
        config = _config_beside(path)
    opened = _opened(files, config, path if path.is_dir() else None, source, size, family)
    return _renamed(opened._replace(place=path), class_names)


def read_backbone(path: Path, config: DFineConfig) -> dict[str, np.ndarray]:
    """The backbone's arrays by our names, from HGNetV2 trained alone.

    That may be the original release's ``.pth``, timm's or transformers' file, or PaddlePaddle's ``.pdparams``; a whole
    detector's file will do as well. ``CheckpointError`` says all that is wrong at once.
    """
    read = recognise(open_weights(Files((path,), path.name), BACKBONES).tensors, BACKBONES, str(path))
    tensors = read.tensors
    params, batch_stats = model_shapes(config)
    targets = {name: shape for name, shape in {**params, **batch_stats}.items() if name.startswith("backbone.")}
    result = plan(read.dialect, tensors.shapes, targets, tensors.types)
    result.check(str(path), f"expected HGNetV2 alone, of the size that is trained ({size_of_config(config) or 'own'})")
    return dict(finite(fill(result, tensors), str(path), {ours: name for ours, (name, _) in result.origins.items()}))


def _opened(
    files: Files,
    given: Mapping[str, Any] | None,
    folder: Path | None,
    source: str,
    size: str | None,
    family: str | None,
) -> StoredModel:
    """The model whose weights are in ``files``; ``given`` is what its ``config.json`` says, where there is one.

    ``folder``: all that lies in it belongs to the model; None where a file was named.
    """
    opened = open_weights(files, DETECTORS)
    read = _recognised(opened.tensors, source)
    shapes = read.tensors.shapes
    dialect, remarks = read.dialect, (*_left_out(read), *masks_left_out(shapes))
    if given is None:
        config = inferred_config(dialect, shapes, source, size)
        config = _noted_names(config, opened.about)
        preprocessing, said = _told_preprocessing(opened, shapes, config, folder)
        if dialect is HUB:
            said = (*said, f"there is no config.json: size {size_of_config(config)} is told from the weights' shapes")
    else:
        _refuse("size", size, source)
        classes = classes_of_shapes(known_shapes(dialect, shapes))
        config, dialect = _described(given, source, classes), _with_surplus(dialect, given)
        preprocessing, said = preprocessing_in(files.paths[0].parent)
        if disagreement := labels_disagree(given):
            remarks = (*remarks, f"{disagreement}; {config.num_classes} classes are taken")
    arrays, explain = _checked(dialect, read, config, source, opened.tensors.shapes)
    signs = Signs(shapes.keys(), files.paths[0], size_of_config(config), opened.about)
    if told := _family_of(signs, read.dialect, given, family, source):
        config = config.with_decoder_activation(told.activation)
        remarks = (*remarks, *([told.remark] if told.remark else []))
    notes = _notes(files, opened.place, read)
    for_transformers = (
        folder is not None and given is not None and files.usual and not notes and _is_plain(folder, given)
    )
    hub_folder = folder if for_transformers and told is None else None
    return StoredModel(
        source, config, preprocessing, arrays, hub_folder, notes=notes, remarks=(*remarks, *said), explain=explain
    )


def _recognised(tensors: Source, source: str) -> Recognised:
    """A detector's names; ``CheckpointError`` with what to do where there is a backbone alone."""
    try:
        return recognise(tensors, DETECTORS, source)
    except CheckpointError:
        if any(count_known(dialect, tensors.shapes) for dialect in BACKBONES):
            raise CheckpointError(
                f"{source} holds HGNetV2 alone, no detector: start a training from it, dfine train --backbone {source}"
            ) from None
        raise


def _family_of(
    signs: Signs, dialect: Dialect, given: Mapping[str, Any] | None, family: str | None, source: str
) -> Told | None:
    """What the decoder computes where no ``config.json`` says it, or another than that is given or proven.

    transformers has D-FINE alone, so names as it has them are of D-FINE unless something else is given.
    """
    if dialect is ORIGINAL and given is None:
        return told_family(signs, family, source)
    if family is None and signs.proof() is None:
        return None
    return told_family(signs, family, source)


def _noted_names(config: DFineConfig, about: Mapping[str, Any]) -> DFineConfig:
    """With the names of classes that lie beside the weights, where there is one for each."""
    names = about.get("names")
    if not isinstance(names, Mapping) or set(names) != set(range(config.num_classes)):
        return config
    texts = tuple(names[i] for i in range(config.num_classes))
    return config.with_classes(texts) if all(isinstance(text, str) and text for text in texts) else config


def _told_preprocessing(
    opened: Opened, shapes: Mapping[str, Shape], config: DFineConfig, folder: Path | None
) -> tuple[Preprocessing, tuple[str, ...]]:
    """How a model without ``config.json`` wants its pictures, and remarks."""
    if side := original_picture_side(shapes, config):
        return Preprocessing(side, side), ()
    side = opened.about.get("imgsz")
    if isinstance(side, int) and not isinstance(side, bool) and side % 32 == 0 and 0 < side <= LARGEST_SIDE:
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


def _refuse(what: str, given: str | None, source: str) -> None:
    if given is not None:
        raise CheckpointError(f"{source}: a {what} can be given for a .pth only; config.json says it here")


def _with_surplus(dialect: Dialect, given: Mapping[str, Any]) -> Dialect:
    """Decoder layers past ``eval_idx``, which ``config.json`` speaks of and nothing computes, are passed over."""
    surplus = "|".join(map(str, surplus_layers(given)))
    if not surplus or dialect is not HUB:
        return dialect
    pattern = rf"model\.decoder\.(layers|class_embed|bbox_embed|lqe_layers)\.({surplus})\..*"
    unused = Ignored(pattern, "a layer past the one that counts, which nothing computes")
    return replace(dialect, ignored=(*dialect.ignored, unused))


def _checked(
    dialect: Dialect, read: Recognised, config: DFineConfig, source: str, stored: Mapping[str, Shape]
) -> tuple[Callable[[], Iterator[tuple[str, np.ndarray]]], Callable[[], list[Became]]]:
    """What gives the arrays of a checkpoint, which is known to fit, and what tells what became of each."""
    tensors = read.tensors
    params, batch_stats = model_shapes(config)
    targets = {**params, **batch_stats}
    result = plan(dialect, tensors.shapes, targets, tensors.types)
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

    return arrays, lambda: explained(dialect, read, stored, result, targets)


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
