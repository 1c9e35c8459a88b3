"""Keeping pictures from training, where a data set has no part to choose the best model by."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dfine_jax.data.samples import Dataset, Record

LEAST, MOST = 5, 1000
"""Pictures held out: a tenth, but no fewer (half, where there are fewer than twice as many) and no more."""
STREAM = 4
"""What the random stream is for, the second number of its seed; ``loader`` and ``sampling`` have the others."""


class _Some(Sequence[Record]):
    """Some of the records, each made when it is asked for, as those of drawn data sets are."""

    def __init__(self, records: Sequence[Record], chosen: np.ndarray):
        self._records, self._chosen = records, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index):
        return self._records[int(self._chosen[index])]


def held_out_count(pictures: int) -> int:
    """How many of so many pictures are held out; none of a single one."""
    return min(max(LEAST, pictures // 10), MOST, pictures // 2)


def hold_out(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The pictures to train on and those held out, each in the data set's order; the same for the same seed."""
    count = held_out_count(len(dataset))
    chosen = np.random.default_rng([seed, STREAM]).permutation(len(dataset))
    return tuple(
        replace(dataset, records=_Some(dataset.records, np.sort(part)), problems=problems)
        for part, problems in ((chosen[count:], dataset.problems), (chosen[:count], ()))
    )
