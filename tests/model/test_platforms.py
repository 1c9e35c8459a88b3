"""Inference and training lower for GPUs and TPUs, without anything that would fall back to the host."""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiny import HEIGHT, TINY, WIDTH, tiny_model

from dfine_jax.inference.postprocess import postprocess
from dfine_jax.model.dfine import functional
from dfine_jax.training.optimizer import make_optimizer, parameter_groups
from dfine_jax.training.recipe import Recipe
from dfine_jax.training.step import layout_of, make_loss, make_update, start_state
from dfine_jax.training.targets import Targets

DEVICE_CALLS = {"cu_threefry2x32_ffi", "Sharding", "SPMDFullToShardShape", "mhlo.topk", "TopK", "ApproxTopK"}
"""Custom calls that run on the device."""

platforms = pytest.mark.parametrize("platform", ["cuda", "tpu"])


def other_calls(exported: jax.export.Exported) -> set[str]:
    return set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module())) - DEVICE_CALLS


@platforms
@pytest.mark.parametrize(
    "callback", [lambda x: jax.debug.callback(print, x), lambda x: jax.pure_callback(np.sin, x, x)]
)
def test_a_callback_would_not_lower(platform, callback):
    """So that the tests below fail if one comes in."""
    with pytest.raises(ValueError, match="lowering platform"):
        jax.export.export(jax.jit(callback), platforms=[platform])(np.ones(4, np.float32))


@platforms
def test_other_custom_calls_would_be_found(platform):
    assert other_calls(jax.export.export(jax.jit(jnp.linalg.qr), platforms=[platform])(np.ones((4, 4), np.float32)))


@platforms
def test_inference(platform):
    apply, params, batch_stats = functional(tiny_model())

    def detect(params, batch_stats, images, sizes):
        output = apply(params, batch_stats, images)
        return postprocess(output.logits, output.boxes, sizes)

    images, sizes = np.zeros((2, HEIGHT, WIDTH, 3), np.float32), np.ones((2, 2), np.int32)
    exported = jax.export.export(jax.jit(detect), platforms=[platform])(params, batch_stats, images, sizes)
    assert not other_calls(exported)
    assert "feature_group_count = 16" in exported.mlir_module()  # depthwise as such, not by a CPU's shifts


@platforms
@pytest.mark.slow
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
    assert not other_calls(exported)


class Example(NamedTuple):
    """What a model is given and what it says, with the gradients of its loss."""

    params: dict
    compiled: Callable[[], Callable[[dict], tuple]]
    """Makes anew the function from parameters to (logits, boxes, loss) and gradients, in the forms of the moment."""
    here: tuple


@pytest.fixture(scope="module")
def example() -> Example:
    apply, params, batch_stats = functional(tiny_model())
    loss_of = make_loss(apply, TINY, Recipe(batch_size=2, image_size=64))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    boxes = jnp.asarray(rng.uniform(0.2, 0.5, (2, 3, 4)), jnp.float32)
    targets = Targets(boxes, jnp.asarray([[0, 1, 2], [1, 0, 0]]), jnp.asarray([[True] * 3, [True, False, False]]))

    def compiled():
        predict = jax.jit(lambda *x: apply(*x))
        by_params = jax.jit(jax.value_and_grad(lambda *x: loss_of(*x), has_aux=True))

        def everything(params):
            output = predict(params, batch_stats, images / np.float32(255))
            (loss, _), gradients = by_params(params, params, batch_stats, images, targets, jax.random.key(0))
            return (output.logits, output.boxes, loss), gradients

        return everything

    return Example(params, compiled, compiled()(params))


@pytest.mark.slow
@platforms
def test_the_forms_for_other_platforms_compute_the_same(platform, example, monkeypatch):
    """Outputs, loss and gradients of what GPUs and TPUs are given, computed here."""
    chosen = []

    def choose(*operands, default, **others):
        chosen.append(others.get(platform, default))
        return chosen[-1](*operands)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    monkeypatch.setattr("dfine_jax.ops.bilinear.is_portable", lambda: True)  # what is there for no platform by name
    everything = example.compiled()
    theirs, their_gradients = everything(example.params)
    assert chosen
    ours, gradients = example.here
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5, rtol=1e-5)
    # Gradients through ten layers of norms over few cells magnify rounding. How much, the same form shows when all
    # parameters move to a neighbouring number, a few times over.
    rng, rounding = np.random.default_rng(0), []
    for _ in range(5):
        neighbours = {name: jnp.nextafter(x, x * rng.choice([-2, 2], x.shape)) for name, x in example.params.items()}
        rounding.append(apart(everything(neighbours)[1], their_gradients))
    assert 0 < max(rounding) < 3e-4
    assert apart(gradients, their_gradients) < 2 * max(rounding)


def apart(gradients, others) -> float:
    """The largest difference, in terms of the largest gradient."""
    largest = max(float(jnp.abs(gradient).max()) for gradient in others.values())
    return max(float(jnp.abs(gradients[name] - gradient).max()) for name, gradient in others.items()) / largest
