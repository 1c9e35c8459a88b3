"""D-FINE's training loss: from the model's output and the true boxes to one number.

The terms are those of `losses`, applied to every place that predicts: each decoder layer, the first layer's plain
head (`pre`), the encoder's selection (`enc`), and the same layers and plain head for the denoising queries (`dn`).
Counts and means are of the batch given. Under `jax.jit` with sharded arrays that is the global batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dfine_jax.model.distribution import weighting_function
from dfine_jax.model.outputs import (
    DenoisingQueries,
    LayerPrediction,
    PlainPrediction,
    QueryPredictions,
    TrainingOutput,
)
from dfine_jax.training import losses
from dfine_jax.training.losses import QueryCounts
from dfine_jax.training.matching import MatchWeights, match, union
from dfine_jax.training.targets import Assignment, Targets, pair


@dataclass(frozen=True)
class LossWeights:
    """What each kind of term weighs in the total."""

    vfl: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0
    fgl: float = 0.15
    ddf: float = 1.5


class Losses(NamedTuple):
    """The loss and what it is made of."""

    total: Float[Array, ""]
    """The plain sum of `terms`."""
    terms: dict[str, Float[Array, ""]]
    """Weighted, by name: `loss_<kind>` for the last layer, with `_aux_<i>` for layer i before it, `_pre`, `_enc_0`,
    `_dn_<i>` and `_dn_pre` for the other places."""


def criterion(
    output: TrainingOutput,
    targets: Targets,
    denoising: DenoisingQueries | None = None,
    weights: LossWeights = LossWeights(),
    match_weights: MatchWeights = MatchWeights(),
) -> Losses:
    """The loss of one batch.

    Args:
        output: what the model made of the batch; any float type.
        targets: the true boxes.
        denoising: the denoising queries that the model was given, if `output.denoising` is there.
        weights: of the terms.
        match_weights: of the matching's cost.

    Returns:
        float32 scalars. In a batch without any box only `vfl` and `ddf` of ordinary queries are above zero.
    """
    if (denoising is None) != (output.denoising is None):
        raise ValueError(
            "Denoising queries and the model's output for them must be given together: "
            f"denoising is {'missing' if denoising is None else 'given'}, "
            f"output.denoising is {'missing' if output.denoising is None else 'given'}."
        )
    output = jax.tree.map(lambda x: x.astype(jnp.float32), output)
    queries = output.queries
    layers = len(queries.layers)

    places = _stack([*queries.layers, queries.pre, output.encoder])
    own = match(places.logits, places.boxes, targets, match_weights)
    shared = union(own, targets.mask.shape[-1])
    num_matched = jnp.sum(shared.matched)
    balance = QueryCounts(
        matched=num_matched.astype(jnp.float32),
        unmatched=(shared.matched.size - num_matched).astype(jnp.float32),
    )
    num_boxes = jnp.maximum(jnp.sum(targets.mask), 1)
    num_union = jnp.maximum(num_matched, 1)
    used = jnp.ones_like(shared.matched)
    project = weighting_function(output.up, output.reg_scale, queries.layers[0].corners.shape[-1] // 4 - 1)

    names = [*(f"_aux_{i}" for i in range(layers - 1)), "", "_pre", "_enc_0"]
    terms = _plain_terms(places, names, targets, own, shared, used, num_boxes, num_union)
    terms |= _layer_terms(queries, names, targets, shared, used, num_union, balance, project, output.reg_scale)

    if denoising is not None:
        places = _stack([*output.denoising.layers, output.denoising.pre])
        known = Assignment(denoising.box, denoising.positive)
        own = jax.tree.map(lambda x: jnp.broadcast_to(x, (layers + 1, *x.shape)), known)
        used = jnp.broadcast_to(denoising.used, denoising.positive.shape)
        num_copies = num_boxes * jnp.maximum(denoising.groups, 1)
        names = [*(f"_dn_{i}" for i in range(layers)), "_dn_pre"]
        terms |= _plain_terms(places, names, targets, own, known, used, num_copies, num_copies)
        terms |= _layer_terms(
            output.denoising, names, targets, known, used, num_copies, balance, project, output.reg_scale
        )

    terms = {name: getattr(weights, name.split("_")[1]) * term for name, term in terms.items()}
    return Losses(total=sum(terms.values()), terms=terms)


def _stack(predictions: Sequence[LayerPrediction | PlainPrediction]) -> PlainPrediction:
    """Classes and boxes of all places in one array each, so that one computation serves them all."""
    logits = jnp.stack([prediction.logits for prediction in predictions])
    return PlainPrediction(logits, jnp.stack([prediction.boxes for prediction in predictions]))


def _plain_terms(
    places: PlainPrediction,
    names: Sequence[str],
    targets: Targets,
    own: Assignment,
    shared: Assignment,
    used: Bool[Array, "B Q"],
    num_own: Int[Array, ""],
    num_shared: Int[Array, ""],
) -> dict[str, Float[Array, ""]]:
    """The vfl term by each place's own matching, bbox and giou by the one they share."""
    shared_pairs = pair(targets, shared)

    def place_terms(logits, boxes, own):
        vfl = losses.varifocal_loss(logits, boxes, pair(targets, own), used)
        bbox, giou = losses.l1_loss(boxes, shared_pairs), losses.giou_loss(boxes, shared_pairs)
        return {"vfl": vfl / num_own, "bbox": bbox / num_shared, "giou": giou / num_shared}

    return _named(jax.vmap(place_terms)(places.logits, places.boxes, own), names)


def _layer_terms(
    queries: QueryPredictions,
    names: Sequence[str],
    targets: Targets,
    shared: Assignment,
    used: Bool[Array, "B Q"],
    num_shared: Int[Array, ""],
    balance: QueryCounts,
    project: Float[Array, " W"],
    reg_scale: Float[Array, "..."],
) -> dict[str, Float[Array, ""]]:
    """The fgl term of every layer, and ddf of every layer but the last, which is the teacher."""
    pairs = pair(targets, shared)
    wanted = losses.distance_targets(queries.initial_boxes, pairs, project, reg_scale)
    layers = jax.tree.map(lambda *x: jnp.stack(x), *queries.layers)
    students, teacher = jax.tree.map(lambda x: x[:-1], layers), queries.layers[-1]

    def fgl(layer):
        return losses.fine_grained_localization_loss(layer.corners, layer.boxes, pairs, wanted) / num_shared

    def ddf(student):
        return losses.distillation_loss(
            student.corners, student.boxes, teacher.corners, teacher.logits, pairs, used, balance
        )

    fgl_terms = _named({"fgl": jax.vmap(fgl)(layers)}, names[: len(queries.layers)])
    return fgl_terms | _named({"ddf": jax.vmap(ddf)(students)}, names[: len(queries.layers) - 1])


def _named(kinds: dict[str, Float[Array, " P"]], names: Sequence[str]) -> dict[str, Float[Array, ""]]:
    return {f"loss_{kind}{name}": value[i] for kind, value in kinds.items() for i, name in enumerate(names)}
