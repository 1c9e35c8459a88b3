"""Whether a folder is a model's and nothing else, so that another model may take its place without a loss."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from dfine_jax.errors import InputError
from dfine_jax.json_file import read_object
from dfine_jax.weights.fill import CheckpointError

FORMAT = "dfine-jax"
"""What the ``config.json`` of a converted folder names."""
CONFIG, WEIGHTS = "config.json", "weights"
EXPORT_FORMAT, MANIFEST = "dfine-jax export", "manifest.json"
"""What the manifest of an exported model names, and the manifest's own name."""
_FILES = (
    r"(preprocessor_)?config\.json|(thresholds|calibration)\.json|README\.md|LICENSE|SHA256SUMS|\.gitattributes"
    r"|manifest\.json|model\.(stablehlo|onnx)|weights\.npz"
    r"|(model|pytorch_model)[^/]*\.(safetensors|bin)(\.index[^/]*\.json)?"
    r"|weights/(_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt|array_metadatas/process_\d+)"
    r"|weights/(ocdbt\.process_\d+/)?(manifest\.ocdbt|d/[0-9a-f]{32})"
    r"|([^/]+/)*(\.DS_Store|Thumbs\.db|desktop\.ini)"
)
"""Files that lie in models' folders, what Orbax makes of weights, and what systems put into any folder."""
_FOLDERS = r"weights(/(ocdbt\.process_\d+(/d)?|d|array_metadatas))?"
MOST_NAMED = 3


def check_replaceable(folder: Path) -> None:
    """``CheckpointError`` unless all that a folder holds is a model: what is foreign to one would be lost with it."""
    refused = "it won't be replaced"
    says = next((name for name in (CONFIG, MANIFEST) if os.path.lexists(folder / name)), None)
    if says is None:
        raise CheckpointError(f"{folder} is not a model's folder (no {CONFIG}), {refused}")
    try:
        about = read_object(folder / says)
    except InputError as error:
        raise CheckpointError(f"{error}: {folder} may not be a model's folder, {refused}") from None
    if about.get("format") not in (FORMAT, EXPORT_FORMAT) and about.get("model_type") != "d_fine":
        raise CheckpointError(f"{folder} is not a folder of a D-FINE model ({says} is of something else), {refused}")
    foreign = list(islice(_foreign(folder), MOST_NAMED + 1))
    if foreign:
        more = ", ..." if len(foreign) > MOST_NAMED else ""
        raise CheckpointError(
            f"{folder} holds what is no part of a model ({', '.join(foreign[:MOST_NAMED])}{more}), {refused}: move "
            "that elsewhere, or choose another name"
        )


def _foreign(folder: Path, inside: str = "") -> Iterator[str]:
    """Files and folders that no model has, by their names within the folder; not what is in such folders."""
    for entry in sorted((folder / inside).iterdir()):
        name = entry.relative_to(folder).as_posix()
        is_folder = entry.is_dir() and not entry.is_symlink()
        if not re.fullmatch(_FOLDERS if is_folder else _FILES, name, re.ASCII):
            yield name
        elif is_folder:
            yield from _foreign(folder, name)
