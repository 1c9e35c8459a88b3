"""How many wrong labels are found in the first part of a ranking, by each of three ways to rank them.

    $ python -m benchmarks.label_errors --pictures 1000 --seeds 0 1 2

Of the labels of drawn pictures, which the model in the package has not seen, a share is made wrong, a quarter of it in
each way: moved, renamed, dropped, invented. What is ranked are labels, and objects without one:

- ``rank_labels``, the library's: by the loss against the best-fitting detection of the label's class
- by the same loss against the query that the Hungarian matching of training gives a label
- by the norm of that loss's gradient by the parameters of the last layer's heads, one example at a time
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine, versions
from dfine_jax import functional, load_pretrained
from dfine_jax.boxes import cxcywh_to_xyxy, giou
from dfine_jax.data.shapes import MOST_SHAPES, shapes
from dfine_jax.evaluation.confusion import NOTHING, OVERLAP, overlaps, rows_by_picture
from dfine_jax.evaluation.label_errors import GIOU_WEIGHT, LEAST_SEEN, rank_labels
from dfine_jax.evaluation.predictions import Predicted
from dfine_jax.evaluation.truth import Truth
from dfine_jax.inference.postprocess import postprocess
from dfine_jax.inference.preprocess import normalise, resize
from dfine_jax.training.matching import match
from dfine_jax.training.targets import Targets

KINDS = ("moved", "renamed", "dropped", "invented")
PLACES = 2 * MOST_SHAPES
"""For labels of a picture; pictures with more, when some are invented, are rare, and fit."""
EXTRA = 8
"""Queries of a picture that no label is matched with, the best-scoring, which are ranked, too."""


class Wrong(NamedTuple):
    """Labels, some of them made wrong."""

    truth: Truth
    rows: dict[int, str]
    """What was done to which row."""
    dropped: list[tuple[int, np.ndarray]]
    """Pictures and boxes whose label is gone."""


def corrupt(truth: Truth, share: float, shift: tuple[float, float], seed: int) -> Wrong:
    """Makes a share of the labels wrong; those moved go by ``shift`` of their width and height, in both directions."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(truth.labels))[: round(share * len(truth.labels))]
    moved, renamed, dropped, invented = (chosen[i::4] for i in range(4))
    boxes, labels = truth.boxes.copy(), truth.labels.copy()
    sizes = boxes[:, 2:] - boxes[:, :2]
    steps = rng.uniform(*shift, (len(moved), 2)) * rng.choice([-1, 1], (len(moved), 2)) * sizes[moved]
    boxes[moved] += np.tile(steps, 2)
    labels[renamed] += rng.integers(1, len(truth.class_names), len(renamed))
    labels %= len(truth.class_names)
    # One of the size and class of another, anywhere in any picture.
    pictures = rng.integers(len(truth.sizes), size=len(invented))
    corners = rng.uniform(0, 1, (len(invented), 2)) * (truth.sizes[pictures][:, ::-1] - sizes[invented])
    kept = np.setdiff1d(np.arange(len(labels)), dropped)
    place = {row: i for i, row in enumerate(kept.tolist())}
    wrong = {place[row]: kind for rows, kind in ((moved, "moved"), (renamed, "renamed")) for row in rows.tolist()}
    wrong |= {len(kept) + i: "invented" for i in range(len(invented))}
    new = replace(
        truth,
        pictures=np.concatenate([truth.pictures[kept], pictures]).astype(np.int32),
        boxes=np.concatenate([boxes[kept], np.concatenate([corners, corners + sizes[invented]], 1)]).astype(np.float32),
        labels=np.concatenate([labels[kept], truth.labels[invented]]).astype(np.int32),
        areas=np.concatenate([truth.areas[kept], truth.areas[invented]]),
        crowds=np.zeros(len(kept) + len(invented), bool),
    )
    return Wrong(new, wrong, [(int(truth.pictures[row]), truth.boxes[row]) for row in dropped])


class Ranked(NamedTuple):
    """One entry of a ranking: a row of the labels, or where that is ``NOTHING`` a box in a picture."""

    badness: float
    picture: int
    row: int
    box: np.ndarray | None


