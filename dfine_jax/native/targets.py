"""Compiles the native functions for this processor, and makes them known to XLA."""

import ctypes
from functools import cache
from importlib import resources
from itertools import product

import jax

from dfine_jax.native.depthwise import depthwise
from dfine_jax.native.finish import FINISHES, finishes
from dfine_jax.native.norm import norm
from dfine_jax.native.product import products
from dfine_jax.native.registers import Registers, binding, registers
from dfine_jax.native.tiles import tiles
from dfine_jax.native.work import LARGEST, MOST, work

FUNCTIONS = {
    "product": "product",
    "rows": "rows.of.maps",
    "depthwise": "rows.of.channels",
    "maximum": "maximum.of.channels",
    "tiles": "tiles.of.maps",
    "norm": "norm.of.rows",
}
"""With their names in ``handler.ll``, which says what each computes."""

_ENGINES: list = []
"""Whose code XLA has: it has to stay."""


def target(function: str, activation: str | None) -> str:
    """XLA's name for a function, one of ``FUNCTIONS``, that ends with this activation."""
    return f"dfine_{function}_{FINISHES[activation]}"


def _targets() -> dict[str, tuple[str, str]]:
    """Each one's function and what finishes it."""
    both = product(FUNCTIONS, sorted(set(FINISHES.values())))
    return {f"dfine_{function}_{finish}": (function, finish) for function, finish in both}


@cache
def register() -> None:
    """Makes every ``target`` known to XLA."""
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
    _ENGINES.append(engine)
    for name in _targets():
        handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address(name))
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")


def source(layout: Registers) -> str:
    """All of them, in LLVM's language."""
    here = resources.files("dfine_jax.native")
    handler, chunks = (here.joinpath(f"{name}.ll").read_text("utf-8") for name in ("handler", "chunks"))
    chunks = chunks.replace("[MOST", f"[{MOST}").replace("[TAPS", f"[{MOST * LARGEST}")
    entries = [_entry(name, *parts) for name, parts in _targets().items()]
    computed = [kind(layout) for kind in (products, depthwise, tiles, norm, finishes)]
    return "\n".join([work(), handler, chunks, *computed, *entries])


def _entry(name: str, function: str, finish: str) -> str:
    return f"""
define ptr @{name}(ptr %frame) {{
entry:
  %is.answered = call i1 @answer(ptr %frame)
  br i1 %is.answered, label %done, label %called
called:
  call void @{FUNCTIONS[function]}(ptr %frame, ptr @finish.{finish})
  br label %done
done:
  ret ptr null
}}"""
