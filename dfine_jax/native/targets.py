"""Compiles the native functions for this processor, and makes them known to XLA."""

import ctypes
from importlib import resources
from threading import Lock
from typing import Any

import jax

from dfine_jax.native.attention import attention
from dfine_jax.native.depthwise import depthwise
from dfine_jax.native.finish import FINISHES, finishes
from dfine_jax.native.kernel_gradients import kernel_gradients
from dfine_jax.native.matrices import matrices
from dfine_jax.native.norm import norm
from dfine_jax.native.product import products
from dfine_jax.native.registers import Registers, binding, registers
from dfine_jax.native.sampling import sampling
from dfine_jax.native.tiles import tiles
from dfine_jax.native.work import MOST, TAPS, work

_FINISHED = {
    "product": "product",
    "rows": "rows.of.maps",
    "depthwise": "rows.of.channels",
    "tiles": "tiles.of.maps",
}
_UNFINISHED = {
    "maximum": "maximum.of.channels",
    "norm": "norm.of.rows",
    "attention": "heads.of.maps",
    "sampling": "points.of.maps",
    "matrices": "matrices",
    "kernel_gradients": "kernel.gradients",
}
# Functions that end with a bias, an activation, and a scale and a shift, and others, with their names in
# ``handler.ll``, which says what each computes.

_TARGETS = {
    **{f"dfine_{name}_{finish}": (code, finish) for name, code in _FINISHED.items() for finish in FINISHES.values()},
    **{f"dfine_{name}_none": (code, "none") for name, code in _UNFINISHED.items()},
}

_LOCK = Lock()
_ENGINES: list = []
"""Whose code XLA has: it has to stay."""


def target(function: str, activation: str | None) -> str:
    """XLA's name for a function that ends with this activation."""
    return f"dfine_{function}_{FINISHES[activation]}"


def register() -> None:
    """Makes every ``target`` known to XLA, if it isn't yet."""
    with _LOCK:
        if not _ENGINES:
            _ENGINES.append(_compiled())


def _compiled() -> Any:
    """LLVM's engine, after XLA was given what it made."""
    llvm = binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    module = llvm.parse_assembly(source(registers()))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    for name in _TARGETS:
        handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address(name))
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return engine


def source(layout: Registers) -> str:
    """All of them, in LLVM's language."""
    here = resources.files("dfine_jax.native")
    handler, chunks = (here.joinpath(f"{name}.ll").read_text("utf-8") for name in ("handler", "chunks"))
    chunks = chunks.replace("[MOST", f"[{MOST}").replace("[TAPS", f"[{TAPS}")
    entries = [_entry(name, *parts) for name, parts in _TARGETS.items()]
    computed = [kind(layout) for kind in (products, matrices, depthwise, tiles, norm, attention, sampling, finishes)]
    return "\n".join([work(), handler, chunks, *computed, kernel_gradients(), *entries])


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
