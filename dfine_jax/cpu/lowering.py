"""From a folded model to the same with layers for CPUs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dfine_jax.cpu.blocks import (
    ActivatingMLP,
    NativeDeformableAttention,
    NativeLayerNorm,
    NativeSelfAttention,
    PooledStem,
    PoolingStem,
    ResidualBlock,
    ResidualCSP,
    SplittingELAN,
    UpsamplingEncoder,
)
from dfine_jax.cpu.codegen.epilogue import EPILOGUES
from dfine_jax.cpu.codegen.registers import WIDEST, registers
from dfine_jax.cpu.kernels.kernel import HWIO, Kernel
from dfine_jax.cpu.kernels.sampling import has_native_points
from dfine_jax.cpu.kernels.table import KERNELS
from dfine_jax.cpu.layers import PackedConv, PackedLinear, Weights
from dfine_jax.cpu.plan import PackedKernel, PackingPlan
from dfine_jax.cpu.select import in_float32_on_cpu, kernel_on_cpu
from dfine_jax.inference.folded import Conv, with_replaced
from dfine_jax.model.attention import SelfAttention
from dfine_jax.model.deformable import DeformableAttention
from dfine_jax.model.dfine import DFine
from dfine_jax.model.hgnetv2 import Block, Stem
from dfine_jax.model.hybrid_encoder import CSPLayer, HybridEncoder, RepNCSPELAN4
from dfine_jax.model.layers import MLP, LayerNorm, Linear
from dfine_jax.ops.compute import Compute

BLOCKS: dict[type[nnx.Module], type[nnx.Module]] = {
    Block: ResidualBlock,
    HybridEncoder: UpsamplingEncoder,
    RepNCSPELAN4: SplittingELAN,
    CSPLayer: ResidualCSP,
}
"""What takes the place of a block whose layers are computed together, machine code or not."""


def lower(model: DFine, *, operands: np.dtype | None, quick: bool) -> tuple[DFine, PackingPlan]:
    """See ``dfine_jax.cpu.lower``."""
    lowering = _Lowering(model, operands, quick)
    model = lowering.replaced("", model)
    purposes = ("inference", "halves") if lowering.halves else ("inference",) if lowering.is_native else ()
    return model, PackingPlan(lowering.kernels, lowering.dtypes, operands, purposes)


class _Lowering:
    """Replaces layers one by one, and notes what becomes of their kernels."""

    def __init__(self, model: DFine, operands: np.dtype | None, quick: bool):
        self.operands, self.quick = operands, quick
        self.is_native = not quick and registers() is not None
        self.upsampling = {id(block.conv1) for block in model.encoder.fpn}
        self.kernels: dict[str, PackedKernel] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.halves = False

    def replaced(self, name: str, module: nnx.Module) -> nnx.Module:
        """A module's replacement, or itself, with its own modules replaced."""
        match module:
            case Conv():
                return self._conv(name, module)
            case Linear():
                return self._linear(name, module)
        is_float32 = not hasattr(module, "compute") or module.compute.dtype == jnp.float32
        module = with_replaced(module, self.replaced, name)
        kind = BLOCKS.get(type(module))
        if self.is_native and is_float32:
            match module:
                case SelfAttention() if NativeSelfAttention.takes(module):
                    kind = NativeSelfAttention
                case DeformableAttention() if has_native_points(module.config, module.width):
                    kind = NativeDeformableAttention
                case LayerNorm() if NativeLayerNorm.takes(module):
                    kind = NativeLayerNorm
                case MLP() if isinstance(module.layers[0], PackedLinear):
                    kind = ActivatingMLP
                case Stem() if module.stem3.form == "implicit GEMM, 16 bits":
                    kind = PoolingStem
                case Stem() if module.stem1.bias.shape[0] >= WIDEST:
                    kind = PooledStem
        if kind is not None:
            module.__class__ = kind  # the same variables and settings, computed otherwise
        return module

    def _conv(self, name: str, conv: Conv) -> PackedConv:
        shape, is_upsampling = conv.kernel.shape, id(conv) in self.upsampling
        if in_float32_on_cpu(shape, conv.stride):
            conv.compute = Compute()  # what is between such convolutions need not be rounded and widened again
        is_native = self.is_native and conv.activation in EPILOGUES
        rounded = conv.compute.dtype != jnp.float32
        form = kernel_on_cpu(shape, conv.stride, conv.widths, rounded, is_native, self.operands, is_upsampling)
        result = "float32"
        if form.is_native and not name.startswith("decoder.") and self.operands == jnp.int16:
            result = "float16"  # these processors wait for memory
        if self.quick and form.name != "split":  # products of tiles are many more programs
            form = KERNELS["whole"]
        return PackedConv(conv, self._packed(f"{name}.kernel", form, shape, conv.widths, conv.compute), result)

    def _linear(self, name: str, linear: Linear) -> Linear | PackedLinear:
        inputs, outputs = linear.kernel.shape
        kernel, dtype = (1, 1, inputs, outputs), linear.compute.dtype
        if not self.is_native or dtype != jnp.float32:
            self.dtypes[f"{name}.kernel"] = dtype
            linear.kernel = nnx.Param(jax.ShapeDtypeStruct((inputs, outputs), dtype))
            return linear
        form = kernel_on_cpu(kernel, 1, (inputs,), rounded=False, panels=True, halves=self.operands)
        return PackedLinear(linear, self._packed(f"{name}.kernel", form, kernel, (inputs,), linear.compute))

    def _packed(self, name: str, form: Kernel, kernel: HWIO, widths: tuple[int, ...], compute: Compute) -> Weights:
        """What a kernel becomes, and a note of it."""
        arrays = form.arrays(kernel, widths, compute.dtype, self.operands)
        self.halves |= form.in_16_bits
        if form.name == "whole":
            self.dtypes[name] = arrays[0].dtype
        else:
            self.kernels[name] = PackedKernel(form.name, widths)
            self.dtypes.update({f"{name}.{index}": array.dtype for index, array in enumerate(arrays)})
        return Weights(form.name, arrays)
