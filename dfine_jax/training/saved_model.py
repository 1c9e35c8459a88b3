"""The folder with a training's best model: written whole, and looked at before anybody is told that it is there."""

import os
import re
import secrets
from pathlib import Path

import numpy as np

from dfine_jax.config import DFineConfig
from dfine_jax.json_file import read_object
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.training.errors import TrainingError, WriteError, first_line
from dfine_jax.training.folder import require_ours, writing
from dfine_jax.training.packing import Values
from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.folder import open_folder, save_folder
from dfine_jax.weights.replaceable import check_replaceable


class ModelFolder:
    """A model beside a training's checkpoints, which knows of which step it is."""

    def __init__(self, path: Path, preprocessing: Preprocessing, source: str):
        """``source`` is kept as a note, with the step."""
        self.path = path
        self._preprocessing, self._source = preprocessing, source

    def write(self, config: DFineConfig, params: Values, batch_stats: Values, step: int) -> None:
        """Writes the model, complete or not at all, in place of one that is there; ``WriteError`` where that fails."""
        require_ours(self.path.parent)
        arrays = {**params, **batch_stats}
        with writing("the model to", self.path):
            self._set_aside_what_may_be_the_users()
            note = f"{self._source}, step {step}"
            try:
                save_folder(self.path, config, self._preprocessing, arrays.items(), source=note, replace=True)
            except CheckpointError as error:  # the disk is full, for example
                raise WriteError(str(error)) from error
            except (ValueError, RuntimeError) as error:  # what Orbax makes of a folder that goes while it writes
                raise WriteError(f"can't write the model to {self.path}: {first_line(error)}") from error

    def holds(self, config: DFineConfig, params: Values, batch_stats: Values) -> bool:
        """Whether exactly this model is there, to the bit."""
        try:
            stored = open_folder(self.path)
            found = dict(stored.arrays())
        except Exception:  # whatever is wrong with it
            return False
        wanted = {**params, **batch_stats}
        return stored.config == config and all(
            np.asarray(found[name]).tobytes() == np.asarray(value).tobytes() for name, value in wanted.items()
        )

    def _set_aside_what_may_be_the_users(self) -> None:
        """Gives another name to what is there and is more, or something else, than a model that may be replaced."""
        if not os.path.lexists(self.path):
            return
        try:
            check_replaceable(self.path)
        except CheckpointError:
            self.path.rename(self.path.with_name(f"{self.path.name}.set_aside.{secrets.token_hex(2)}"))

    def step(self) -> int | None:
        """The step that the model is of; None where there is none, or none that can be read."""
        try:
            self.require()
            found = re.search(
                r", step (\d+)$", str(read_object(self.path / "config.json", TrainingError).get("source"))
            )
        except ValueError:
            return None
        return int(found[1]) if found else None

    def require(self) -> None:
        """``TrainingError`` unless a model is there that can be read."""
        try:
            for _ in open_folder(self.path).arrays():
                pass
        except Exception as error:
            raise TrainingError(
                f"the model in {self.path} can't be read ({first_line(error)}): --resume writes it again"
            ) from error
