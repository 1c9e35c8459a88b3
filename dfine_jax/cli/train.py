"""``dfine train``: from a folder of labelled pictures to a detector."""

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import tyro
from rich.console import Console

from dfine_jax.bundled import SHAPES_MODEL
from dfine_jax.cli.options import say_remarks
from dfine_jax.cli.train_recipe import chosen_for, early_options, facts_of, recipe_in_words, wishes_of
from dfine_jax.cli.train_results import Results
from dfine_jax.config import DFineConfig
from dfine_jax.data.formats import recognise
from dfine_jax.data.holdout import hold_out
from dfine_jax.data.samples import Dataset, summarise
from dfine_jax.display import printable, say
from dfine_jax.errors import InputError
from dfine_jax.hub_config import from_hub
from dfine_jax.json_file import read_object
from dfine_jax.pretrained import SHORT_NAMES, open_pretrained
from dfine_jax.training.configuration import (
    FILE_NAME,
    Configuration,
    differences,
    from_json,
    read_configuration,
    to_json,
    write_configuration,
)
from dfine_jax.training.defaults import most_steps, paced
from dfine_jax.training.errors import TrainingError
from dfine_jax.training.folder import LOG, claimed, writing
from dfine_jax.training.length import Clock
from dfine_jax.training.memory import OutOfMemoryError
from dfine_jax.training.processes import Processes, first_of_all, joined
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.start import Start, fine_tune, fresh
from dfine_jax.training.trainer import train
from dfine_jax.weights.folder import StoredModel
from dfine_jax.weights.sources import read_backbone

MOST_REMARKS = 3
"""Of those on a data set; dfine data shows all."""


@dataclass(frozen=True)
class Command:
    """Train a detector on labelled pictures.

    Without settings it takes a recipe for your data and your machine and prints it before it begins: pictures as large
    as the model's own, larger where boxes would be too small; a batch of up to 32 that fits in memory; learning rates,
    warm-up and average to go with it; DEIM's loss for the classes; a number of steps that grows with the data (1,500
    for 100 pictures), or with the option --minutes as many as end in that time; evaluations on the val part, or where
    there is none on a tenth of the pictures, held out (unless --no-holdout); an early end where AP no longer rises.
    What you give stays as you give it.

    OUTPUT/model gets the best model so far, for dfine detect --model OUTPUT/model, with the thresholds that show it
    best and a README; beside it lie checkpoints, log.jsonl, curves and pictures of evaluations, and training.json with
    all settings. Without --model the weights start untrained. --preset coco takes the recipe published for COCO, which
    is what the defaults below are: those of the size or model you name (dfine train --size s --help).

    Examples:

      dfine train --data cells --model nano-coco --output runs/cells

      dfine train --data cells --model nano-coco --minutes 30 --output runs/cells

      dfine train --data cells --model shapes --preset coco --batch-size 8 --epochs 40 --output runs/published

      dfine train --output runs/cells --resume

      dfine train --config runs/cells/training.json --optimization.learning-rate 1e-4 --output runs/slower
    """

    configuration: Annotated[Configuration, tyro.conf.arg(name="")]
    preset: Literal["auto", "coco"] = "auto"
    """auto: a recipe for these pictures on this machine; coco: the published one."""
    resume: bool = False
    """Go on from the last checkpoint in the output folder, exactly; start if there is none."""
    config: Path | None = None
    """Take all settings that are not given from the training.json of another training."""
    processes: Processes = Processes()


Parse = Callable[[Configuration], Command]
"""Reads the command line, with these settings where it gives none."""
Open = Callable[[str], StoredModel]
"""Finds a model by name and checks it, without reading its weights; a command asks for the same one several times."""


def command(arguments: list[str]) -> int:
    """Parses and runs; errors are exceptions of one line."""
    began = time.monotonic()
    early = early_options(arguments)
    opened = functools.cache(open_pretrained)

    def parse(defaults: Configuration) -> Command:
        return tyro.cli(Command, prog="dfine train", args=arguments, default=Command(defaults))

    defaults, is_published = _defaults(early, opened)
    parsed = parse(defaults)
    lengths = [name for name in ("epochs", "steps", "minutes") if getattr(early, name)]
    if len(lengths) > 1:
        raise InputError(f"--{' and --'.join(lengths)} each say how long to train: give one of them")
    with joined(parsed.processes):
        if early.preset == "coco" or not is_published:
            return run(parsed.configuration, resume=parsed.resume, clock=Clock(began), opened=opened)
        return _run_chosen(defaults, parsed, parse, early, began, opened)


