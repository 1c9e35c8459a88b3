"""What this machine is fastest at: in which numbers it multiplies, and machine code for CPUs where there is some.

This is the only module that knows ``dfine_jax.cpu``, and all works without it.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import jax
import numpy as np

from dfine_jax.ops.compute import Compute
from dfine_jax.processor import is_faster_in_bfloat16


@cache
def machine_code() -> ModuleType | None:
    """``dfine_jax.cpu``; None where it was taken out."""
    try:
        return import_module("dfine_jax.cpu")
    except ModuleNotFoundError as error:
        if error.name != "dfine_jax.cpu":
            raise
        return None


def computes_on_cpu() -> bool:
    """Whether JAX does by default."""
    return jax.default_backend() == "cpu"


@dataclass(frozen=True)
class Arithmetic:
    """In which numbers a model for inference is computed.

    ``compute`` says how XLA calculates products. ``operands`` is the type, float16, bfloat16 or int16, that machine
    code for CPUs rounds the operands of large products to; ``compute`` is in float32 then.
    """

    compute: Compute = Compute()
    operands: np.dtype | None = None

    @property
    def narrowest(self) -> np.dtype:
        """The type of the large products' operands."""
        return self.operands or self.compute.dtype

    def instead_of(self, asked: str) -> str | None:
        """What to tell somebody who asked for products in another type; None if nobody did."""
        if self.narrowest == asked:
            return None
        return f"this processor isn't fastest at {asked}: products are {self.narrowest}"


def arithmetic(dtype: str) -> Arithmetic:
    """That of ``Compute.named(dtype)``; for bfloat16 on a CPU what is fastest, and about as exact or more.

    That is machine code for numbers in 16 bits, for processors that it is there for, and else float32 where products of
    bfloat16 aren't faster.
    """
    compute = Compute.named(dtype)
    if not computes_on_cpu() or compute == Compute():
        return Arithmetic(compute)
    code = machine_code()
    if code is not None and (operands := code.operand_type()):
        return Arithmetic(operands=operands)
    return Arithmetic(compute if is_faster_in_bfloat16() else Compute())
