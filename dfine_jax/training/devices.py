"""Where arrays lie: the state whole on every device, every batch shared among all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dfine_jax.data.batches import Batch
from dfine_jax.data.loader import Shard
from dfine_jax.errors import InputError
from dfine_jax.machine import machine_code
from dfine_jax.ops.compute import Compute
from dfine_jax.processor import multiplies_tiles_of_bfloat16
from dfine_jax.training.memory import require_memory
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.step import Metrics, TrainState, Update
from dfine_jax.training.targets import Targets

AXIS = "data"

# A step is a thousand small programs, and what LLVM does beyond its first level makes none of them faster.
CPU_OPTIONS = {"xla_backend_optimization_level": 1}


class OnDevices(NamedTuple):
    """What the network sees of a batch, on the devices."""

    images: jax.Array
    targets: Targets


class Devices:
    """All devices of all processes, as one row over which batches are shared out."""

    def __init__(self, devices: list[jax.Device] | None = None):
        self.mesh = Mesh(np.array(devices or jax.devices()), (AXIS,))
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        self.shared = NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def count(self) -> int:
        """How many there are."""
        return self.mesh.size

    @property
    def first(self) -> jax.Device:
        """The first of this process's own."""
        return self.mesh.local_devices[0]

    @property
    def shard(self) -> Shard:
        """Which part of every batch this process loads."""
        return Shard(jax.process_index(), jax.process_count())

    @property
    def first_process(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return jax.process_index() == 0

    def compute(self, dtype: str) -> Compute:
        """How a step's products are calculated on them, where this type is asked for; see ``Compute.named``.

        One CPU that there is machine code for takes that, in float32, unless it has instructions for tiles of bfloat16
        and is asked for it: without them rounded products, by XLA, make a step slower.
        """
        compute = Compute.named(dtype)
        code = machine_code() if self.count == 1 and self._are_cpus else None
        if code is None or not code.supported():
            return compute
        return compute if compute != Compute() and multiplies_tiles_of_bfloat16() else code.training_compute()

    @property
    def _are_cpus(self) -> bool:
        return self.mesh.devices.flat[0].platform == "cpu"

    def check(self, batch_size: int, parts: int) -> None:
        """``ValueError`` unless every device gets as many pictures of each of a batch's parts."""
        if batch_size % (self.count * parts):
            raise InputError(
                f"a batch of {batch_size} pictures, in {parts} part(s), can't be shared equally among {self.count} "
                f"devices: choose a multiple of {self.count * parts}"
            )

    def replicate(self, tree: Any) -> Any:
        """The tree's arrays, whole on every device."""
        return jax.device_put(tree, self.whole)

    def share(self, batch: Batch) -> OnDevices:
        """The whole batch, put together from what every process loaded of it."""
        columns = (batch.images, Targets(batch.boxes, batch.labels, batch.mask))
        put = jax.tree.map(lambda column: jax.make_array_from_process_local_data(self.shared, column), columns)
        return OnDevices(*put)

    def fitting(self, update: Update, recipe: Recipe) -> "FittingUpdate":
        """The update over all devices, which says before it is first run where memory is too small for it."""
        return FittingUpdate(self.compile(update, paced=recipe.minutes is not None), self, recipe)

    def compile(self, update: Update, *, paced: bool = False) -> Callable[..., tuple[TrainState, Metrics]]:
        """The update over all devices, with a pace if it is ``paced``; the state it is given is used up."""

        def update_on_mesh(state: TrainState, *batch) -> tuple[TrainState, Metrics]:
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):  # for what each device does by itself
                return update(state, *batch)

        return jax.jit(
            update_on_mesh,
            donate_argnums=0,
            in_shardings=(self.whole, self.shared, self.shared, *([self.whole] if paced else [])),
            out_shardings=self.whole,
            compiler_options=self._compiler_options(),
        )

    def _compiler_options(self) -> dict[str, int] | None:
        """None leaves all to JAX, as where it was told to optimise little."""
        return CPU_OPTIONS if self._are_cpus and not jax.config.read("jax_disable_most_optimizations") else None


class FittingUpdate:
    """An update that is compiled once for each size of pictures, and refused where it clearly needs too much memory.

    The state it is given is used up. ``OutOfMemoryError`` before the first step of a size.
    """

    def __init__(self, update: Callable[..., Any], devices: Devices, recipe: Recipe):
        """``update`` is what ``jax.jit`` made."""
        self._update, self._recipe = update, recipe
        self._devices = list(devices.mesh.local_devices)
        self._compiled: dict[tuple[int, ...], jax.stages.Compiled] = {}

    def __call__(self, state: TrainState, images: jax.Array, *rest: Any) -> tuple[TrainState, Metrics]:
        if images.shape not in self._compiled:
            compiled = self._update.lower(state, images, *rest).compile()
            require_memory(compiled, self._devices, self._recipe)
            self._compiled[images.shape] = compiled
        return self._compiled[images.shape](state, images, *rest)
