"""The hybrid encoder: attention within the coarsest map, then fusion across maps, down (FPN) and up (PAN)."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.config import DFineConfig, EncoderConfig
from dfine_jax.model.attention import SelfAttention
from dfine_jax.model.compute import Compute
from dfine_jax.model.layers import ACTIVATIONS, MLP, ConvNorm, LayerNorm

Maps = tuple[Float[Array, "B H W C"], ...]


class HybridEncoder(nnx.Module):
    """Feature maps of the backbone to as many maps of one width, finest first."""

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
        self.fpn = nnx.List([RepNCSPELAN4(encoder, enlarges=True, **norm) for _ in steps])
        self.downsample = nnx.List([SCDown(width, **norm) for _ in steps])
        self.pan = nnx.List([RepNCSPELAN4(encoder, enlarges=False, **norm) for _ in steps])
        self.levels = encoder.attention_levels

    def __call__(self, maps: Maps, train: bool = False) -> Maps:
        projected = [project(x, train) for project, x in zip(self.input_proj, maps, strict=True)]
        for level, attend in zip(self.levels, self.attention, strict=True):
            projected[level] = attend(projected[level])

        coarsest_first = [projected[-1]]
        for i, (lateral, fuse) in enumerate(zip(self.lateral, self.fpn, strict=True)):
            coarsest_first[-1] = lateral(coarsest_first[-1], train)
            coarsest_first.append(fuse(coarsest_first[-1], projected[-2 - i], train))

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
    """GELAN's block on two maps: half of both goes through two CSP layers, everything met on the way is merged.

    ``enlarges`` says that the first map is half as large as the second; it is enlarged then.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        *,
        enlarges: bool,
        epsilon: float,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        width, inner = encoder.width, encoder.csp_channels
        common = dict(epsilon=epsilon, compute=compute, rng=rng)
        conv = dict(activation="silu", **common)
        self.conv1 = ConvNorm((width, width), 2 * width, apart=enlarges, **conv)
        self.csp1 = CSPLayer(width, inner, encoder.csp_blocks, encoder.activation, **common)
        self.conv2 = ConvNorm(inner, inner, 3, **conv)
        self.csp2 = CSPLayer(inner, inner, encoder.csp_blocks, encoder.activation, **common)
        self.conv3 = ConvNorm(inner, inner, 3, **conv)
        self.conv4 = ConvNorm((2 * width, inner, inner), width, **conv)

    def __call__(
        self, fused: Float[Array, "B h w D"], x: Float[Array, "B H W D"], train: bool = False
    ) -> Float[Array, "B H W D"]:
        x = self.conv1.joined(fused, x, train) if self.conv1.apart else self.conv1.of_several([fused, x], train)
        first = self.conv2(self.csp1(x, train), train)
        second = self.conv3(self.csp2(first, train), train)
        return self.conv4.of_several([x, first, second], train)


class CSPLayer(nnx.Module):
    """Two pointwise paths, one of them through RepVGG blocks, added.

    Of a map with more channels the last ones count.
    """

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
        self.inputs = inputs

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W D"]:
        if self.conv1.form not in ("panels", "halves in panels"):  # which read the last channels where they are
            x = x[..., x.shape[-1] - self.inputs :]
        y = self.conv1(x, train)
        for block in self.blocks:
            y = block(y, train)
        return self.conv2(x, train, shortcut=y)


class RepVGG(nnx.Module):
    """A 3x3 and a 1x1 convolution added before the activation; fused, the 3x3 alone holds both."""

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
        self.conv1x1: ConvNorm | None = nnx.data(ConvNorm(width, width, **common))
        self.activation = activation

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W C"]:
        y = self.conv3x3(x, train)
        if self.conv1x1 is not None:
            y = y + self.conv1x1(x, train)
        return ACTIVATIONS[self.activation](y)


class SCDown(nnx.Module):
    """Spatial-channel decoupled downsampling: channels are mixed first, then each is halved on its own."""

    def __init__(self, width: int, *, epsilon: float, compute: Compute, rng: np.random.Generator | None):
        common = dict(epsilon=epsilon, compute=compute, rng=rng)
        self.pointwise = ConvNorm(width, width, **common)
        self.depthwise = ConvNorm(width, width, 3, 2, depthwise=True, **common)

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w C"]:
        return self.depthwise(self.pointwise(x, train), train)


def position_table(height: int, width: int, channels: int, temperature: float) -> np.ndarray:
    """Sines and cosines of each cell's row and column, ``(height * width, channels)``, row by row.

    The original release orders non-square tables by column, which mixes positions up; square ones agree.
    """
    frequencies = 1.0 / temperature ** (np.arange(channels // 4) / (channels // 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    by_row, by_column = rows.reshape(-1, 1) * frequencies, columns.reshape(-1, 1) * frequencies
    table = np.concatenate([np.sin(by_row), np.cos(by_row), np.sin(by_column), np.cos(by_column)], axis=1)
    return table.astype(np.float32)
