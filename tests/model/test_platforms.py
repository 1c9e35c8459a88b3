"""Inference and training lower for GPUs and TPUs, without anything that would fall back to the host."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import HEIGHT, TINY, WIDTH, tiny_model

from dfine_jax.inference.postprocess import postprocess
from dfine_jax.model.dfine import functional
from dfine_jax.training.optimizer import make_optimizer, parameter_groups
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.step import layout_of, make_update, start_state
from dfine_jax.training.targets import Targets

DEVICE_CALLS = {"cu_threefry2x32_ffi", "Sharding", "SPMDFullToShardShape", "mhlo.topk", "TopK", "ApproxTopK"}
"""Custom calls that run on the device."""

platforms = pytest.mark.parametrize("platform", ["cuda", "tpu"])


def custom_calls(exported: jax.export.Exported) -> set[str]:
    return set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module()))


@platforms
def test_inference(platform):
    apply, params, batch_stats = functional(tiny_model())

    def detect(params, batch_stats, images, sizes):
        output = apply(params, batch_stats, images)
        return postprocess(output.logits, output.boxes, sizes)

    images, sizes = np.zeros((2, HEIGHT, WIDTH, 3), np.float32), np.ones((2, 2), np.int32)
    exported = jax.export.export(jax.jit(detect), platforms=[platform])(params, batch_stats, images, sizes)
    assert custom_calls(exported) <= DEVICE_CALLS
    assert "feature_group_count = 16" in exported.mlir_module()  # depthwise as such, not by a CPU's shifts


@platforms
def test_a_training_step(platform):
    apply, params, batch_stats = functional(tiny_model())
    recipe = Recipe(batch_size=2, image_size=64)
    groups = parameter_groups(params, recipe.optimization)
    layout = layout_of(params, batch_stats, groups)
    optimizer = make_optimizer(groups, recipe.optimization, 10)
    update = make_update(apply, TINY, recipe, layout, optimizer)
    state = start_state(params, batch_stats, layout, optimizer, 0)
    images = np.zeros((2, 64, 64, 3), np.uint8)
    targets = Targets(jnp.zeros((2, 4, 4)), jnp.zeros((2, 4), jnp.int32), jnp.zeros((2, 4), bool))
    exported = jax.export.export(jax.jit(update), platforms=[platform])(state, images, targets)
    assert custom_calls(exported) <= DEVICE_CALLS
