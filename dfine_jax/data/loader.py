"""Which pictures come when: batches as pure functions of a seed and a position, computed ahead by worker processes.

Nothing here has a state but the position. Batch number i of a run is the same whether it is reached or resumed at,
however many workers compute it, and whatever number of processes share it; each gets its part of the rows.

Why not grain: with grain 0.2.18 a killed run leaves its workers running and its shared memory allocated, every orderly
exit warns of leaked memory, absl's global flags must be parsed, and five more packages come along. What is left for a
library to do, once a batch is a function of its number, are the hundred lines of `workers`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from dfine_jax.data.augmentation import LAST_PHASE, Augmentation, augmented, plain
from dfine_jax.data.batches import Batch, collate
from dfine_jax.data.samples import DataError, Dataset, Problem, ProblemKind, Sample, UnreadablePictureError
from dfine_jax.data.sampling import epoch_length, epoch_order
from dfine_jax.data.workers import Prefetch

SIZE, PICTURE = 1, 2
"""What a random stream is for, the second number of its seed; ``sampling`` has the others."""
REPLACEMENTS = 20
SIZE_STEP = 32


class Shard(NamedTuple):
    """Which rows of each batch this process takes: the `index`-th of `count` equal parts."""

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> range:
        if not 0 <= self.index < self.count or batch_size % self.count:
            raise DataError(
                f"a batch of {batch_size} can't be shared as part {self.index} of {self.count}: must divide"
            )
        own = batch_size // self.count
        return range(self.index * own, (self.index + 1) * own)


class Position(NamedTuple):
    """Where a loader is: the next batch it gives."""

    epoch: int
    step: int


class Loaded(NamedTuple):
    """A batch and the pictures that could not be read for it."""

    batch: Batch
    problems: tuple[Problem, ...]


class Batches(Protocol):
    """All batches of a run, by number."""

    @property
    def steps_per_epoch(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Loaded: ...


def multi_scale(base: int, repeats: int) -> tuple[int, ...]:
    """The sizes batches are drawn from: 3/4 to 5/4 of `base` in steps of 32, `base` itself `repeats` times.

    640 gives 480, 512, ... 800. Without repeats there is only `base`.
    """
    if repeats == 0:
        return (base,)
    smallest, largest = (int(base * share / SIZE_STEP) * SIZE_STEP for share in (0.75, 1.25))
    others = [size for size in range(smallest, largest + 1, SIZE_STEP) if size != base]
    return tuple(sorted(others + [base] * repeats))


@dataclass(frozen=True)
class TrainBatches:
    """The batches of a training run.

    An epoch goes once through the data set in an order of its own, with `repeat_factors` more often through some
    pictures; those that don't fill a last batch are left out. How a picture is changed is a function of seed, epoch
    and picture; the size of a batch one of seed, epoch and step.
    """

    dataset: Dataset
    batch_size: int
    """Pictures a step, over all processes."""
    epochs: int
    seed: int
    size: int
    """The network's input size in pixels."""
    max_boxes: int
    """Places for boxes a picture; see `places_for`."""
    augmentation: Augmentation = Augmentation()
    strong_epochs: int | None = None
    """First epoch of the last phase, in which pictures are only flipped and all batches have `size`; None: no such."""
    steps: int | None = None
    """So many batches in all, whatever `epochs` says; the last phase begins at batch `strong_steps`."""
    strong_steps: int = 0
    scale_repeats: int = 0
    """See `multi_scale`; 0: all batches have `size`."""
    shard: Shard = Shard()
    repeat_factors: tuple[float, ...] | None = None
    """How often an epoch shows each picture, see `sampling`; None: once."""

    def __post_init__(self):
        self.shard.rows(self.batch_size)
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{len(self.dataset)} pictures don't fill a batch of {self.batch_size}: choose a smaller batch size"
            )

    @property
    def steps_per_epoch(self) -> int:
        return epoch_length(len(self.dataset), self.repeat_factors) // self.batch_size

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch if self.steps is None else self.steps

    @property
    def last_phase(self) -> int:
        """The first batch of the last phase."""
        if self.steps is not None:
            return self.strong_steps
        return len(self) if self.strong_epochs is None else self.strong_epochs * self.steps_per_epoch

    def __getitem__(self, index: int) -> Loaded:
        epoch, step = divmod(index, self.steps_per_epoch)
        strong = index < self.last_phase
        size = self._size(epoch, step) if strong else self.size
        augmentation = self.augmentation.at(index / len(self)) if strong else LAST_PHASE
        order = epoch_order(len(self.dataset), self.seed, epoch, self.repeat_factors)
        problems: list[Problem] = []
        rows = []
        for row in self.shard.rows(self.batch_size):
            place = step * self.batch_size + row
            repeat = [int(order.repeats[place])] if order.repeats[place] else []  # another change each time

            def prepare(picture: int, repeat: list[int] = repeat) -> Sample:
                rng = np.random.default_rng([self.seed, PICTURE, epoch, picture, *repeat])
                return augmented(self.dataset, picture, size, rng, augmentation)

            rows.append(_first_readable(self.dataset, int(order.pictures[place]), prepare, problems))
        samples = [row.sample for row in rows]
        return Loaded(collate(samples, [row.index for row in rows], size, self.max_boxes), tuple(problems))

    def _size(self, epoch: int, step: int) -> int:
        sizes = multi_scale(self.size, self.scale_repeats)
        return sizes[np.random.default_rng([self.seed, SIZE, epoch, step]).integers(len(sizes))]


