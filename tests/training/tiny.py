"""A model and a recipe small enough to be trained within a test."""

from dataclasses import replace

from dfine_jax.config import BackboneConfig, DecoderConfig, DFineConfig, EncoderConfig, StageConfig
from dfine_jax.data.augmentation import Augmentation
from dfine_jax.data.shapes import CLASS_NAMES
from dfine_jax.training.recipe import Averaging, Optimization, Recipe

STAGES = tuple(
    StageConfig(inputs, 8, outputs, blocks=1, layers=1, kernel_size=3, downsample=i > 0, light=i >= 2)
    for i, (inputs, outputs) in enumerate([(8, 16), (16, 16), (16, 24), (24, 32)])
)
TINY = DFineConfig(
    BackboneConfig((3, 8, 8), STAGES, out_stages=(2, 3, 4), learnable_affine=True),
    EncoderConfig(width=16, heads=2, feedforward=32, expansion=0.5, depth=0.34),
    DecoderConfig(width=16, heads=2, feedforward=32, layers=2, points=(2, 2, 2), queries=20, bins=8, quality_width=8),
    class_names=CLASS_NAMES,
)
TINY_RECIPE = Recipe(
    epochs=2,
    strong_epochs=1,
    batch_size=4,
    image_size=64,
    augmentation=Augmentation(zoom_out=0.0),
    optimization=replace(Optimization(2e-3, 1e-3), warmup_steps=2),
    averaging=Averaging(0.9, 3.0),
    denoising_copies=8,
)