def found(ranking: list[Ranked], wrong: Wrong, first: float) -> Counter[str]:
    """How many of each kind are among the first; as many are looked at as that share of the labels."""
    counts: Counter[str] = Counter()
    left = list(wrong.dropped)
    for entry in ranking[: round(first * len(wrong.truth.labels))]:
        if entry.row != NOTHING:
            counts[wrong.rows.get(entry.row, "right")] += 1
            continue
        hits = [i for i, (picture, box) in enumerate(left) if picture == entry.picture and _is_on(entry.box, box)]
        counts["dropped" if hits else "right"] += 1
        if hits:
            del left[hits[0]]
    return counts


def _is_on(box: np.ndarray, other: np.ndarray) -> bool:
    return bool(overlaps(box[None], other[None], crowd=False)[0, 0] >= OVERLAP)


def by_detections(predicted: list[Predicted], truth: Truth) -> list[Ranked]:
    """The library's ranking."""
    ranking = rank_labels(predicted, truth)
    return [Ranked(s.loss, s.picture, s.row, s.seen.box if s.row == NOTHING else None) for s in ranking]


class Network:
    """The model as a function of the parameters of its last heads, and what it sees in each picture."""

    def __init__(self, name: str):
        loaded = load_pretrained(name)
        self.settings, self.config = loaded.preprocessing, loaded.config
        self._apply, params, self._stats = functional(loaded.model)
        last = self.config.decoder.last_layer
        names = (f"decoder.class_heads.{last}.", f"decoder.box_heads.{last}.")
        self._heads = {name: value for name, value in params.items() if name.startswith(names)}
        self._others = {name: value for name, value in params.items() if name not in self._heads}

    def _output(self, heads, picture):
        output = self._apply({**self._others, **heads}, self._stats, normalise(picture[None], self.settings))
        return output.logits[0], output.boxes[0]

    @partial(jax.jit, static_argnums=0)
    def detect(self, picture, size):
        """The best detections of one picture."""
        logits, boxes = self._output(self._heads, picture)
        return postprocess(logits[None], boxes[None], size[None])

    @partial(jax.jit, static_argnums=0)
    def judge(self, picture, boxes, labels, mask):
        """Of every label, and of the best queries that none is matched with: loss, norm of its gradient, box."""
        logits, found = self._output(self._heads, picture)
        targets = Targets(boxes=boxes[None], labels=labels[None], mask=mask[None])
        own = jax.tree.map(lambda x: x[0, 0], match(logits[None, None], found[None, None], targets))
        is_pair = (own.box[None] == jnp.arange(PLACES)[:, None]) & own.matched
        scores = jnp.where(own.matched, -1.0, jax.nn.sigmoid(logits).max(-1))
        _, extra = jax.lax.top_k(scores, EXTRA)
        queries = jnp.concatenate([is_pair.argmax(axis=1), extra])
        wanted = jnp.concatenate([labels, logits[extra].argmax(-1)])
        places = jnp.concatenate([boxes, found[extra]])
        is_label = jnp.arange(PLACES + EXTRA) < PLACES

        def loss(heads, query, label, box, is_label):
            logits, boxes = self._output(heads, picture)
            logit = logits[query, label]
            place = 1 - giou(cxcywh_to_xyxy(boxes[query]), cxcywh_to_xyxy(box))
            return jnp.where(is_label, GIOU_WEIGHT * place - jax.nn.log_sigmoid(logit), -jax.nn.log_sigmoid(-logit))

        values, gradients = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0, 0, 0, 0))(
            self._heads, queries, wanted, places, is_label
        )
        squares = sum(jnp.sum(jnp.square(g), axis=range(1, g.ndim)) for g in gradients.values())
        return values, jnp.sqrt(squares), cxcywh_to_xyxy(found[extra]), scores[extra]


