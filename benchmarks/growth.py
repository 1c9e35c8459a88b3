"""How do time and memory grow with the work? Size N on a CPU, by pictures, pixels, queries and true boxes.

    $ python -m benchmarks.growth [--quick] [--output growth.json]

Each point has a process of its own, and the points of a series are timed in turn. Memory is what the compiled program
needs: arguments, results and everything in between. Between two neighbouring points time grows like work to the power
of an exponent: 1 is proportional, 2 quadratic. Draws ``benchmarks/pictures/growth.png``.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.measure import in_turn, machine, versions

PICTURE = Path(__file__).parent / "pictures" / "growth.png"
TRAINING_SIDE, TRAINING_BATCH = 320, 2
FASTER = 1.1
"""An exponent above this is said to grow faster than its work; below, it may be the clock."""


class Answer(NamedTuple):
    """What a point's program says besides its time."""

    memory_bytes: int
    finite: bool


class Series(NamedTuple):
    """One thing that is made larger while all else stays."""

    title: str
    points: tuple[int, ...]
    quick: tuple[int, ...]
    """Points that are enough to try the script."""
    work: Callable[[int], float]
    """Of a point, in the unit that ``title`` begins with."""
    make: Callable[[int], Callable[[], Answer]]
    """Sets a point up and returns what is timed."""
    expected: str
    """What the algorithms lead one to expect."""


class Point(NamedTuple):
    """What was measured."""

    value: int
    work: float
    seconds: float
    memory_bytes: int


def inference(batch: int = 1, side: int = 640, queries: int = 300) -> Callable[[], Answer]:
    """Size N from resized pictures to detections."""
    import jax

    from dfine_jax.config import DFineConfig
    from dfine_jax.inference.detector import Detector
    from dfine_jax.model.dfine import DFine
    from dfine_jax.preprocessing import Preprocessing

    rng = np.random.default_rng(0)
    model = DFine(DFineConfig.nano().with_queries(queries), rng=rng)
    detector = Detector(model, Preprocessing(side, side), batch_size=batch)
    images = jax.device_put(rng.integers(0, 256, (batch, side, side, 3), np.uint8))
    sizes = jax.device_put(np.full((batch, 2), side, np.int32))
    memory = needed(detector.compiled)

    def run() -> Answer:
        scores, _, boxes = jax.block_until_ready(detector.run(images, sizes))
        return Answer(memory, bool(np.isfinite(scores).all() and np.isfinite(boxes).all()))

    return run


def training(boxes: int) -> Callable[[], Answer]:
    """One update of size N by its recipe; every picture has ``boxes`` true boxes, and room for no more."""
    import jax

    from dfine_jax.config import DFineConfig
    from dfine_jax.model.dfine import DFine, functional
    from dfine_jax.training.devices import Devices
    from dfine_jax.training.optimizer import make_optimizer, parameter_groups
    from dfine_jax.training.recipe import Recipe
    from dfine_jax.training.step import layout_of, make_update, start_state
    from dfine_jax.training.targets import Targets

    rng = np.random.default_rng(0)
    config = DFineConfig.nano()
    recipe = replace(Recipe.for_size("n"), batch_size=TRAINING_BATCH, image_size=TRAINING_SIDE)
    apply, params, batch_stats = functional(DFine(config, rng=rng))
    groups = parameter_groups(params, recipe.optimization)
    layout = layout_of(params, batch_stats, groups)
    optimizer = make_optimizer(groups, recipe.optimization, 1000)
    devices = Devices()
    state = devices.replicate(start_state(params, batch_stats, layout, optimizer, 0))
    shape = (TRAINING_BATCH, boxes)
    size = rng.uniform(0.05, 0.3, (*shape, 2))
    centre = rng.uniform(size / 2, 1 - size / 2)
    targets = Targets(
        jax.device_put(np.concatenate([centre, size], -1).astype(np.float32), devices.shared),
        jax.device_put(rng.integers(0, config.num_classes, shape, np.int32), devices.shared),
        jax.device_put(np.ones(shape, bool), devices.shared),
    )
    images = rng.integers(0, 256, (TRAINING_BATCH, TRAINING_SIDE, TRAINING_SIDE, 3), np.uint8)
    images = jax.device_put(images, devices.shared)
    update = devices.compile(make_update(apply, config, recipe, layout, optimizer))
    compiled = update.lower(state, images, targets).compile()
    memory = needed(compiled)

    def run() -> Answer:
        nonlocal state
        state, metrics = jax.block_until_ready(compiled(state, images, targets))
        return Answer(memory, bool(metrics.finite))

    return run


def needed(compiled: Any) -> int:
    """Bytes of a program's arguments, results that don't take an argument's place, and everything in between."""
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(memory.argument_size_in_bytes + results + memory.temp_size_in_bytes)


def with_batch(batch: int) -> Callable[[], Answer]:
    """Inference of so many pictures at a time."""
    return inference(batch=batch)


def with_side(side: int) -> Callable[[], Answer]:
    """Inference of a picture so high and wide."""
    return inference(side=side)


def with_queries(queries: int) -> Callable[[], Answer]:
    """Inference for at most so many things a picture."""
    return inference(queries=queries)


