"""Checkpoints: the whole state of a training, written in the background, each complete or not there at all.

Why not Orbax's: what it writes can be changed without its noticing, a full disk is hundreds of lines from threads of
its own, and its strength, arrays spread over machines, is of no use for a state that is whole on every device.
"""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from dfine_jax.training.errors import TrainingError, WriteError, first_line
from dfine_jax.training.snapshot import DamagedError, read_snapshot, steps_in, sweep, verify_snapshot, write_snapshot
from dfine_jax.training.step import TrainState


class Standing(NamedTuple):
    """How a training stands at a checkpoint, besides its state."""

    step: int = 0
    """Batches seen: it gives the loader's position."""
    best_ap: float | None = None
    """Of all evaluations so far."""
    best_step: int | None = None
    worse_since: int = 0
    """Evaluations since the best."""


class Restored(NamedTuple):
    """The last checkpoint that is whole."""

    state: TrainState
    standing: Standing
    damaged: str
    """One line about later ones that are not; empty where there are none."""


class Checkpoints:
    """A folder of checkpoints, of which the last ``keep`` and the one with the best AP stay.

    With several processes the first reads and writes, and tells the others.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self._keep = max(keep, 1)
        self._writes = jax.process_index() == 0
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None
        if self._writes:
            sweep(folder)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        """Waits until everything is written; another exception goes before one about that."""
        self._wait()
        if kind is None:
            self.check()

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, whole or damaged, in their order."""
        return steps_in(self.folder)

    def save(self, state: TrainState, standing: Standing, *, forget: bool = True) -> None:
        """Copies the state and writes it in the background; waits first where the last one is still being written.

        Afterwards older ones are removed, unless ``forget`` is false.
        """
        self._wait()
        self.check()
        if not self._writes:
            return
        arrays = on_host(_by_name(state))
        self._writer = threading.Thread(target=self._write, args=(arrays, standing, forget), daemon=True)
        self._writer.start()

    def check(self) -> None:
        """``WriteError`` if what was to be written in the background could not be."""
        if self._error is not None:
            raise WriteError(f"can't write a checkpoint to {self.folder}: {first_line(self._error)}") from self._error

    def restore(self, like: TrainState) -> Restored | None:
        """The last checkpoint that is whole, on the devices and in the shapes of ``like``; None if there is none yet.

        Raises:
            TrainingError: none is whole, or it is of another model.
        """
        whole = self._last_whole() if self._writes else None
        damaged = ""
        if whole is not None:
            arrays, standing, damaged = whole
            like_arrays = _by_name(like)
            if {name: x.shape for name, x in arrays.items()} != {name: x.shape for name, x in like_arrays.items()}:
                raise TrainingError(
                    f"{self.folder / str(standing.step)} is a checkpoint of another model than this training's: "
                    "choose another output folder"
                )
            leaves = [arrays[name] for name in like_arrays]
        else:
            leaves, standing = jax.tree.leaves(like), None
        if jax.process_count() > 1:
            leaves, standing = _as_the_first_has_them(leaves, standing)
        if standing is None:
            return None
        leaves = [jax.device_put(new, old.sharding) for new, old in zip(leaves, jax.tree.leaves(like), strict=True)]
        return Restored(jax.tree.unflatten(jax.tree.structure(like), leaves), standing, damaged)

    def read(self, step: int, like: TrainState) -> TrainState:
        """The checkpoint of a step, as arrays of the host; ``DamagedError`` where it is not whole or is not there."""
        arrays = read_snapshot(self.folder / str(step)).arrays
        names = _by_name(like)
        if names.keys() != arrays.keys():
            raise DamagedError("it is of another model")
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])

    def kept(self) -> str:
        """Says which checkpoint a training that has to end can be gone on from."""
        self._wait()
        for step in reversed(self.steps):
            try:
                verify_snapshot(self.folder / str(step))
            except DamagedError:
                continue
            return f"the checkpoint of step {step} is whole: go on from it with --resume"
        return "there is no checkpoint yet"

    def _last_whole(self) -> tuple[Mapping[str, np.ndarray], Standing, str] | None:
        problems = []
        for step in reversed(self.steps):
            try:
                arrays, facts = read_snapshot(self.folder / str(step))
                standing = Standing(**facts)
            except (DamagedError, TypeError) as error:
                problems.append(f"{self.folder / str(step)} is damaged ({error})")
                continue
            return arrays, standing, f"{'; '.join(problems)}: going on from step {step}" if problems else ""
        if problems:
            raise TrainingError(
                f"no checkpoint is whole: {'; '.join(problems)}; start again in another folder, or delete this one"
            )
        return None

    def _write(self, arrays: Mapping[str, np.ndarray], standing: Standing, forget: bool) -> None:
        try:
            self.folder.mkdir(exist_ok=True)  # but not the training's own, if that was removed
            write_snapshot(self.folder / str(standing.step), arrays, standing._asdict())
            if forget:
                self._forget(standing)
        except Exception as error:  # is raised where the training looks for it
            self._error = error

    def _forget(self, standing: Standing) -> None:
        """Removes all but the last ones and the best; also later ones: they are damaged, and were gone back from."""
        earlier = [step for step in self.steps if step <= standing.step]
        for step in set(self.steps) - set(earlier[-self._keep :]) - {standing.best_step}:
            shutil.rmtree(self.folder / str(step), ignore_errors=True)

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None


def on_host(tree: Any) -> Any:
    """Copies of the tree's arrays that stay as they are when the state is used up."""
    return jax.tree.map(np.array, jax.device_get(tree))


def _by_name(state: TrainState) -> dict[str, jax.Array]:
    """The state's arrays by their places in it, joined by dots: no file depends on the nesting of an optimizer."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _as_the_first_has_them(leaves: list, standing: Standing | None) -> tuple[list[np.ndarray], Standing | None]:
    """A state and a standing as process 0 has them, in all processes."""
    absent = np.nan if standing is None else 1.0
    known = [np.nan if value is None else float(value) for value in standing or Standing()]
    # As whole numbers: processes are told by adding up what all have, which would make a plain zero of a negative one.
    told = [np.asarray(leaf).view(np.uint32) for leaf in on_host(leaves)]
    numbers = np.array([absent, *known], np.float64).view(np.uint32)
    *told, numbers = multihost_utils.broadcast_one_to_all([*told, numbers])
    there, step, best_ap, best_step, worse_since = np.asarray(numbers).view(np.float64)
    types = [leaf.dtype for leaf in leaves]
    restored = [np.asarray(x).view(kind) for x, kind in zip(told, types, strict=True)]
    if np.isnan(there):
        return restored, None
    best = (None, None) if np.isnan(best_step) else (float(best_ap), int(best_step))
    return restored, Standing(int(step), *best, int(worse_since))
