"""How fast transformers' model is on the same device, in PyTorch."""

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import peers
from benchmarks.accelerator.answers import compared
from benchmarks.accelerator.programs import STEPS, made_up, pictures, step_cases, timed
from benchmarks.accelerator.scale import Row, Task, attempted
from benchmarks.accelerator.speed import cells
from benchmarks.accelerator.weights import hub_folder

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait(_: object = None) -> None:
    """Until the device has done all that it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def eager(task: Task) -> Iterator[Row]:
    """A row for each size, number of pictures and kind of product, as the model comes."""
    yield from _rows(task, compiles=False)


def compiled(task: Task) -> Iterator[Row]:
    """The same through ``torch.compile``, whose time to compile is that of the first call."""
    yield from _rows(task, compiles=True)


def ends(task: Task) -> Iterator[Row]:
    """Pixels from bytes, and detections from logits and boxes, as transformers gets them."""
    from transformers import RTDetrImageProcessor
    from transformers.models.d_fine.modeling_d_fine import DFineObjectDetectionOutput

    side = task.scale.side
    processor = RTDetrImageProcessor(size={"height": side, "width": side})

    def measure(step: str, batch: int) -> Row:
        if step == STEPS[0]:
            images = torch.from_numpy(pictures(batch, side)).to(DEVICE).permute(0, 3, 1, 2)
            return timed(lambda: images.float() / 255, wait, batch, task.scale.rounds)
        logits, boxes = (torch.from_numpy(each).to(DEVICE) for each in made_up(batch))
        output, sizes = DFineObjectDetectionOutput(logits=logits, pred_boxes=boxes), [(side, side)] * batch

        def run() -> object:
            return processor.post_process_object_detection(output, threshold=0.5, target_sizes=sizes)

        return timed(run, wait, batch, task.scale.rounds)

    yield from attempted(step_cases(task), measure)


def _rows(task: Task, *, compiles: bool) -> Iterator[Row]:
    fastest = {
        (row["size"], row["batch"], row["products"]): row["ms"] for row in task.earlier.get("speed", []) if "ms" in row
    }

    def measure(size: str, batch: int, products: str) -> Row:
        round_products(products)
        network, dtype = make(task, size, products)
        pixels = torch.from_numpy(pictures(batch, task.scale.side)).to(DEVICE).permute(0, 3, 1, 2).to(dtype) / 255
        run = torch.compile(network, dynamic=False) if compiles else network
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            answer = [part.float().cpu().numpy() for part in run(pixels)]
            row = timed(lambda: run(pixels), wait, batch, task.scale.rounds)
        if DEVICE == "cuda":
            row["memory_MiB"] = torch.cuda.max_memory_allocated() / 2**20
        ours = fastest.get((size, batch, products))
        return row | compared(task, size, *answer) | ({"ours / this": ours / row["ms"]} if ours else {})

    for row in attempted(cells(task.scale), measure):
        yield row
        torch.compiler.reset()


def make(task: Task, size: str, products: str) -> tuple[torch.nn.Module, torch.dtype]:
    """The model, from pixels to logits and boxes, and the type of its pixels."""
    dtype = torch.bfloat16 if products == "bfloat16" else torch.float32
    folder: Path = hub_folder(task, size)
    return peers.transformers_model(folder / "case").to(DEVICE, dtype), dtype


def round_products(products: str) -> None:
    """Whether products of float32 are exact or of TF32; PyTorch would round those of convolutions if not told."""
    is_rounded = products == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = is_rounded
    torch.backends.cudnn.allow_tf32 = is_rounded