SERIES = (
    Series(
        "pictures (at a time, 640x640)",
        (1, 2, 4, 8, 16, 32),
        (1, 2),
        float,
        with_batch,
        "each picture is computed by itself: 1 at most",
    ),
    Series(
        "pixels (of a picture, by its side)",
        (320, 480, 640, 960, 1280),
        (320, 480),
        lambda side: float(side) ** 2,
        with_side,
        "convolutions are proportional; self-attention within the coarsest map is quadratic in its cells, pixels/1024",
    ),
    Series(
        "queries (640x640)",
        (100, 300, 600, 1000),
        (100, 300),
        float,
        with_queries,
        "sampling and heads are proportional; the decoder's self-attention is quadratic in queries",
    ),
    Series(
        f"boxes (a picture, training step, {TRAINING_SIDE}x{TRAINING_SIDE}, batch {TRAINING_BATCH})",
        (1, 10, 50, 100, 200, 500),
        (1, 10),
        float,
        training,
        "Hungarian matching is at most queries*boxes^2; from 100 boxes on the denoising queries are twice the boxes, "
        "and their self-attention is quadratic",
    ),
)


def measure(series: Series, values: Sequence[int], rounds: int) -> list[Point]:
    """Times the points in turn; ``SystemExit`` if one computes what is not finite."""
    contenders = {str(value): partial(series.make, value) for value in values}
    timings = in_turn(contenders, rounds, title=series.title)
    if wrong := [value for value, timing in timings.items() if not timing.answer.finite]:
        raise SystemExit(f"{series.title}: what {', '.join(wrong)} computes is not finite")
    return [
        Point(value, series.work(value), timings[str(value)].median, timings[str(value)].answer.memory_bytes)
        for value in values
    ]


def exponents(points: Sequence[Point], of: Callable[[Point], float]) -> np.ndarray:
    """Between neighbouring points: the power of work that ``of`` grows like."""
    work, values = (np.log([get(point) for point in points]) for get in (lambda point: point.work, of))
    return np.diff(values) / np.diff(work)


def seconds_of(point: Point) -> float:
    """Its median."""
    return point.seconds


def memory_of(point: Point) -> float:
    """In bytes."""
    return point.memory_bytes


def table(series: Series, points: Sequence[Point]) -> Table:
    """Every point, and how it compares with the first."""
    shown = Table(title=series.title, title_justify="left")
    for heading in ("", "work", "ms", "time", "exponent", "MiB", "memory", "exponent"):
        shown.add_column(heading, justify="right")
    first = points[0]
    powers = [("", ""), *((f"{t:.2f}", f"{m:.2f}") for t, m in zip(*_both_exponents(points), strict=True))]
    for point, (time_power, memory_power) in zip(points, powers, strict=True):
        shown.add_row(
            str(point.value),
            f"{point.work / first.work:,.4g}x",
            f"{1e3 * point.seconds:,.1f}",
            f"{point.seconds / first.seconds:.2f}x",
            time_power,
            f"{point.memory_bytes / 2**20:,.0f}",
            f"{point.memory_bytes / first.memory_bytes:.2f}x",
            memory_power,
        )
    return shown


def verdict(series: Series, points: Sequence[Point]) -> str:
    """The largest exponents, where they are, and whether anything grows faster than its work."""
    parts, faster = [], []
    for name, powers in zip(("time", "memory"), _both_exponents(points), strict=True):
        at = int(powers.argmax())
        where = f"{points[at].value} to {points[at + 1].value}"
        parts.append(f"{name} {powers[at]:.2f} ({where})")
        if powers[at] > FASTER:
            faster.append(f"{name} from {where}")
    grows = f"Faster than the work grows {' and '.join(faster)}" if faster else "Nothing grows faster than the work"
    return f"Largest exponents: {', '.join(parts)}. {grows}. Expected: {series.expected}."


def _both_exponents(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    return exponents(points, seconds_of), exponents(points, memory_of)


def draw(measured: dict[str, list[Point]], path: Path) -> None:
    """Time and memory against work, all relative to a series' first point."""
    figure, sides = plt.subplots(1, 2, figsize=(10, 4.5), sharex=True, layout="constrained")
    for axes, (name, of) in zip(sides, (("time", seconds_of), ("memory", memory_of)), strict=True):
        furthest = 1.0
        for title, points in measured.items():
            work = np.array([point.work / points[0].work for point in points])
            axes.plot(work, [of(point) / of(points[0]) for point in points], "o-", label=title)
            furthest = max(furthest, work[-1])
        axes.plot([1, furthest], [1, furthest], "k:", linewidth=1, label="proportional")
        axes.set(xscale="log", yscale="log", xlabel="work, relative to the first point", ylabel=f"{name}, relative")
    sides[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures, prints, draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few points and rounds, to try the script")
    parser.add_argument("--rounds", type=int, help="how often each point is timed; 15, with --quick 2")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to draw")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 15)
    console = Console()
    about = {"machine": machine(), "versions": versions("dfine-jax", "jax", "jaxlib", "numpy"), "rounds": rounds}
    console.print(f"D-FINE-N, float32; {about['machine']}; {about['versions']}; medians of {rounds}", soft_wrap=True)
    measured = {}
    for series in SERIES:
        points = measure(series, series.quick if options.quick else series.points, rounds)
        measured[series.title] = points
        console.print(table(series, points), verdict(series, points), soft_wrap=True)
    draw(measured, options.picture)
    if options.output:
        results = {title: [point._asdict() for point in points] for title, points in measured.items()}
        options.output.write_text(json.dumps({**about, "results": results}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
