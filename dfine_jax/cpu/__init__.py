"""What makes the network fast on CPUs, added from outside: layers that call machine code, and weights made for them.

All of it can be deleted: the network then runs by XLA alone. ``dfine_jax.machine`` is the only module that knows it.
"""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from dfine_jax.cpu.codegen.registers import HALVES, half, registers

if TYPE_CHECKING:
    from dfine_jax.cpu.plan import PackingPlan
    from dfine_jax.model.dfine import DFine
    from dfine_jax.ops.compute import Compute


def supported() -> bool:
    """Whether there is machine code for this processor, and LLVM to compile it."""
    return registers() is not None


def operand_type() -> np.dtype | None:
    """The type of 16 bits whose products this processor is faster at than at float32's; None if there is none."""
    return jnp.dtype(HALVES[kind]) if (kind := half()) else None


def lower(model: "DFine", *, operands: np.dtype | None, quick: bool) -> tuple["DFine", "PackingPlan"]:
    """Replaces layers of a folded model, which holds shapes, by those that CPUs are fast with.

    Names of variables stay, but for a number after those of kernels that become several. ``operands`` is the type that
    large products' operands are rounded to, ``quick`` leaves out what takes longer to compile.
    """
    from dfine_jax.cpu.lowering import lower

    return lower(model, operands=operands, quick=quick)


def training_compute() -> "Compute":
    """How a training step's products are calculated in float32 on one CPU that ``supported`` says there is code for."""
    from dfine_jax.cpu.training import NativeCompute

    return NativeCompute()
