"""All programs as text, to see whether a change that should change none of them does.

``python -m benchmarks.program_texts FOLDER`` writes StableHLO and assembly, with digests in ``digests.json``:
every size's inference, in float32 and in what this machine takes for bfloat16, for one picture and for eight, compiled
well and quickly; every size's training step; and the machine code for each kind of processor.
``python -m benchmarks.program_texts FOLDER --against OTHER`` compares with what another commit wrote, and ends with 1
where a program is another. Names of kernels are left out of the comparison: they may change.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dfine_jax.config import SIZES, DFineConfig
from dfine_jax.cpu.codegen.registers import Registers, binding
from dfine_jax.cpu.codegen.targets import source
from dfine_jax.inference.arguments import of_packed
from dfine_jax.inference.compiled import lower_detection
from dfine_jax.inference.fuse import fused_form
from dfine_jax.machine import Arithmetic, arithmetic
from dfine_jax.model.dfine import DFine, functional
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.training.devices import Devices
from dfine_jax.training.optimizer import make_optimizer, parameter_groups
from dfine_jax.training.recipe import Recipe, model_config
from dfine_jax.training.step import layout_of, make_update, start_state
from dfine_jax.training.targets import Targets

PICTURES, SIDE, BOXES = 4, 320, 10
"""Of a training step."""

AVX512, AVX2 = Registers(lanes=16, rows=12, columns=32), Registers(lanes=8, rows=6, columns=16)
PROCESSORS = {
    "haswell": (AVX2, None),
    "skylake-avx512": (AVX512, None),
    "cascadelake": (AVX512, "i16"),
    "sapphirerapids": (AVX512, "half"),
    "znver4": (AVX512, "bfloat"),
}
"""LLVM's names of processors, how their registers are used, and the type that stands for bfloat16."""

KERNEL = re.compile(r"@dfine_\w+")
DIGESTS = "digests.json"


def main() -> int:
    """Writes and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--against", type=Path, metavar="OTHER")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name, text in texts(given.sizes):
        (given.folder / name).write_text(text, "utf-8")
        digests[name] = hashlib.sha256(KERNEL.sub("@kernel", text).encode()).hexdigest()
        print(f"{digests[name][:12]}  {len(text.splitlines()):8,} lines  {name}", flush=True)
    (given.folder / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", "utf-8")
    return 0 if given.against is None else compare(digests, json.loads((given.against / DIGESTS).read_text("utf-8")))


def compare(ours: dict[str, str], theirs: dict[str, str]) -> int:
    """Says which programs of both are different, and 1 if any is, or if there are none to compare."""
    both = ours.keys() & theirs.keys()
    changed = sorted(name for name in both if ours[name] != theirs[name])
    print(f"{len(both) - len(changed)} of {len(both)} are the same" + "".join(f"\nchanged: {name}" for name in changed))
    return 1 if changed or not both else 0


def texts(sizes: list[str]) -> Iterator[tuple[str, str]]:
    """Names of files and what they hold."""
    yield from assembly()
    asked = {"float32": Arithmetic(), "bfloat16": arithmetic("bfloat16")}
    for size, (dtype, numbers), quick, batch in product(sizes, asked.items(), (False, True), (1, 8)):
        yield f"{size}-{'quick' if quick else 'well'}-{dtype}-{batch}.mlir", inference(size, numbers, quick, batch)
    for size in sizes:
        yield f"{size}-training.mlir", training(size)


def inference(size: str, numbers: Arithmetic, quick: bool, batch: int) -> str:
    """From resized pictures to their best detections."""
    model = DFine(DFineConfig.from_size(size), compute=numbers.compute)
    form, _ = fused_form(model, operands=numbers.operands, quick=quick)
    apply, params, batch_stats = functional(form)
    return lower_detection(*of_packed(apply, params), batch_stats, Preprocessing(), batch).as_text()


def training(size: str) -> str:
    """One update by the size's recipe, with less and smaller pictures, as the trainer compiles it."""
    recipe, devices = Recipe.for_size(size), Devices()
    config = model_config(DFineConfig.from_size(size), recipe)
    model = DFine(config, compute=devices.compute("float32"), rng=np.random.default_rng(0))
    apply, params, batch_stats = functional(model)
    groups = parameter_groups(params, recipe.optimization)
    layout = layout_of(params, batch_stats, groups)
    optimizer = make_optimizer(groups, recipe.optimization, total_steps=10_000)
    state = jax.eval_shape(lambda: start_state(params, batch_stats, layout, optimizer, 0))
    images = jax.ShapeDtypeStruct((PICTURES, SIDE, SIDE, 3), jnp.uint8)
    targets = Targets(
        labels=jax.ShapeDtypeStruct((PICTURES, BOXES), jnp.int32),
        boxes=jax.ShapeDtypeStruct((PICTURES, BOXES, 4), jnp.float32),
        mask=jax.ShapeDtypeStruct((PICTURES, BOXES), jnp.bool_),
    )
    update = devices.compile(make_update(apply, config, recipe, layout, optimizer))
    return update.lower(state, images, targets).as_text()


def assembly() -> Iterator[tuple[str, str]]:
    """What LLVM makes for each kind of processor, whatever this one is."""
    llvm = binding()
    if llvm is None:
        print("no LLVM here: assembly is left out", file=sys.stderr)
        return
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    for processor, (layout, half) in PROCESSORS.items():
        for purpose in ("inference", "training", *(("halves",) if half else ())):
            machine = target.create_target_machine(cpu=processor, opt=3)
            module = llvm.parse_assembly(source(layout, purpose, half))
            yield f"{processor}-{purpose}.s", machine.emit_assembly(module)


if __name__ == "__main__":
    sys.exit(main())
