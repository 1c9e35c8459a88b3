"""How long does a picture take here, in other runtimes, and how near is that to what the machine can do?

    $ python -m pip install -e '.[bench]'
    $ python -m benchmarks.inference --sizes n s m l x --batch-sizes 1 8 --output inference.json

At 640x640 on two threads, the model alone: from a normalised float32 batch in memory to logits and boxes. All
contenders have the same random, well scaled weights (but KerasHub, which can't read them) and the same drawn pictures,
those in which the worst cell that becomes a query scores clearly better than the best that doesn't: elsewhere rounding
decides.
Before it is timed, each contender's queries are paired with those of transformers in PyTorch: in float32 the logits
and boxes of each pair have to agree within 1e-3, in bfloat16 they have to be finite. GFLOPs are those of
convolutions done directly, norms and branches folded; peaks are the best of square matrix products, in JAX, PyTorch
and, in 16 bits, the library's own code.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

# Every contender's process imports this module before it is bound to its CPUs: no JAX or PyTorch up here.
from benchmarks import peers
from benchmarks.measure import in_turn, machine, types, versions
from dfine_jax.cpu.codegen.registers import half

SIDE = 640
TOLERANCE = 1e-3
EXPECTED, PICTURES = "expected.npz", "pictures.npy"
CLEARLY = 5e-5
"""Difference of two logits, ten times that which rounding makes."""
PRODUCTS = (1024, 2048)
"""Sides of the square matrices whose products give the peak."""
PACKAGES = ("jax", "jaxlib", "torch", "transformers", "onnx", "onnxruntime", "openvino", "keras", "keras-hub")


class Contender(NamedTuple):
    """One column."""

    title: str
    make: Callable[[Path], peers.Run]
    dtype: str = "float32"
    module: str = "torch"
    """What has to be installed, besides PyTorch and transformers."""
    sizes: str = "nsmlx"
    compared: bool = True
    """Whether it has the common weights."""


OURS = {
    "ours": Contender("ours f32", partial(peers.ours, dtype="float32")),
    "ours-bf16": Contender("ours bf16", partial(peers.ours, dtype="bfloat16"), "bfloat16"),
}
PEERS = {
    "onnxruntime": Contender("ONNX Runtime f32", peers.onnx_runtime, module="onnxruntime"),
    "onnxruntime-ours": Contender("ONNX Runtime, our export", peers.our_graph, module="jax2onnx"),
    "openvino": Contender("OpenVINO f32", partial(peers.openvino, precision="f32"), module="openvino"),
    "openvino-bf16": Contender("OpenVINO bf16", partial(peers.openvino, precision="bf16"), "bfloat16", "openvino"),
    "torch": Contender("PyTorch eager f32", peers.pytorch),
    "torch-compile": Contender("torch.compile f32", peers.torch_compile),
    "keras-hub": Contender("KerasHub f32*", peers.keras_hub, module="keras_hub", sizes="n", compared=False),
}
CONTENDERS = {**OURS, **PEERS}


class Difference(NamedTuple):
    """How far an answer is from the expected one."""

    logits: float
    boxes: float
    """Largest absolute differences of paired queries; boxes in fractions of the picture."""
    correlation: float
    """Of the logits of queries that were paired by their boxes alone."""


def main() -> None:
    """Checks, measures and prints; ``SystemExit`` where a contender is missing, fails or answers something else."""
    arguments = _arguments()
    dtypes = types()
    possible = {name: CONTENDERS[name] for name in (*OURS, *arguments.peers)}
    chosen = {name: one for name, one in possible.items() if one.dtype in dtypes or (name in OURS and half())}
    _require(chosen)
    console = Console(width=170)
    about = {"machine": machine(peers.THREADS), "versions": versions(*PACKAGES), "rounds": arguments.rounds}
    peaks = measured_peaks(arguments.rounds, dtypes)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in arguments.sizes:
            gflops = prepare_model(size, Path(scratch) / size, max(arguments.batch_sizes))
            for batch in arguments.batch_sizes:
                case = Path(scratch) / size / str(batch)
                prepare_case(case, batch)
                taking_part = {name: one for name, one in chosen.items() if size in one.sizes}
                rows.append(measured(size, batch, gflops, case, taking_part, arguments.rounds, peaks))
                if arguments.output:  # after every case, so that a failure later on loses nothing
                    report = {**about, "peak_gflops_per_second": peaks, "results": rows}
                    arguments.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    console.print(times_table(rows, chosen))
    console.print(shares_table(rows, chosen))
    console.print(answers_table(rows, chosen))
    console.print("measured peaks: " + ", ".join(f"{dtype} {peak:.0f} GFLOP/s" for dtype, peak in peaks.items()))
    if "bfloat16" not in dtypes:
        console.print("OpenVINO's bfloat16 was left out: this processor has no instructions for it")
    if "ours-bf16" in chosen and rounded_type() != "bfloat16":
        console.print(f"ours bf16 multiplies in {rounded_type()}: this processor is faster so than in bfloat16")
    if "keras-hub" in chosen:
        console.print("* can't be given the common weights: it has its own random ones, and its answer is not compared")
    console.print(f"{about['machine']}; medians of {arguments.rounds} rounds\n{about['versions']}")


def prepare_model(size: str, folder: Path, pictures: int) -> float:
    """Saves weights for all contenders to ``folder/model`` and pictures; returns GFLOPs for one picture."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from reference import reference_model

    from dfine_jax.inference.compiled import count_operations
    from dfine_jax.preprocessing import Preprocessing
    from dfine_jax.pretrained import arrays_of
    from dfine_jax.weights.hub_layout import save_hub_folder

    model = reference_model(size)
    save_hub_folder(folder / peers.MODEL, model.config, Preprocessing(), arrays_of(model))
    np.save(folder / PICTURES, np.stack(list(islice(clear_pictures(model), pictures))))
    return count_operations(model, Preprocessing(SIDE, SIDE)) / 1e9


