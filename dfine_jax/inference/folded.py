"""The network for inference, on any backend: norms and RepVGG branches are gone, and what only training needs."""

from collections.abc import Callable
from dataclasses import replace

import jax
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.inference.folding import FoldedConv, Folding
from dfine_jax.model.dfine import DFine, dotted, variables
from dfine_jax.model.hybrid_encoder import RepVGG
from dfine_jax.model.layers import ConvNorm
from dfine_jax.ops.activations import ACTIVATIONS


class Conv(nnx.Module):
    """A ``ConvNorm`` whose norm is folded into its kernel and a bias."""

    def __init__(self, conv: ConvNorm, activation: str | None):
        """``conv`` has shapes for values; ``activation`` may be another one than its own."""
        self.kernel = conv.kernel
        self.bias = nnx.Param(jax.ShapeDtypeStruct(conv.kernel.shape[-1:], "float32"))
        self.affine = conv.affine
        self.widths, self.stride, self.padding = conv.widths, conv.stride, conv.padding
        self.activation, self.compute = activation, conv.compute

    def __call__(self, *maps: Float[Array, "B H W _"], train: bool = False) -> Float[Array, "B h w O"]:
        x = self.compute.convolve(maps, self.kernel[...], self.stride, self.padding) + self.bias[...]
        x = ACTIVATIONS[self.activation](x)
        return (x if self.affine is None else self.affine(x)).astype(self.compute.dtype)


class FoldedRepVGG(nnx.Module):
    """A ``RepVGG`` block whose 1x1 convolution is part of the other, the activation included."""

    def __init__(self, conv3x3: Conv):
        self.conv3x3 = conv3x3

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W C"]:
        return self.conv3x3(x)


def folded(model: DFine) -> tuple[DFine, Folding]:
    """A copy of the model for inference, with shapes for values, and how its values come from the model's.

    Decoder layers past the one that counts and the denoising embedding are dropped.
    """
    model = nnx.clone(model)
    nnx.update(model, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.state(model)))
    decoder, count = model.decoder, model.decoder.config.last_layer + 1
    for name in ("layers", "class_heads", "box_heads", "quality"):
        setattr(decoder, name, nnx.List(getattr(decoder, name)[:count]))
    decoder.denoising_embed = None
    decoder.config = replace(decoder.config, layers=count, eval_layer=-1, denoising_queries=0)
    model.config = replace(model.config, decoder=decoder.config)
    convs = []

    def fold_into(name: str, kernel: ConvNorm, *others: tuple[str, ConvNorm], activation: str | None) -> Conv:
        named = ((name, kernel), *others)
        convs.append(FoldedConv(tuple(each for each, _ in named), tuple(conv.norm.epsilon for _, conv in named)))
        return Conv(kernel, activation)

    def rule(name: str, module: nnx.Module) -> nnx.Module:
        match module:
            case RepVGG():
                pointwise = (f"{name}.conv1x1", module.conv1x1)
                conv = fold_into(f"{name}.conv3x3", module.conv3x3, pointwise, activation=module.activation)
                return FoldedRepVGG(conv)
            case ConvNorm():
                return fold_into(name, module, activation=module.activation)
            case _:
                return with_replaced(module, rule, name)

    model = rule("", model)
    params, batch_stats = variables(model)
    return model, Folding(tuple(convs), frozenset({**params, **batch_stats}))


Rule = Callable[[str, nnx.Module], nnx.Module]
"""Of a module's dotted name and the module, to what takes its place."""


def with_replaced(module: nnx.Module, rule: Rule, name: str = "") -> nnx.Module:
    """The module, whose own modules were replaced by what the rule makes of each."""
    for key, child in list(vars(module).items()):
        path = dotted((name, key) if name else (key,))
        if isinstance(child, nnx.List):
            setattr(module, key, nnx.List([rule(f"{path}.{i}", each) for i, each in enumerate(child)]))
        elif isinstance(child, nnx.Module):
            setattr(module, key, rule(path, child))
    return module
