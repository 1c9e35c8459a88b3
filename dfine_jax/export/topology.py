"""Compiles for a TPU topology without having one, to see what the programs need there: ``Topology("tpu:v5e:2x2")``.

Needs the package libtpu, which brings the compiler. It should be in an environment of its own: with libtpu installed,
ordinary programs look for a TPU first.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, SingleDeviceSharding

from dfine_jax.config import DFineConfig
from dfine_jax.errors import InputError
from dfine_jax.export.hlo import count
from dfine_jax.inference.compiled import lower_detection
from dfine_jax.inference.fuse import fuse
from dfine_jax.model.dfine import DFine, functional
from dfine_jax.ops.compute import Compute
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.training.devices import Devices
from dfine_jax.training.optimizer import make_optimizer, parameter_groups
from dfine_jax.training.recipe import Recipe, model_config
from dfine_jax.training.step import layout_of, make_update, start_state
from dfine_jax.training.targets import Targets

# Without the first three libtpu asks the cloud's metadata server what it runs on, and waits. The type of accelerator is
# only to have some answer: the topology's own name decides what is compiled for.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is used, so nothing is in another process's way
}
CHIP_GB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
"""Memory of one chip, of the kinds that topologies are known for."""
BOXES = 100
"""Places for boxes in a picture that is trained on."""
TRAINING_OPTIONS = {"exec_time_optimization_effort": -1.0}
"""Makes the compiler spend half the time, which for a training step is many minutes.

What is calculated, copied and exchanged stays the same, but less is kept near the units: memory and cycles are upper
bounds of what they come to in a training.
"""
STEPS = 1000
"""Of the training whose update is compiled; only the schedule's constants depend on it."""


class TooLargeError(InputError):
    """A program does not fit in a chip's memory. The message says how much it wanted."""


class Program(NamedTuple):
    """What one compiled program needs, on each chip."""

    size: str
    purpose: str
    """``"inference"`` or ``"training"``."""
    batch: int
    """Pictures on each chip."""
    chips: int
    dtype: str
    """Of the large products."""
    compile_seconds: float
    flops: float
    """As XLA counts them: of one round of each loop."""
    bytes_accessed: float
    """What instructions read and write, whether in the chip's main memory or near its units."""
    memory_bytes: int
    """Arguments, results that don't reuse their memory, everything in between, and the program itself."""
    copies: int
    copied_bytes: int
    padding: float
    cycles: int
    collectives: dict[str, int]
    looped_collectives: int
    host_transfers: int
    """Of these seven see ``dfine_jax.export.hlo.Counts``."""


class Topology:
    """The chips of a topology such as ``tpu:v5e:2x2``."""

    def __init__(self, name: str):
        """``InputError`` if the name is not known or libtpu is not installed."""
        match = re.fullmatch(r"tpu:((\w+):\d+(?:x\d+)+)", name)
        if match is None:
            raise InputError(f"{name!r}: give a topology such as tpu:v5e:2x2")
        if find_spec("libtpu") is None:
            raise InputError(
                "compiling for a TPU needs the package libtpu, in an environment of its own because programs look for "
                "a TPU first where it is: python -m pip install 'jax[tpu]'"
            )
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        jax.config.update("jax_platforms", "cpu")  # in the environment it would come too late: JAX is imported
        try:
            self.devices = topologies.get_topology_desc(platform="tpu", topology_name=match[1]).devices
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
            raise InputError(f"{name!r} is no topology that libtpu knows: {reason}") from error
        self.name = name
        self.chip_gb = CHIP_GB.get(match[2])

    def inference(self, size: str, batch: int, dtype: str = "bfloat16") -> Program:
        """The fused model on one chip, from ``batch`` resized pictures to detections; may raise ``TooLargeError``."""
        model = DFine(DFineConfig.from_size(size), compute=Compute.named(dtype), rng=np.random.default_rng(0))
        apply, params, batch_stats = functional(fuse(model, for_cpu=False))
        values = _abstract((params, batch_stats), SingleDeviceSharding(self.devices[0]))
        began = time.perf_counter()
        compiled = _compile(lower_detection(apply, *values, Preprocessing(), batch))
        return _program((size, "inference", batch, 1, dtype), time.perf_counter() - began, compiled)

    def training(self, size: str, batch: int, dtype: str = "bfloat16") -> Program:
        """One update over all chips, with ``batch`` pictures on each; may raise ``TooLargeError``."""
        recipe = replace(Recipe.for_size(size), batch_size=batch * len(self.devices))
        config = model_config(DFineConfig.from_size(size), recipe)
        model = DFine(config, compute=Compute.named(dtype), rng=np.random.default_rng(0))
        apply, params, batch_stats = functional(model)
        groups = parameter_groups(params, recipe.optimization)
        layout = layout_of(params, batch_stats, groups)
        optimizer = make_optimizer(groups, recipe.optimization, STEPS)
        devices = Devices(list(self.devices))
        state = jax.eval_shape(lambda: start_state(params, batch_stats, layout, optimizer, 0))
        batch_of = _abstract(_training_batch(recipe), devices.shared)
        update = devices.compile(make_update(apply, config, recipe, layout, optimizer))
        began = time.perf_counter()
        compiled = _compile(update.lower(_abstract(state, devices.whole), *batch_of), TRAINING_OPTIONS)
        return _program((size, "training", batch, devices.count, dtype), time.perf_counter() - began, compiled)

    def largest_training(self, size: str, dtype: str = "bfloat16") -> Program:
        """The update with the recipe's batch shared among the chips, or the largest half, quarter, ... that fits."""
        batch = max(1, Recipe.for_size(size).batch_size // len(self.devices))
        while True:
            try:
                return self.training(size, batch, dtype)
            except TooLargeError:
                if batch == 1:
                    raise
                batch //= 2


def _training_batch(recipe: Recipe) -> tuple[jax.ShapeDtypeStruct, Targets]:
    pictures, side = recipe.batch_size, recipe.image_size
    return jax.ShapeDtypeStruct((pictures, side, side, 3), jnp.uint8), Targets(
        jax.ShapeDtypeStruct((pictures, BOXES, 4), jnp.float32),
        jax.ShapeDtypeStruct((pictures, BOXES), jnp.int32),
        jax.ShapeDtypeStruct((pictures, BOXES), jnp.bool_),
    )


def _abstract(tree: Any, sharding: NamedSharding | SingleDeviceSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _compile(lowered: jax.stages.Lowered, options: dict[str, float] | None = None) -> jax.stages.Compiled:
    with _without_cache():
        try:
            return lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise TooLargeError(str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")) from error


@contextmanager
def _without_cache() -> Iterator[None]:
    """No program is kept in JAX's persistent cache: without a TPU it can't be read back, which JAX only warns of."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether there is one is asked once only
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _program(what: tuple[str, str, int, int, str], seconds: float, compiled: jax.stages.Compiled) -> Program:
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    needed += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(*what, seconds, cost["flops"], cost["bytes accessed"], needed, *count(compiled.as_text()))
