"""The form for inference: batch norms and RepVGG branches folded into convolutions, the parts for training left out."""

from dataclasses import replace

import jax
import numpy as np
from flax import nnx

from dfine_jax.model.convolution import by_tiles, tile_kernels
from dfine_jax.model.dfine import DFine
from dfine_jax.model.hybrid_encoder import RepVGG
from dfine_jax.model.layers import ConvNorm, Linear


def fuse(model: DFine, tiles: bool | None = None) -> DFine:
    """A copy that computes the same at inference with less work; it can't be trained. ``model`` stays as it is.

    Every batch norm becomes part of its convolution, every RepVGG block one 3x3 convolution; decoder layers past the
    one that counts and the denoising embedding are dropped. Weights are folded on the host, in float64, and kernels
    rounded to the type of the products. With ``tiles``, by default where JAX computes on a CPU, wide 3x3 kernels are
    transformed ahead for the products of tiles that CPUs are fast at.
    """
    tiles = jax.default_backend() == "cpu" if tiles is None else tiles
    model = nnx.clone(model)
    modules = [module for _, module in nnx.iter_modules(model)]
    for block in modules:
        if isinstance(block, RepVGG):
            kernel, bias = _folded(block.conv3x3)
            pointwise, pointwise_bias = _folded(block.conv1x1)
            kernel[1, 1] += pointwise[0, 0]
            _set(block.conv3x3, kernel, bias + pointwise_bias, tiles)
            block.conv1x1 = None
    for conv in modules:
        if isinstance(conv, ConvNorm) and conv.norm is not None:
            _set(conv, *_folded(conv), tiles)
    for module in modules:
        if isinstance(module, ConvNorm | Linear):
            module.kernel = nnx.Param(module.kernel[...].astype(module.compute.dtype))
    decoder, count = model.decoder, model.decoder.config.last_layer + 1
    for name in ("layers", "class_heads", "box_heads", "quality"):
        setattr(decoder, name, nnx.List(getattr(decoder, name)[:count]))
    decoder.denoising_embed = None
    decoder.config = replace(decoder.config, layers=count, eval_layer=-1, denoising_queries=0)
    model.config = replace(model.config, decoder=decoder.config)
    return model


def _folded(conv: ConvNorm) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that do what the kernel and the stored statistics do."""
    kernel, scale, bias, mean, var = (
        np.asarray(variable[...], np.float64)
        for variable in (conv.kernel, conv.norm.scale, conv.norm.bias, conv.norm.mean, conv.norm.var)
    )
    scale = scale / np.sqrt(var + conv.norm.epsilon)
    return kernel * scale, bias - mean * scale


def _set(conv: ConvNorm, kernel: np.ndarray, bias: np.ndarray, tiles: bool) -> None:
    conv.tiled = tiles and by_tiles(kernel, conv.stride)
    kernel = tile_kernels(kernel) if conv.tiled else kernel
    conv.kernel = nnx.Param(np.asarray(kernel, np.float32))
    conv.bias = nnx.Param(np.asarray(bias, np.float32))
    conv.norm = None
