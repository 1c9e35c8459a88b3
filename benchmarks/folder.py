"""How many pictures a second, from JPEG files to detections: a `Detector` here, and transformers' own pipeline?

    $ python -m benchmarks.folder [--pictures 200] [--size n] [--rounds 3] [--output FILE]

Draws a folder of JPEGs with COCO's usual sizes and runs all of them through `Detector.stream` and through
``pipeline("object-detection")`` with the same random, well scaled weights at 640x640, each in several settings: its
best one counts. Before that every setting finds the 20 best detections of some pictures. Those of float32 have to agree
with the pipeline's on Pillow (labels same, scores within 1e-3, boxes within a pixel); of bfloat16, which rounds, the
share that agrees is shown. The pipeline gives whole pixels, so both sides' are cut off there.

transformers' fast image processor needs torchvision; without it only that on Pillow is timed, and the report says so.
Its pipeline fails with D-FINE and a batch larger than the number of feature maps, which it takes for pictures, so it
is given nothing of the model's output here but logits and boxes.
"""

import argparse
import json
import math
import os
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.measure import Make, Timing, in_turn, machine, versions
from benchmarks.start import Found, others, without, write_model

SIZES = ((640, 480),) * 5 + ((480, 640),) * 2 + ((640, 427), (500, 375), (427, 640))
"""Widths and heights, about as frequent as in COCO."""
QUALITY = 90
CHECKED = 32
"""Pictures of which the detections are compared in all settings before anything is timed."""
BEST = 20
"""Detections compared of each picture."""
NUMBER_FOUND = 10
"""The threshold while timing is such that a picture has about so many detections."""

Best = list[Found]
"""A picture's detections, best first, in whole pixels."""


class Setting(NamedTuple):
    """One way to run a side."""

    side: str
    """What it is compared as: dtype, or kind of image processor."""
    make: Any
    """A `Make` that still wants the paths and the threshold."""


def main() -> None:
    """Draws, checks, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--size", default="n", choices="nsmlx")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if options.pictures < 1 or options.rounds < 1:
        parser.error("--pictures and --rounds: give 1 or more")
    busy = others()
    with tempfile.TemporaryDirectory() as scratch:
        # What was compiled for the check needs not be compiled again.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(scratch) / "compiled")
        paths = draw_folder(Path(scratch) / "pictures", options.pictures)
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        write_model(options.size, Path(scratch) / "model")
        settings = all_settings(Path(scratch) / "model")
        threshold, agreeing = check(settings, paths[:CHECKED])
        makes = {name: partial(setting.make, paths, threshold) for name, setting in settings.items()}
        timings = in_turn(makes, options.rounds, title=f"{len(paths)} pictures,")
    title = (
        f"size {options.size.upper()}, 640x640, {len(paths)} JPEGs of {kilobytes:.0f} kB on average, from files to "
        f"detections, {options.rounds} rounds"
    )
    report(title, len(paths), settings, timings, agreeing, busy, options.output)


def draw_folder(folder: Path, count: int) -> list[Path]:
    """JPEGs of drawn shapes, cut out of squares."""
    from PIL import Image

    from dfine_jax.data.shapes import draw

    folder.mkdir()
    paths = []
    for index in track(range(count), "drawing", transient=True):
        width, height = SIZES[index % len(SIZES)]
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        picture = Image.fromarray(draw(index, size=side, split="test").picture)
        paths.append(folder / f"{index:06}.jpg")
        picture.crop((left, top, left + width, top + height)).save(paths[-1], quality=QUALITY)
    return paths


def all_settings(model: Path) -> dict[str, Setting]:
    """Every contender by name. A batch of 1 or 8, and for transformers the processes that prepare pictures."""
    settings = {}
    for dtype, batch_sizes in (("float32", (1, 4, 8)), ("bfloat16", (1, 8))):
        for batch_size in batch_sizes:
            name = f"dfine_jax {dtype}, batch {batch_size}"
            settings[name] = Setting(f"dfine_jax {dtype}", partial(ours, model, dtype, batch_size))
    for backend in backends():
        for batch_size in (1, 8):
            for workers in (0, 2):
                name = f"transformers {backend}, batch {batch_size}, {workers} workers"
                make = partial(transformers, model, backend, batch_size, workers)
                settings[name] = Setting(f"transformers {backend}", make)
    return settings


def backends() -> tuple[str, ...]:
    """The image processors that transformers can load here, the fast one last."""
    return ("pil", "torchvision") if find_spec("torchvision") else ("pil",)


def ours(model: Path, dtype: str, batch_size: int, paths: list[Path], threshold: float) -> Make:
    """Our detector on the files; run in a process of its own."""
    from dfine_jax import Detector, keep_freed_memory

    keep_freed_memory()
    detector = Detector.from_pretrained(model, dtype=dtype, batch_size=batch_size)

    def run() -> list[Best]:
        found = [result.outcome for result in detector.stream(paths, threshold)]
        return [[Found(d.label, d.score, tuple(map(math.trunc, d.box))) for d in each[:BEST]] for each in found]

    return run


def transformers(model: Path, backend: str, batch_size: int, workers: int, paths: list[Path], threshold: float) -> Make:
    """The pipeline of transformers on the files; run in a process of its own."""
    import multiprocessing

    import torch
    from transformers import AutoImageProcessor, ObjectDetectionPipeline, pipeline

    class LogitsAndBoxes(ObjectDetectionPipeline):
        """Leaves out of the model's output what is not one row a picture."""

        def _forward(self, model_inputs: Any) -> Any:
            output = super()._forward(model_inputs)
            return type(output)({key: output[key] for key in ("target_size", "logits", "pred_boxes")})

    # A DataLoader prepares pictures in processes, which a daemon, as contenders are, may not start; they are forked as
    # they would be in an ordinary program, since starting each anew takes seconds.
    multiprocessing.current_process().daemon = False
    if "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    processor = AutoImageProcessor.from_pretrained(model, backend=backend)
    if type(processor).__name__.endswith("Pil") != (backend == "pil"):
        raise RuntimeError(f"transformers loaded {type(processor).__name__} when asked for {backend}")
    options = dict(image_processor=processor, batch_size=batch_size, num_workers=workers)
    detector = pipeline("object-detection", model=str(model), pipeline_class=LogitsAndBoxes, **options)
    names = [str(path) for path in paths]

    def run() -> list[Best]:
        edges = ("xmin", "ymin", "xmax", "ymax")
        results = detector(names, threshold=threshold)
        return [
            [Found(d["label"], d["score"], tuple(d["box"][edge] for edge in edges)) for d in each[:BEST]]
            for each in results
        ]

    return run


