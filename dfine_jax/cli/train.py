"""``dfine train``: from a folder of labelled pictures to a detector."""

import argparse
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console

from convert.sources import read_backbone
from dfine_jax.cli.options import say_remarks
from dfine_jax.config import DFineConfig
from dfine_jax.data.formats import recognise
from dfine_jax.data.samples import Dataset, summarise
from dfine_jax.display import printable
from dfine_jax.errors import InputError
from dfine_jax.hub_config import from_hub
from dfine_jax.inference.preprocess import Preprocessing
from dfine_jax.json_file import read_object
from dfine_jax.pretrained import open_pretrained
from dfine_jax.training.configuration import (
    FILE_NAME,
    Configuration,
    differences,
    read_configuration,
    write_configuration,
)
from dfine_jax.training.errors import TrainingError
from dfine_jax.training.folder import claimed, writing
from dfine_jax.training.processes import Processes, joined
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.saved_model import ModelFolder
from dfine_jax.training.start import Start, fine_tune, fresh
from dfine_jax.training.trainer import Evaluated, Trained, train

MODEL_FOLDER = "model"
MOST_REMARKS = 3
"""Of those on a data set; dfine data shows all."""


@dataclass(frozen=True)
class Command:
    """Train a detector on labelled pictures.

    OUTPUT/model gets the best model so far, for dfine detect --model OUTPUT/model; beside it lie checkpoints,
    log.jsonl, curves and pictures of evaluations, and training.json with all settings. Without --model the weights
    start untrained. Every default below is the published recipe's of the size or model you name, so look at
    dfine train --size s --help, for example. A batch size other than the recipe's wants another learning rate.

    Examples:

      dfine train --data cells --model nano-coco --output runs/cells

      dfine train --data shapes --size n --image-size 192 --queries 100 --batch-size 16 --epochs 5 --output runs/shapes

      dfine train --output runs/cells --resume

      dfine train --config runs/cells/training.json --optimization.learning-rate 1e-4 --output runs/slower
    """

    configuration: Annotated[Configuration, tyro.conf.arg(name="")]
    resume: bool = False
    """Go on from the last checkpoint in the output folder, exactly; start if there is none."""
    config: Path | None = None
    """Take all settings that are not given from the training.json of another training."""
    processes: Processes = Processes()


def command(arguments: list[str]) -> int:
    """Parses and runs; errors are exceptions of one line."""
    defaults = _defaults(arguments)
    parsed = tyro.cli(Command, prog="dfine train", args=arguments, default=Command(defaults))
    with joined(parsed.processes):
        return run(parsed.configuration, resume=parsed.resume)


def run(configuration: Configuration, *, resume: bool = False) -> int:
    """Trains as configured; see ``Command``."""
    first = jax.process_index() == 0
    with claimed(configuration.output, resume=resume) if first else nullcontext():
        return _run(configuration, Console(quiet=not first), resume)


def _run(configuration: Configuration, console: Console, resume: bool) -> int:
    output = configuration.output
    written = output / FILE_NAME
    if resume and written.exists() and (changed := differences(read_configuration(written), configuration)):
        raise TrainingError(f"{output} was trained with other settings: {'; '.join(changed)}")
    dataset, held_out = open_datasets(configuration.data, console)
    start = make_start(configuration, dataset)
    side, about = configuration.recipe.image_size, f"dfine train on {configuration.data}"
    model = ModelFolder(output / MODEL_FOLDER, Preprocessing(side, side), about)
    if jax.process_index() == 0:
        _write_whole(configuration, written)

    trained = train(
        start,
        dataset,
        configuration.recipe,
        configuration.run,
        output=output,
        resume=resume,
        make_evaluate=_evaluation(configuration, start.config, held_out) if held_out else None,
        on_evaluation=_reporter(configuration, held_out) if held_out else None,
        save=model,
        console=console,
    )
    if jax.process_index() == 0:
        ending = printable(_ending(trained, output, model))
        console.print(ending, markup=False, highlight=False, soft_wrap=True)
    return 0


