"""The form for inference: norms folded, the parts for training left out, and layers that this machine is fast with."""

import numpy as np
from flax import nnx

from dfine_jax.inference.folded import Conv, folded
from dfine_jax.inference.folding import Fusion, Rounding
from dfine_jax.machine import computes_on_cpu, machine_code
from dfine_jax.model.dfine import DFine, dotted, load, variables
from dfine_jax.model.layers import Linear


def fuse(model: DFine, for_cpu: bool | None = None, *, operands: np.dtype | None = None) -> DFine:
    """A copy that computes the same at inference with less work; it can't be trained. ``model`` stays as it is.

    Every batch norm becomes part of its convolution, every RepVGG block one 3x3 convolution; decoder layers past the
    one that counts and the denoising embedding are dropped. Weights are folded on the host, in float64, and kernels
    rounded to the type of the products. With ``for_cpu``, by default where JAX computes on one, layers are replaced by
    those that CPUs are fast with, see ``dfine_jax.cpu``; some call machine code for this processor, so that
    ``jax.export`` wants a model that is not fused for CPUs. ``operands`` is the type that these round large products'
    operands to, see ``dfine_jax.machine.Arithmetic``.
    """
    fused, fusion = fused_form(model, for_cpu, operands=operands)
    params, batch_stats = variables(model)
    load(fused, dict(fusion.variables({**params, **batch_stats}.items())))
    return fused


def fused_form(
    model: DFine, for_cpu: bool | None = None, *, operands: np.dtype | None = None, quick: bool = False
) -> tuple[DFine, Fusion]:
    """What ``fuse`` makes of the model, without values, and how it gets them from the model's.

    ``quick`` is for a program that runs once: of the layers for CPUs only those that take no longer to compile.
    """
    model, folding = folded(model)
    code = machine_code() if (computes_on_cpu() if for_cpu is None else for_cpu) else None
    if code is not None:
        model, plan = code.lower(model, operands=operands, quick=quick)
        return model, Fusion(folding, plan)
    dtypes = {}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Conv | Linear):
            dtypes[f"{dotted(path)}.kernel"] = module.compute.dtype
            module.kernel = nnx.Param(module.kernel.get_value().update(dtype=module.compute.dtype))
    return model, Fusion(folding, Rounding(dtypes))
