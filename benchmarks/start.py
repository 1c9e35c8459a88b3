"""How long from the start of a process to the detections of one picture on the screen, and in how much memory?

    $ python -m benchmarks.start [--rounds 5] [--sizes shapes n s m l x] [--output FILE]

``dfine detect PICTURE --model FOLDER``, with nothing compiled yet and with what an earlier run kept, against a plain
script with transformers that does the same. Each is a process of its own, from its start to its end, in turn.
``shapes`` is the trained model in the package (size N, 192x192); the others have random, well scaled weights and
640x640 pixels. ``shapes`` and ``n`` are timed ``--rounds`` times, the others once, for their memory: the largest
resident set of a process. Before that both have to print the same detections (labels same, scores within 1e-3, boxes
within a pixel): all of the trained model's, the 20 best of the others'. A size's threshold then leaves about 10.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.measure import machine, versions

# Nothing here may import what is measured: a process counts as at least as large as the one that starts it.

SIZES = ("shapes", *"nsmlx")
TIMED = ("shapes", "n")
THREADS = 2
PICTURE = Path(__file__).parents[1] / "dfine_jax" / "bundled" / "shapes.jpg"
SHAPES_MODEL = PICTURE.parent / "shapes"
SEED = 1
BEST = 20
NUMBER_FOUND = 10
SCORE, PIXELS = 1e-3, 1.0
FIRST, LATER, PEER = "dfine detect, first run", "dfine detect, later runs", "transformers"

TRANSFORMERS = """
import sys

import torch
from PIL import Image
from transformers import AutoImageProcessor, DFineForObjectDetection

path, folder, threshold = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder)
model = DFineForObjectDetection.from_pretrained(folder).eval()
picture = Image.open(path).convert("RGB")
inputs = processor(images=picture, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
sizes = [(picture.height, picture.width)]
(found,) = processor.post_process_object_detection(outputs, threshold=float(threshold), target_sizes=sizes)
for score, label, box in zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist()):
    print(model.config.id2label[label], score, *box)
"""
"""What one would write with transformers; prints a line a detection."""


class Found(NamedTuple):
    """One detection that was printed."""

    label: str
    score: float
    box: tuple[float, ...]


class Run(NamedTuple):
    """One process from start to end."""

    seconds: float
    peak_bytes: int
    output: str


def main() -> None:
    """Checks, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: give 1 or more")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])  # processes inherit it
    busy, runs = others(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in options.sizes:
            folder = Path(scratch) / size
            folder.mkdir()
            runs[size] = measure(size, folder, options.rounds if size in TIMED else 1)
    report(runs, busy, options.output)


def measure(size: str, scratch: Path, rounds: int) -> dict[str, list[Run]]:
    """All runs of one size by contender, after the check."""
    model = SHAPES_MODEL if size == "shapes" else random_model(size, scratch / "model")
    kept = scratch / "kept"
    threshold = check(size, model, kept)
    runs: dict[str, list[Run]] = {FIRST: [], LATER: [], PEER: []}
    for turn in track(range(rounds), f"{size}: timing", transient=True):
        runs[FIRST].append(detect(model, threshold, scratch / f"new{turn}"))
        runs[LATER].append(detect(model, threshold, kept))
        runs[PEER].append(peer(model, threshold))
    return runs


def check(size: str, model: Path, cache: Path) -> float:
    """The threshold to time with; ``SystemExit`` unless both print the same detections. Fills the cache."""
    lowest = 0.5 if size == "shapes" else 0.0
    theirs = their_detections(peer(model, lowest).output)
    compared = theirs if size == "shapes" else theirs[:BEST]
    if not compared:
        raise SystemExit(f"{size}: transformers found nothing in {PICTURE.name}")
    for state in ("as compiled", "from the cache"):
        ours = our_detections(detect(model, lowest, cache, "--json", "-").output)
        missing = without(compared, ours)
        if missing or (size == "shapes" and len(ours) != len(theirs)):
            raise SystemExit(
                f"{size}: {len(ours)} detections here ({state}), {len(theirs)} by transformers, of whose "
                f"{len(compared)} best {len(missing)} are not here: {missing[:3]}"
            )
    return lowest if size == "shapes" else (theirs[NUMBER_FOUND - 1].score + theirs[NUMBER_FOUND].score) / 2


def without(wanted: list[Found], found: list[Found]) -> list[Found]:
    """Those wanted that were not found; what scores nearly the same may be in another order."""
    free, missing = list(found), []
    for detection in wanted:
        same = next((other for other in free if is_same(other, detection)), None)
        if same is None:
            missing.append(detection)
        else:
            free.remove(same)
    return missing


def is_same(one: Found, other: Found) -> bool:
    """Whether two detections agree within the tolerances."""
    edges = zip(one.box, other.box, strict=True)
    return (
        one.label == other.label
        and abs(one.score - other.score) <= SCORE
        and all(abs(a - b) <= PIXELS for a, b in edges)
    )


def our_detections(output: str) -> list[Found]:
    """What ``dfine detect --json -`` printed."""
    (picture,) = json.loads(output)
    return [Found(entry["label"], entry["score"], tuple(entry["box"])) for entry in picture["detections"]]


def their_detections(output: str) -> list[Found]:
    """What the script with transformers printed; a label may have spaces."""
    lines = [line.rsplit(" ", 5) for line in output.splitlines()]
    return [Found(label, float(score), tuple(map(float, box))) for label, score, *box in lines]


def detect(model: Path, threshold: float, cache: Path, *more: str) -> Run:
    """Runs ``dfine detect``, with a folder of its own for what the commands keep from one run to the next."""
    command = (sys.executable, "-m", "dfine_jax.cli.main", "detect", str(PICTURE), "--model", str(model))
    return timed([*command, "--threshold", repr(threshold), *more], XDG_CACHE_HOME=str(cache))


def peer(model: Path, threshold: float) -> Run:
    """Runs the script with transformers."""
    return timed([sys.executable, "-c", TRANSFORMERS, str(PICTURE), str(model), repr(threshold)])


def timed(command: list[str], **environment: str) -> Run:
    """Runs a process; ``SystemExit`` with the end of what it said if it fails."""
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    # Without the Hub nobody waits for the network; both have their weights in a folder.
    common = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors, env={**inherited, **common, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:4])} ended with {process.returncode}: {errors.read()[-600:]}")
        return Run(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), out.read())


