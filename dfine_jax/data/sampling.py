"""Which pictures an epoch goes through, and in which order."""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from dfine_jax.data.samples import Dataset

Sampling = Literal["uniform", "repeat-factor"]
ORDER, REPEATS = 0, 3
"""What a random stream is for, the second number of its seed; ``loader`` has the others."""
FREQUENT = 0.001
"""Classes in a smaller share of the pictures are repeated: LVIS's threshold (arXiv 1908.03195)."""


class Order(NamedTuple):
    """An epoch's pictures."""

    pictures: Int64[np.ndarray, " count"]
    """Places in `Dataset.records`."""
    repeats: Int64[np.ndarray, " count"]
    """How often the same picture came before in this epoch."""


def repeat_factors(dataset: Dataset, frequent: float = FREQUENT) -> tuple[float, ...]:
    """How often an epoch should show each picture: LVIS's repeat factors.

    Of a class that a share f of the pictures has it is ``max(1, sqrt(frequent / f))``, of a picture the largest of its
    classes'; 1 for one without boxes.
    """
    classes = [np.unique(record.labels) for record in dataset.records]
    having = np.bincount(np.concatenate([*classes, np.zeros(0, np.int64)]), minlength=len(dataset.class_names))
    of_class = np.maximum(1.0, np.sqrt(frequent * len(classes) / np.maximum(having, 1)))
    return tuple(float(of_class[labels].max(initial=1.0)) for labels in classes)


def epoch_length(count: int, factors: tuple[float, ...] | None) -> int:
    """Pictures in an epoch, repeated ones counted each time: the same in every epoch."""
    return count if factors is None else math.floor(sum(factors) + 1e-9)


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int, factors: tuple[float, ...] | None = None) -> Order:
    """The order in which an epoch goes through the pictures.

    With ``factors``, one for each of the ``count`` pictures, each comes as often as its factor says, rounded up in
    some epochs and down in others, so that the mean is right.
    """
    rng = np.random.default_rng([seed, ORDER, epoch])
    if factors is None:
        return Order(rng.permutation(count), np.zeros(count, np.int64))
    pictures = _repeated(np.array(factors), np.random.default_rng([seed, REPEATS, epoch]))
    first = np.searchsorted(pictures, pictures)  # they are sorted still
    shuffled = rng.permutation(len(pictures))
    return Order(pictures[shuffled], (np.arange(len(pictures)) - first)[shuffled])


def _repeated(factors: Float64[np.ndarray, " pictures"], rng: np.random.Generator) -> Int64[np.ndarray, " count"]:
    """Systematic sampling: points at equal distances, from a random one on, along the factors laid end to end."""
    length = epoch_length(len(factors), tuple(factors))
    mixed = rng.permutation(len(factors))  # else neighbours would never both be rounded up
    ends = np.cumsum(factors[mixed])
    points = (rng.random() + np.arange(length)) * ends[-1] / length
    places = np.minimum(np.searchsorted(ends, points, side="right"), len(factors) - 1)
    return np.sort(mixed[places])
