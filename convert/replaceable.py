"""Whether a folder is a model's and nothing else, so that another model may take its place without a loss."""

import os
from fnmatch import fnmatchcase
from pathlib import Path

from convert.fill import CheckpointError
from dfine_jax.errors import InputError
from dfine_jax.json_file import read_object

FORMAT = "dfine-jax"
"""What the ``config.json`` of a converted folder names."""
CONFIG, WEIGHTS = "config.json", "weights"
_FILES = (
    CONFIG,
    "preprocessor_config.json",
    "thresholds.json",
    "README.md",
    "LICENSE",
    "SHA256SUMS",
    "model*.safetensors",
    "model*.safetensors.index*.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index*.json",
    ".gitattributes",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
)
"""Files that lie in models' folders, and what systems put into any folder."""
_FILES_OF_WEIGHTS = (
    "_METADATA",
    "_CHECKPOINT_METADATA",
    "_sharding",
    "commit_success.txt",
    "manifest.ocdbt",
    ".DS_Store",
)
_FOLDERS_OF_WEIGHTS = ("d", "array_metadatas", "ocdbt.process_*")
"""What Orbax makes of weights."""
MOST_NAMED = 3


def check_replaceable(folder: Path) -> None:
    """``CheckpointError`` unless all that a folder holds is a model: what is foreign to one would be lost with it."""
    refused = "it won't be replaced"
    if not os.path.lexists(folder / CONFIG):
        raise CheckpointError(f"{folder} is not a model's folder (no {CONFIG}), {refused}")
    try:
        about = read_object(folder / CONFIG)
    except InputError as error:
        raise CheckpointError(f"{error}: {folder} may not be a model's folder, {refused}") from None
    if about.get("format") != FORMAT and about.get("model_type") != "d_fine":
        raise CheckpointError(f"{folder} is not a folder of a D-FINE model ({CONFIG} is of something else), {refused}")
    foreign = _foreign(folder, _FILES, (WEIGHTS,))
    if (folder / WEIGHTS).is_dir():
        foreign += [f"{WEIGHTS}/{name}" for name in _foreign(folder / WEIGHTS, _FILES_OF_WEIGHTS, _FOLDERS_OF_WEIGHTS)]
    if foreign:
        more = f" and {len(foreign) - MOST_NAMED:,} more" if len(foreign) > MOST_NAMED else ""
        raise CheckpointError(
            f"{folder} holds what is no part of a model ({', '.join(foreign[:MOST_NAMED])}{more}), {refused}: move "
            "that elsewhere, or choose another name"
        )


def _foreign(folder: Path, files: tuple[str, ...], folders: tuple[str, ...]) -> list[str]:
    """What has another name than a file or a folder may have there."""
    foreign = []
    for entry in sorted(folder.iterdir()):
        expected = folders if entry.is_dir() and not entry.is_symlink() else files
        if not any(fnmatchcase(entry.name, pattern) for pattern in expected):
            foreign.append(entry.name)
    return foreign
