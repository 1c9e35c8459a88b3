"""The recipe that data and machine ask for, where a person gives none: a pure function of facts about both.

It starts from the published recipe of the model's size, which was made for 118,000 pictures on eight GPUs, and changes
what must change with fewer pictures, other boxes, less memory and less time.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dfine_jax.config import DFineConfig
from dfine_jax.data.samples import Dataset
from dfine_jax.training.cost import Shape, forward_cost, step_memory, step_seconds, strides
from dfine_jax.training.recipe import STRONG_SHARE, Averaging, Recipe

STEP = 32
"""Sides of input pictures are multiples of it."""
CELLS = 1.5
"""So many cells of the finest map a smaller box should be wide: 12 pixels where a cell has 8, 24 where it has 16."""
MOST_ENLARGED = 2.0
"""Input pictures grow to so many times the model's own side at most ..."""
LARGEST_SIDE = 1280
"""... and no further than this."""
LEAST_SHRUNK = 0.6
"""Where time is short they may shrink to this share of it, as far as boxes stay wide enough."""
MOST_BATCH, SMALL_BATCH, LEAST_BATCH = 32, 8, 4
"""Pictures a step. For the steps that a training should have it is halved, down to the second number. For those that it
needs sides shrink, to ``COARSE``; then it is halved once more; then sides shrink further."""
COARSE = 2 / 3
"""Of the width that smaller boxes should have: half of it costs more than half of a batch does."""
MEMORY_SHARE = 0.8
"""Of what is free, as the guess may take it."""
ENOUGH, WANTED = 500, 1000
"""Steps a training needs, and should have before a batch may be larger."""
STEPS_OF_ONE = 150
"""Steps for one picture; for more they grow with the square root: 1,500 for 100, 15,000 for 10,000."""
UNTRAINED = 4
"""Times as many from weights that know nothing."""
MOST_REPEATED = 10
"""More steps than so many times those would only learn the pictures by heart."""
PUBLISHED_PICTURES = 118_287
"""COCO's train part, of which the published recipe is."""
COOLDOWN = 0.5
"""Share of all steps in which learning rates fall."""
WARMUP_SHARE, MOST_WARMUP = 0.05, 500
AVERAGE_SHARE, MOST_AVERAGED = 0.1, 10_000
"""How far the average looks back: a share of all steps, up to the release's."""
TIME_CONSTANT_SHARE = 0.5
"""Of how far it looks back, the updates in which it gets there."""
EVALUATIONS = (5, 20)
EVALUATION_SHARE = 0.05
"""Of the time, for evaluations."""
FIXED_SECONDS = 3.0
"""Of an evaluation, whatever it is on: metric, pictures of it, a checkpoint."""
STARTING_SECONDS = 45.0
"""Of a training, for compiling and saving."""
FULL_COPIES = 100
SAMPLED = 2000
"""Pictures of which boxes are looked at, evenly spaced, where there are more."""


@dataclass(frozen=True)
class Facts:
    """What a recipe depends on."""

    pictures: int
    """To train on."""
    labelled: int
    """Those, and such as were held out from them."""
    held_out: int
    """To evaluate on."""
    most_boxes: int
    """In a picture."""
    small_side: float | None
    """How wide the smaller boxes are, as a share of their picture; None where there are no boxes."""
    config: DFineConfig
    own_size: int
    """The side of the pictures that the model was made for."""
    trained: bool
    """Whether it has learned something; False for new weights."""
    knows_photographs: bool
    """Whether its backbone has learned from photographs: neither a new one has, nor that of drawn shapes."""
    devices: int
    memory: int | None
    """Bytes that are free on each; None if nobody knows."""
    speed: float
    """Of each, in operations a second of a training step."""
    cores: int
    """Of the processor."""


@dataclass(frozen=True)
class Wishes:
    """What a person has decided; None where it is left open."""

    image_size: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    queries: int | None = None
    denoising_copies: int | None = None
    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None


class Chosen(NamedTuple):
    """A recipe, and settings of the run, with a reason for each that differs from the published one."""

    recipe: Recipe
    queries: int
    evaluations: int
    patience: int
    workers: int
    seconds: float
    """That all of it will take, by a guess."""
    reasons: dict[str, str]
    """In words, by what they are about."""


