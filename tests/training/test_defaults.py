"""What data and machine choose where a person gives no recipe: values for facts, one changed at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY

from dfine_jax.config import DFineConfig
from dfine_jax.data.samples import Dataset
from dfine_jax.data.shapes import shapes
from dfine_jax.training.cost import Shape, forward_cost, step_memory, step_seconds, strides
from dfine_jax.training.defaults import Facts, Wishes, choose, default_steps, paced, small_side
from dfine_jax.training.recipe import Recipe

GIB = 2**30
CELLS = Facts(
    pictures=205,
    labelled=205,
    held_out=87,
    most_boxes=28,
    small_side=0.065,
    config=DFineConfig.nano().with_queries(60),
    own_size=192,
    trained=True,
    knows_photographs=True,
    devices=1,
    memory=20 * GIB,
    speed=87e9,
    cores=2,
)
"""Two hundred photographs with small things in them, a small model, and two cores."""
NANO = replace(CELLS, config=DFineConfig.nano(), own_size=640)


def chosen(facts: Facts, **wishes):
    return choose(Recipe.for_config(facts.config, fine_tune=facts.trained), facts, Wishes(**wishes))


def test_pictures_grow_until_smaller_boxes_span_one_and_a_half_cells():
    assert strides(DFineConfig.nano()) == (16, 32)
    assert chosen(CELLS).recipe.image_size == 384  # 24 / 0.065 = 369
    assert chosen(replace(CELLS, small_side=0.2)).recipe.image_size == 192
    assert chosen(replace(CELLS, small_side=0.01)).recipe.image_size == 384  # twice the model's own at most
    assert chosen(replace(CELLS, small_side=None)).recipe.image_size == 192
    small = replace(NANO, config=DFineConfig.small())
    assert strides(small.config) == (8, 16, 32)
    assert chosen(replace(small, small_side=0.015)).recipe.image_size == 800  # 12 / 0.015
    assert chosen(CELLS, image_size=256).recipe.image_size == 256


def test_the_batch_goes_by_pictures_time_and_memory():
    assert chosen(CELLS).recipe.batch_size == 32
    for pictures, batch in ((3, 1), (12, 2), (30, 4), (100, 16), (127, 16), (128, 32), (100_000, 32)):
        assert chosen(replace(CELLS, pictures=pictures, labelled=pictures)).recipe.batch_size == batch, pictures
    assert chosen(replace(CELLS, pictures=7, labelled=12)).recipe.batch_size == 2
    assert chosen(CELLS, minutes=15).recipe.batch_size == 8
    assert chosen(CELLS, minutes=600).recipe.batch_size == 32
    assert chosen(CELLS, batch_size=6, minutes=15).recipe.batch_size == 6
    assert chosen(replace(CELLS, pictures=9, labelled=9, devices=4)).recipe.batch_size == 4


def test_a_batch_that_does_not_fit_goes_through_in_parts():
    parts = [chosen(replace(NANO, memory=memory * GIB)).recipe.optimization.accumulate for memory in (64, 8, 4, 2)]
    assert parts == sorted(parts)
    assert parts[0] == 1 < parts[1]
    for memory in (8, 4, 2):
        recipe = chosen(replace(NANO, memory=memory * GIB)).recipe
        shape = Shape(recipe.image_size, 300, 100, 28)
        part = recipe.batch_size // recipe.optimization.accumulate
        assert step_memory(NANO.config, shape, part) <= 0.8 * memory * GIB
        assert recipe.batch_size == 32
    assert chosen(replace(NANO, memory=None)).recipe.optimization.accumulate == 1
    assert chosen(NANO, accumulate=3).recipe.batch_size % 3 == 0


def test_too_little_time_shrinks_pictures_that_can_afford_it():
    assert chosen(NANO, minutes=600).recipe.image_size == 640
    short = chosen(replace(NANO, small_side=0.2), minutes=15).recipe
    assert 384 < short.image_size < 640
    assert short.batch_size == 8


def test_where_pictures_can_not_shrink_so_far_there_are_fewer_a_step():
    def side_and_batch(facts, minutes):
        recipe = chosen(facts, minutes=minutes).recipe
        return recipe.image_size, recipe.batch_size

    assert side_and_batch(replace(NANO, small_side=0.2), 7) == (384, 4)
    assert side_and_batch(replace(NANO, small_side=0.03), 10) == (640, 4)  # boxes of 19 pixels as it is
    sides = [side_and_batch(CELLS, minutes) for minutes in (10, 5, 3, 2)]
    assert sides == [(384, 8), (256, 8), (256, 4), (192, 4)]  # 256 is two thirds


@pytest.mark.parametrize(
    ("size", "batch", "steps"), [("n", 8, 1000), ("s", 2, 9000), ("l", 2, 47_430), ("x", 4, 10**7)]
)
def test_learning_rates_go_with_the_root_of_the_batch_and_more_in_short_trainings(size, batch, steps):
    published = Recipe.for_size(size, fine_tune=True)
    recipe = choose(published, CELLS, Wishes(batch_size=batch, steps=steps)).recipe
    shorter = max(1.0, published.epochs * 118_287 / published.batch_size / steps)
    ratio = math.sqrt(batch / published.batch_size) * shorter**0.25
    assert ratio < 1
    for name in ("learning_rate", "backbone_learning_rate"):
        wanted = getattr(published.optimization, name) * ratio
        assert getattr(recipe.optimization, name) == pytest.approx(wanted, rel=0.05)
    assert recipe.optimization.freeze_backbone_norms == published.optimization.freeze_backbone_norms
    assert recipe.optimization.weight_decay == published.optimization.weight_decay


def test_learning_rates_are_never_above_the_published_ones():
    published = Recipe.for_size("s", fine_tune=True)
    rates = choose(published, CELLS, Wishes(batch_size=32, steps=100)).recipe.optimization
    assert (rates.learning_rate, rates.backbone_learning_rate) == (2e-4, 1e-4)


@pytest.mark.parametrize("size", ["n", "l", "x"])
def test_a_backbone_that_knows_no_photographs_learns_like_all_else(size):
    published = Recipe.for_size(size)
    facts = replace(CELLS, knows_photographs=False)
    with_backbone, without = (choose(published, given, Wishes(batch_size=8, steps=1000)) for given in (CELLS, facts))
    rates, frozen = without.recipe.optimization, published.optimization.freeze_stem
    assert rates.backbone_learning_rate == rates.learning_rate == with_backbone.recipe.optimization.learning_rate
    assert not rates.freeze_stem
    assert not rates.freeze_backbone_norms
    assert frozen == (size in "lx") == with_backbone.recipe.optimization.freeze_stem
    assert "it has not learned from photographs" in without.reasons["learning_rate"]
    assert "photographs" not in with_backbone.reasons["learning_rate"]


def test_steps_grow_with_the_data():
    assert [default_steps(count) for count in (1, 12, 100, 10_000, 100_000)] == [500, 520, 1500, 15_000, 47_430]
    assert default_steps(100, trained=False) == 6000
    assert chosen(CELLS).recipe.steps == default_steps(205)
    assert chosen(CELLS, steps=77).recipe.steps == 77
    epochs = chosen(CELLS, epochs=10).recipe
    assert (epochs.steps, epochs.epochs, epochs.strong_epochs) == (None, 10, 8)
    few = chosen(replace(CELLS, pictures=12), minutes=10_000).recipe
    assert few.steps == 10 * default_steps(12)


@pytest.mark.parametrize("steps", [1, 9, 100, 1500, 47_430, 500_000])
def test_warm_up_average_and_last_phase_are_shares_of_all_steps(steps):
    recipe = paced(Recipe.for_size("s"), steps)
    assert recipe.optimization.warmup_steps <= steps / 10
    assert recipe.optimization.cooldown == 0.5
    assert recipe.steps_with_strong_augmentation == round(0.8 * steps)
    horizon = 1 / (1 - recipe.averaging.decay)
    assert horizon == pytest.approx(min(10_000, max(2, steps / 10)), rel=0.01)
    assert recipe.averaging.time_constant <= horizon
    assert recipe.optimization.warmup_steps <= 500


def test_queries_hold_three_times_as_many_boxes():
    assert chosen(CELLS).queries == 90
    assert chosen(replace(CELLS, most_boxes=10)).queries == 60
    assert chosen(NANO).queries == 300
    assert chosen(replace(NANO, most_boxes=400)).queries == 500
    assert chosen(replace(CELLS, most_boxes=400), image_size=64).queries == 4 * 4 + 2 * 2
    assert chosen(CELLS, queries=70).recipe.denoising_copies == 35
    assert chosen(CELLS, denoising_copies=0).recipe.denoising_copies == 0


def test_evaluations_take_a_share_of_the_time():
    assert chosen(CELLS).evaluations == 20
    assert 5 <= chosen(CELLS, minutes=15).evaluations < 20
    assert chosen(CELLS, minutes=1).evaluations == 5
    assert chosen(CELLS).patience == 10
    assert [chosen(replace(CELLS, cores=cores)).workers for cores in (1, 2, 8, 64)] == [1, 1, 4, 8]


def test_the_time_of_all_is_guessed():
    """Steps and evaluations by their operations, and what is there however short the training is."""
    times = [chosen(CELLS, steps=steps).seconds for steps in (1, 1000, 2000)]
    assert 40 < times[0] < 90
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=0.2)
    assert chosen(replace(CELLS, held_out=0), steps=1000).seconds < times[1]
    assert 13 < chosen(CELLS, minutes=15).seconds / 60 < 17


def test_classes_are_learned_by_the_matchability_aware_loss():
    published = Recipe.for_config(CELLS.config, fine_tune=True).loss
    assert published.kind == "vfl"
    assert chosen(CELLS).recipe.loss == replace(published, kind="mal")


def test_reasons_name_the_numbers():
    reasons = chosen(CELLS, minutes=15).reasons
    assert "own is 192" in reasons["image_size"]
    assert "25 pixels wide" in reasons["image_size"]
    assert "15 minutes" in reasons["length"]
    assert chosen(CELLS, image_size=256).reasons["image_size"].startswith("as asked for; the smaller boxes are 17")
    assert chosen(CELLS, batch_size=4).reasons["batch_size"] == "as asked for"
    assert "in 2 parts" in chosen(CELLS, accumulate=2).reasons["batch_size"]
    assert "384 does not fit" in chosen(CELLS, minutes=2).reasons["image_size"]


def test_smaller_boxes_count_every_class_alike():
    """A hundred large boxes of one class, two small ones of another: the small ones are half of what counts."""
    template = shapes(1, size=100).records[0]
    small = np.array([[0, 0, 10, 10], [0, 0, 20, 20]], np.float32)
    large = np.tile(np.array([[0, 0, 80, 80]], np.float32), (100, 1))
    records = [
        replace(template, boxes=small, labels=np.ones(2, np.int32)),
        replace(template, boxes=large, labels=np.zeros(100, np.int32)),
    ]
    dataset = Dataset(("large", "small"), (1, 2), records, most_boxes=100)
    assert small_side(dataset) == pytest.approx(0.1)
    assert small_side(replace(dataset, records=records[1:])) == pytest.approx(0.8)
    empty = replace(template, boxes=small[:0], labels=np.zeros(0, np.int32))
    assert small_side(replace(dataset, records=[empty])) is None


@pytest.mark.parametrize(("size", "giga"), [("n", 7), ("s", 25), ("m", 57), ("l", 91), ("x", 202)])
def test_operations_are_those_that_were_published(size, giga):
    cost = forward_cost(DFineConfig.from_size(size), Shape(640, 300, 0, 0))
    assert cost.operations / 1e9 == pytest.approx(giga, rel=0.05)


@pytest.mark.parametrize(
    ("size", "side", "batch", "queries", "copies", "megabytes"),
    [
        ("n", 384, 8, 100, 50, 1045),
        ("n", 192, 4, 60, 30, 193),
        ("n", 640, 4, 300, 100, 1408),
        ("s", 320, 4, 300, 100, 1090),
    ],
)
def test_memory_is_guessed_above_what_compiled_steps_needed_but_not_far(size, side, batch, queries, copies, megabytes):
    """Temporary memory of the compiled programs, on a CPU; state and program come on top."""
    guess = step_memory(DFineConfig.from_size(size), Shape(side, queries, copies, 16), batch) / 1e6
    assert megabytes < guess < 2 * megabytes + 200


def test_costs_grow_as_work_does():
    shape = Shape(320, 20, 10, 5)
    assert step_seconds(TINY, shape, 4, 1e9) == pytest.approx(2 * step_seconds(TINY, shape, 2, 1e9))
    assert step_seconds(TINY, shape, 1, 2e9) == pytest.approx(step_seconds(TINY, shape, 1, 1e9) / 2)
    large, small = (forward_cost(TINY, shape._replace(image_size=side)).operations for side in (640, 320))
    assert 4 < large / small < 16  # between convolutions, by cells, and attention, by their square
