"""How good ``dfine train`` is without settings, by number of pictures and by seed, on a folder of labelled photographs.

    $ python -m benchmarks.small_sets bccd --minutes 15 --seeds 0 1 2 --pictures 12 30 100 all
    $ python -m benchmarks.small_sets bccd --steps 400 --pictures all --settings "" "--loss.kind mal"

For each number so many pictures of the train part are taken, other ones for each seed, as if they were all that a
person has: where it is not ``all``, those to choose the best model by are held out from them. AP is on the test part,
of which a training sees nothing. ``--transformers`` trains transformers' model for as many steps, too
(``train_transformers``). Each of ``--settings`` is tried on the same pictures with the same seeds. After every training
the table so far is printed and written to the output folder, as ``table.txt`` and ``results.json``; what is there
already is not trained again.
"""

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine, versions
from dfine_jax.data.formats import recognise
from dfine_jax.data.write import write_dataset
from dfine_jax.display import verbatim
from dfine_jax.training.configuration import FILE_NAME, read_configuration

ALL = "all"
WIDTH = 120
"""Of the table in the file, in letters."""


class Result(NamedTuple):
    """One training."""

    pictures: str
    settings: str
    """Of ``dfine train``, besides."""
    seed: int
    side: str
    ap: float = math.nan
    minutes: float = math.nan
    steps: int = 0
    image_size: int = 0
    batch_size: int = 0


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a data set with a train and a test part")
    parser.add_argument("--model", default="shapes", help='to start from; "": new weights')
    parser.add_argument("--minutes", type=float, default=15.0, help="for each training")
    parser.add_argument("--steps", type=int, help="of each training, instead of minutes: to compare settings by")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", nargs="+", default=["12", "30", "100", ALL], help=f"numbers, or {ALL}")
    parser.add_argument("--transformers", action="store_true", help="train transformers' model beside it, equal steps")
    parser.add_argument("--output", type=Path, default=Path("runs/small-sets"))
    parser.add_argument("--settings", nargs="+", default=[""], help='of dfine train, to compare: "" "--loss.kind mal"')
    parser.add_argument("--common", default="", help='settings of all of them: --common="--image-size 256"')
    arguments = parser.parse_args()
    console, results = Console(), []
    for pictures in arguments.pictures:
        for seed in arguments.seeds:
            for settings in arguments.settings:
                results += run(arguments, pictures, settings, seed, console)
                report(results, arguments, console)
                with (arguments.output / "table.txt").open("w", encoding="utf-8") as file:
                    report(results, arguments, Console(file=file, width=WIDTH))
                text = json.dumps([result._asdict() for result in results], indent=1)
                (arguments.output / "results.json").write_text(text + "\n", "utf-8")


def run(arguments: argparse.Namespace, pictures: str, settings: str, seed: int, console: Console) -> list[Result]:
    """One training, and transformers' after it if asked for."""
    folder = arguments.output / "-".join([pictures, str(seed), *re.findall(r"[\w.]+", settings)])
    data = arguments.data if pictures == ALL else str(subset(arguments.data, int(pictures), seed, arguments.output))
    given = ["--data", data, "--seed", str(seed), *(["--model", arguments.model] if arguments.model else [])]
    given += ["--steps", str(arguments.steps)] if arguments.steps else ["--minutes", f"{arguments.minutes:g}"]
    train = ["-m", "dfine_jax.cli.main", "train", *given, "--output", str(folder)]
    train += shlex.split(f"{arguments.common} {settings}")
    result = Result(pictures, settings, seed, "dfine_jax")
    results = [measured(result, arguments.data, folder, train, folder, console)]
    if arguments.transformers:
        theirs = folder.with_name(f"{folder.name}-transformers")
        train = ["-m", "benchmarks.train_transformers", str(folder), str(theirs)]
        result = result._replace(side="transformers")
        results.append(measured(result, arguments.data, theirs, train, folder, console))
    return results


def measured(planned: Result, data: str, folder: Path, train: list[str], configured: Path, console: Console) -> Result:
    """Trains into a folder, unless that was done before, and measures on the test part."""
    kept = folder / "result.json"
    if not kept.exists():
        console.rule(verbatim(f"{planned.side}, {planned.pictures} pictures, seed {planned.seed} {planned.settings}"))
        began = time.perf_counter()
        subprocess.run([sys.executable, *train], check=True)
        minutes = (time.perf_counter() - began) / 60
        test = ["--data", data, "--model", str(folder / "model"), "--split", "test", "--output", str(folder / "test")]
        subprocess.run([sys.executable, "-m", "dfine_jax.cli.main", "eval", *test], check=True)
        ap = json.loads((folder / "test" / "metrics.json").read_text("utf-8"))["coco"]["ap"]
        recipe = read_configuration(configured / FILE_NAME).recipe
        trained = dict(steps=recipe.steps, image_size=recipe.image_size, batch_size=recipe.batch_size)
        result = planned._replace(ap=ap, minutes=minutes, **trained)
        kept.write_text(json.dumps(result._asdict()) + "\n", "utf-8")
    return Result(**json.loads(kept.read_text("utf-8")))


def subset(data: str, count: int, seed: int, output: Path) -> Path:
    """A data set of some pictures of the train part in one piece; larger numbers hold the pictures of smaller ones."""
    folder = output / f"data-{count}-{seed}"
    if not folder.exists():
        dataset = recognise(data).open("train")
        chosen = np.random.default_rng(seed).permutation(len(dataset))[:count]
        records = [dataset.records[index] for index in sorted(chosen)]
        write_dataset(replace(dataset, records=records), folder, "coco", "train")
    return folder


def report(results: list[Result], arguments: argparse.Namespace, console: Console) -> None:
    """All that is known so far as a table: AP by seed, the mean, minutes."""
    length = f"{arguments.steps:,} steps" if arguments.steps else f"{arguments.minutes:g} minutes"
    begin = arguments.model or "new weights"
    title = f"AP on the test part of {arguments.data}, {length} from {begin} {arguments.common}"
    table = Table(title=verbatim(title), title_justify="left")
    seeds = [f"seed {seed}" for seed in arguments.seeds]
    for heading in ("pictures", "", "settings", *seeds, "mean", "minutes", "trained as"):
        table.add_column(heading, justify="left" if heading in ("", "settings", "trained as") else "right")
    for row in Counter((result.pictures, result.side, result.settings) for result in results):
        own = {result.seed: result for result in results if (result.pictures, result.side, result.settings) == row}
        aps = [f"{own[seed].ap:.3f}" if seed in own else "" for seed in arguments.seeds]
        took = [result.minutes for result in own.values()]
        minutes = f"{min(took):.1f} to {max(took):.1f}"
        last = next(reversed(own.values()))
        how = f"{last.steps} x {last.batch_size} at {last.image_size}"
        table.add_row(*map(verbatim, row), *aps, f"{np.mean([r.ap for r in own.values()]):.3f}", minutes, how)
    console.print(table)
    console.print(f"{machine()}; {versions('jax', 'jaxlib', 'transformers')}", highlight=False)


if __name__ == "__main__":
    main()