def clear_pictures(model: Any) -> Iterator[np.ndarray]:
    """Drawn pictures in which it is clear which cells become the model's queries."""
    import jax
    from flax import nnx

    from dfine_jax.data.shapes import draw

    graph, state = nnx.split(model)

    @jax.jit
    def best(state: Any, pictures: jax.Array) -> jax.Array:
        model = nnx.merge(graph, state)
        memory, shapes = model.decoder.flatten(model.encoder(model.backbone(pictures)))
        return jax.lax.top_k(model.decoder.select(memory, shapes).scores[0], model.config.decoder.queries + 1)[0]

    for index in count():
        picture = draw(index, size=SIDE).picture
        *_, last, next_one = best(state, picture[None].astype(np.float32) / 255)
        if last - next_one > CLEARLY:
            yield picture


def prepare_case(folder: Path, batch: int) -> None:
    """Writes pictures, transformers' answer to them in PyTorch, and the ONNX graph for this batch size."""
    folder.mkdir()
    pictures = np.load(folder.parent / PICTURES)[:batch]
    np.save(folder / peers.PIXELS, np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32) / 255)
    np.savez(folder / EXPECTED, **peers.pytorch(folder)()._asdict())
    peers.export_onnx(folder)


def measured(
    size: str,
    batch: int,
    gflops: float,
    case: Path,
    chosen: Mapping[str, Contender],
    rounds: int,
    peaks: Mapping[str, float],
) -> dict[str, Any]:
    """One row of the tables; times are milliseconds for a picture."""
    makes = {one.title: partial(checked, one, case) for one in chosen.values()}
    try:
        timings = in_turn(makes, rounds, peers.THREADS, f"{size.upper()}, {batch} at a time,", warm=True)
    except RuntimeError as error:
        raise SystemExit(f"size {size}, batch {batch}: {error}") from None
    times, shares, differences = {}, {}, {}
    for name, one in chosen.items():
        timing = timings[one.title]
        times[name] = 1e3 * timing.median / batch
        dtype = rounded_type() if name == "ours-bf16" else one.dtype
        shares[name] = gflops / (timing.median / batch) / peaks[dtype]
        if one.compared:
            differences[name] = difference(timing.answer, expected_of(case))._asdict()
    return {"size": size, "batch_size": batch, "gflops": gflops, "ms": times, "ratios": ratios(times),
            "share_of_peak": shares, "differences": differences}  # fmt: skip


