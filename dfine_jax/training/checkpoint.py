"""Checkpoints: the whole state of a training, written in the background, each complete or not there at all."""

from pathlib import Path
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from dfine_jax.training.errors import TrainingError
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


class Checkpoints:
    """A folder of checkpoints, of which the last ``keep`` and the one with the best AP stay."""

    def __init__(self, folder: Path, keep: int):
        latest = preservation_policy.LatestN(keep)
        best = preservation_policy.BestN(
            get_metric_fn=lambda metrics: metrics["ap"], n=1, keep_checkpoints_without_metrics=False
        )
        self.folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_names=("state", "standing"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy([latest, best]),
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def latest(self) -> int | None:
        """The step of the last checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, standing: Standing, ap: float | None = None) -> None:
        """Copies the state and writes it in the background; waits first where the last one is still being written."""
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(_by_name(state)), standing=ocp.args.JsonSave(standing._asdict())
        )
        metrics = None if ap is None else {"ap": ap}
        try:
            self._manager.save(standing.step, args=arguments, metrics=metrics, force=True)
        except Exception as error:
            raise self._failure(error) from error

    def restore(self, like: TrainState) -> tuple[TrainState, Standing]:
        """The last checkpoint, on the devices and in the shapes of ``like``."""
        step = self.latest
        if step is None:
            raise TrainingError(f"{self.folder} has no checkpoint to go on from")
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _by_name(like).items()
        }
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), standing=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=arguments)
        except Exception as error:
            raise TrainingError(
                f"{self.folder / str(step)} does not fit this training or is damaged ({_first_line(error)}): "
                "delete it to go on from the one before"
            ) from error
        leaves = [restored["state"][name] for name in abstract]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), Standing(**restored["standing"])

    def close(self) -> None:
        """Waits until everything is written."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error
        finally:
            self._manager.close()

    def _failure(self, error: Exception) -> TrainingError:
        kept = "" if self.latest is None else f"; the one of step {self.latest} is whole: go on from it with --resume"
        return TrainingError(f"can't write a checkpoint to {self.folder}: {_first_line(error)}{kept}")


def _by_name(state: TrainState) -> dict[str, jax.Array]:
    """The state's arrays by their places in it, joined by dots: no file depends on the nesting of an optimizer."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