def small_side(dataset: Dataset) -> float | None:
    """How wide the smaller boxes are, as a share of their picture; None without boxes.

    It is the tenth percentile of the sides, roots of width times height, where every class counts alike however many
    boxes it has, as it does in AP.
    """
    records = [dataset.records[i] for i in range(0, len(dataset), -(-len(dataset) // SAMPLED))]
    labels = np.concatenate([np.zeros(0, np.int32), *(record.labels for record in records)])
    sides = [
        np.sqrt(np.prod((record.boxes[:, 2:] - record.boxes[:, :2]) / (record.width, record.height), axis=1))
        for record in records
    ]
    sides = np.concatenate([np.zeros(0), *sides])
    if not len(sides):
        return None
    weights = 1 / np.bincount(labels)[labels]
    order = np.argsort(sides)
    reached = np.cumsum(weights[order])
    return float(sides[order][np.searchsorted(reached, 0.1 * reached[-1])])


def default_steps(pictures: int, *, trained: bool = True) -> int:
    """How many steps a training on so many pictures has."""
    steps = STEPS_OF_ONE * math.sqrt(pictures) * (1 if trained else UNTRAINED)
    return max(ENOUGH, round(steps, -1))


def paced(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for a training of so many steps: their shares that warm-up, average and the last phase have."""
    steps = int(steps)
    horizon = min(MOST_AVERAGED, max(2.0, AVERAGE_SHARE * steps))
    warmup = min(MOST_WARMUP, round(WARMUP_SHARE * steps))
    return replace(
        recipe,
        steps=steps,
        strong_steps=round(STRONG_SHARE * steps),
        optimization=replace(recipe.optimization, warmup_steps=warmup, cooldown=COOLDOWN),
        averaging=Averaging(round(1 - 1 / horizon, 6), round(TIME_CONSTANT_SHARE * horizon, 1)),
    )


def choose(published: Recipe, facts: Facts, wishes: Wishes = Wishes()) -> Chosen:
    """The recipe for these facts, with what was wished for.

    Args:
        published: the recipe of the model's size.
        facts: about data, model and machine.
        wishes: what is decided already; all else is chosen to go with it.
    """
    reasons: dict[str, str] = {}
    needed = _needed_side(facts)
    wanted = wishes.image_size or _wanted_side(facts, needed)
    lengths = _Lengths(facts, wishes)

    def shape(side: int) -> Shape:
        queries = wishes.queries or _queries(facts, side)
        copies = min(FULL_COPIES, queries // 2) if wishes.denoising_copies is None else wishes.denoising_copies
        return Shape(side, queries, copies, facts.most_boxes)

    most = wishes.batch_size or _most_batch(facts, wishes.accumulate or 1)
    small, fewest = (min(most, max(count, facts.devices)) for count in (SMALL_BATCH, LEAST_BATCH))
    least = wishes.image_size or _least_side(facts, needed)
    coarse = min(wanted, max(least, _multiple(COARSE * (needed or 0), math.ceil)))
    tried = [(side, small) for side in range(wanted, coarse - 1, -STEP)]
    tried += [(side, fewest) for side in range(coarse, least, -STEP)]
    side = next(
        (
            side
            for side, count in tried
            if _fits(facts, shape(side), 1) and lengths.fitting(shape(side), count) >= ENOUGH
        ),
        least,
    )
    reasons["image_size"] = _why_side(facts, side, wanted, needed, asked=wishes.image_size is not None)

    batch = most
    if wishes.batch_size is None and wishes.accumulate is None:
        while batch // 2 >= fewest and lengths.fitting(shape(side), batch) < (WANTED if batch > small else ENOUGH):
            batch //= 2
    parts = wishes.accumulate or _parts(facts, shape(side), batch)
    reasons["batch_size"] = _why_batch(parts, lengths, asked=wishes.batch_size is not None)

    steps, reasons["length"] = lengths.steps(shape(side), batch)
    scale = _rate(published, batch, steps)
    optimization = replace(
        published.optimization,
        learning_rate=_round(published.optimization.learning_rate * scale),
        backbone_learning_rate=_round(published.optimization.backbone_learning_rate * scale),
        accumulate=parts,
    )
    reasons["learning_rate"] = (
        f"the published ones times {scale:.2g}: the root of {batch} / {published.batch_size}, more as this is shorter"
    )
    if not facts.knows_photographs:  # which slow rates and what is frozen would keep
        rate = optimization.learning_rate
        optimization = replace(
            optimization, backbone_learning_rate=rate, freeze_stem=False, freeze_backbone_norms=False
        )
        reasons["learning_rate"] += "; the backbone's as all others': it has not learned from photographs"
    reasons["loss"] = "of DEIM; found better than the paper's vfl on few pictures"
    zoom = published.augmentation.zoom_out_most
    if needed is not None:  # what is shown smaller still stays half as wide as it should be
        zoom = min(zoom, max(1.0, 2 * side / needed))
    recipe = replace(
        published,
        batch_size=batch,
        image_size=side,
        scale_repeats=0,
        augmentation=replace(published.augmentation, zoom_out_most=round(zoom, 1)),
        optimization=optimization,
        denoising_copies=shape(side).copies,
        loss=replace(published.loss, kind="mal"),
        minutes=wishes.minutes,
    )
    recipe = paced(recipe, steps)
    if wishes.epochs:
        strong = round(STRONG_SHARE * wishes.epochs)
        recipe = replace(recipe, steps=None, strong_steps=None, epochs=wishes.epochs, strong_epochs=strong)
    seconds = steps * step_seconds(facts.config, shape(side), batch / facts.devices, facts.speed)
    evaluation = _evaluation_seconds(facts, shape(side))
    evaluations = _evaluations(evaluation, seconds)
    seconds += STARTING_SECONDS + (evaluations * evaluation if facts.held_out else 0.0)
    return Chosen(recipe, shape(side).queries, evaluations, max(5, evaluations // 2), _workers(facts), seconds, reasons)


class _Lengths:
    """How long trainings are, in steps and seconds."""

    def __init__(self, facts: Facts, wishes: Wishes):
        self._facts, self._wishes = facts, wishes
        self.by_data = default_steps(facts.pictures, trained=facts.trained)

    @property
    def limited(self) -> bool:
        """Whether there is a limit of time."""
        return self._wishes.minutes is not None

    @property
    def seconds(self) -> float:
        """For steps: what evaluations, compiling and saving leave."""
        total = 60 * (self._wishes.minutes or math.inf)
        return max(0.3 * total, (1 - EVALUATION_SHARE) * total - STARTING_SECONDS)

    def fitting(self, shape: Shape, batch: int) -> float:
        """Steps that fit in the time."""
        pictures = batch / self._facts.devices
        return self.seconds / step_seconds(self._facts.config, shape, pictures, self._facts.speed)

    def steps(self, shape: Shape, batch: int) -> tuple[int, str]:
        """How many there are, and why."""
        facts, wishes = self._facts, self._wishes
        if wishes.epochs:
            return max(1, wishes.epochs * (facts.pictures // batch)), f"{wishes.epochs} epochs, as asked for"
        if wishes.steps:
            return wishes.steps, "as asked for"
        if not self.limited:
            grown = f"{STEPS_OF_ONE} times the root of the number of pictures"
            return self.by_data, grown + ("" if facts.trained else f", {UNTRAINED} times that from new weights")
        guess = math.floor(max(1, min(self.fitting(shape, batch), MOST_REPEATED * self.by_data)))
        return guess, f"a guess: laid anew to end after {wishes.minutes:g} minutes, once steps have been measured"


def _rate(published: Recipe, batch: int, steps: int) -> float:
    """What published learning rates are multiplied by, at most 1.

    The root of the batches' ratio; and the fourth root of how many times fewer steps there are, since in a short
    training that root alone leaves much unlearned. Language models' best rates depend about as much on the number of
    steps (arXiv 2409.19913).
    """
    of_published = published.epochs * PUBLISHED_PICTURES / published.batch_size
    return min(1.0, math.sqrt(batch / published.batch_size) * max(1.0, of_published / steps) ** 0.25)


def most_steps(pictures: int, *, trained: bool) -> int:
    """More than these, however much time there is, would only learn the pictures by heart."""
    return MOST_REPEATED * default_steps(pictures, trained=trained)


def _needed_side(facts: Facts) -> int | None:
    """The side at which the smaller boxes are wide enough."""
    if not facts.small_side:
        return None
    return _multiple(CELLS * strides(facts.config)[0] / facts.small_side, math.ceil)


def _wanted_side(facts: Facts, needed: int | None) -> int:
    own = _multiple(facts.own_size, round)
    most = max(own, min(LARGEST_SIDE, _multiple(MOST_ENLARGED * own, math.floor)))
    return min(most, max(own, needed or own))


def _least_side(facts: Facts, needed: int | None) -> int:
    own = _multiple(facts.own_size, round)
    return min(own, max(needed or 0, _multiple(LEAST_SHRUNK * own, math.floor)))


def _queries(facts: Facts, side: int) -> int:
    """The model's own number, or more where a picture has more than a third as many boxes; never more than cells."""
    if facts.config.decoder.learned_queries:  # their number is that of weights
        return facts.config.decoder.queries
    cells = sum((side // stride) ** 2 for stride in strides(facts.config))
    crowded = max(min(300, 3 * facts.most_boxes), math.ceil(1.25 * facts.most_boxes))
    return min(cells, max(facts.config.decoder.queries, 10 * math.ceil(crowded / 10)))


def _most_batch(facts: Facts, parts: int) -> int:
    """The largest power of two that the number of pictures allows, or what devices and parts can share equally."""
    most = 2 ** int(math.log2(max(1, min(MOST_BATCH, facts.labelled // 4, facts.pictures))))
    shares = facts.devices * parts
    return max(1, most // shares) * shares


def _fits(facts: Facts, shape: Shape, pictures: int) -> bool:
    return facts.memory is None or step_memory(facts.config, shape, pictures) <= MEMORY_SHARE * facts.memory


def _parts(facts: Facts, shape: Shape, batch: int) -> int:
    """In how many parts a batch goes through, so that each fits in memory."""
    parts = 1
    while batch % (2 * parts * facts.devices) == 0 and not _fits(facts, shape, batch // (parts * facts.devices)):
        parts *= 2
    return parts


def _evaluation_seconds(facts: Facts, shape: Shape) -> float:
    network = facts.held_out * forward_cost(facts.config, shape).operations / facts.speed / facts.devices
    return FIXED_SECONDS + network


def _evaluations(each: float, seconds: float) -> int:
    """How many, of so many seconds each, take their share of the seconds of all steps, within bounds."""
    least, most = EVALUATIONS
    return int(min(most, max(least, EVALUATION_SHARE * seconds / each)))


def _workers(facts: Facts) -> int:
    return max(1, min(8, facts.cores // 2))


def _why_side(facts: Facts, side: int, wanted: int, needed: int | None, *, asked: bool) -> str:
    finest = strides(facts.config)[0]
    own = f"the model's own is {facts.own_size}"
    why = "as asked for" if asked else f"{wanted} does not fit in time or memory" if side < wanted else own
    if needed is None:
        return why
    return f"{why}; the smaller boxes are {facts.small_side * side:.0f} pixels wide then, of {CELLS * finest:g} wanted"


def _why_batch(parts: int, lengths: _Lengths, *, asked: bool) -> str:
    allowed = f"the largest power of two of at most {MOST_BATCH} and a quarter of the pictures"
    why = ["as asked for" if asked else allowed + (", that leaves time for steps" if lengths.limited else "")]
    return ", ".join(why + ([f"in {parts} parts, each of which fits in memory"] if parts > 1 else []))


def _multiple(side: float, rounding) -> int:
    return max(STEP, int(rounding(side / STEP)) * STEP)


def _round(rate: float) -> float:
    """To two digits that people can read."""
    return float(f"{rate:.2g}")
