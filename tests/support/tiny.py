"""The smallest model that has every part of a large one, and arrays to try its parts on; all tests share them."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dfine_jax.config import BackboneConfig, DecoderConfig, DFineConfig, EncoderConfig, StageConfig
from dfine_jax.model.dfine import DFine, load, variables

HEIGHT, WIDTH = 64, 96

TINY = DFineConfig(
    BackboneConfig(
        stem_channels=(3, 8, 8),
        stages=(
            StageConfig(8, 8, 16, blocks=1, layers=1, kernel_size=3, downsample=False, light=False),
            StageConfig(16, 8, 16, blocks=1, layers=2, kernel_size=3, downsample=True, light=False),
            StageConfig(16, 16, 24, blocks=2, layers=1, kernel_size=5, downsample=True, light=True),
        ),
        out_stages=(2, 3),
        learnable_affine=True,
    ),
    EncoderConfig(width=16, heads=2, feedforward=24, attention_levels=(1,), depth=0.34),
    DecoderConfig(width=16, heads=2, feedforward=24, layers=2, points=(2, 3), queries=20, bins=8, quality_width=8),
    class_names=("ant", "bee", "cat", "dog", "elk"),
)
"""Two levels of strides 8 and 16, two decoder layers, 20 queries, 5 classes."""


def tiny_config(**decoder: Any) -> DFineConfig:
    """``TINY`` with other fields of its decoder."""
    return replace(TINY, decoder=replace(TINY.decoder, **decoder))


def tiny_model(config: DFineConfig = TINY, seed: int = 0) -> DFine:
    """A model in which every variable matters: fresh ones have zeros in many places, and all boxes alike."""
    rng = np.random.default_rng(seed)
    model = DFine(config, rng=rng)
    params, batch_stats = variables(model)
    values = {}
    for name, x in {**params, **batch_stats}.items():
        x = np.asarray(x)  # NumPy compiles nothing
        if x.ndim == 4:  # a spread that keeps what a picture says alive through all layers
            value = rng.standard_normal(x.shape) * np.sqrt(2 / np.prod(x.shape[:3]))
        else:
            spread = 0.1 if name.endswith(("bias", "scale", "mean", "var")) else 0.5 * max(x.shape) ** -0.5
            value = x if name.endswith((".up", ".reg_scale")) else x + np.float32(spread * rng.standard_normal(x.shape))
        values[name] = jax.device_put(np.float32(value))
    load(model, values)
    return model


def tiny_pictures(batch: int = 2, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> jnp.ndarray:
    """Random pictures, (batch, height, width, 3) in 0..1."""
    return jax.device_put(np.random.default_rng(seed).random((batch, height, width, 3), np.float32))


def normal(*shape: int) -> jnp.ndarray:
    """Normally distributed values that depend on the shape alone."""
    return jax.device_put(drawn(*shape))  # jnp.asarray compiles a program for every shape


def drawn(*shape: int) -> np.ndarray:
    """The same in NumPy, which compiles nothing, and works where JAX would trace."""
    return np.float32(np.random.default_rng(sum(shape)).standard_normal(shape))
