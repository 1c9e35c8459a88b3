"""Compiles the native functions for this processor, and makes them known to XLA."""

import ctypes
from importlib import resources
from threading import Lock
from typing import Any, Literal

import jax

from dfine_jax.cpu.codegen.attention import attention
from dfine_jax.cpu.codegen.attributes import placed
from dfine_jax.cpu.codegen.depthwise import depthwise, depthwise_of_narrow
from dfine_jax.cpu.codegen.epilogue import EPILOGUES, finishes
from dfine_jax.cpu.codegen.halves import halves
from dfine_jax.cpu.codegen.kernel_gradients import kernel_gradients
from dfine_jax.cpu.codegen.matrices import matrices
from dfine_jax.cpu.codegen.norm import norm
from dfine_jax.cpu.codegen.packing import packing
from dfine_jax.cpu.codegen.product import products
from dfine_jax.cpu.codegen.registers import Half, Registers, binding, half, registers
from dfine_jax.cpu.codegen.sampling import sampling
from dfine_jax.cpu.codegen.scratch import laid_out
from dfine_jax.cpu.codegen.tiles import tiles, tiles_of_halves, tiles_of_narrow
from dfine_jax.cpu.codegen.work import MOST, PAIRS, PAIRS_OF_TILES, TAPS, work

_FINISHED = {
    "product": "product",
    "rows": "rows.of.maps",
    "depthwise": "rows.of.channels",
    "tiles": "tiles.of.maps",
}
_HALVED = {
    "halves": "product.of.halves",
    "rows_of_halves": "windows.of.halves",
    "tiles_of_halves": "tiles.of.halves",
}
_BESIDE_WHOLES = {
    "tiles_of_wholes": "tiles.of.wholes",
    "narrow_tiles": "tiles.of.narrow.maps",
    "narrow_depthwise": "rows.of.narrow.channels",
}
_UNFINISHED = {
    "maximum": "maximum.of.channels",
    "norm": "norm.of.rows",
    "attention": "heads.of.maps",
    "sampling": "points.of.maps",
}
_OF_TRAINING = {"matrices": "matrices", "kernel_gradients": "kernel.gradients"}
# Functions that end with a bias, an activation, and a scale and a shift, and others, with their names in the code,
# which says what each computes: in ``functions.ll``, and those of training beside what they call.


def _unfinished(functions: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {f"dfine_{name}_none": (code, "none") for name, code in functions.items()}


def _finished(functions: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {
        f"dfine_{name}_{finish}": (code, finish) for name, code in functions.items() for finish in EPILOGUES.values()
    }


Purpose = Literal["inference", "halves", "training"]


def _targets(purpose: Purpose, kind: Half | None) -> dict[str, tuple[str, str]]:
    """What is compiled for this: a detector shall not wait for the code of training, nor for products in 16 bits."""
    match purpose:
        case "inference":
            return _finished(_FINISHED) | _unfinished(_UNFINISHED)
        case "halves":
            return _finished(_HALVED | _BESIDE_WHOLES if kind == "i16" else _HALVED)
        case "training":
            return _unfinished(_OF_TRAINING)


_LOCK = Lock()
_ENGINES: dict[Purpose, Any] = {}
"""Whose code XLA has: it has to stay."""


def target(function: str, activation: str | None) -> str:
    """XLA's name for a function that ends with this activation."""
    return f"dfine_{function}_{EPILOGUES[activation]}"


def register(purpose: Purpose = "inference") -> None:
    """Makes every ``target`` of this purpose known to XLA, if it isn't yet."""
    with _LOCK:
        if purpose not in _ENGINES:
            _ENGINES[purpose] = _compiled(purpose)


def _compiled(purpose: Purpose) -> Any:
    """LLVM's engine, after XLA was given what it made.

    The text is compiled as it is: LLVM's passes at level 2 undo the order in which loops load and multiply (half as
    much time again for a picture), and its removal of dead code takes as long as it saves.
    """
    llvm = binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    module = llvm.parse_assembly(source(registers(), purpose, half()))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    for name in _targets(purpose, half()):
        handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address(name))
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return engine


def source(layout: Registers, purpose: Purpose, kind: Half | None) -> str:
    """All of them, in LLVM's language."""
    computed = [make(layout) for make in (products, packing, depthwise, tiles, norm, attention, sampling, finishes)]
    files = ["handler", "functions", "chunks"]
    if purpose == "training":
        computed += [matrices(layout), kernel_gradients()]
    if purpose == "halves":
        computed += [halves(layout, kind), tiles_of_halves(layout)]
        files.append("halves")
    if purpose == "halves" and kind == "i16":
        computed += [tiles_of_narrow(layout), depthwise_of_narrow(layout)]
        files.append("wholes")
    here = resources.files("dfine_jax.cpu.codegen")
    written = "\n".join(here.joinpath(f"{name}.ll").read_text("utf-8") for name in files)
    written = written.replace("[MOST", f"[{MOST}").replace("[TAPS", f"[{TAPS}")
    written = written.replace("PAIRS.OF.TILES", str(PAIRS_OF_TILES)).replace("PAIRS", str(PAIRS))
    entries = [_entry(name, *parts) for name, parts in _targets(purpose, kind).items()]
    return laid_out(placed("\n".join([work(), written, *computed, *entries])))


def _entry(name: str, function: str, finish: str) -> str:
    return f"""
define ptr @{name}(ptr %frame) {{
entry:
  %is.answered = call i1 @answer(ptr %frame)
  br i1 %is.answered, label %done, label %called
called:
  call void @{function}(ptr %frame, ptr @finish.{finish})
  br label %done
done:
  ret ptr null
}}"""
