"""The hybrid encoder: attention within the coarsest map, then fusion across maps, down (FPN) and up (PAN)."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.config import DFineConfig, EncoderConfig
from dfine_jax.model.attention import SelfAttention
from dfine_jax.model.layers import MLP, ConvNorm, LayerNorm
from dfine_jax.ops.activations import ACTIVATIONS
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.resampling import upsample2x

Maps = tuple[Float[Array, "B H W C"], ...]


class HybridEncoder(nnx.Module):
    """Feature maps of the backbone to as many maps of one width, finest first."""

    upsample = staticmethod(upsample2x)

    def __init__(self, config: DFineConfig, *, compute: Compute, rng: np.random.Generator | None):
        encoder, width = config.encoder, config.encoder.width
        inputs = config.backbone.out_channels
        common = dict(compute=compute, rng=rng)
        norm = dict(epsilon=config.norm_epsilon, **common)
        steps = range(len(inputs) - 1)
        # transformers leaves these norms at the default epsilon, whatever its configuration says
        self.input_proj = nnx.List([ConvNorm(channels, width, **common) for channels in inputs])
        self.attention = nnx.List(
            [AIFI(encoder, config.layer_norm_epsilon, **common) for _ in encoder.attention_levels]
        )
        self.lateral = nnx.List([ConvNorm(width, width, **norm) for _ in steps])
        self.fpn = nnx.List([RepNCSPELAN4(encoder, **norm) for _ in steps])
        self.downsample = nnx.List([SCDown(width, **norm) for _ in steps])
        self.pan = nnx.List([RepNCSPELAN4(encoder, **norm) for _ in steps])
        self.levels = encoder.attention_levels

    def __call__(self, maps: Maps, train: bool = False) -> Maps:
        projected = [project(x, train=train) for project, x in zip(self.input_proj, maps, strict=True)]
        for level, attend in zip(self.levels, self.attention, strict=True):
            projected[level] = attend(projected[level])

        coarsest_first = [projected[-1]]
        for i, (lateral, fuse) in enumerate(zip(self.lateral, self.fpn, strict=True)):
            coarsest_first[-1] = lateral(coarsest_first[-1], train=train)
            coarsest_first.append(fuse(self.upsample(coarsest_first[-1]), projected[-2 - i], train))

        finest_first = coarsest_first[::-1]
        outputs = [finest_first[0]]
        for coarser, halve, fuse in zip(finest_first[1:], self.downsample, self.pan, strict=True):
            outputs.append(fuse(halve(outputs[-1], train), coarser, train))
        return tuple(outputs)


class AIFI(nnx.Module):
    """Attention-based intra-scale feature interaction: transformer layers over one map's cells."""

    def __init__(self, encoder: EncoderConfig, epsilon: float, *, compute: Compute, rng: np.random.Generator | None):
        self.layers = nnx.List(
            [EncoderLayer(encoder, epsilon, compute=compute, rng=rng) for _ in range(encoder.attention_layers)]
        )
        self.temperature = encoder.position_temperature

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        batch, height, width, channels = x.shape
        position = jnp.asarray(position_table(height, width, channels, self.temperature))
        tokens = x.reshape(batch, height * width, channels)
        for layer in self.layers:
            tokens = layer(tokens, position)
        return tokens.reshape(x.shape)


class EncoderLayer(nnx.Module):
    """Self-attention and an MLP, each followed by a layer norm."""

    def __init__(self, encoder: EncoderConfig, epsilon: float, *, compute: Compute, rng: np.random.Generator | None):
        common = dict(compute=compute, rng=rng)
        self.self_attention = SelfAttention(encoder.width, encoder.heads, **common)
        self.norm1 = LayerNorm(encoder.width, epsilon=epsilon, rng=rng)
        self.mlp = MLP(
            encoder.width,
            encoder.feedforward,
            encoder.width,
            2,
            activation=encoder.attention_activation,
            **common,
        )
        self.norm2 = LayerNorm(encoder.width, epsilon=epsilon, rng=rng)

    def __call__(self, x: Float[Array, "B T D"], position: Float[Array, "T D"]) -> Float[Array, "B T D"]:
        x = self.norm1(x + self.self_attention(x, position))
        return self.norm2(x + self.mlp(x))