def checked(contender: Contender, case: Path) -> peers.Run:
    """Makes a contender and looks at its answer; ``ValueError`` unless it is the expected one."""
    run = contender.make(case)
    answer = run()
    if not all(np.isfinite(part).all() for part in answer):
        raise ValueError("its answer has values that are not finite")
    if contender.compared and contender.dtype == "float32":
        apart = difference(answer, expected_of(case))
        if max(apart.logits, apart.boxes) > TOLERANCE:
            raise ValueError(
                f"its answer is not that of transformers: logits differ by up to {apart.logits:.1e}, "
                f"boxes by {apart.boxes:.1e}, more than {TOLERANCE:.0e}"
            )
    return run


def expected_of(case: Path) -> peers.Answer:
    """What transformers answers in PyTorch."""
    with np.load(case / EXPECTED) as stored:
        return peers.Answer(stored["logits"], stored["boxes"])


def difference(answer: peers.Answer, expected: peers.Answer) -> Difference:
    """Pairs each picture's queries one to one, since two of almost the same score may change places.

    For the differences the pairs are those nearest in logits and boxes together: any pairing of all queries that agrees
    in everything shows the same set. The correlation's pairs ignore logits, so that it isn't better than it should be.
    """
    if answer.logits.shape != expected.logits.shape or answer.boxes.shape != expected.boxes.shape:
        raise ValueError(f"its answer has shapes {answer.logits.shape}, {answer.boxes.shape}, not those expected")
    apart, pairs = [], []
    for logits, boxes, true_logits, true_boxes in zip(*answer, *expected, strict=True):
        by_boxes = _distances(boxes, true_boxes)
        here, there = _pairs(np.maximum(by_boxes, _distances(logits, true_logits)))
        apart.append([np.abs(logits[here] - true_logits[there]).max(), np.abs(boxes[here] - true_boxes[there]).max()])
        here, there = _pairs(by_boxes)
        pairs.append(np.stack([logits[here], true_logits[there]]).reshape(2, -1))
    correlation = np.corrcoef(np.concatenate(pairs, axis=1))[0, 1]
    return Difference(*map(float, np.max(apart, axis=0)), float(correlation))


def rounded_type() -> str:
    """The type in which a detector multiplies here that is asked for bfloat16."""
    from dfine_jax.machine import arithmetic

    return arithmetic("bfloat16").narrowest.name


def measured_peaks(rounds: int, dtypes: Sequence[str]) -> dict[str, float]:
    """The most GFLOP/s that any matrix product reached, by type."""
    kinds = [(make, dtype) for make in (jax_product, torch_product) for dtype in dtypes]
    if half() is not None:
        kinds.append((halves_product, rounded_type()))
    if half() == "half":
        kinds.append((torch_product, rounded_type()))
    makes = {
        f"{make.__name__} {dtype} {side}": partial(make, side=side, dtype=dtype)
        for make, dtype in kinds
        for side in PRODUCTS
    }
    timings = in_turn(makes, rounds, peers.THREADS, "peak,", warm=True)
    peaks: dict[str, float] = {}
    for name, timing in timings.items():
        _, dtype, side = name.split()
        peaks[dtype] = max(peaks.get(dtype, 0.0), 2 * int(side) ** 3 / timing.seconds.min() / 1e9)
    return peaks


def jax_product(side: int, dtype: str) -> Callable[[], float]:
    """A product of two square matrices, summed in float32, compiled as the library compiles."""
    import jax
    import jax.numpy as jnp

    from dfine_jax.inference.compiled import compile_lowered

    a, b = (jnp.asarray(matrix, dtype) for matrix in _matrices(side))
    multiply = partial(jnp.matmul, preferred_element_type=jnp.float32)
    compiled = compile_lowered(jax.jit(multiply).lower(a, b))
    return lambda: float(np.asarray(compiled(a, b))[0, 0])


def torch_product(side: int, dtype: str) -> Callable[[], float]:
    """The same in PyTorch, which returns the operands' type."""
    import torch

    torch.set_num_threads(peers.THREADS)
    a, b = (torch.from_numpy(matrix).to(getattr(torch, dtype)) for matrix in _matrices(side))
    return lambda: float((a @ b)[0, 0])