def others() -> str:
    """How busy the machine is before anything is measured. PyTorch's threads wait for one another and lose most."""
    return f"load of other programs {os.getloadavg()[0]:.1f}"


def random_model(size: str, folder: Path) -> Path:
    """A folder in the Hub's layout, written by a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=write_model, args=(size, folder))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{size}: the random model could not be written")
    return folder


def write_model(size: str, folder: Path) -> None:
    """Random weights, scaled so that scores differ, as fresh ones' hardly do."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from reference import reference_model

    from dfine_jax.preprocessing import Preprocessing
    from dfine_jax.pretrained import arrays_of
    from dfine_jax.weights.hub_layout import save_hub_folder
    from dfine_jax.weights.rules import HUB

    model = reference_model(size, HUB, seed=SEED)
    save_hub_folder(folder, model.config, Preprocessing(), arrays_of(model))


def report(runs: dict[str, dict[str, list[Run]]], busy: str, output: Path | None) -> None:
    """Prints medians and ratios, and writes them to a file."""
    table = Table(title="one picture, from the start of the process to its end", title_justify="left")
    for heading in ("", "", "seconds", "fastest to slowest", "of transformers'", "peak MiB", "of transformers'"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = []
    for size, contenders in runs.items():
        for name, each in contenders.items():
            rows.append(row(size, name, each, contenders[PEER]))
            table.add_row(*cells(rows[-1]), end_section=name == PEER)
    used = versions("jax", "jaxlib", "torch", "torchvision", "transformers")
    console = Console(width=140)
    console.print(table)
    console.print(f"{machine(THREADS)}; {used}; {busy}", highlight=False)
    if output is not None:
        about = {"machine": machine(THREADS), "versions": used, "others": busy}
        output.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n", "utf-8")


def row(size: str, name: str, each: list[Run], rivals: list[Run]) -> dict[str, object]:
    """One contender's numbers; memory is the largest of its runs."""
    seconds, rival = (np.array([run.seconds for run in runs]) for runs in (each, rivals))
    peak, rival_peak = (max(run.peak_bytes for run in runs) for runs in (each, rivals))
    return {
        "size": size,
        "name": name,
        "median_seconds": float(np.median(seconds)),
        "seconds": seconds.tolist(),
        "time_ratio": float(np.median(seconds) / np.median(rival)),
        "peak_bytes": peak,
        "memory_ratio": peak / rival_peak,
    }


def cells(row: dict) -> tuple[str, ...]:
    """A row as the table shows it."""
    low, high = min(row["seconds"]), max(row["seconds"])
    spread = f"{low:.2f} to {high:.2f}" if len(row["seconds"]) > 1 else "once"
    time_cells = (f"{row['median_seconds']:.2f}", spread, f"{row['time_ratio']:.2f}")
    return (row["size"], row["name"], *time_cells, f"{row['peak_bytes'] / 2**20:,.0f}", f"{row['memory_ratio']:.2f}")


if __name__ == "__main__":
    main()
