"""How long does one training step take: forward, matching, all losses, backward, clipping, AdamW and moving average?

    $ python -m benchmarks.training_step [--rounds 10] [--output FILE]

Size N with 10 boxes a picture and 100 denoising queries of either kind, at 320x320 in batches of 8 and at 640x640 in
batches of 4: the step that ``dfine train`` compiles, and transformers' model in training mode with its own loss. Both
start from the same weights and are given the same pictures as bytes. The time to lower and to compile ours, without a
cache, is printed too. ``dfine train`` takes large memory pages where the system gives them to
those who ask, and so does the process of ours here; transformers is timed without, as a script runs it, and with them.

Before timing, the terms that both losses define alike have to agree within 1e-3, for the same batch with the same
denoising queries: ``vfl`` of the places that both have, and ``bbox`` and ``giou`` of their denoising queries and of the
last layer, where ours are computed by that layer's own matching for the comparison.

Places are the plain head of the first layer (``pre``), the layers, and the encoder's choice. transformers puts ``pre``
in front of the layers' logits and boxes, but has no distributions for it, and pairs the three lists from their starts.
So the last layer but one has no term there, nor has the last one for denoising queries, and ``fgl`` and ``ddf`` take a
layer's distributions with the boxes of the place before it: they can't be compared. Neither can ``bbox`` and ``giou``
of other layers, which transformers computes by each layer's own matching and ours, as the release, by the union of all.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Make, Timing, in_turn, machine, types, versions
from benchmarks.start import others, write_model
from dfine_jax.cli.large_pages import with_large_pages

SHAPES = ((320, 8), (640, 4))
"""Height and width of the pictures, and how many a batch has."""
BOXES, COPIES = 10, 100
TOLERANCE = 1e-3
SEED = 1
PEER, PEER_LARGE = "transformers float32", "transformers float32, large pages"


class Pictures(NamedTuple):
    """A batch as the loader gives it."""

    images: np.ndarray
    """(B, S, S, 3), bytes."""
    boxes: np.ndarray
    """(B, N, 4): cx, cy, w, h in fractions of the picture."""
    labels: np.ndarray
    """(B, N)."""
    mask: np.ndarray
    """(B, N): all true."""


class Answer(NamedTuple):
    """What a contender tells of its first step."""

    loss: float
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0


def main() -> None:
    """Checks, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: give 1 or more")
    for variable in ("JAX_COMPILATION_CACHE_DIR", "GLIBC_TUNABLES"):
        os.environ.pop(variable, None)
    console, rows, busy = Console(width=140), [], others()
    dtypes, large_pages = different_types(), with_large_pages({})
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model("n", model)
        for size, batch_size in SHAPES:
            pictures = random_pictures(size, batch_size)
            apart, term = check(model, pictures)
            console.print(
                f"{size}x{size}: the comparable terms are at most {apart:.1e} apart ({term})", highlight=False
            )
            makes = {f"dfine_jax {dtype}": partial(ours, model, dtype, pictures) for dtype in dtypes}
            makes[PEER] = partial(theirs, model, pictures)
            environments = {name: large_pages for name in makes if large_pages and name != PEER}
            if large_pages:
                makes[PEER_LARGE] = makes[PEER]
                environments[PEER_LARGE] = large_pages
            timings = in_turn(makes, options.rounds, title=f"{size}x{size},", warm=True, environments=environments)
            rows += [row(f"{size}x{size}, batch {batch_size}", name, timings, apart) for name in timings]
    report(rows, options.rounds, busy, options.output, console)


def different_types() -> tuple[str, ...]:
    """Of ``types``, those that ``dfine train`` computes products in here, where it is asked for them."""
    from dfine_jax.training.devices import Devices

    devices = Devices()
    return tuple(dtype for dtype in types() if devices.compute(dtype).dtype == dtype)


def random_pictures(size: int, batch_size: int) -> Pictures:
    """Noise with boxes anywhere."""
    rng = np.random.default_rng(SEED)
    sides = rng.uniform(0.05, 0.4, (batch_size, BOXES, 2))
    centres = rng.uniform(sides / 2, 1 - sides / 2)
    return Pictures(
        rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
        np.concatenate([centres, sides], axis=-1).astype(np.float32),
        rng.integers(0, 80, (batch_size, BOXES)).astype(np.int32),
        np.ones((batch_size, BOXES), bool),
    )


