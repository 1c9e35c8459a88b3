from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from dfine_jax.training.matching import assign, match, match_cost, union
from dfine_jax.training.targets import Assignment, Targets, pair

PLACES = ("layer_0", "layer_1", "layer_2", "pre", "enc")


@pytest.mark.parametrize("padding", ["targets", "widely_padded_targets"])
def test_matchings_and_union_of_the_original(reference, padding):
    targets = getattr(reference, padding)
    logits = jnp.stack([reference.tensor(place, "logits") for place in PLACES])
    boxes = jnp.stack([reference.tensor(place, "boxes") for place in PLACES])
    own = jax.jit(match)(logits, boxes, targets)
    shared = union(own, targets.mask.shape[-1])
    assignments = {place: jax.tree.map(lambda x, i=i: x[i], own) for i, place in enumerate(PLACES)}
    for place, assignment in {**assignments, "union": shared}.items():
        for picture, (box, matched) in enumerate(zip(*map(np.asarray, assignment), strict=True)):
            found = set(zip(np.flatnonzero(matched), box[matched], strict=True))
            queries, matched_boxes = reference.numbers[f"match.{place}.{picture}"]
            assert found == set(zip(queries, matched_boxes, strict=True)), (place, picture)


@pytest.mark.parametrize(
    ("queries", "places", "real"), [(12, 5, 5), (12, 7, 3), (6, 6, 6), (5, 9, 4), (5, 9, 8), (5, 9, 9)]
)
def test_assignment_has_the_least_total(queries, places, real):
    rng = np.random.default_rng(queries)
    solve = jax.jit(assign)
    for _ in range(5):
        cost = rng.uniform(-30, 30, (queries, places)).astype(np.float32)
        mask = np.zeros(places, bool)
        mask[rng.choice(places, real, replace=False)] = True
        box, matched = (np.asarray(x)[0, 0] for x in solve(cost[None, None], mask[None]))
        assert matched.sum() == min(real, queries)
        assert mask[box[matched]].all()
        assert len(set(box[matched])) == matched.sum()
        real_cost = cost[:, mask]
        best = real_cost[linear_sum_assignment(real_cost)].sum()
        np.testing.assert_allclose(cost[matched, box[matched]].sum(), best, rtol=1e-3)


def test_pictures_of_more_and_of_fewer_boxes_than_queries_in_one_batch():
    """The solver goes query by query then; a picture of few boxes comes out as it does on its own."""
    rng = np.random.default_rng(0)
    cost, mask = rng.uniform(-30, 30, (2, 3, 5, 9)).astype(np.float32), np.arange(9) < np.array([[9], [3], [0]])
    together = jax.device_get(jax.jit(assign)(cost, mask))
    np.testing.assert_array_equal(together.matched.sum(-1), [[5, 3, 0]] * 2)
    for picture in (1, 2):
        alone = jax.jit(assign)(cost[:, [picture], :, :3], mask[[picture], :3])
        for ours, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(ours[:, [picture]], expected)


def test_costs_worked_out_by_hand():
    logits, boxes = jnp.array([[0.0, 2.0]]), jnp.array([[0.5, 0.5, 0.2, 0.2]])
    target = jnp.array([[0.6, 0.5, 0.2, 0.2]])
    cost = jax.jit(match_cost)(logits, boxes, target, jnp.array([0]))
    # p = 1/2: 0.25 * 1/4 * ln 2 - 0.75 * 1/4 * ln 2; L1 0.1; IoU 1/3, and the two cover their enclosing box.
    np.testing.assert_allclose(cost, [[2 * (-0.125 * np.log(2)) + 5 * 0.1 - 2 / 3]], rtol=1e-4)


def test_numbers_that_are_none_still_end_in_a_matching(pad_targets):
    targets = pad_targets([2], np.full((2, 4), 0.4, np.float32), np.array([0, 1]), 3)
    solve = jax.jit(match)
    for logit, box in ((np.nan, 0.5), (0.0, np.nan), (np.inf, 0.5), (-np.inf, np.inf), (1e30, 1e30)):
        logits = jnp.full((1, 1, 4, 2), logit).at[0, 0, 0].set(0.0)
        boxes = jnp.full((1, 1, 4, 4), box).at[0, 0, 0].set(0.4)
        assert solve(logits, boxes, targets).matched.sum() == 2


def test_a_cost_that_is_no_number_becomes_one():
    box, label = jnp.full((1, 4), 0.5), jnp.array([0])
    assert jax.jit(match_cost)(jnp.full((1, 2), jnp.nan), box, box, label) == 1


def test_batches_without_boxes_match_nothing(pad_targets):
    targets = pad_targets([0, 0], np.zeros((0, 4)), np.zeros(0), 2)
    logits, boxes = jnp.zeros((3, 2, 4, 5)), jnp.full((3, 2, 4, 4), 0.5)
    own = jax.jit(match)(logits, boxes, targets)
    assert own.matched.shape == (3, 2, 4)
    assert not own.matched.any()
    assert not union(own, 2).matched.any()
    with pytest.raises(ValueError, match="pad them to at least 1"):
        match(logits, boxes, Targets(jnp.zeros((2, 0, 4)), jnp.zeros((2, 0), int), jnp.zeros((2, 0), bool)))


def test_union_is_what_going_through_the_pairs_gives():
    rng = np.random.default_rng(0)
    places, pictures, queries, boxes = 6, 8, 5, 3
    box = rng.integers(0, boxes, (places, pictures, queries))
    matched = rng.random(box.shape) < 0.6
    shared = union(Assignment(jnp.asarray(box), jnp.asarray(matched)), boxes)
    for picture in range(pictures):
        pairs = Counter(
            (query, box[place, picture, query])
            for place in range(places)
            for query in range(queries)
            if matched[place, picture, query]
        )
        kept = {}
        for (query, target), _ in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
            kept.setdefault(query, target)
        found = np.flatnonzero(shared.matched[picture])
        assert {query: int(shared.box[picture, query]) for query in found} == kept


def test_pair_looks_up_and_leaves_zeros():
    targets = Targets(jnp.arange(8, dtype=jnp.float32).reshape(1, 2, 4), jnp.array([[3, 5]]), jnp.ones((1, 2), bool))
    paired = pair(targets, Assignment(jnp.array([[1, 0, 1]]), jnp.array([[True, False, True]])))
    np.testing.assert_array_equal(paired.boxes[0], [[4, 5, 6, 7], [0, 0, 0, 0], [4, 5, 6, 7]])
    np.testing.assert_array_equal(paired.labels[0], [5, 0, 5])
