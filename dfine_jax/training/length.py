"""How many steps a training has, and when it evaluates: known from the start, or laid by a clock as it goes.

Where their number is known, the first ones are measured to tell how long all of them will take.

Where only minutes are given, the first steps are measured once they are compiled, and as many laid as will fit,
evaluations and saving included. They are laid anew after a tenth of them, where the learning rates begin to fall (until
there it makes no difference to a step how many will follow), and a last time on their way down, from where they are.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from dfine_jax.data.loader import TrainBatches
from dfine_jax.training.optimizer import Pace
from dfine_jax.training.recipe import Recipe

COMPILED = 1
"""The step after which all is compiled, from which time is measured ..."""
FIRST = 8
"""... and the one after which steps are first laid."""
EARLY, LATE = 0.1, 0.85
"""After these shares of the steps they are laid a second and a last time."""
UNKNOWN = 1_000_000
"""Stands for the number of steps until they are laid."""
EVALUATION_SHARE = 0.05
"""Of the time that is left, for evaluations, before there was one."""
CLOSING_SECONDS = 4.0
"""From the last checkpoint to the end of the process."""

Lay = Callable[[int], Recipe]
"""Gives the recipe for a number of steps."""


@dataclass
class Clock:
    """When a training has to end, and what to do when its steps are laid."""

    began: float
    """``time.monotonic()`` when the command was given."""
    lay: Lay | None = None
    """Makes the recipe of a number of steps; without it only that number is changed."""
    most_steps: int = UNKNOWN
    """There are no more than these, however much time is left."""
    laid: Callable[[Recipe], None] | None = None
    """Is given each recipe that is laid, to keep it."""


class Length:
    """The steps of one training, of which ``done`` were there before."""

    def __init__(self, recipe: Recipe, clock: Clock | None, *, done: int, per_epoch: int, evaluations: int, every: int):
        """``evaluations`` in all, at equal distances; if 0, one ``every`` so many epochs."""
        self._clock = clock or Clock(time.monotonic())
        self._evaluations, self._every_epochs = evaluations, every * per_epoch
        self._open = recipe.minutes is not None and recipe.steps is None
        self._per_epoch, self._done = per_epoch, done
        self._first = done + FIRST
        self.recipe = replace(recipe, steps=UNKNOWN) if self._open else recipe
        self._early = self._late = math.inf
        self._since, self._from, self._paused = 0.0, 0, 0.0
        self._evaluated: list[float] = []
        self._is_paced = recipe.minutes is not None

    @property
    def total(self) -> int:
        """All steps, as far as they are laid."""
        return self.recipe.steps or self.recipe.epochs * self._per_epoch

    @property
    def is_open(self) -> bool:
        """Whether the total may change still."""
        return self._open

    @property
    def pace(self) -> tuple[Pace, ...]:
        """What a step is given besides state and batch: nothing where all was known when it was compiled."""
        if not self._is_paced:
            return ()
        return (Pace.of(self.recipe.optimization, self.recipe.averaging, self.total),)

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation after this step."""
        every = max(1, self.total // self._evaluations) if self._evaluations else self._every_epochs
        return step == self.total or (step % every == 0 and self.total - step >= every / 2)

    def evaluated(self, seconds: float) -> None:
        """Takes the time of an evaluation and all that comes with it."""
        self._evaluated.append(seconds)
        self._paused += seconds

    def batches(self, batches: TrainBatches) -> TrainBatches:
        """The same batches, as many as there are steps."""
        return replace(batches, steps=self.recipe.steps, strong_steps=self.recipe.steps_with_strong_augmentation or 0)

    def laid_after(self, step: int, result: Any) -> bool:
        """Lays steps anew where that is due after this one, waiting for its result first; whether it did."""
        if step == self._done + COMPILED:
            self._measure_from(step, result)
        falls = self._falls_from()
        if step not in (self._first, self._early, falls, self._late):
            return False
        jax.block_until_ready(result)
        total = max(step + 1, min(self._clock.most_steps, _agreed(self._fitting(step))))
        if step >= falls:
            self.recipe = _continued(self.recipe, step, total)
            self._open = self._late == math.inf
            self._late = max(round(LATE * total), step + 1)
        else:
            lay = self._clock.lay or (lambda steps: replace(self.recipe, steps=steps, strong_steps=None))
            self.recipe = lay(total)
            if step == self._first:
                self._early = max(round(EARLY * total), step + 1)
        self._measure_from(step, result)
        if self._clock.laid is not None:
            self._clock.laid(self.recipe)
        return True

    def left_after(self, step: int, result: Any) -> float | None:
        """Seconds to the end, once the first steps of a known number have been measured; None after all others.

        It waits for that step's result. Where pictures have several sizes, each of which is compiled when it is first
        there, the first steps tell nothing.
        """
        if self._open or self.recipe.scale_repeats or step >= self.total:
            return None
        if step == self._done + COMPILED:
            self._measure_from(step, result)
        if step != self._first:
            return None
        jax.block_until_ready(result)
        return self._seconds_of_step(step) * (self.total - step) / (1 - EVALUATION_SHARE)

    def _seconds_of_step(self, step: int) -> float:
        return (time.monotonic() - self._since - self._paused) / (step - self._from)

    def _measure_from(self, step: int, result: Any) -> None:
        jax.block_until_ready(result)
        self._since, self._from, self._paused = time.monotonic(), step, 0.0

    def _falls_from(self) -> int:
        """The step from which on it matters how many follow."""
        return min(self.recipe.flat_steps, self.recipe.steps_with_strong_augmentation or self.total - 1)

    def _fitting(self, step: int) -> int:
        """As many steps as will have been done when the time is over."""
        each = self._seconds_of_step(step)
        left = self._clock.began + 60 * self.recipe.minutes - time.monotonic() - CLOSING_SECONDS
        if self._evaluated and self._evaluations:
            # The first one compiled, the last ones tell what those to come will take.
            evaluation = float(np.median(self._evaluated[-3:]))
            left -= evaluation
            each += evaluation * self._evaluations / max(self.total, 1)
        else:
            left *= 1 - EVALUATION_SHARE
        return step + max(1, math.floor(left / each))


def _continued(recipe: Recipe, step: int, total: int) -> Recipe:
    """The recipe with another number of steps, in which learning rates go on from where they are after ``step``."""
    falling = round(recipe.optimization.cooldown * recipe.steps)
    done = (step - (recipe.steps - falling)) / falling if falling else 0.0
    cooldown = min(1.0, (total - step) / (1 - done) / total) if falling and done < 1 else 0.0
    strong = recipe.steps_with_strong_augmentation
    return replace(
        recipe,
        steps=total,
        strong_steps=strong if strong <= step else max(step, round(strong * total / recipe.steps)),
        optimization=replace(recipe.optimization, cooldown=cooldown),
    )


def _agreed(steps: int) -> int:
    """The first process's number."""
    if jax.process_count() == 1:
        return steps
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return int(broadcast_one_to_all(np.int32(steps)))