def by_queries(network: Network, pictures: list[np.ndarray], truth: Truth) -> Iterator[tuple[Ranked, Ranked]]:
    """Entries of both other rankings: by loss and by norm of the gradient."""
    for picture, rows in enumerate(rows_by_picture(truth)):
        height, width = truth.sizes[picture]
        scale = np.array([width, height, width, height])
        low, high = np.split(truth.boxes[rows] / scale, 2, axis=1)
        boxes = np.zeros((PLACES, 4), np.float32)
        boxes[: len(rows)] = np.concatenate([(low + high) / 2, high - low], axis=1)
        labels = np.zeros(PLACES, np.int32)
        labels[: len(rows)] = truth.labels[rows]
        mask = np.arange(PLACES) < len(rows)
        losses, norms, extra, scores = map(np.asarray, network.judge(pictures[picture], boxes, labels, mask))
        for i, row in enumerate(rows.tolist()):
            yield Ranked(losses[i], picture, row, None), Ranked(norms[i], picture, row, None)
        accounted = truth.boxes[rows]
        for i, box in enumerate(extra * scale):
            covered = overlaps(box[None].astype(np.float32), accounted, crowd=False).max(initial=0.0)
            if scores[i] >= LEAST_SEEN and covered < OVERLAP:
                accounted = np.concatenate([accounted, box[None]]).astype(np.float32)
                for_both = dict(picture=picture, row=NOTHING, box=box.astype(np.float32))
                yield Ranked(losses[PLACES + i], **for_both), Ranked(norms[PLACES + i], **for_both)


def main() -> None:
    """Corrupts, ranks and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.05, help="of labels that are made wrong")
    parser.add_argument("--shift", type=float, nargs=2, default=(0.25, 0.5), help="of a moved box, in its own sides")
    given = parser.parse_args()
    network = Network("shapes")
    dataset = shapes(given.pictures, split="val")
    truth = Truth.of(dataset)
    pictures = [resize(Image.fromarray(record.pixels()), network.settings) for record in dataset.records]
    predicted = [
        Predicted(i, *(np.asarray(x[0]) for x in network.detect(picture, truth.sizes[i])))
        for i, picture in enumerate(pictures)
    ]
    tables: dict[str, list[list[Ranked]]] = {}
    wrongs = [corrupt(truth, given.share, tuple(given.shift), seed) for seed in given.seeds]
    for wrong in wrongs:
        of_loss, of_norm = zip(*by_queries(network, pictures, wrong.truth), strict=True)
        rankings = {
            "loss against the detection that fits (rank_labels)": by_detections(predicted, wrong.truth),
            "loss against the matched query": of_loss,
            "norm of that loss's gradient": of_norm,
        }
        for name, ranking in rankings.items():
            tables.setdefault(name, []).append(sorted(ranking, key=lambda entry: -entry.badness))
    print_table(tables, wrongs, given)


def print_table(tables: dict[str, list[list[Ranked]]], wrongs: list[Wrong], given: argparse.Namespace) -> None:
    """The share of wrong labels among the first of each ranking, over all seeds."""
    total = Counter(kind for wrong in wrongs for kind in [*wrong.rows.values(), *["dropped"] * len(wrong.dropped)])
    title = (
        f"{given.pictures} pictures, {len(wrongs[0].truth.labels):,} labels, {given.share:.0%} made wrong, boxes moved "
        f"by {given.shift[0]:g} to {given.shift[1]:g} of their sides, seeds {' '.join(map(str, given.seeds))}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("ranked by")
    for heading in ("first 5 %", "first 10 %", "worst seed", *KINDS):
        table.add_column(heading, justify="right")
    for name, rankings in tables.items():
        five, ten = (
            [Counter({k: found(r, w, first)[k] for k in KINDS}) for r, w in zip(rankings, wrongs, strict=True)]
            for first in (0.05, 0.1)
        )
        worst = min(counts.total() for counts in ten) * len(wrongs) / total.total()
        every = sum(ten, Counter())
        kinds = [f"{every[kind]} of {total[kind]}" for kind in KINDS]
        shares = (sum(five, Counter()).total() / total.total(), every.total() / total.total(), worst)
        table.add_row(name, *(f"{share:.1%}" for share in shares), *kinds)
    console = Console(width=150)
    console.print(table)
    console.print(f"{machine()}; {versions('jax', 'jaxlib')}", highlight=False)


if __name__ == "__main__":
    main()
