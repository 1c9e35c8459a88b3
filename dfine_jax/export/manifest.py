"""``manifest.json`` of an exported artefact: what it takes and gives, of what classes, and what it was made by."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dfine_jax.errors import InputError
from dfine_jax.export.exportable import Port
from dfine_jax.json_file import read_object
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.folder import write_json
from dfine_jax.weights.replaceable import EXPORT_FORMAT, MANIFEST

VERSION = 1
KINDS = ("stablehlo", "onnx")


@dataclass(frozen=True)
class Manifest:
    """What a program reading the artefact has to know."""

    kind: str
    """``"stablehlo"`` or ``"onnx"``."""
    file: str
    """The program's, in the same folder."""
    weights: str | None
    """The file of weights, the program's first argument as a dictionary; None where they are inside."""
    model: str
    """The name that the model was opened by."""
    end_to_end: bool
    batch_size: int | None
    """None for any."""
    dtype: str
    """Of the large products."""
    inputs: tuple[Port, ...]
    """In the order of the program's arguments."""
    outputs: tuple[Port, ...]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    versions: Mapping[str, str]
    """Of the packages and formats that it was written with."""
    readable: str
    """Who promises to read it, and for how long."""

    def save(self, folder: Path) -> None:
        """Writes it into the artefact's folder."""
        fields = {"format": EXPORT_FORMAT, "version": VERSION, **asdict(self)}
        count = self.batch_size or "any"
        fields["batch_size"] = count
        for side in ("inputs", "outputs"):
            fields[side] = [_described(port, "batch" if count == "any" else count) for port in getattr(self, side)]
        fields["preprocessing"] = self.preprocessing.to_json()
        write_json(folder / MANIFEST, fields)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """That of an artefact's folder; ``InputError`` in one line where there is none or it doesn't fit."""
        path = folder / MANIFEST
        fields = read_object(path)
        if fields.pop("format", None) != EXPORT_FORMAT:
            raise InputError(f"{path} is not the manifest of an exported model")
        if fields.pop("version", None) != VERSION:
            raise InputError(f"{path} is of another version of dfine_jax: export the model again, or use that version")
        try:
            for side in ("inputs", "outputs"):
                fields[side] = tuple(_port(port) for port in fields[side])
            fields["preprocessing"] = Preprocessing.from_json(fields["preprocessing"])
            fields["batch_size"] = None if fields["batch_size"] == "any" else int(fields["batch_size"])
            fields["classes"] = tuple(map(str, fields["classes"]))
            manifest = cls(**fields)
            if manifest.kind not in KINDS or Path(manifest.file).name != manifest.file:
                raise ValueError(f"kind {manifest.kind!r:.40}, file {manifest.file!r:.40}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}): export the model again") from None
        return manifest


def _described(port: Port, count: int | str) -> dict[str, Any]:
    return {"name": port.name, "shape": [count, *port.shape], "type": port.dtype, "meaning": port.meaning}


def _port(fields: Mapping[str, Any]) -> Port:
    return Port(fields["name"], tuple(map(int, fields["shape"][1:])), fields["type"], fields["meaning"])
