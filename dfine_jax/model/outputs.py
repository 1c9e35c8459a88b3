"""What the model gives and takes besides pictures: typed pytrees shared by the decoder and its training."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int


class LayerPrediction(NamedTuple):
    """One decoder layer's output."""

    logits: Float[Array, "B Q K"]
    """Of each class, after location quality was added."""
    boxes: Float[Array, "B Q 4"]
    """cx, cy, w, h in fractions of the picture, decoded from `corners`."""
    corners: Float[Array, "B Q 4*(bins+1)"]
    """Logits of the four edges' distributions."""


class PlainPrediction(NamedTuple):
    """Classes and boxes of a head without distributions: layer 0's plain head, or the encoder's selection."""

    logits: Float[Array, "B Q K"]
    boxes: Float[Array, "B Q 4"]
    """cx, cy, w, h in fractions of the picture."""


class QueryPredictions(NamedTuple):
    """All that the decoder predicts for one set of queries, ordinary or denoising."""

    layers: tuple[LayerPrediction, ...]
    pre: PlainPrediction
    """Layer 0 before location quality, with its plain head's boxes."""
    initial_boxes: Float[Array, "B Q 4"]
    """`pre.boxes` with the gradient stopped: every layer's distances are measured from these."""


class TrainingOutput(NamedTuple):
    """The whole model's output in training."""

    queries: QueryPredictions
    encoder: PlainPrediction
    denoising: QueryPredictions | None
    up: Float[Array, "..."]
    """W(n)'s half range over `reg_scale`; scalar or of shape (1,)."""
    reg_scale: Float[Array, "..."]


class Detected(NamedTuple):
    """The whole model's output at inference."""

    logits: Float[Array, "B Q K"]
    boxes: Float[Array, "B Q 4"]
    """cx, cy, w, h in fractions of the picture."""
    selected: Int[Array, "B Q"]
    """Which encoder token each query came from."""


class DetectedWithEdges(NamedTuple):
    """`Detected`, and the distributions that the boxes were decoded from."""

    logits: Float[Array, "B Q K"]
    boxes: Float[Array, "B Q 4"]
    selected: Int[Array, "B Q"]
    corners: Float[Array, "B Q 4*(bins+1)"]
    reference: Float[Array, "B Q 4"]
    """cx, cy, w, h in fractions of the picture, from which the distances are measured."""
    up: Float[Array, "..."]
    reg_scale: Float[Array, "..."]


class DenoisingQueries(NamedTuple):
    """Noisy copies of the target boxes, which the decoder sees as `D` queries in front of the ordinary `Q`."""

    labels: Int[Array, "B D"]
    """Class of each, possibly flipped; `num_classes` in padding slots."""
    boxes_unact: Float[Array, "B D 4"]
    """cx, cy, w, h before the sigmoid."""
    blocked: Bool[Array, "D+Q D+Q"]
    """[i, j] is True where query i may not look at query j. No row is all True."""
    box: Int[Array, "B D"]
    """The target box that a slot is a copy of; valid where `positive`."""
    positive: Bool[Array, "B D"]
    """True where the slot should predict its box: neither padding nor a negative."""
    used: Bool[Array, " D"]
    """False for slots beyond the last group, which no loss counts."""
    groups: Int[Array, ""]
    """How many positive copies each target box has; 0 if the batch has no boxes."""
