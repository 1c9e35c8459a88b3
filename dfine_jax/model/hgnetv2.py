"""HGNetV2, the backbone: a picture to feature maps (the paper's section 5.1 takes B0, B2, B4 and B5)."""

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dfine_jax.config import BackboneConfig, StageConfig
from dfine_jax.model.layers import ConvNorm
from dfine_jax.ops.compute import Compute
from dfine_jax.ops.resampling import max_pool2x2


class HGNetV2(nnx.Module):
    """Stem and stages; returns the maps of ``config.out_stages``, finest first."""

    def __init__(self, config: BackboneConfig, *, compute: Compute, rng: np.random.Generator | None):
        self.stem = Stem(config, compute=compute, rng=rng)
        self.stages = nnx.List([Stage(stage, config, compute=compute, rng=rng) for stage in config.stages])
        self.config = config

    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> tuple[Float[Array, "B h w C"], ...]:
        x = self.stem(images, train)
        maps = []
        for stage in self.stages[: max(self.config.out_stages)]:
            x = stage(x, train)
            maps.append(x)
        return tuple(maps[stage - 1] for stage in self.config.out_stages)


class Stem(nnx.Module):
    """Two paths at half size, a max-pool and two small convolutions, concatenated and brought to a quarter."""

    max_pool = staticmethod(max_pool2x2)

    def __init__(self, config: BackboneConfig, *, compute: Compute, rng: np.random.Generator | None):
        inputs, inside, outputs = config.stem_channels
        common = dict(
            activation=config.activation,
            affine=config.learnable_affine,
            frozen=config.frozen_norms,
            compute=compute,
            rng=rng,
        )
        after = (0, 1)  # a 2x2 kernel keeps the size with one more row and column at the far end
        self.stem1 = ConvNorm(inputs, inside, 3, 2, **common)
        self.stem2a = ConvNorm(inside, inside // 2, 2, padding=after, **common)
        self.stem2b = ConvNorm(inside // 2, inside, 2, padding=after, **common)
        self.stem3 = ConvNorm((inside, inside), inside, 3, 2, **common)
        self.stem4 = ConvNorm(inside, outputs, **common)

    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> Float[Array, "B H/4 W/4 C"]:
        x = self.stem1(images, train=train)
        convolved = self.stem2b(self.stem2a(x, train=train), train=train)
        x = self.stem3(self.max_pool(x), convolved, train=train)
        return self.stem4(x, train=train)


class Stage(nnx.Module):
    """An optional halving by a depthwise convolution, then blocks; all but the first block are residual."""

    def __init__(
        self, stage: StageConfig, config: BackboneConfig, *, compute: Compute, rng: np.random.Generator | None
    ):
        common = dict(frozen=config.frozen_norms, compute=compute, rng=rng)
        self.downsample = (
            ConvNorm(stage.in_channels, stage.in_channels, 3, 2, depthwise=True, **common) if stage.downsample else None
        )
        inputs = (stage.in_channels, *[stage.out_channels] * (stage.blocks - 1))
        self.blocks = nnx.List(
            [Block(width, stage, config, residual=i > 0, compute=compute, rng=rng) for i, width in enumerate(inputs)]
        )

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w D"]:
        if self.downsample is not None:
            x = self.downsample(x, train=train)
        for block in self.blocks:
            x = block(x, train)
        return x


class Block(nnx.Module):
    """A chain of convolutions; its input and every output are concatenated and aggregated by two pointwise ones."""

    def __init__(
        self,
        inputs: int,
        stage: StageConfig,
        config: BackboneConfig,
        *,
        residual: bool,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        common = dict(
            activation="relu",
            affine=config.learnable_affine,
            frozen=config.frozen_norms,
            compute=compute,
            rng=rng,
        )
        layer = LightConv if stage.light else ConvNorm
        widths = (inputs, *[stage.mid_channels] * (stage.layers - 1))
        self.layers = nnx.List([layer(width, stage.mid_channels, stage.kernel_size, **common) for width in widths])
        joined = (inputs, *[stage.mid_channels] * stage.layers)
        self.squeeze = ConvNorm(joined, stage.out_channels // 2, **common)
        self.excite = ConvNorm(stage.out_channels // 2, stage.out_channels, **common)
        self.residual = residual

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W D"]:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], train=train))
        aggregated = self.excite(self.squeeze(*outputs, train=train), train=train)
        return aggregated + x if self.residual else aggregated


class LightConv(nnx.Module):
    """A pointwise convolution followed by a depthwise one; only the second has an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        activation: str,
        affine: bool,
        frozen: bool,
        compute: Compute,
        rng: np.random.Generator | None,
    ):
        common = dict(frozen=frozen, compute=compute, rng=rng)
        self.pointwise = ConvNorm(inputs, outputs, **common)
        self.depthwise = ConvNorm(
            outputs, outputs, kernel_size, depthwise=True, activation=activation, affine=affine, **common
        )

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W D"]:
        return self.depthwise(self.pointwise(x, train=train), train=train)
