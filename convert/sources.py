"""A model on disk in any of the forms that are known, checked against its configuration before a tensor is read."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from convert.fill import CheckpointError, Source, fill, plan
from convert.folder import StoredModel, is_converted, model_shapes, open_folder, read_json
from convert.rules import BACKBONE, HUB, ORIGINAL, Dialect
from convert.tensors import PthFile, SafetensorsFiles
from convert.told import known_shapes, original_config, original_picture_side, size_of_config, size_of_shapes
from dfine_jax.config import DFineConfig
from dfine_jax.hub_config import from_hub, surplus_layers
from dfine_jax.inference.preprocess import Preprocessing

PTH_SUFFIXES = (".pth", ".pt")


def open_model(
    path: Path, *, source: str | None = None, size: str | None = None, class_names: Sequence[str] | None = None
) -> StoredModel:
    """Opens a Hub-layout folder or its ``.safetensors`` file, a converted folder, or a ``.pth`` of the original.

    ``source`` is what messages call it. ``size`` (n, s, m, l, x) is for a ``.pth`` whose shapes should not tell it;
    ``class_names`` replace those that come with the model. ``CheckpointError`` says all that is wrong at once.
    """
    source = source or str(path)
    if path.is_file() and path.suffix in PTH_SUFFIXES:
        return _open_original(path, source, size, class_names)
    if size is not None:
        raise CheckpointError(f"{source}: a size can be given for a .pth only; config.json says it here")
    if path.is_dir() and is_converted(path):
        return _renamed(open_folder(path)._replace(source=source), class_names)
    if path.is_dir():
        return _renamed(_open_hub(path, None, source), class_names)
    if path.name.endswith(".safetensors"):
        return _renamed(_open_hub(path.parent, path, source), class_names)
    if path.name.endswith(".safetensors.index.json"):
        return _renamed(_open_hub(path.parent, None, source), class_names)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    raise CheckpointError(f"{source}: expected a folder, a .safetensors file or a .pth")


def read_backbone(path: Path, config: DFineConfig) -> dict[str, np.ndarray]:
    """The backbone's arrays by our names, from HGNetV2 trained alone: the original release's ``.pth`` or timm's file.

    ``CheckpointError`` says all that is wrong at once.
    """
    if path.suffix in PTH_SUFFIXES:
        tensors: Source = PthFile(path, bare=True)
    else:
        tensors = SafetensorsFiles([path])
    params, batch_stats = model_shapes(config)
    targets = {name: shape for name, shape in {**params, **batch_stats}.items() if name.startswith("backbone.")}
    result = plan(BACKBONE, tensors.shapes, targets)
    result.check(str(path), f"expected HGNetV2 alone, of the size that is trained ({size_of_config(config) or 'own'})")
    return dict(fill(result, tensors))


def _open_hub(folder: Path, file: Path | None, source: str) -> StoredModel:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{source} has no config.json: expected config.json and model.safetensors")
    raw = read_json(folder / "config.json")
    config = from_hub(raw)
    files = SafetensorsFiles([file]) if file is not None else SafetensorsFiles.from_folder(folder)
    settings = folder / "preprocessor_config.json"
    preprocessing = Preprocessing.from_json(settings) if settings.is_file() else Preprocessing()
    surplus = "|".join(map(str, surplus_layers(raw)))
    unused = (rf"model\.decoder\.(layers|class_embed|bbox_embed|lqe_layers)\.({surplus})\..*",) if surplus else ()
    dialect = replace(HUB, ignored=(*HUB.ignored, *unused))
    model = _checked(dialect, files, config, preprocessing, source)
    return model._replace(hub_folder=folder if file is None else None)


def _open_original(path: Path, source: str, size: str | None, class_names: Sequence[str] | None) -> StoredModel:
    file = PthFile(path)
    config = original_config(file.shapes, source, size)
    side = original_picture_side(file.shapes, config)
    preprocessing = Preprocessing(side, side) if side else Preprocessing()
    return _renamed(_checked(ORIGINAL, file, config, preprocessing, source), class_names)


def _checked(
    dialect: Dialect, tensors: Source, config: DFineConfig, preprocessing: Preprocessing, source: str
) -> StoredModel:
    params, batch_stats = model_shapes(config)
    result = plan(dialect, tensors.shapes, {**params, **batch_stats})
    known = known_shapes(dialect, tensors.shapes)
    if not known:
        names = ", ".join(sorted(tensors.shapes)[:3]) or "nothing"
        raise CheckpointError(f"{source} holds no weights of D-FINE that {dialect.name} would write: {names}, ...")
    found, expected = size_of_shapes(known), size_of_config(config)
    hint = ""
    if found != expected and found is not None:
        named = f"size {expected}" if expected else "no published size"
        hint = f"the weights look like size {found}, the configuration is that of {named}"
    result.check(source, hint)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        return fill(result, tensors)

    return StoredModel(source, config, preprocessing, arrays)


def _renamed(model: StoredModel, class_names: Sequence[str] | None) -> StoredModel:
    if class_names is None:
        return model
    if len(class_names) != model.config.num_classes:
        raise CheckpointError(
            f"{model.source} has {model.config.num_classes} classes, but {len(class_names)} names were given"
        )
    return model._replace(config=model.config.with_classes(tuple(class_names)))
