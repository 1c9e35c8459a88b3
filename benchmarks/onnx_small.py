"""How good and how fast an exported model is in 16 and in 8 bits, by ONNX Runtime's own tools: the one in the package.

    $ python -m pip install '.[onnx]'
    $ python -m benchmarks.onnx_small --pictures 300

In float16 convolutions and products of matrices are rounded, and all else stays in float32. In 8 bits convolutions of
backbone and encoder are, channel by channel, with ranges of maps taken from pictures to train with; products of the
decoder, which places boxes, stay in float32. AP is on pictures to test with.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine, versions
from dfine_jax.data.samples import Dataset
from dfine_jax.data.shapes import shapes
from dfine_jax.evaluation.coco_metrics import evaluate
from dfine_jax.evaluation.predictions import Predicted
from dfine_jax.evaluation.truth import Truth
from dfine_jax.export.exportable import exportable
from dfine_jax.export.onnx_file import PROGRAM, save_onnx
from dfine_jax.inference.preprocess import resize
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import open_pretrained


def inputs(dataset: Dataset, settings: Preprocessing) -> Iterator[dict[str, np.ndarray]]:
    """What the program takes of each picture."""
    for record in dataset.records:
        pixels = resize(Image.fromarray(record.pixels()), settings)
        yield {"images": pixels[None], "sizes": np.array([[record.height, record.width]], np.int32)}


def halve(program: Path, out: Path) -> None:
    """Rounds convolutions and products of matrices to float16; inputs and outputs stay what they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(program)
    others = sorted({node.op_type for node in model.graph.node} - {"Conv", "MatMul", "Gemm"})
    onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=others), out)


def quantise(program: Path, out: Path, pictures: Iterator[dict[str, np.ndarray]]) -> None:
    """Rounds the convolutions to 8 bits, by ONNX Runtime's tools with their own defaults but for what is said here."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(pictures, None)

    prepared = out.with_name("prepared.onnx")
    quant_pre_process(program, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        out,
        Pictures(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def measured(program: Path, dataset: Dataset, settings: Preprocessing) -> tuple[float, float]:
    """AP, and milliseconds a picture (the median)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    predicted, seconds = [], []
    for index, given in enumerate(inputs(dataset, settings)):
        start = time.perf_counter()
        boxes, scores, labels = session.run(["boxes", "scores", "labels"], given)
        seconds.append(time.perf_counter() - start)
        predicted.append(Predicted(index, scores[0], labels[0].astype(np.int32), boxes[0]))
    return evaluate(predicted, Truth.of(dataset)).figures.ap, 1e3 * float(np.median(seconds))


def main() -> None:
    """Exports, rounds, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=300, help="to measure AP on")
    parser.add_argument("--ranges", type=int, default=64, help="pictures that ranges are taken from")
    given = parser.parse_args()
    stored = open_pretrained("shapes")
    settings = stored.preprocessing
    table = Table(title=f"shapes as ONNX, AP on {given.pictures} pictures", title_justify="left")
    for heading in ("numbers", "AP", "ms a picture", "megabytes"):
        table.add_column(heading, justify="left" if heading == "numbers" else "right")
    with tempfile.TemporaryDirectory() as folder:
        save_onnx(exportable(stored, settings, end_to_end=True), Path(folder), batch_size=1)
        program, half, rounded = (Path(folder) / name for name in (PROGRAM, "float16.onnx", "int8.onnx"))
        halve(program, half)
        quantise(program, rounded, inputs(shapes(given.ranges), settings))
        for name, file in (("float32", program), ("float16", half), ("int8", rounded)):
            ap, milliseconds = measured(file, shapes(given.pictures, split="test"), settings)
            table.add_row(name, f"{ap:.3f}", f"{milliseconds:.1f}", f"{file.stat().st_size / 1e6:.1f}")
    Console().print(table)
    print(f"{machine()}; {versions('jax', 'jax2onnx', 'onnx', 'onnxruntime')}")


if __name__ == "__main__":
    main()