class RepNCSPELAN4(nnx.Module):
    """GELAN's block on two maps: half of both goes through two CSP layers, everything met on the way is merged."""

    def __init__(
        self,
        encoder: EncoderConfig,
        *,
        epsilon: float,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        width, inner = encoder.width, encoder.csp_channels
        common = dict(epsilon=epsilon, compute=compute, rng=rng)
        conv = dict(activation="silu", **common)
        self.conv1 = ConvNorm((width, width), 2 * width, **conv)
        self.csp1 = CSPLayer(width, inner, encoder.csp_blocks, encoder.activation, **common)
        self.conv2 = ConvNorm(inner, inner, 3, **conv)
        self.csp2 = CSPLayer(inner, inner, encoder.csp_blocks, encoder.activation, **common)
        self.conv3 = ConvNorm(inner, inner, 3, **conv)
        self.conv4 = ConvNorm((2 * width, inner, inner), width, **conv)

    def __call__(
        self, fused: Float[Array, "B H W D"], x: Float[Array, "B H W D"], train: bool = False
    ) -> Float[Array, "B H W D"]:
        both = self.conv1(fused, x, train=train)
        half = both[..., both.shape[-1] // 2 :]
        first = self.conv2(self.csp1(half, train), train=train)
        second = self.conv3(self.csp2(first, train), train=train)
        return self.conv4(both, first, second, train=train)


class CSPLayer(nnx.Module):
    """Two pointwise paths, one of them through RepVGG blocks, added."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        activation: str | None,
        *,
        epsilon: float,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        common = dict(activation=activation, epsilon=epsilon, compute=compute, rng=rng)
        self.conv1 = ConvNorm(inputs, outputs, **common)
        self.conv2 = ConvNorm(inputs, outputs, **common)
        self.blocks = nnx.List([RepVGG(outputs, **common) for _ in range(blocks)])

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W D"]:
        y = self.conv1(x, train=train)
        for block in self.blocks:
            y = block(y, train)
        return self.conv2(x, train=train) + y


class RepVGG(nnx.Module):
    """A 3x3 and a 1x1 convolution added before the activation."""

    def __init__(
        self,
        width: int,
        *,
        activation: str | None,
        epsilon: float,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        common = dict(epsilon=epsilon, compute=compute, rng=rng)
        self.conv3x3 = ConvNorm(width, width, 3, **common)
        self.conv1x1 = ConvNorm(width, width, **common)
        self.activation = activation

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W C"]:
        y = self.conv3x3(x, train=train) + self.conv1x1(x, train=train)
        return ACTIVATIONS[self.activation](y)


class SCDown(nnx.Module):
    """Spatial-channel decoupled downsampling: channels are mixed first, then each is halved on its own."""

    def __init__(self, width: int, *, epsilon: float, compute: Compute, rng: np.random.Generator | None):
        common = dict(epsilon=epsilon, compute=compute, rng=rng)
        self.pointwise = ConvNorm(width, width, **common)
        self.depthwise = ConvNorm(width, width, 3, 2, depthwise=True, **common)

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w C"]:
        return self.depthwise(self.pointwise(x, train=train), train=train)


def position_table(height: int, width: int, channels: int, temperature: float) -> np.ndarray:
    """Sines and cosines of each cell's row and column, ``(height * width, channels)``, row by row.

    The original release orders non-square tables by column, which mixes positions up; square ones agree.
    """
    frequencies = 1.0 / temperature ** (np.arange(channels // 4) / (channels // 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    by_row, by_column = rows.reshape(-1, 1) * frequencies, columns.reshape(-1, 1) * frequencies
    table = np.concatenate([np.sin(by_row), np.cos(by_row), np.sin(by_column), np.cos(by_column)], axis=1)
    return table.astype(np.float32)