def stored(model: Path) -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Configuration, parameters and batch statistics of the written model."""
    from dfine_jax.model.dfine import functional
    from dfine_jax.pretrained import load_pretrained

    loaded = load_pretrained(model)
    _, params, batch_stats = functional(loaded.model)
    params, batch_stats = ({name: np.asarray(x) for name, x in each.items()} for each in (params, batch_stats))
    return loaded.config, params, batch_stats


def ours(model: Path, dtype: str, pictures: Pictures, size: str = "n") -> Make:
    """The step as the trainer compiles it; run in a process of its own."""
    import jax

    from dfine_jax.data.batches import Batch
    from dfine_jax.model.dfine import DFine, functional
    from dfine_jax.training.devices import Devices
    from dfine_jax.training.optimizer import make_optimizer, parameter_groups
    from dfine_jax.training.recipe import Recipe, model_config
    from dfine_jax.training.step import layout_of, make_update, start_state

    recipe, devices = Recipe.for_size(size), Devices()
    config, params, batch_stats = stored(model)
    config = model_config(config, recipe)
    apply = functional(DFine(config, compute=devices.compute(dtype), rng=np.random.default_rng(0))).apply
    groups = parameter_groups(params, recipe.optimization)
    layout = layout_of(params, batch_stats, groups)
    optimizer = make_optimizer(groups, recipe.optimization, total_steps=10_000)
    state = devices.replicate(start_state(params, batch_stats, layout, optimizer, seed=0))
    left_out = indices = np.zeros(len(pictures.images), np.int32)
    batch = Batch(*pictures, left_out, indices)

    began = time.perf_counter()
    lowered = devices.compile(make_update(apply, config, recipe, layout, optimizer)).lower(state, *devices.share(batch))
    lower_seconds = time.perf_counter() - began
    update = lowered.compile()
    compile_seconds = time.perf_counter() - began - lower_seconds

    def run() -> Answer:
        nonlocal state
        state, metrics = jax.block_until_ready(update(state, *devices.share(batch)))
        return Answer(float(metrics.loss), lower_seconds, compile_seconds)

    return run


def theirs(model: Path, pictures: Pictures, size: str = "n", device: str = "cpu", dtype: str = "float32") -> Make:
    """The same step with transformers, as ``benchmarks.train_transformers`` does it; run in a process of its own.

    In bfloat16 PyTorch chooses the operations that it rounds for (autocast).
    """
    import torch

    from benchmarks.torch_training import torch_batch, torch_groups
    from dfine_jax.training.recipe import Averaging, Recipe

    network = load_theirs(model).to(device)
    optimization = Recipe.for_size(size).optimization
    _, params, _ = stored(model)
    optimizer = torch.optim.AdamW(torch_groups(network, params, optimization), betas=optimization.betas, fused=True)
    values = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    average = {name: value.clone() for name, value in values.items()}

    def run() -> Answer:
        images, labels = torch_batch(pictures, device)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = network(pixel_values=images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), optimization.clip_norm)
        optimizer.step()
        with torch.no_grad():
            for name, value in values.items():
                average[name].lerp_(value, 1 - Averaging().decay)
        return Answer(loss.item())

    return run


def load_theirs(model: Path):
    """The model of transformers in training mode."""
    import torch
    from transformers import DFineForObjectDetection

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    return DFineForObjectDetection.from_pretrained(model, num_denoising=COPIES, dtype=torch.float32).train()


class Noise(NamedTuple):
    """The denoising queries that transformers drew."""

    labels: np.ndarray
    boxes_unact: np.ndarray
    blocked: np.ndarray
    groups: int


def check(model: Path, pictures: Pictures) -> tuple[float, str]:
    """The largest relative difference of a comparable term, and its name; ``SystemExit`` if it is above 1e-3."""
    name = "checking:"
    wanted, noise = in_turn({"transformers": partial(their_terms, model, pictures)}, 0, title=name)[
        "transformers"
    ].answer
    given = in_turn({"dfine_jax": partial(our_terms, model, pictures, noise)}, 0, title=name)["dfine_jax"].answer
    pairs = comparable(wanted)
    apart = {term: abs(given[here] - wanted[term]) / abs(wanted[term]) for term, here in pairs.items()}
    worst = max(apart, key=apart.get)
    if not apart[worst] <= TOLERANCE:
        different = [
            f"{term} {given[here]:.6g} here, {wanted[term]:.6g} there"
            for term, here in pairs.items()
            if not apart[term] <= TOLERANCE
        ]
        raise SystemExit(f"loss terms differ from transformers': {'; '.join(different)}")
    return apart[worst], f"the largest of {len(pairs)}: {worst}"


def comparable(names: Iterable[str]) -> dict[str, str]:
    """From names of terms of transformers' loss to ours, for those that mean the same."""
    places = [int(name.rpartition("_")[2]) for name in names if name.startswith("loss_vfl_aux_")]
    pairs = {"loss_vfl": "loss_vfl", "loss_bbox": "own_bbox", "loss_giou": "own_giou"}
    for place in places:
        layer = {0: "pre", max(places): "enc_0"}.get(place, f"aux_{place - 1}")
        pairs[f"loss_vfl_aux_{place}"] = f"loss_vfl_{layer}"
    for place in places:  # as many: of denoising queries the last layer but one counts, and the encoder has none
        for kind in ("vfl", "bbox", "giou"):
            pairs[f"loss_{kind}_dn_{place}"] = f"loss_{kind}_dn_{place - 1 if place else 'pre'}"
    return pairs