def check(settings: dict[str, Setting], paths: list[Path]) -> tuple[float, dict[str, float]]:
    """The threshold to time with, and which share of the best detections each setting has in common with the pipeline.

    ``SystemExit`` unless all is in common where nothing is rounded.
    """
    makes = {name: partial(setting.make, paths, 0.0) for name, setting in settings.items()}
    answers = {name: timing.answer for name, timing in in_turn(makes, rounds=0, title="checking:").items()}
    expected = answers["transformers pil, batch 1, 0 workers"]
    agreeing = {name: agreement(answer, expected) for name, answer in answers.items()}
    wrong = [f"{name}: {agreeing[name]:.1%}" for name in settings if agreeing[name] < 1 and "bfloat16" not in name]
    if wrong:
        raise SystemExit(f"the detections differ from the pipeline's on Pillow; in common are: {'; '.join(wrong)}")
    return float(np.median([picture[NUMBER_FOUND - 1][1] for picture in expected])), agreeing


def agreement(pictures: list[Best], expected: list[Best]) -> float:
    """The share of ``expected`` that is there."""
    missing = sum(len(without(wanted, found)) for found, wanted in zip(pictures, expected, strict=True))
    return 1 - missing / sum(map(len, expected))


def report(
    title: str,
    count: int,
    settings: dict[str, Setting],
    timings: dict[str, Timing],
    agreeing: dict[str, float],
    busy: str,
    output: Path | None,
) -> None:
    """Prints all settings and what the best of each side come to, and writes them to a file."""
    sides = dict.fromkeys(setting.side for setting in settings.values())
    best = {
        side: min((n for n in settings if settings[n].side == side), key=lambda n: timings[n].median) for side in sides
    }
    rival = min(timings[best[side]].median for side in sides if side.startswith("transformers"))
    table = Table(title=title, title_justify="left")
    for heading in ("", "pictures/s", "slowest to fastest", "of transformers' best", "same detections", "peak MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = []
    for name, timing in timings.items():
        rates = count / np.sort(timing.seconds)[::-1]
        row = {
            "name": name,
            "best_of_its_side": name in best.values(),
            "pictures_per_second": count / timing.median,
            "rounds": rates.tolist(),
            "ratio": rival / timing.median,
            "same_detections": agreeing[name],
            "peak_bytes": timing.peak_bytes,
        }
        rows.append(row)
        cells = (f"{row['pictures_per_second']:.2f}", f"{rates[0]:.2f} to {rates[-1]:.2f}", f"{row['ratio']:.2f}x")
        last = (f"{agreeing[name]:.1%}", f"{timing.peak_bytes / 2**20:,.0f}")
        table.add_row(name, *cells, *last, style="bold" if row["best_of_its_side"] else None)
    used = versions("jax", "jaxlib", "torch", "torchvision", "transformers", "pillow")
    notes = [f"{machine()}; {used}; {busy}. Bold: best of its side. Worker processes' memory is not counted."]
    if "torchvision" not in backends():
        notes.append("transformers' fast image processor was not measured: torchvision is not installed.")
    console = Console(width=140)
    console.print(table)
    console.print("\n".join(notes), highlight=False)
    if output is not None:
        about = {"title": title, "others": busy, "machine": machine(), "versions": used, "notes": notes}
        output.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
