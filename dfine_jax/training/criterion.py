"""D-FINE's training loss: from the model's output and the true boxes to one number.

The terms are those of `losses`, for every place that predicts: each decoder layer, the first layer's plain head
(`pre`), the encoder's selection (`enc`), and the same layers and plain head for the denoising queries (`dn`).
Counts and means are of the batch given; under `jax.jit` with sharded arrays that is the global batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dfine_jax.model.distribution import weighting_function
from dfine_jax.model.outputs import DenoisingQueries, LayerPrediction, PlainPrediction, TrainingOutput
from dfine_jax.training import losses
from dfine_jax.training.matching import MatchWeights, match, union
from dfine_jax.training.targets import Assignment, PairedTargets, Targets, pair


@dataclass(frozen=True)
class LossWeights:
    """What each kind of term weighs in the total, and which loss teaches the classes."""

    kind: Literal["vfl", "mal"] = "vfl"
    """Of the classes' terms: the varifocal loss of the paper, or DEIM's matchability-aware one, which also learns from
    matches of low quality."""
    vfl: float = 1.0
    """Of the classes' terms, whichever kind they are."""
    bbox: float = 5.0
    giou: float = 2.0
    fgl: float = 0.15
    ddf: float = 1.5


ClassLoss = Callable[[Array, Array, PairedTargets], Array]
CLASS_LOSSES: dict[str, ClassLoss] = {"vfl": losses.varifocal_loss, "mal": losses.matchability_loss}


class Losses(NamedTuple):
    """The loss and what it is made of."""

    total: Float[Array, ""]
    """The plain sum of `terms`."""
    terms: dict[str, Float[Array, ""]]
    """Weighted, by name: `loss_<kind>` for the last layer, with `_aux_<i>` for layer i before it, `_pre`, `_enc_0`,
    `_dn_<i>` and `_dn_pre` for the other places. The classes' kind is that of their loss, `vfl` or `mal`."""


Criterion = Callable[
    [TrainingOutput, Targets, DenoisingQueries | None, LossWeights, MatchWeights],
    Losses,
]
"""What ``criterion`` is, and what a loss of one's own can be in its place."""


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
        float32 scalars. In a batch without any box only terms of classes and `ddf` of ordinary queries are above zero.

    Raises:
        ValueError: only one of `denoising` and `output.denoising` is given.
    """
    if (denoising is None) != (output.denoising is None):
        raise ValueError(
            "Denoising queries and the model's output for them must be given together: "
            f"denoising is {'missing' if denoising is None else 'given'}, "
            f"output.denoising is {'missing' if output.denoising is None else 'given'}."
        )
    answers = _gather(output)
    classes = CLASS_LOSSES[weights.kind]
    slots = answers.initial_boxes.shape[1] - output.queries.initial_boxes.shape[1]
    own = match(answers.places.logits[:, :, slots:], answers.places.boxes[:, :, slots:], targets, match_weights)
    shared = union(own, targets.mask.shape[-1])
    ordinary = _Group(
        names=[*(f"_aux_{i}" for i in range(len(output.queries.layers) - 1)), "", "_pre", "_enc_0"],
        used=jnp.ones_like(shared.matched),
        matched=shared.matched,
        num_own=jnp.maximum(jnp.sum(targets.mask), 1),
        num_shared=jnp.maximum(jnp.sum(shared.matched), 1),
    )
    # The release takes the roots of these numbers times 8 / batch, which cancels out.
    num_matched = jnp.sum(shared.matched)
    matched_root, unmatched_root = jnp.sqrt(num_matched), jnp.sqrt(shared.matched.size - num_matched)
    matched_share = matched_root / (matched_root + unmatched_root)

    if denoising is None:
        values = _values(answers, targets, own, shared, classes)
        terms = _terms(values, ordinary, matched_share, weights)
    else:
        known = Assignment(denoising.box, denoising.positive)
        own = jax.tree.map(lambda k, o: jnp.concatenate([jnp.broadcast_to(k, (len(o), *k.shape)), o], 2), known, own)
        shared = jax.tree.map(lambda k, s: jnp.concatenate([k, s], 1), known, shared)
        values = _values(answers, targets, own, shared, classes)
        terms = _terms(jax.tree.map(lambda x: x[:, :, slots:], values), ordinary, matched_share, weights)
        num_copies = ordinary.num_own * jnp.maximum(denoising.groups, 1)
        noisy = _Group(
            names=[*(f"_dn_{i}" for i in range(len(output.queries.layers))), "_dn_pre"],
            used=jnp.broadcast_to(denoising.used, denoising.positive.shape),
            matched=denoising.positive,
            num_own=num_copies,
            num_shared=num_copies,
        )
        terms |= _terms(jax.tree.map(lambda x: x[:, :, :slots], values), noisy, matched_share, weights)
    return Losses(total=sum(terms.values()), terms=terms)


class _Answers(NamedTuple):
    """What all queries of all places answered, in float32: denoising slots first, if any, then ordinary queries."""

    places: PlainPrediction
    """(P, B, D+Q, ...): each layer, `pre`, `enc`. The encoder's have zeros for the denoising slots."""
    layers: LayerPrediction
    """(L, B, D+Q, ...)."""
    initial_boxes: Float[Array, "B D+Q 4"]
    up: Float[Array, "..."]
    reg_scale: Float[Array, "..."]