def _write_whole(configuration: Configuration, path: Path) -> None:
    """Writes the settings beside their place and moves them there: half a file would be no training to go on with."""
    with writing("to", path):
        new = path.with_name(f".{path.name}.new")
        write_configuration(configuration, new)
        os.replace(new, path)


def _defaults(arguments: list[str]) -> Configuration:
    """Settings to start from: those of a file, of a training to go on with, or the recipe of what is to be trained."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--config", "--output", "--size", "--model"):
        early.add_argument(name)
    early.add_argument("--epochs", type=int)
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args([*map(_with_hyphens, arguments)])
    if known.config:
        return replace(read_configuration(Path(known.config)), output=tyro.MISSING)
    if known.resume and known.output and (written := Path(known.output) / FILE_NAME).exists():
        return replace(read_configuration(written), output=tyro.MISSING)
    if known.model:
        recipe = Recipe.for_config(open_pretrained(known.model).config, fine_tune=True)
    else:
        recipe = Recipe.for_size(known.size or "n")
    if known.epochs:
        recipe = recipe.with_epochs(known.epochs)
    return Configuration(data=tyro.MISSING, output=tyro.MISSING, recipe=recipe)


def _with_hyphens(argument: str) -> str:
    """An option's name with hyphens, as tyro takes it either way; values stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def open_datasets(data: str, console: Console) -> tuple[Dataset, Dataset | None]:
    """What to train on, and what to evaluate on where the data has a part for it."""
    source = recognise(data)
    dataset = source.open("train" if source.splits else None)
    dataset.check_boxes(data)
    held_out = next((source.open(split) for split in ("val", "test") if split in source.splits), None)
    for remark in dataset.remarks[:MOST_REMARKS]:
        console.print(printable(remark), style="yellow", markup=False, highlight=False)
    if dataset.problems:
        console.print(
            f"left out or changed: {summarise(dataset.problems)}; dfine data {data} lists them", style="yellow"
        )
    if held_out is None:
        console.print(f"{data} has no val or test part: the model won't be evaluated", style="yellow")
    return dataset, held_out


def make_start(configuration: Configuration, dataset: Dataset) -> Start:
    """The values that a training with this configuration begins with."""
    seed, queries, class_names = configuration.run.seed, configuration.queries, dataset.class_names
    if configuration.model and configuration.backbone:
        raise InputError("give --model, which has a backbone, or --backbone, not both")
    stored = open_pretrained(configuration.model) if configuration.model else None
    if stored is not None:
        say_remarks(stored)
        config = stored.config
    elif configuration.architecture:
        config = from_hub(read_object(configuration.architecture))
    else:
        config = DFineConfig.from_size(configuration.size)
    config = config if queries is None else config.with_queries(queries)
    if stored is not None:
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


def _reporter(configuration: Configuration, held_out: Dataset):
    """Draws curves and pictures after each evaluation."""
    from dfine_jax.evaluation.curves import training_curves
    from dfine_jax.evaluation.sheet import comparison_sheet

    output = configuration.output

    def report(step: int, evaluation: Evaluated) -> None:
        pictures = output / "evaluations"
        pictures.mkdir(exist_ok=True)
        comparison_sheet(held_out, evaluation).save(pictures / f"{step:08}.jpg", quality=90)
        training_curves(output / "log.jsonl").savefig(output / "curves.png")

    return report


def _ending(trained: Trained, output: Path, model: ModelFolder) -> str:
    """What is said last; ``TrainingError`` where the model that it tells of can't be read."""
    standing = trained.standing
    if not trained.finished:
        return (
            f"stopped at step {standing.step:,}, with a checkpoint; go on with: dfine train --output {output} --resume"
        )
    best = "" if standing.best_ap is None else f", AP {standing.best_ap:.4f} at step {standing.best_step:,}"
    model.require()
    return f"the model is in {model.path}{best}; use it with: dfine detect PICTURE --model {model.path}"


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
