"""Steps laid by a clock that the tests set, and the schedule that a compiled step is given for them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.training import length
from dfine_jax.training.defaults import paced
from dfine_jax.training.length import CLOSING_SECONDS, UNKNOWN, Clock, Length
from dfine_jax.training.optimizer import Pace, learning_rate_factor, make_optimizer, paced_factor, parameter_groups
from dfine_jax.training.recipe import Optimization, Recipe

MINUTES = Recipe(minutes=10.0, batch_size=4)
STARTING = 40.0


class Time:
    """A clock that moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(length.time, "monotonic", lambda: self.now)


@pytest.fixture
def time(monkeypatch) -> Time:
    return Time(monkeypatch)


def run(
    time: Time, seconds_of, evaluation: float, *, evaluations=10, minutes=10.0, **clock
) -> tuple[Length, float, list]:
    """A training of which a step takes ``seconds_of(step)``; its length, its minutes, and all totals that were laid."""
    laid = []
    began = time.now
    recipe = replace(MINUTES, minutes=minutes)
    clock = Clock(began, lambda steps: paced(recipe, steps), laid=laid.append, **clock)
    counted = Length(recipe, clock, done=0, per_epoch=25, evaluations=evaluations, every=1)
    time.now += STARTING
    step = 0
    while step < counted.total:
        step += 1
        time.now += seconds_of(step)
        if counted.is_open:
            counted.laid_after(step, ())
        if counted.evaluates(step):
            time.now += evaluation
            counted.evaluated(evaluation)
    return counted, (time.now + CLOSING_SECONDS - began) / 60, laid


@pytest.mark.parametrize("minutes", [3.0, 15.0, 120.0])
@pytest.mark.parametrize("evaluation", [0.5, 6.0])
def test_it_ends_in_time(time, minutes, evaluation):
    counted, took, laid = run(time, lambda step: 0.5, evaluation, minutes=minutes)
    assert 0.95 * minutes < took < 1.02 * minutes
    assert [recipe.steps for recipe in laid][-1] == counted.total
    assert len(laid) == 4
    assert not counted.is_open


def test_it_ends_in_time_where_the_machine_becomes_slower_or_faster(time):
    for later in (0.6, 1.5):
        _, took, _ = run(time, lambda step: 0.5 if step < 300 else 0.5 * later, 3.0, minutes=10.0)  # noqa: B023
        assert 8.5 < took < 10.5


def test_it_ends_in_time_where_evaluations_take_half_of_it(time):
    _, took, _ = run(time, lambda step: 0.5, 30.0, minutes=10.0)
    assert took < 11


def test_learning_rates_go_on_from_where_they_are_when_steps_are_laid_anew(time):
    counted, _, laid = run(time, lambda step: 0.5 if step < 500 else 0.7, 2.0)
    first, early, fall, late = laid
    falls = early.steps - round(0.5 * early.steps)
    paces = [Pace.of(recipe.optimization, recipe.averaging, recipe.steps) for recipe in laid]
    assert late.steps == counted.total < fall.steps
    assert (paces[2].fall_from, paces[2].falling) == (falls, fall.steps - falls)
    step = round(0.85 * fall.steps)
    before, after = (float(paced_factor(jnp.asarray(step), pace)) for pace in paces[2:])
    assert before == pytest.approx(after, abs=0.005)
    assert 0.05 < after < 0.5
    assert float(paced_factor(jnp.asarray(late.steps), paces[3])) < 1e-5
    for recipe, pace in zip(laid, paces, strict=True):
        assert recipe.flat_steps == pace.fall_from
        assert recipe.falling == f"then flat, falling along a cosine after step {pace.fall_from:,}"
    assert len({recipe.averaging for recipe in laid[1:]}) == 1
    assert fall.steps_with_strong_augmentation == pytest.approx(0.8 * fall.steps, abs=2)
    assert late.steps_with_strong_augmentation == fall.steps_with_strong_augmentation  # it was over already
    assert first.optimization.warmup_steps > 0


def test_there_are_no_more_steps_than_help(time):
    counted, took, _ = run(time, lambda step: 0.01, 0.1, most_steps=500)
    assert counted.total == 500
    assert took < 1.2


