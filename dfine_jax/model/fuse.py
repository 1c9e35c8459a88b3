"""The form for inference: batch norms and RepVGG branches folded into convolutions, the parts for training left out."""

from dataclasses import replace

import jax
from flax import nnx

from dfine_jax.model.convolution import by_tiles
from dfine_jax.model.dfine import DFine, dotted, load, variables
from dfine_jax.model.folding import FoldedConv, Folding, fold
from dfine_jax.model.hybrid_encoder import RepVGG
from dfine_jax.model.layers import ConvNorm, Linear


def fuse(model: DFine, tiles: bool | None = None) -> DFine:
    """A copy that computes the same at inference with less work; it can't be trained. ``model`` stays as it is.

    Every batch norm becomes part of its convolution, every RepVGG block one 3x3 convolution; decoder layers past the
    one that counts and the denoising embedding are dropped. Weights are folded on the host, in float64, and kernels
    rounded to the type of the products. With ``tiles``, by default where JAX computes on a CPU, wide 3x3 kernels are
    transformed ahead for the products of tiles that CPUs are fast at.
    """
    fused, folding = fused_form(model, tiles)
    params, batch_stats = variables(model)
    load(fused, dict(fold(folding, {**params, **batch_stats}.items())))
    return fused


def fused_form(model: DFine, tiles: bool | None = None) -> tuple[DFine, Folding]:
    """What ``fuse`` makes of the model, without values, and how ``fold`` gets them from the model's."""
    tiles = jax.default_backend() == "cpu" if tiles is None else tiles
    model = nnx.clone(model)
    nnx.update(model, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.state(model)))
    names = {id(module): dotted(path) for path, module in nnx.iter_modules(model)}
    modules = [module for _, module in nnx.iter_modules(model)]
    convs, dtypes = [], {}
    for block in modules:
        if isinstance(block, RepVGG):
            convs.append(_folded((block.conv3x3, block.conv1x1), names, tiles))
            block.conv1x1 = None
    for conv in modules:
        if isinstance(conv, ConvNorm) and conv.norm is not None:
            convs.append(_folded((conv,), names, tiles))
    for module in modules:
        if isinstance(module, ConvNorm | Linear):
            dtypes[f"{names[id(module)]}.kernel"] = module.compute.dtype
            module.kernel = nnx.Param(jax.ShapeDtypeStruct(module.kernel.shape, module.compute.dtype))
    decoder, count = model.decoder, model.decoder.config.last_layer + 1
    for name in ("layers", "class_heads", "box_heads", "quality"):
        setattr(decoder, name, nnx.List(getattr(decoder, name)[:count]))
    decoder.denoising_embed = None
    decoder.config = replace(decoder.config, layers=count, eval_layer=-1, denoising_queries=0)
    model.config = replace(model.config, decoder=decoder.config)
    params, batch_stats = variables(model)
    return model, _remaining(convs, dtypes, frozenset({**params, **batch_stats}))


def _remaining(convs: list[FoldedConv], dtypes: dict, names: frozenset[str]) -> Folding:
    """Without what belongs to the parts that were dropped."""
    return Folding(
        tuple(conv for conv in convs if f"{conv.branches[0]}.kernel" in names),
        {name: dtype for name, dtype in dtypes.items() if name in names},
        names,
    )


def _folded(branches: tuple[ConvNorm, ...], names: dict[int, str], tiles: bool) -> FoldedConv:
    """Gives the first branch the form that it has in a fused model, and says how it gets its values."""
    conv, epsilons = branches[0], tuple(branch.norm.epsilon for branch in branches)
    conv.tiled = tiles and by_tiles(conv.kernel, conv.stride)
    side = (4, 4) if conv.tiled else conv.kernel.shape[:2]
    conv.kernel = nnx.Param(jax.ShapeDtypeStruct((*side, *conv.kernel.shape[2:]), "float32"))
    conv.bias = nnx.Param(jax.ShapeDtypeStruct(conv.kernel.shape[-1:], "float32"))
    conv.norm = None
    return FoldedConv(tuple(names[id(branch)] for branch in branches), epsilons, conv.tiled)
