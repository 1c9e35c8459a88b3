"""A pretrained model's program, compiled; or as an earlier process kept it, which needs neither Flax nor tracing."""

import os
import pickle
from typing import NamedTuple

import jax
from jax.experimental import serialize_executable

from dfine_jax.config import DFineConfig
from dfine_jax.inference.folding import Fusion
from dfine_jax.inference.memory import return_freed_memory
from dfine_jax.kept import kept
from dfine_jax.machine import Arithmetic
from dfine_jax.preprocessing import Preprocessing


class Program(NamedTuple):
    """The function from resized pictures to their best detections, and how it wants a model's variables."""

    compiled: jax.stages.Compiled
    fusion: Fusion
    batch_stats: frozenset[str]
    """Which of the folded variables are the second argument; the others are the first, as ``pack`` gives them."""


def detection_program(
    config: DFineConfig,
    arithmetic: Arithmetic,
    settings: Preprocessing,
    batch_size: int,
    *,
    quick: bool = False,
    edges: bool = False,
) -> Program:
    """The program for a model of this configuration, from the values kept by ``kept`` or compiled anew.

    For ``quick`` see ``compile_lowered``, for ``edges`` ``lower_detection``.
    """
    what = (config, arithmetic, settings, batch_size, quick, edges)
    program = kept("program", (what, _surroundings()), lambda: _compiled(*what), dump=_dump, load=_load)
    return_freed_memory()
    return program


def _compiled(
    config: DFineConfig, arithmetic: Arithmetic, settings: Preprocessing, batch_size: int, quick: bool, edges: bool
) -> Program:
    # What only compiling needs is loaded here: it takes as long as all else that a start with a kept program does.
    from dfine_jax.inference.arguments import of_packed
    from dfine_jax.inference.compiled import compile_lowered, lower_detection
    from dfine_jax.inference.fuse import fused_form
    from dfine_jax.model.dfine import DFine, functional

    model = DFine(config, compute=arithmetic.compute)
    form, fusion = fused_form(model, operands=arithmetic.operands, quick=quick)
    apply, params, batch_stats = functional(form)
    lowered = lower_detection(*of_packed(apply, params), batch_stats, settings, batch_size, edges=edges)
    compiled = compile_lowered(lowered, quick=quick)
    return Program(compiled, fusion, frozenset(batch_stats))


def _dump(program: Program) -> bytes:
    """Pickled, as what JAX makes of a program is already; see ``kept`` for who can have written it."""
    return pickle.dumps((serialize_executable.serialize(program.compiled), program.fusion, program.batch_stats))


def _load(dumped: bytes) -> Program:
    serialized, fusion, batch_stats = pickle.loads(dumped)
    fusion.plan.register()
    devices = jax.devices()[:1]
    compiled = serialize_executable.deserialize_and_load(*serialized, execution_devices=devices)
    return Program(compiled, fusion, batch_stats)


def _surroundings() -> tuple:
    """All but the source and the arguments that a compiled program depends on."""
    device = jax.devices()[0]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = {name: os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    options = {name: repr(value) for name, value in jax.config.values.items() if "cache" not in name}
    kind = (device.platform, device.device_kind, device.client.platform_version, jax.device_count())
    return kind, cores, flags, options