def _run_chosen(
    defaults: Configuration, parsed: Command, parse: Parse, early: argparse.Namespace, began: float, opened: Open
) -> int:
    """Trains with the recipe that data and machine ask for, where the command line gives none."""
    console = Console(quiet=jax.process_index() != 0)
    configuration = parsed.configuration
    data = open_datasets(configuration, console)
    config, own_size = _model_of(configuration, opened)
    trained = configuration.model is not None
    facts = facts_of(
        config,
        own_size,
        data.train,
        data.held_out,
        labelled=data.labelled,
        trained=trained,
        knows_photographs=_knows_photographs(configuration),
    )
    wishes = wishes_of(early)
    while True:
        settings, chosen = chosen_for(
            defaults, defaults.recipe, facts, wishes, every_so_many_epochs=early.evaluate_every is not None
        )
        configuration = from_json(first_of_all(to_json(parse(settings).configuration)))
        settings = replace(settings, recipe=configuration.recipe)

        def lay(steps: int, settings: Configuration = settings) -> Recipe:
            return parse(replace(settings, recipe=paced(settings.recipe, steps))).configuration.recipe

        words = printable(recipe_in_words(configuration, chosen, facts, data.part), lines=True)
        console.print(words, markup=False, highlight=False, soft_wrap=True)
        clock = Clock(began, lay, most_steps(facts.pictures, trained=trained))
        if wishes.minutes is not None:
            configuration = replace(configuration, recipe=replace(configuration.recipe, steps=None, strong_steps=None))
        try:
            return run(configuration, resume=parsed.resume, clock=clock, data=data, opened=opened)
        except OutOfMemoryError as error:
            parts = 2 * configuration.recipe.optimization.accumulate
            has_begun = (configuration.output / LOG).exists()
            if early.accumulate or has_begun or configuration.recipe.batch_size % (parts * facts.devices):
                raise
            told = printable(f"{error}; tried again in {parts} parts")
            console.print(told, markup=False, highlight=False, soft_wrap=True)
            wishes = replace(wishes, accumulate=parts, batch_size=configuration.recipe.batch_size)


class Data(NamedTuple):
    """What to train on, and what to choose the best model by."""

    train: Dataset
    held_out: Dataset | None
    part: str
    """What is held out, in words."""
    labelled: int
    """Pictures to train on, and such as were held out from them."""


def run(
    configuration: Configuration,
    *,
    resume: bool = False,
    clock: Clock | None = None,
    data: Data | None = None,
    opened: Open = open_pretrained,
) -> int:
    """Trains as configured; see ``Command``. ``data`` is what ``open_datasets`` gives, where it was called already."""
    first = jax.process_index() == 0
    with claimed(configuration.output, resume=resume) if first else nullcontext():
        console = Console(quiet=not first)
        return _run(configuration, console, resume, clock or Clock(time.monotonic()), data, opened)


def _run(
    configuration: Configuration, console: Console, resume: bool, clock: Clock, data: Data | None, opened: Open
) -> int:
    written, first = configuration.output / FILE_NAME, jax.process_index() == 0
    if resume and written.exists() and (changed := differences(read_configuration(written), configuration)):
        raise TrainingError(f"{configuration.output} was trained with other settings: {'; '.join(changed)}")
    dataset, held_out, part, _ = data or open_datasets(configuration, console)
    start = make_start(configuration, dataset, opened)
    if first:
        _write_whole(configuration, written)
    results = Results(configuration, dataset, held_out, part)

    def laid(recipe: Recipe) -> None:
        results.configuration = replace(configuration, recipe=recipe)
        if first:
            _write_whole(results.configuration, written)

    trained = train(
        start,
        dataset,
        configuration.recipe,
        configuration.run,
        output=configuration.output,
        resume=resume,
        clock=replace(clock, laid=laid),
        make_evaluate=_evaluation(configuration, start.config, held_out) if held_out else None,
        on_evaluation=results.on_evaluation if held_out else None,
        save=results.model,
        console=console,
    )
    if first:
        console.print(printable(results.ending(trained)), markup=False, highlight=False, soft_wrap=True)
    return 0


def _write_whole(configuration: Configuration, path: Path) -> None:
    """Writes the settings beside their place and moves them there: half a file would be no training to go on with."""
    with writing("to", path):
        new = path.with_name(f".{path.name}.new")
        write_configuration(configuration, new)
        os.replace(new, path)


