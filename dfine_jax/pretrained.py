"""From a name to a trained model."""

import difflib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dfine_jax.bundled import SHAPES_MODEL
from dfine_jax.config import DFineConfig
from dfine_jax.ops.compute import Compute
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.published import PUBLISHED
from dfine_jax.weights.atomic import recover
from dfine_jax.weights.file_type import WEIGHTS_ENDINGS
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.folder import StoredModel, save_folder
from dfine_jax.weights.hub_download import download
from dfine_jax.weights.sources import open_model

if TYPE_CHECKING:
    from dfine_jax.model.dfine import DFine

SHORT_NAMES: dict[str, str] = {"shapes": str(SHAPES_MODEL), **{name: model.repo for name, model in PUBLISHED.items()}}
"""The published models, repositories on the Hub, and the one that comes with the package, a folder."""

_SIZES = {"n": "nano", "s": "small", "m": "medium", "l": "large", "x": "xlarge"}
_OLDER_SPELLING = re.compile(r"dfine[-_](n|s|m|l|x|nano|small|medium|large|xlarge)[-_](\w+?)([-_]e25)?")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class Pretrained(NamedTuple):
    """A trained model and what belongs to it."""

    model: "DFine"
    config: DFineConfig
    preprocessing: Preprocessing
    source: str
    """Where it came from: a repository on the Hub or a path."""
    remarks: tuple[str, ...] = ()
    """What was assumed or left out, and should be known before relying on the model."""


def load_pretrained(
    name: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | None = None,
    family: str | None = None,
    class_names: Sequence[str] | None = None,
    compute: Compute = Compute(),
) -> Pretrained:
    """Loads a trained model.

    ``name`` is a short name (``shapes``, which needs no network, ``nano-coco`` and others, see ``SHORT_NAMES``; also
    spelt ``dfine_n_coco``), a repository on the Hub (``owner/name``, ``revision`` and ``token`` are for it), a folder
    in the Hub's layout, a converted folder, or a checkpoint of PyTorch (needs PyTorch; ``family``, "dfine", "deim" or
    "rtdetrv4", is for one that doesn't tell whose it is). ``class_names`` replace those that come with the model.
    ``CheckpointError`` (a ``ValueError``) says what is wrong with the name or with the weights; what had to be assumed
    is a warning, and in ``remarks``.
    """
    stored = open_pretrained(name, revision=revision, token=token, family=family, class_names=class_names)
    warn_of(stored)
    return read_stored(stored, compute)


def read_stored(stored: StoredModel, compute: Compute = Compute()) -> Pretrained:
    """Reads the weights of a model that ``open_pretrained`` found."""
    import jax

    from dfine_jax.model.dfine import DFine, load  # a Detector that starts with a kept program needs no Flax

    model = DFine(stored.config, compute=compute)
    # Each is copied, as a file that lies behind it may change; jnp.asarray would compile a program for every shape.
    load(model, {name: jax.device_put(np.array(value)) for name, value in stored.arrays()})
    return Pretrained(model, stored.config, stored.preprocessing, stored.source, stored.remarks)


def warn_of(stored: StoredModel) -> None:
    """Warns of what was assumed about a model or left out of it; the caller's caller is named."""
    for remark in stored.remarks:
        warnings.warn(f"{stored.source}: {remark}", stacklevel=3)


def save_pretrained(
    folder: str | os.PathLike, model: "DFine", preprocessing: Preprocessing = Preprocessing(), *, replace: bool = False
) -> None:
    """Writes a model as a folder that ``load_pretrained`` reads; ``replace`` allows it to take another one's place."""
    save_folder(Path(folder), model.config, preprocessing, arrays_of(model), replace=replace)


def arrays_of(model: "DFine") -> Iterator[tuple[str, np.ndarray]]:
    """Gives a model's variables one by one, by dotted name, from the device: what folders of weights are written of."""
    from dfine_jax.model.dfine import variables

    params, batch_stats = variables(model)
    return ((name, np.asarray(value)) for name, value in {**params, **batch_stats}.items())


def open_pretrained(
    name: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | None = None,
    size: str | None = None,
    family: str | None = None,
    class_names: Sequence[str] | None = None,
) -> StoredModel:
    """Finds a model by name and checks it, without reading its weights; see ``load_pretrained``."""
    name = os.fsdecode(name)
    path = Path(os.path.expanduser(name))
    is_path = bool(name) and "\0" not in name
    given = dict(size=size, family=family, class_names=class_names)
    if is_path:
        recover(path)  # where a process was killed while it replaced the folder
    if is_path and _exists(path):
        return open_model(path, **given)
    place = SHORT_NAMES.get(_canonical(name), name)
    if place != name and Path(place).exists():
        return open_model(Path(place), source=name, **given)
    if not _HUB_ID.fullmatch(place) or place.endswith(WEIGHTS_ENDINGS):
        raise CheckpointError(_unknown(name))
    folder = download(place, revision=revision, token=token)
    return open_model(folder, source=place, **given)


def _exists(path: Path) -> bool:
    """Whether there is something, if only a link to nothing; ``CheckpointError`` where that can't be seen."""
    try:
        os.lstat(path)
    except PermissionError as error:
        raise CheckpointError(f"{path} can't be looked at ({error.strerror})") from None
    except (OSError, ValueError):
        return False
    return True


def _canonical(name: str) -> str:
    """The short name for the spellings with ``dfine`` in front: ``dfine_x_coco``, ``dfine-xlarge-coco``."""
    match = _OLDER_SPELLING.fullmatch(name)
    return f"{_SIZES.get(match[1], match[1])}-{match[2]}" if match else name


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(_canonical(name), SHORT_NAMES, n=3, cutoff=0.5)
    names = [*close, *(other for other in SHORT_NAMES if other not in close)]
    return (
        f"no model {name!r:.200}: give one of {', '.join(names)}, a Hub repository as owner/name, "
        "a folder (with config.json and weights), or a .pth file"
    )