def test_no_time_left_still_gives_an_end(time):
    counted, _, _ = run(time, lambda step: 30.0, 2.0, minutes=1.0)
    assert counted.total <= 12


def test_a_laid_training_keeps_its_steps_when_it_goes_on(time):
    recipe = replace(paced(MINUTES, 700), minutes=10.0)
    counted = Length(recipe, Clock(time.now), done=300, per_epoch=25, evaluations=7, every=1)
    assert counted.total == 700
    assert not counted.is_open
    assert counted.pace == (Pace.of(recipe.optimization, recipe.averaging, 700),)
    assert [step for step in range(1, 701) if counted.evaluates(step)] == list(range(100, 701, 100))


def test_a_length_known_from_the_start_has_no_pace_and_evaluates_by_epochs(time):
    counted = Length(Recipe(epochs=3), None, done=0, per_epoch=10, evaluations=0, every=2)
    assert (counted.total, counted.pace, counted.is_open) == (30, (), False)
    assert [step for step in range(1, 31) if counted.evaluates(step)] == [20, 30]
    counted = Length(Recipe(steps=25), None, done=0, per_epoch=10, evaluations=4, every=2)
    assert [step for step in range(1, 26) if counted.evaluates(step)] == [6, 12, 18, 25]


def test_first_steps_of_a_known_number_tell_how_long_all_will_take(time):
    """Two seconds each once all is compiled, a twentieth more for evaluations; the one between counts for no step."""
    counted = Length(Recipe(steps=208), None, done=100, per_epoch=10, evaluations=4, every=2)
    told = {}
    for step in range(101, 209):
        time.now += 60.0 if step == 101 else 2.0
        if step == 105:
            time.now += 5.0
            counted.evaluated(5.0)
        if left := counted.left_after(step, ()):
            told[step] = left
    assert told == {108: pytest.approx(100 * 2.0 / 0.95)}


@pytest.mark.parametrize("recipe", [MINUTES, Recipe(steps=8), Recipe(steps=50, scale_repeats=3)])
def test_nothing_is_told_where_time_decides_or_steps_differ_or_are_over(time, recipe):
    counted = Length(recipe, None, done=0, per_epoch=25, evaluations=5, every=1)
    assert [counted.left_after(step, ()) for step in range(1, 9)] == [None] * 8


def test_until_they_are_laid_steps_only_warm_up(time):
    counted = Length(MINUTES, Clock(time.now), done=0, per_epoch=25, evaluations=5, every=1)
    assert counted.total == UNKNOWN
    (pace,) = counted.pace
    assert paced_factor(jnp.asarray(20_000), pace) == 1.0


@pytest.mark.parametrize(("warmup", "cooldown", "steps"), [(0, 0.0, 50), (10, 0.5, 50), (7, 1.0, 40), (3, 0.2, 11)])
def test_a_pace_gives_the_schedule_that_is_compiled_in(warmup, cooldown, steps):
    optimization = Optimization(warmup_steps=warmup, cooldown=cooldown)
    every = jnp.arange(steps)
    compiled = jax.vmap(learning_rate_factor(optimization, steps))(every)
    pace = Pace.of(optimization, Recipe().averaging, steps)
    given = jax.jit(jax.vmap(paced_factor, in_axes=(0, None)))(every, pace)
    np.testing.assert_allclose(given, compiled, rtol=1e-6, atol=1e-7)


def test_an_update_that_is_given_a_pace_goes_by_it():
    optimization = Optimization(0.1, 0.1, weight_decay=0.0, warmup_steps=0)
    groups = parameter_groups(["decoder.a.kernel"], optimization)
    optimizer = make_optimizer(groups, optimization, 10)
    params = {groups[0].title: jnp.ones(3)}
    gradient = {groups[0].title: jnp.full(3, 0.01)}
    full, _ = optimizer.update(gradient, optimizer.init(params), params)
    slow = Pace.of(replace(optimization, warmup_steps=4), Recipe().averaging, 10)
    quarter, state = optimizer.update(gradient, optimizer.init(params), params, pace=slow)
    np.testing.assert_allclose(quarter[groups[0].title], full[groups[0].title] / 4, rtol=1e-6)
    half, _ = optimizer.update(gradient, state, params, pace=slow)
    np.testing.assert_allclose(half[groups[0].title], full[groups[0].title] / 2, rtol=1e-3)