def their_terms(model: Path, pictures: Pictures) -> Make:
    """Every term of transformers' loss, and the denoising queries it drew for it."""
    from unittest.mock import patch

    import torch
    from transformers.models.d_fine import modeling_d_fine

    from benchmarks.torch_training import torch_batch

    draw = modeling_d_fine.get_contrastive_denoising_training_group
    drawn = []

    def recorded(*, class_embed, **options):
        labels = []

        def embed(classes):
            labels.append(classes.numpy().copy())
            return class_embed(classes)

        queries = draw(class_embed=embed, **options)
        _, boxes_unact, blocked, about = queries
        drawn.append(Noise(labels[0], boxes_unact.numpy().copy(), blocked.numpy() < 0, about["dn_num_group"]))
        return queries

    def run() -> tuple[dict[str, float], Noise]:
        network = load_theirs(model)  # afresh, since a pass changes running statistics
        images, labels = torch_batch(pictures)
        name = "get_contrastive_denoising_training_group"
        with torch.no_grad(), patch.object(modeling_d_fine, name, recorded):
            terms = network(pixel_values=images, labels=labels).loss_dict
        return {name: float(term) for name, term in terms.items()}, drawn[-1]

    return run


def our_terms(model: Path, pictures: Pictures, noise: Noise) -> Make:
    """Every term of our loss for given denoising queries, and two of the last layer by its own matching."""
    import jax
    import jax.numpy as jnp

    from dfine_jax.model.dfine import DFine, functional
    from dfine_jax.model.outputs import DenoisingQueries
    from dfine_jax.training import losses
    from dfine_jax.training.criterion import LossWeights, criterion
    from dfine_jax.training.matching import match
    from dfine_jax.training.targets import Targets, pair

    config, params, batch_stats = stored(model)
    apply = functional(DFine(config, rng=np.random.default_rng(0))).apply
    # Groups lie one after another: a copy of every box that moves a little, then one of every box that moves far.
    place = np.broadcast_to(np.arange(noise.labels.shape[1]) % (2 * BOXES), noise.labels.shape)
    denoising = DenoisingQueries(
        labels=noise.labels,
        boxes_unact=noise.boxes_unact,
        blocked=noise.blocked,
        box=place % BOXES,
        positive=place < BOXES,
        used=np.ones(place.shape[1], bool),
        groups=np.int32(noise.groups),
    )

    @jax.jit
    def terms(params, batch_stats, images, targets, denoising):
        output, _ = apply(params, batch_stats, images.astype(jnp.float32) / 255, denoising, train=True)
        last, count = output.queries.layers[-1], targets.mask.sum()
        own = pair(targets, jax.tree.map(lambda x: x[0], match(last.logits[None], last.boxes[None], targets)))
        by_own_matching = {
            "own_bbox": LossWeights().bbox * losses.l1_loss(last.boxes, own).sum() / count,
            "own_giou": LossWeights().giou * losses.giou_loss(last.boxes, own).sum() / count,
        }
        return criterion(output, targets, denoising).terms | by_own_matching

    def run() -> dict[str, float]:
        targets = Targets(*map(jnp.asarray, pictures[1:]))
        denoised = jax.tree.map(jnp.asarray, denoising)
        values = terms(params, batch_stats, pictures.images, targets, denoised)
        return {name: float(value) for name, value in values.items()}

    return run


def row(shape: str, name: str, timings: dict[str, Timing], apart: float) -> dict[str, Any]:
    """One contender's numbers."""
    timing = timings[name]
    return {
        "pictures": shape,
        "name": name,
        "median_seconds": timing.median,
        "seconds": timing.seconds.tolist(),
        "speed_ratio": timings[PEER].median / timing.median,
        "lower_seconds": timing.answer.lower_seconds,
        "compile_seconds": timing.answer.compile_seconds,
        "first_loss": timing.answer.loss,
        "largest_difference_of_terms": apart,
    }


def report(rows: list[dict[str, Any]], rounds: int, busy: str, output: Path | None, console: Console) -> None:
    """Prints medians and ratios, and writes them to a file."""
    title = f"one training step of size N, {BOXES} boxes a picture, {COPIES} denoising copies, {rounds} rounds"
    table = Table(title=title, title_justify="left")
    for heading in ("", "", "seconds", "fastest to slowest", "speed of transformers'", "lower s", "compile s"):
        table.add_column(heading, justify="right" if heading else "left")
    ends = {row["pictures"]: row for row in rows}
    for row in rows:
        seconds = row["seconds"]
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        numbers = (f"{row['median_seconds']:.3f}", spread, f"{row['speed_ratio']:.2f}x")
        compiled = [f"{row[key]:.1f}" if row[key] else "" for key in ("lower_seconds", "compile_seconds")]
        table.add_row(row["pictures"], row["name"], *numbers, *compiled, end_section=row is ends[row["pictures"]])
    used = versions("jax", "jaxlib", "flax", "optax", "torch", "transformers")
    console.print(table)
    console.print(f"{machine()}; {used}; {busy}. transformers' optimizer is fused.", highlight=False)
    if output is not None:
        about = {"title": title, "machine": machine(), "versions": used, "others": busy}
        output.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