def halves_product(side: int, dtype: str) -> Callable[[], float]:
    """The same by the library's own code for halves, without which no product in float16 comes near the peak."""
    import jax
    import jax.numpy as jnp

    from dfine_jax.cpu.epilogue import Epilogue
    from dfine_jax.cpu.kernels.packed16 import gemm16
    from dfine_jax.cpu.kernels.packing16 import pack16

    a, b = _matrices(side)
    kernel, factors = pack16([b[None]], jnp.dtype(dtype))
    kernels = [jnp.asarray(kernel, dtype), jnp.asarray(factors, jnp.float32)]
    multiply = jax.jit(lambda x: gemm16([x], kernels, Epilogue(jnp.zeros(side), None)))
    x = jnp.asarray(a)[None]
    return lambda: float(np.asarray(multiply(x))[0, 0, 0])


def ratios(times: Mapping[str, float]) -> dict[str, float]:
    """Our time over the peers'; below 1 we are faster. In float32 over the better of ONNX Runtime and OpenVINO."""
    exact = [times[name] for name in ("onnxruntime", "openvino") if name in times]
    found = {"float32": times["ours"] / min(exact)} if exact else {}
    if "openvino-bf16" in times:
        found["bfloat16"] = times["ours-bf16"] / times["openvino-bf16"]
    return found


def times_table(rows: list[dict[str, Any]], chosen: Mapping[str, Contender]) -> Table:
    """Milliseconds for a picture, and ratios."""
    table = _table(f"ms a picture of {SIDE}x{SIDE}", chosen, ["ours / best f32", "ours / OpenVINO bf16"])
    table.caption = "best f32: the faster of ONNX Runtime and OpenVINO; below 1 ours is faster"
    for row in rows:
        ends = [f"{row['ratios'][kind]:.2f}" if kind in row["ratios"] else "-" for kind in ("float32", "bfloat16")]
        table.add_row(*_head(row), *(f"{row['ms'][name]:.1f}" if name in row["ms"] else "-" for name in chosen), *ends)
    return table


def shares_table(rows: list[dict[str, Any]], chosen: Mapping[str, Contender]) -> Table:
    """Each model's operations a second, over the measured peak of its type."""
    table = _table("fraction of the measured peak", chosen, ["GFLOPs a picture"])
    for row in rows:
        shares = row["share_of_peak"]
        cells = (f"{shares[name]:.0%}" if name in shares else "-" for name in chosen)
        table.add_row(*_head(row), *cells, f"{row['gflops']:.1f}")
    return table


def answers_table(rows: list[dict[str, Any]], chosen: Mapping[str, Contender]) -> Table:
    """Float32: largest differences of logits and boxes; bfloat16: the correlation of logits."""
    table = _table("answers against PyTorch's: f32 logits, boxes apart; bf16 logits' correlation", chosen, [])
    for row in rows:
        cells = []
        for name, one in chosen.items():
            apart = row["differences"].get(name)
            if apart is None:
                cells.append("-")
            elif one.dtype == "float32":
                cells.append(f"{apart['logits']:.0e}, {apart['boxes']:.0e}")
            else:
                cells.append(f"{apart['correlation']:.4f}")
        table.add_row(*_head(row), *cells)
    return table


def _table(title: str, chosen: Mapping[str, Contender], ends: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("size", "batch", *(one.title for one in chosen.values()), *ends):
        table.add_column(heading, justify="right")
    return table


def _head(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["size"].upper(), str(row["batch_size"])


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The largest difference of every row of ``a`` from every row of ``b``."""
    return np.stack([np.abs(b - row).max(1) for row in a])


def _pairs(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(distances)


def _matrices(side: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, side, side), np.float32)


def _require(chosen: Mapping[str, Contender]) -> None:
    modules = {"torch", "transformers", "onnx", "onnxscript", *(one.module for one in chosen.values())}
    missing = sorted(module for module in modules if find_spec(module) is None)
    if missing:
        raise SystemExit(f"{', '.join(missing)} not installed: python -m pip install '.[bench]', or choose --peers")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices="nsmlx", default=["n"], help="of the model (default: n)")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1], help="pictures at a time (default: 1)")
    parser.add_argument("--rounds", type=int, default=20, help="how often each contender runs (default: 20)")
    usual = [name for name in PEERS if name != "onnxruntime-ours"]
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=usual, help=f"(default: {' '.join(usual)})")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the numbers here as JSON")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or min(arguments.batch_sizes) < 1:
        parser.error("rounds and batch sizes have to be 1 or more")
    return arguments


if __name__ == "__main__":
    main()