def _gather(output: TrainingOutput) -> _Answers:
    """Puts all that is computed alike into one array each: a fraction of the program to compile."""
    output = jax.tree.map(lambda x: x.astype(jnp.float32), output)
    queries, encoder = output.queries, output.encoder
    if output.denoising is not None:
        slots = output.denoising.initial_boxes.shape[1]
        queries = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), output.denoising, queries)
        encoder = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (slots, 0), (0, 0))), encoder)
    layers = jax.tree.map(lambda *x: jnp.stack(x), *queries.layers)
    places = PlainPrediction(
        logits=jnp.concatenate([layers.logits, jnp.stack([queries.pre.logits, encoder.logits])]),
        boxes=jnp.concatenate([layers.boxes, jnp.stack([queries.pre.boxes, encoder.boxes])]),
    )
    return _Answers(places, layers, queries.initial_boxes, output.up, output.reg_scale)


class _Values(NamedTuple):
    """Each kind of term for each query, unweighted."""

    classes: Float[Array, "P B Q"]
    bbox: Float[Array, "P B Q"]
    giou: Float[Array, "P B Q"]
    fgl: Float[Array, "L B Q"]
    ddf: Float[Array, "L-1 B Q"]
    """Of every layer but the last, which is the teacher."""


def _values(answers: _Answers, targets: Targets, own: Assignment, shared: Assignment, classes: ClassLoss) -> _Values:
    """The classes' terms go by each place's own matching, all others by the one that the places share."""
    places, layers = answers.places, answers.layers
    own_pairs, pairs = jax.vmap(pair, in_axes=(None, 0))(targets, own), pair(targets, shared)
    project = weighting_function(answers.up, answers.reg_scale, layers.corners.shape[-1] // 4 - 1)
    wanted = losses.distance_targets(answers.initial_boxes, pairs, project, answers.reg_scale)
    return _Values(
        classes=classes(places.logits, places.boxes, own_pairs),
        bbox=losses.l1_loss(places.boxes, pairs),
        giou=losses.giou_loss(places.boxes, pairs),
        fgl=losses.fine_grained_localization_loss(layers.corners, layers.boxes, pairs, wanted),
        ddf=losses.distillation_loss(
            layers.corners[:-1], layers.boxes[:-1], layers.corners[-1], layers.logits[-1], pairs
        ),
    )


class _Group(NamedTuple):
    """What summing up the ordinary or the denoising queries needs."""

    names: Sequence[str]
    """What each place adds to its terms' names."""
    used: Bool[Array, "B Q"]
    matched: Bool[Array, "B Q"]
    num_own: Int[Array, ""]
    num_shared: Int[Array, ""]


def _terms(
    values: _Values, group: _Group, matched_share: Float[Array, ""], weights: LossWeights
) -> dict[str, Float[Array, ""]]:
    """Weighted terms by name.

    The ddf term is a mean over matched and one over unmatched queries, mixed by `matched_share`, which the ordinary
    queries decide for the denoising ones as well.
    """

    def sum_of(value: Float[Array, "P B Q"]) -> Float[Array, " P"]:
        return jnp.sum(jnp.where(group.used, value, 0.0), axis=(1, 2))

    def mean_of(value: Float[Array, "P B Q"], where: Bool[Array, "B Q"]) -> Float[Array, " P"]:
        return jnp.sum(jnp.where(where, value, 0.0), axis=(1, 2)) / jnp.maximum(jnp.sum(where), 1)

    by_kind = {
        weights.kind: sum_of(values.classes) / group.num_own,
        "bbox": sum_of(values.bbox) / group.num_shared,
        "giou": sum_of(values.giou) / group.num_shared,
        "fgl": sum_of(values.fgl) / group.num_shared,
        "ddf": matched_share * mean_of(values.ddf, group.matched)
        + (1.0 - matched_share) * mean_of(values.ddf, group.used & ~group.matched),
    }
    weight = asdict(weights) | {weights.kind: weights.vfl}
    return {
        f"loss_{kind}{name}": term
        for kind, terms in by_kind.items()
        for name, term in zip(group.names, weight[kind] * terms, strict=False)
    }
