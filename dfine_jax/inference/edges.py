"""How sure a model is of where the edges of its boxes lie."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Float

from dfine_jax.calibration import Calibration
from dfine_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of `N` boxes, x0, y0, x1, y1, each a distribution over `W` places in pixels of the original picture.

    These are the model's own: D-FINE predicts every edge as a distribution, of which a box has the mean. An index gives
    those of one box or of some, as it does for `Detections`.
    """

    places: Float[np.ndarray, "N 4 W"]
    """Where an edge may lie, rising."""
    probabilities: Float[np.ndarray, "N 4 W"]
    """How likely it lies at or about each place, as the model has it; each edge's sum to 1."""
    calibration: Calibration | None = None
    """How intervals are corrected; None where the model has none: they are as the model has it."""

    @classmethod
    def of(
        cls,
        probabilities: Float[np.ndarray, "N 4 W"],
        origins: Float[np.ndarray, "N 4"],
        units: Float[np.ndarray, "N 4"],
        offsets: Float[np.ndarray, " W"],
        *,
        calibration: Calibration | None = None,
    ) -> Self:
        """One picture's rows of `DetectionsWithEdges`."""
        places = origins[..., None] + units[..., None] * offsets
        # Distances go outwards: those of left and top edges fall as places rise.
        rising = np.concatenate([places[:, :2, ::-1], places[:, 2:]], axis=1)
        return cls(rising, np.concatenate([probabilities[:, :2, ::-1], probabilities[:, 2:]], axis=1), calibration)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which) -> Self:
        if isinstance(which, int | np.integer):
            which = [which]
        return replace(self, places=self.places[which], probabilities=self.probabilities[which])

    @property
    def mean(self) -> Float[np.ndarray, "N 4"]:
        """Mean place of each edge: the boxes' own, but where two edges crossed."""
        return (self.probabilities * self.places).sum(axis=-1)

    @property
    def std(self) -> Float[np.ndarray, "N 4"]:
        """Standard deviation of each edge's place in pixels, as the model has it."""
        deviations = np.square(self.places - self.mean[..., None])
        return np.sqrt((self.probabilities * deviations).sum(axis=-1))

    def interval(self, level: float = 0.8) -> Float[np.ndarray, "N 4 2"]:
        """From where to where each edge lies with a probability of `level`, as much left out on either side.

        With a `calibration` so many of the true edges lie within, on pictures such as it was fitted on; without, it is
        the model's own distribution, which may be too sure or not sure enough.

        Raises:
            InputError: `level` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InputError(f"level={level}: expected a share between 0 and 1, such as 0.8")
        low, middle, high = np.moveaxis(self.quantiles(((1 - level) / 2, 0.5, (1 + level) / 2)), -1, 0)
        factor = 1.0 if self.calibration is None else self.calibration.factor(level)
        return np.stack([middle - factor * (middle - low), middle + factor * (high - middle)], axis=-1)

    def quantiles(self, shares: tuple[float, ...]) -> Float[np.ndarray, "N 4 S"]:
        """The places that an edge lies below with these probabilities, as the model has it.

        A place stands for all that is nearer to it than to others, so that the probability rises evenly in between.
        """
        between = (self.places[..., 1:] + self.places[..., :-1]) / 2
        bounds = np.concatenate([self.places[..., :1], between, self.places[..., -1:]], axis=-1).astype(np.float64)
        below = np.cumsum(self.probabilities.astype(np.float64), axis=-1)
        below = np.concatenate([np.zeros_like(below[..., :1]), below / below[..., -1:]], axis=-1)
        wanted = np.asarray(shares)
        cell = np.clip((below[..., None] <= wanted).sum(axis=-2) - 1, 0, below.shape[-1] - 2)
        first, last = (np.take_along_axis(below, cell + i, axis=-1) for i in (0, 1))
        start, end = (np.take_along_axis(bounds, cell + i, axis=-1) for i in (0, 1))
        return start + (end - start) * np.clip((wanted - first) / np.maximum(last - first, 1e-12), 0, 1)