def _defaults(early: argparse.Namespace, opened: Open = open_pretrained) -> tuple[Configuration, bool]:
    """Settings to start from, and whether they are the published ones for what is to be trained.

    Else they are those of a file, or of a training to go on with.
    """
    known = early.config or (
        str(Path(early.output) / FILE_NAME)
        if early.resume and early.output and (Path(early.output) / FILE_NAME).exists()
        else None
    )
    if known:
        configuration = replace(read_configuration(Path(known)), output=tyro.MISSING)
        recipe = configuration.recipe
        if early.epochs or early.steps or early.minutes:  # another length than the file's
            recipe = replace(recipe, steps=None, strong_steps=None, minutes=None)
        return replace(configuration, recipe=recipe), False
    if early.model:
        recipe = Recipe.for_config(opened(early.model).config, fine_tune=True)
    else:
        recipe = Recipe.for_size(early.size or "n")
    if early.epochs:
        recipe = recipe.with_epochs(int(early.epochs))
    is_coco = early.preset == "coco"
    return Configuration(data=tyro.MISSING, output=tyro.MISSING, recipe=recipe, holdout=not is_coco), True


def open_datasets(configuration: Configuration, console: Console) -> Data:
    """What to train on, and what to evaluate on: the val part, or pictures held out, or else the test part."""
    data = configuration.data
    source = recognise(data)
    dataset = source.open("train" if source.splits else None)
    dataset.check_boxes(data)
    for remark in dataset.remarks[:MOST_REMARKS]:
        say(console, remark, "yellow")
    if dataset.problems:
        say(console, f"left out or changed: {summarise(dataset.problems)}; dfine data {data} lists them", "yellow")
    if "val" in source.splits:
        held_out = source.open("val")
        return Data(dataset, held_out, f"{len(held_out):,} pictures of the val part", len(dataset))
    if configuration.holdout and len(dataset) > 1:
        kept, held_out = hold_out(dataset, configuration.run.seed)
        say(
            console,
            f"{data} has no val part: {len(held_out):,} of {len(dataset):,} pictures are held out to choose the best "
            "model by (--no-holdout trains on all)",
            "yellow",
        )
        return Data(kept, held_out, f"{len(held_out):,} pictures held out", len(dataset))
    if "test" in source.splits:
        held_out = source.open("test")
        return Data(dataset, held_out, f"{len(held_out):,} pictures of the test part", len(dataset))
    say(console, f"{data} has no val or test part: the model won't be evaluated", "yellow")
    return Data(dataset, None, "none: there is nothing to evaluate on", len(dataset))


def _model_of(configuration: Configuration, opened: Open) -> tuple[DFineConfig, int]:
    """What is to be trained, but for its classes, and the side of the pictures that it was made for."""
    if configuration.model:
        stored = opened(configuration.model)
        return stored.config, max(stored.preprocessing.height, stored.preprocessing.width)
    if configuration.architecture:
        return from_hub(read_object(configuration.architecture)), Recipe().image_size
    return DFineConfig.from_size(configuration.size), Recipe().image_size


def _knows_photographs(configuration: Configuration) -> bool:
    """Whether the backbone that a training begins with has learned from any: the package's own model has not."""
    if configuration.model is None:
        return configuration.backbone is not None
    return SHORT_NAMES.get(configuration.model, configuration.model) != str(SHAPES_MODEL)


def make_start(configuration: Configuration, dataset: Dataset, opened: Open = open_pretrained) -> Start:
    """The values that a training with this configuration begins with."""
    seed, queries, class_names = configuration.run.seed, configuration.queries, dataset.class_names
    if configuration.model and configuration.backbone:
        raise InputError("give --model, which has a backbone, or --backbone, not both")
    config, _ = _model_of(configuration, opened)
    config = config if queries is None else config.with_queries(queries)
    if configuration.model:
        stored = opened(configuration.model)
        say_remarks(stored)
        return fine_tune(config, dict(stored.arrays()), class_names, seed)
    config = config.with_classes(class_names)
    return fresh(config, seed, read_backbone(configuration.backbone, config) if configuration.backbone else None)


def _evaluation(configuration: Configuration, config: DFineConfig, held_out: Dataset):
    from dfine_jax.evaluation.held_out import HeldOut

    def make(apply, devices) -> HeldOut:
        return HeldOut(
            apply,
            config.class_names,
            held_out,
            size=configuration.recipe.image_size,
            batch_size=configuration.recipe.batch_size,
            workers=configuration.run.workers,
            mesh=devices.mesh,
        )

    return make


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