class _Row(NamedTuple):
    index: int
    sample: Sample


def _first_readable(dataset: Dataset, index: int, prepare: Callable[[int], Sample], problems: list[Problem]) -> _Row:
    """The picture, or the next in the data set that can be read."""
    for candidate in range(index, index + REPLACEMENTS):
        candidate %= len(dataset)
        try:
            return _Row(candidate, _prepared(dataset, candidate, prepare))
        except UnreadablePictureError as error:
            problems.append(_unreadable(error, "another picture is taken instead"))
    raise DataError(f"{REPLACEMENTS} pictures in a row can't be read; the last problem is {problems[-1]}")


def _prepared(dataset: Dataset, index: int, prepare: Callable[[int], Sample]) -> Sample:
    try:
        return prepare(index)
    except UnreadablePictureError:
        raise
    except Exception as error:
        name = dataset.records[index].name
        raise DataError(f"{name} can't be prepared: {type(error).__name__}: {error}") from error


def _unreadable(error: UnreadablePictureError, remedy: str) -> Problem:
    return Problem(ProblemKind.UNREADABLE_PICTURE, error.picture, None, f"{error.reason}; {remedy}")


@dataclass(frozen=True)
class EvalBatches:
    """The batches of an evaluation: every picture once, in order, stretched to `size`.

    The last batch is filled up with rows that have no picture (`NO_PICTURE` in `Batch.indices`), as are the rows of
    pictures that can't be read.
    """

    dataset: Dataset
    batch_size: int
    """Pictures a batch, over all processes."""
    size: int
    max_boxes: int
    shard: Shard = Shard()

    def __post_init__(self):
        self.shard.rows(self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> Loaded:
        pictures: Sequence[int] = [index * self.batch_size + row for row in self.shard.rows(self.batch_size)]
        problems: list[Problem] = []
        samples = [self._sample(picture, problems) for picture in pictures]
        return Loaded(collate(samples, pictures, self.size, self.max_boxes), tuple(problems))

    def _sample(self, index: int, problems: list[Problem]) -> Sample | None:
        if index >= len(self.dataset):
            return None
        try:
            return _prepared(self.dataset, index, lambda picture: plain(self.dataset, picture, self.size))
        except UnreadablePictureError as error:
            problems.append(_unreadable(error, "not evaluated"))
            return None


class Loader:
    """Goes through batches while worker processes prepare those to come.

        with Loader(TrainBatches(...), workers=2) as loader:
            loader.restore(position)  # of a checkpoint
            for batch in loader:
                ...

    `problems` collects the pictures that could not be read so far, each once; `boxes_left_out` counts the boxes that
    found no place.
    """

    def __init__(self, batches: Batches, workers: int = 2):
        """`workers` is the number of processes; 0 prepares each batch when it is asked for."""
        self.batches = batches
        self.workers = workers
        self.problems: list[Problem] = []
        self.boxes_left_out = 0
        self._next = 0
        self._prefetch: Prefetch | None = None

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        """The next batch; raises StopIteration after the last, and DataError, naming the picture, if it fails."""
        if self._prefetch is None:
            self._prefetch = Prefetch(self.batches, self._next, self.workers)
        try:
            loaded: Loaded = next(self._prefetch)
        except DataError:
            self.close()  # so that asking again tries again
            raise
        self._next += 1
        self.problems += [problem for problem in loaded.problems if problem not in self.problems]
        self.boxes_left_out += int(loaded.batch.left_out.sum())
        return loaded.batch

    def state(self) -> Position:
        """Where to go on: the position of the batch that comes next."""
        return Position(*divmod(self._next, self.batches.steps_per_epoch))

    def restore(self, position: Position) -> None:
        """Makes the batch at a position the next one.

        Raises:
            DataError: there is no such batch.
        """
        epoch, step = position
        index = epoch * self.batches.steps_per_epoch + step
        if not 0 <= step < self.batches.steps_per_epoch or not 0 <= index <= len(self.batches):
            raise DataError(
                f"no batch at epoch {epoch}, step {step}: there are {len(self.batches)} batches, "
                f"{self.batches.steps_per_epoch} an epoch; was the data set or the batch size changed?"
            )
        self.close()
        self._next = index

    def close(self) -> None:
        """Ends the worker processes; the loader can go on afterwards."""
        if self._prefetch is not None:
            self._prefetch.close()
            self._prefetch = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_) -> None:
        self.close()
