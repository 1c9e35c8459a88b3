"""The form for inference: batch norms and RepVGG branches folded into convolutions, the parts for training left out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dfine_jax.model.attention import SelfAttention
from dfine_jax.model.compute import Compute
from dfine_jax.model.deformable import DeformableAttention, has_native_points
from dfine_jax.model.dfine import DFine, dotted, load, variables
from dfine_jax.model.folding import FoldedConv, Folding, fold
from dfine_jax.model.hgnetv2 import Stem
from dfine_jax.model.hybrid_encoder import RepVGG
from dfine_jax.model.layers import ConvNorm, LayerNorm, Linear
from dfine_jax.model.prepared_kernels import (
    HALVED,
    NATIVE,
    Form,
    form_on_cpu,
    in_float32_on_cpu,
    shapes_in_form,
    types_in_form,
)
from dfine_jax.native.finish import FINISHES
from dfine_jax.native.registers import WIDEST, registers
from dfine_jax.native.targets import Purpose


def fuse(model: DFine, for_cpu: bool | None = None) -> DFine:
    """A copy that computes the same at inference with less work; it can't be trained. ``model`` stays as it is.

    Every batch norm becomes part of its convolution, every RepVGG block one 3x3 convolution; decoder layers past the
    one that counts and the denoising embedding are dropped. Weights are folded on the host, in float64, and kernels
    rounded to the type of the products. With ``for_cpu``, by default where JAX computes on one, kernels are given the
    forms that CPUs are fast with, and those that they compute in float32 anyway are not rounded; some call machine code
    for this processor, see ``dfine_jax.native``, so that ``jax.export`` wants a model that is not fused for CPUs.
    """
    fused, folding = fused_form(model, for_cpu)
    params, batch_stats = variables(model)
    load(fused, dict(fold(folding, {**params, **batch_stats}.items())))
    return fused


def fused_form(model: DFine, for_cpu: bool | None = None, *, quick: bool = False) -> tuple[DFine, Folding]:
    """What ``fuse`` makes of the model, without values, and how ``fold`` gets them from the model's.

    ``quick`` is for a program that runs once: of the forms for CPUs only those that take no longer to compile.
    """
    for_cpu = jax.default_backend() == "cpu" if for_cpu is None else for_cpu
    model = nnx.clone(model)
    nnx.update(model, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.state(model)))
    names = {id(module): dotted(path) for path, module in nnx.iter_modules(model)}
    modules = [module for _, module in nnx.iter_modules(model)]
    panels = for_cpu and not quick and registers() is not None
    convs, dtypes, linears = [], {}, {}
    for conv in modules:
        if for_cpu and isinstance(conv, ConvNorm) and in_float32_on_cpu(conv.kernel.shape, conv.stride):
            conv.compute = Compute(
                halves=conv.compute.halves
            )  # what is between such convolutions then need not be rounded and widened again
    for block in modules:
        if isinstance(block, RepVGG):
            block.conv3x3.activation, block.activation = block.activation, None
            convs.append(_folded((block.conv3x3, block.conv1x1), names, for_cpu, quick, panels))
            block.conv1x1 = None
    for conv in modules:
        if isinstance(conv, ConvNorm) and conv.norm is not None:
            convs.append(_folded((conv,), names, for_cpu, quick, panels))
    for module in modules:
        if panels:
            _make_native(module, names[id(module)], linears)
    for module in modules:
        if isinstance(module, ConvNorm | Linear):
            _round_kernel(module, names[id(module)], dtypes)
    decoder, count = model.decoder, model.decoder.config.last_layer + 1
    for name in ("layers", "class_heads", "box_heads", "quality"):
        setattr(decoder, name, nnx.List(getattr(decoder, name)[:count]))
    decoder.denoising_embed = None
    decoder.config = replace(decoder.config, layers=count, eval_layer=-1, denoising_queries=0)
    model.config = replace(model.config, decoder=decoder.config)
    params, batch_stats = variables(model)
    return model, _remaining(
        Folding(tuple(convs), linears, dtypes, frozenset({**params, **batch_stats}), _native(modules, panels))
    )


def _native(modules: list[nnx.Module], panels: bool) -> tuple[Purpose, ...]:
    """What machine code they call."""
    halved = any(getattr(module, "form", None) in HALVED for module in modules)
    return ("inference", "halves") if halved else ("inference",) if panels else ()


def _remaining(whole: Folding) -> Folding:
    """Without what belongs to the parts that were dropped."""
    return whole._replace(
        convs=tuple(conv for conv in whole.convs if f"{conv.branches[0]}.bias" in whole.names),
        linears={name: form for name, form in whole.linears.items() if f"{name}.0" in whole.names},
        dtypes={name: dtype for name, dtype in whole.dtypes.items() if name in whole.names},
    )


def _make_native(module: nnx.Module, name: str, linears: dict[str, Form]) -> None:
    """Has what is not a convolution call machine code, and notes whose kernels are put in panels for that."""
    match module:
        case Linear() if module.compute.dtype == jnp.float32:
            inputs, outputs = module.kernel.shape
            kernel = (1, 1, inputs, outputs)
            module.form = form_on_cpu(kernel, 1, (inputs,), rounded=False, panels=True, halves=module.compute.halves)
            shapes = shapes_in_form(kernel, module.form, (inputs,))
            module.kernel = nnx.List([nnx.Param(jax.ShapeDtypeStruct(shape, "float32")) for shape in shapes])
            linears[f"{name}.kernel"] = module.form
        case SelfAttention() if module.compute.dtype == jnp.float32:
            module.is_native = module.out.bias.shape[0] % (module.heads * WIDEST) == 0
        case DeformableAttention() if module.compute.dtype == jnp.float32:
            module.is_native = has_native_points(module.config, module.width)
        case LayerNorm():
            module.is_native = module.scale.shape[0] % WIDEST == 0
        case Stem():
            module.is_native = module.stem1.bias.shape[0] >= WIDEST


def _round_kernel(module: ConvNorm | Linear, name: str, dtypes: dict[str, np.dtype]) -> None:
    """Gives a kernel, or each array that it became, the type of products."""
    dtype = module.compute.dtype
    if isinstance(module.kernel, nnx.List):
        types = types_in_form(module.form, len(module.kernel), dtype, module.compute.halves)
        for index, (kernel, dtype) in enumerate(zip(module.kernel, types, strict=True)):
            dtypes[f"{name}.kernel.{index}"] = dtype
            module.kernel[index] = nnx.Param(jax.ShapeDtypeStruct(kernel.shape, dtype))
    else:
        dtypes[f"{name}.kernel"] = dtype
        module.kernel = nnx.Param(jax.ShapeDtypeStruct(module.kernel.shape, dtype))


def _folded(
    branches: tuple[ConvNorm, ...], names: dict[int, str], for_cpu: bool, quick: bool, panels: bool
) -> FoldedConv:
    """Gives the first branch the form that it has in a fused model, and says how it gets its values."""
    conv, epsilons = branches[0], tuple(branch.norm.epsilon for branch in branches)
    shape = conv.kernel.shape
    rounded = conv.compute.dtype != jnp.float32
    if for_cpu:
        panels = panels and conv.activation in FINISHES
        conv.form = form_on_cpu(shape, conv.stride, conv.widths, rounded, panels, conv.compute.halves, conv.apart)
        if conv.form in NATIVE and not names[id(conv)].startswith("decoder."):
            conv.result = conv.compute.narrowest_map
    if quick and conv.form != "parts":  # products of tiles are many more programs
        conv.form = "whole"
    conv.bias = nnx.Param(jax.ShapeDtypeStruct(shape[-1:], "float32"))
    if conv.form != "whole":
        shapes = shapes_in_form(shape, conv.form, conv.widths)
        conv.kernel = nnx.List([nnx.Param(jax.ShapeDtypeStruct(part, "float32")) for part in shapes])
    conv.norm = None
    return FoldedConv(tuple(names[id(branch)] for branch in branches), epsilons, conv.form, conv.widths)
