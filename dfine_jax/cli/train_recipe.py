"""What a command line of ``dfine train`` decides, what it leaves open, and in words what was chosen for that."""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace

import jax

from dfine_jax.config import DFineConfig
from dfine_jax.data.samples import Dataset
from dfine_jax.display import printable
from dfine_jax.host_memory import as_text
from dfine_jax.training.configuration import Configuration
from dfine_jax.training.cost import training_speed
from dfine_jax.training.defaults import Chosen, Facts, Wishes, choose, small_side
from dfine_jax.training.journal import duration
from dfine_jax.training.memory import available_memory
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.trainer import RunOptions

_NAMES = ("config", "output", "size", "model", "preset", "evaluate-every")
_WISHES = ("image-size", "batch-size", "queries", "denoising-copies", "epochs", "steps", "optimization.accumulate")


def early_options(arguments: list[str]) -> argparse.Namespace:
    """The options on which the others' defaults depend, as text, by name with underscores; None if not given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in (*_NAMES, *_WISHES, "minutes"):
        parser.add_argument(f"--{name}", dest=name.rpartition(".")[2].replace("-", "_"))
    parser.add_argument("--resume", action="store_true")
    return parser.parse_known_args([_with_dashes(argument) for argument in arguments])[0]


def wishes_of(early: argparse.Namespace) -> Wishes:
    """What a person has decided; the command line is known to be right."""
    whole = {name: getattr(early, name) for name in (n.rpartition(".")[2].replace("-", "_") for n in _WISHES)}
    numbers = {name: None if text in (None, "None") else int(text) for name, text in whole.items()}
    return Wishes(**numbers, minutes=None if early.minutes in (None, "None") else float(early.minutes))


def facts_of(
    config: DFineConfig,
    own_size: int,
    dataset: Dataset,
    held_out: Dataset | None,
    *,
    labelled: int,
    trained: bool,
    knows_photographs: bool,
) -> Facts:
    """The facts about data, model and machine that decide what is left open; see ``Facts``."""
    local = jax.local_devices()
    memory = available_memory(local[0])
    if memory is not None and local[0].platform == "cpu":
        memory //= len(local)  # they all share what the host has
    return Facts(
        pictures=len(dataset),
        labelled=labelled,
        held_out=len(held_out) if held_out else 0,
        most_boxes=dataset.most_boxes,
        small_side=small_side(dataset),
        config=config.with_classes(dataset.class_names),
        own_size=own_size,
        trained=trained,
        knows_photographs=knows_photographs,
        devices=jax.device_count(),
        memory=memory,
        speed=training_speed(local[0]),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def chosen_for(
    configuration: Configuration, published: Recipe, facts: Facts, wishes: Wishes, *, every_so_many_epochs: bool = False
) -> tuple[Configuration, Chosen]:
    """The settings for these facts, where a person gives no others, and the reasons.

    ``every_so_many_epochs``: that is when there shall be evaluations, not so many in all.
    """
    chosen = choose(published, facts, wishes)
    evaluations = 0 if every_so_many_epochs else chosen.evaluations
    run = replace(configuration.run, evaluations=evaluations, patience=chosen.patience, workers=chosen.workers)
    return replace(configuration, recipe=chosen.recipe, queries=chosen.queries, run=run), chosen


def recipe_in_words(configuration: Configuration, chosen: Chosen, facts: Facts, held_out: str) -> str:
    """The recipe, a line for each choice: what is done, and why unless a person said so."""
    recipe, run, own = configuration.recipe, configuration.run, chosen.recipe
    opt, average = recipe.optimization, recipe.averaging
    lines = [
        _line("image size", _size, recipe, own, chosen.reasons["image_size"]),
        _line("batch", _batch, recipe, own, chosen.reasons["batch_size"]),
        _line("learning rates", _rates, recipe, own, chosen.reasons["learning_rate"]),
        _line("classes' loss", _loss, recipe, own, chosen.reasons["loss"]),
        _line("length", _length, recipe, own, chosen.reasons["length"]),
        *([("", _guess(chosen.seconds))] if recipe.minutes is None else []),
        ("schedule", f"{opt.warmup_steps:,} steps of warm-up, {recipe.falling}"),
        ("average", f"of weights over about {1 / (1 - average.decay):,.0f} steps"),
        ("augmentation", _augmentation(recipe)),
        ("queries", f"{configuration.queries}, and {recipe.denoising_copies} noisy copies of boxes"),
        ("evaluations", f"{_evaluations(run)} on {held_out}" if facts.held_out else held_out),
    ]
    if run.patience and facts.held_out:
        lines.append(("", f"ends early after {run.patience} evaluations without a better AP"))
    memory = "" if facts.memory is None else f", {as_text(facts.memory)} free on each"
    title = (
        f"recipe for {facts.pictures:,} pictures with {facts.config.num_classes} classes on {facts.devices} "
        f"{jax.devices()[0].device_kind}{memory} (--preset coco: the published one)"
    )
    return "\n".join([title, *(f"  {about:<16}{printable(value)}" for about, value in lines)])


def _line(about: str, value: Callable[[Recipe], str], recipe: Recipe, own: Recipe, reason: str) -> tuple[str, str]:
    """A choice with its reason, if it is the recipe's own."""
    return about, f"{value(recipe)} ({reason if value(recipe) == value(own) else 'as asked for'})"


def _size(recipe: Recipe) -> str:
    return f"{recipe.image_size} x {recipe.image_size}"


def _rates(recipe: Recipe) -> str:
    return f"{recipe.optimization.learning_rate:g}, backbone {recipe.optimization.backbone_learning_rate:g}"


def _loss(recipe: Recipe) -> str:
    return recipe.loss.kind


def _length(recipe: Recipe) -> str:
    steps = f"{recipe.epochs:,} epochs" if recipe.steps is None else f"{recipe.steps:,} steps"
    return steps if recipe.minutes is None else f"{recipe.minutes:g} minutes, about {steps}"


def _guess(seconds: float) -> str:
    return f"about {duration(seconds)}, by how fast this machine multiplies; said anew once steps have been measured"


def _evaluations(run: RunOptions) -> str:
    return f"{run.evaluations}" if run.evaluations else f"every {run.evaluate_every} epochs"


def _augmentation(recipe: Recipe) -> str:
    changes = recipe.augmentation
    dense = ["dense in the first half"] if changes.preset == "dense" else []
    zoom = [f"zoom-out up to {changes.zoom_out_most:g} times"] if changes.zoom_out_most > 1 else ["no zoom-out"]
    strong = recipe.steps_with_strong_augmentation
    end = f"from epoch {recipe.strong_epochs:,}" if strong is None else f"from step {strong:,}"
    return f"colours, crops, flips, {', '.join(dense + zoom)}; {end} on flips only"


def _batch(recipe: Recipe) -> str:
    parts = recipe.optimization.accumulate
    return f"{recipe.batch_size}" + (f", in {parts} parts" if parts > 1 else "")


def _with_dashes(argument: str) -> str:
    """Options with underscores in their names, which are taken, too, with dashes."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
