"""Blocks whose layers CPUs compute together: the network's own, but for how their layers are called.

A block of the network becomes one of these by its class alone.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dfine_jax.cpu.codegen.registers import WIDEST
from dfine_jax.cpu.kernels.attention import attend_heads
from dfine_jax.cpu.kernels.channelwise import layer_norm, max_pool
from dfine_jax.cpu.kernels.sampling import attend_to_points
from dfine_jax.cpu.operands import LastChannels, MaxPooled, Upsampled
from dfine_jax.model.attention import SelfAttention
from dfine_jax.model.deformable import DeformableAttention
from dfine_jax.model.hgnetv2 import Block, Stem
from dfine_jax.model.hybrid_encoder import CSPLayer, HybridEncoder, RepNCSPELAN4
from dfine_jax.model.layers import MLP, LayerNorm
from dfine_jax.ops.sampling import Shapes


class PooledStem(Stem):
    """Max-pools by machine code."""

    max_pool = staticmethod(max_pool)


class PoolingStem(Stem):
    """Max-pools while ``stem3`` reads."""

    max_pool = MaxPooled


class ResidualBlock(Block):
    """Adds the residual in the last layer's epilogue."""

    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B H W D"]:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return self.excite(self.squeeze(*outputs), residual=x if self.residual else None)


class UpsamplingEncoder(HybridEncoder):
    """Upsamples after the product."""

    upsample = Upsampled


class SplittingELAN(RepNCSPELAN4):
    """Reads half of the channels where they are."""

    def __call__(self, fused: Upsampled | Array, x: Float[Array, "B H W D"], train: bool = False):
        both = self.conv1(fused, x)
        first = self.conv2(self.csp1(LastChannels(both, both.shape[-1] // 2)))
        second = self.conv3(self.csp2(first))
        return self.conv4(both, first, second)


class ResidualCSP(CSPLayer):
    """Adds the two paths in an epilogue."""

    def __call__(self, x: LastChannels | Array, train: bool = False) -> Float[Array, "B H W D"]:
        y = self.conv1(x)
        for block in self.blocks:
            y = block(y)
        return self.conv2(x, residual=y)


class ActivatingMLP(MLP):
    """Has the activation in each product's epilogue."""

    def __call__(self, x: Float[Array, "*B inputs"]) -> Float[Array, "*B outputs"]:
        for layer in self.layers[:-1]:
            x = layer(x, self.activation)
        return self.layers[-1](x)


class NativeLayerNorm(LayerNorm):
    """By machine code."""

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return layer_norm(x.astype(jnp.float32), self.scale[...], self.bias[...], self.epsilon)

    @staticmethod
    def takes(norm: LayerNorm) -> bool:
        """Whether there is machine code for it."""
        return norm.scale.shape[0] % WIDEST == 0


class NativeSelfAttention(SelfAttention):
    """By machine code."""

    def mix(self, query: Array, key: Array, value: Array, blocked: Array | None) -> Float[Array, "B Q D"]:
        if blocked is not None:
            return super().mix(query, key, value, blocked)
        return attend_heads(query, key, value, self.heads)

    @staticmethod
    def takes(attention: SelfAttention) -> bool:
        """Whether there is machine code for it."""
        return attention.out.bias.shape[0] % (attention.heads * WIDEST) == 0


class NativeDeformableAttention(DeformableAttention):
    """By machine code."""

    def __call__(
        self,
        query: Float[Array, "B Q D"],
        boxes: Float[Array, "B Q 4"],
        memory: Float[Array, "B S D"],
        shapes: Shapes,
    ) -> Float[Array, "B Q D"]:
        offsets, scores = self.sampling_offsets(query), self.attention_weights(query)
        return attend_to_points(offsets, scores, boxes, memory, shapes, self.config)
