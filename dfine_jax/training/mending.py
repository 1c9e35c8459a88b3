"""The best model, put back where a training that is gone on with has lost it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from dfine_jax.config import DFineConfig
from dfine_jax.training.checkpoint import Checkpoints, Standing
from dfine_jax.training.packing import Values
from dfine_jax.training.snapshot import DamagedError
from dfine_jax.training.step import TrainState


class SavedModel(Protocol):
    """Where the best model lies (``dfine_jax.training.saved_model.ModelFolder`` is one); for the first process."""

    def write(self, config: DFineConfig, params: Values, batch_stats: Values, step: int) -> None:
        """Puts the average of a step there."""

    def holds(self, config: DFineConfig, params: Values, batch_stats: Values) -> bool:
        """Whether exactly these values are there."""

    def step(self) -> int | None:
        """The step that what is there is of; None where there is nothing that can be read."""


class Average(NamedTuple):
    """What is evaluated and saved of a state."""

    config: DFineConfig
    params: Values
    batch_stats: Values


def mend_model(
    save: SavedModel | None,
    best: int,
    state: TrainState,
    standing: Standing,
    checkpoints: Checkpoints,
    average_of: Callable[[TrainState], Average],
) -> tuple[Standing, str]:
    """Writes the model of the step ``best`` again where it isn't there, as after a kill between checkpoint and model.

    Returns the standing, and what to say. Where that step's checkpoint is lost, too, the model of ``state`` is written,
    and the next evaluation's is the best. All processes must call it; ``save`` is for the first.
    """
    lost, told = (False, "") if save is None else _mend(save, best, state, standing, checkpoints, average_of)
    if jax.process_count() > 1:
        lost = bool(multihost_utils.broadcast_one_to_all(np.array(lost)))
    return standing._replace(best_ap=None, best_step=None, worse_since=0) if lost else standing, told


def _mend(
    save: SavedModel,
    best: int,
    state: TrainState,
    standing: Standing,
    checkpoints: Checkpoints,
    average_of: Callable[[TrainState], Average],
) -> tuple[bool, str]:
    """Whether the best model is lost, and what to say."""
    try:
        average = average_of(state if best == standing.step else checkpoints.read(best, state))
    except DamagedError as error:
        if save.step() == best:
            return False, ""
        save.write(*average_of(state), standing.step)
        return True, (
            f"the best model, of step {best}, is lost, and its checkpoint is damaged, too ({error}): "
            f"that of step {standing.step} is in its place until there is a better one"
        )
    if save.holds(*average):
        return False, ""
    save.write(*average, best)
    return False, f"the model of step {best} was not there, or damaged: it is written again from its checkpoint"
