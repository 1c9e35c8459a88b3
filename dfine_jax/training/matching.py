"""Which query answers for which true box: Hungarian matching and the union over layers (GO-LSD, section 4.2).

Everything runs on the device with static shapes: padded boxes take part in the assignment at no cost and are
dropped from its result.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from dfine_jax.boxes import cxcywh_to_xyxy, pairwise_giou
from dfine_jax.training.targets import Assignment, Targets

# Real costs lie within some tens. The bound keeps the solver finite when a network has diverged.
COST_LIMIT = 1e3
DEAR = 4 * COST_LIMIT
LOG_EPS = 1e-8


@dataclass(frozen=True)
class MatchWeights:
    """What the parts of the matching cost weigh, and the focal loss's two constants."""

    label: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0


def match_cost(
    logits: Float[Array, "Q K"],
    boxes: Float[Array, "Q 4"],
    target_boxes: Float[Array, "N 4"],
    target_labels: Int[Array, " N"],
    weights: MatchWeights = MatchWeights(),
) -> Float[Array, "Q N"]:
    """What it costs to let each query answer for each true box of one picture; a NaN becomes 1."""
    probability = jax.nn.sigmoid(logits.astype(jnp.float32))[:, target_labels]
    positive = weights.alpha * (1 - probability) ** weights.gamma * -jnp.log(probability + LOG_EPS)
    negative = (1 - weights.alpha) * probability**weights.gamma * -jnp.log(1 - probability + LOG_EPS)
    l1 = jnp.abs(boxes[:, None] - target_boxes[None]).sum(-1)
    giou = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes))
    cost = weights.label * (positive - negative) + weights.l1 * l1 - weights.giou * giou
    return jnp.clip(jnp.nan_to_num(cost, nan=1.0), -COST_LIMIT, COST_LIMIT)


def assign(cost: Float[Array, "P B Q N"], mask: Bool[Array, "B N"]) -> Assignment:
    """For each of `P` places and each picture the one-to-one assignment of boxes to queries with the least total cost.

    Every real box gets a query. If there are more real boxes than queries, every query gets a box, so that the
    total is the least of all such choices, and the boxes left over have none.
    """
    box_by_box, query_by_query = (
        jax.vmap(jax.vmap(solve), in_axes=(0, None)) for solve in (_places_for_boxes, _boxes_for_queries)
    )
    queries, boxes = cost.shape[2:]
    if boxes <= queries:
        return box_by_box(cost, mask)
    return jax.lax.cond(jnp.any(jnp.sum(mask, axis=-1) > queries), query_by_query, box_by_box, cost, mask)


def _places_for_boxes(cost: Float[Array, "Q N"], mask: Bool[Array, " N"]) -> Assignment:
    """Box by box. A box that finds all queries taken makes the solver look at every one of them, which is slow."""
    queries, boxes = cost.shape
    # Besides the queries every box has a place of its own to go to. A padded box goes there at once, which keeps
    # it out of the real ones' way and the solver fast. To a real box all places are dearer than any query, so it
    # is left with one only when there are more boxes than queries.
    to_query = jnp.where(mask[:, None], cost.T, DEAR)
    to_own_place = jnp.where(jnp.eye(boxes, dtype=bool) & ~mask, 0.0, DEAR)
    box_index, place = optax.assignment.hungarian_algorithm(jnp.concatenate([to_query, to_own_place], axis=1))
    box_of_place = jnp.full(queries + boxes, -1).at[place].set(box_index)
    box_of_query = box_of_place[:queries]
    return Assignment(box=jnp.maximum(box_of_query, 0), matched=box_of_query >= 0)


def _boxes_for_queries(cost: Float[Array, "Q N"], mask: Bool[Array, " N"]) -> Assignment:
    """Query by query, for more boxes than queries. One left without a real box takes a padded one."""
    query, box = optax.assignment.hungarian_algorithm(jnp.where(mask, cost, DEAR))
    box_of_query = jnp.zeros(len(cost), box.dtype).at[query].set(box)
    matched = mask[box_of_query]
    return Assignment(box=jnp.where(matched, box_of_query, 0), matched=matched)


def match(
    logits: Float[Array, "P B Q K"],
    boxes: Float[Array, "P B Q 4"],
    targets: Targets,
    weights: MatchWeights = MatchWeights(),
) -> Assignment:
    """Hungarian matching of `P` places (layers and heads) at once; `boxes` are cx, cy, w, h. No gradient flows.

    Under a mesh (`jax.sharding.use_abstract_mesh`) the pictures must be shared among all of its devices.
    """
    if targets.mask.shape[-1] == 0:
        raise ValueError("Targets have no place for a box (N is 0): pad them to at least 1, with mask False.")
    logits, boxes = jax.lax.stop_gradient((logits, boxes))
    labels = jnp.where(targets.mask, targets.labels, 0)

    def solve(logits, boxes, target_boxes, labels, mask):
        of_pictures = jax.vmap(match_cost, in_axes=(0, 0, 0, 0, None))
        of_places = jax.vmap(of_pictures, in_axes=(0, 0, None, None, None))
        return assign(of_places(logits, boxes, target_boxes, labels, weights), mask)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        # Each device goes on by itself. As one program over all of them, every round of the solver's loops would ask
        # the others whether they are done.
        (axis,) = mesh.axis_names
        places, pictures = PartitionSpec(None, axis), PartitionSpec(axis)
        inputs = (places, places, pictures, pictures, pictures)
        # Unchecked: the solver's loops start from constants, which the check would want marked as each device's own.
        solve = jax.shard_map(solve, in_specs=inputs, out_specs=places, check_vma=False)
    return solve(logits, boxes, targets.boxes, labels, targets.mask)


def union(assignments: Assignment, num_boxes: int) -> Assignment:
    """The union of all places' pairs: each query keeps the box it was matched with most often.

    Going through the pairs from most to least frequent while each query keeps its first box, as the paper has
    it, comes to just that. Of boxes matched equally often the lower index wins.

    Args:
        assignments: of shape (P, B, Q).
        num_boxes: places for boxes in a picture, `N`.

    Returns:
        An assignment of shape (B, Q).
    """
    one_hot = jax.nn.one_hot(assignments.box, num_boxes, dtype=jnp.int32)
    counts = jnp.sum(one_hot * assignments.matched[..., None], axis=0)
    return Assignment(box=jnp.argmax(counts, axis=-1), matched=jnp.any(assignments.matched, axis=0))
