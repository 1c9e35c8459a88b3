"""A step's products by machine code: the same numbers, and only where XLA need not divide them among devices."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TINY, normal, tiny_model, tiny_pictures

from dfine_jax.cpu.codegen.registers import registers
from dfine_jax.machine import machine_code
from dfine_jax.model.dfine import DFine, functional
from dfine_jax.model.layers import ConvNorm, Linear
from dfine_jax.ops.compute import Compute
from dfine_jax.training.devices import Devices

CODE = machine_code()
NATIVE = CODE.training_compute() if CODE.supported() else None


needs_code = pytest.mark.skipif(registers() is None, reason="no machine code for this processor")


def mesh(count: int, platform: str) -> SimpleNamespace:
    return SimpleNamespace(size=count, devices=np.array([SimpleNamespace(platform=platform)] * count))


@needs_code
@pytest.mark.parametrize(
    ("count", "platform", "dtype", "expected"),
    [
        (1, "cpu", "float32", NATIVE),
        (2, "cpu", "float32", Compute()),
        (1, "tpu", "float32", Compute()),
        (1, "cpu", "bfloat16", NATIVE),
        (2, "cpu", "bfloat16", Compute.named("bfloat16")),
        (1, "tpu", "bfloat16", Compute.named("bfloat16")),
    ],
)
def test_products_are_native_on_one_cpu_in_float32(count, platform, dtype, expected, monkeypatch):
    monkeypatch.setattr("dfine_jax.training.devices.multiplies_tiles_of_bfloat16", lambda: False)
    devices = Devices()
    devices.mesh = mesh(count, platform)
    assert devices.compute(dtype) == expected


@needs_code
@pytest.mark.parametrize(("dtype", "expected"), [("float32", NATIVE), ("bfloat16", Compute.named("bfloat16"))])
def test_processors_with_tiles_of_bfloat16_are_given_them(dtype, expected, monkeypatch):
    monkeypatch.setattr("dfine_jax.training.devices.multiplies_tiles_of_bfloat16", lambda: True)
    devices = Devices()
    devices.mesh = mesh(1, "cpu")
    assert devices.compute(dtype) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_machine_code_they_are_not(dtype, monkeypatch):
    monkeypatch.setattr("dfine_jax.cpu.registers", lambda: None)
    devices = Devices()
    devices.mesh = mesh(1, "cpu")
    assert devices.compute(dtype) == Compute.named(dtype)


def test_a_model_is_not_native_unless_it_is_told_to_be():
    assert DFine(TINY).decoder.class_heads[0].compute == Compute()


CALLS = ("dfine_matrices", "dfine_kernel_gradients")
LAYERS = {
    "a pointwise convolution": (ConvNorm, 8, lambda layer, x: layer(x, train=True)),
    "a dense convolution": (partial(ConvNorm, kernel_size=3), 8, lambda layer, x: layer(x, train=True)),
    "one with a stride": (partial(ConvNorm, kernel_size=3, stride=2), 8, lambda layer, x: layer(x, train=True)),
    "one of several maps": (ConvNorm, (8, 8), lambda layer, x: layer(x, 2 * x, train=True)),
    "a linear layer": (Linear, 8, lambda layer, x: layer(x)),
}


@needs_code
@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_their_gradients_are_the_same(name):
    kind, inputs, call = LAYERS[name]
    x = normal(2, 5, 7, 8)

    def results(compute):
        layer = kind(inputs, 21, compute=compute, rng=np.random.default_rng(0))
        graph, variables = nnx.split(layer)

        def loss(variables, x):
            return jnp.sum(jnp.sin(call(nnx.merge(graph, variables), x)))

        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(variables, x).compile()
        assert any(name in compiled.as_text() for name in CALLS) == (compute == NATIVE)
        return compiled(variables, x)

    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
    jax.tree.map(close, *map(results, (NATIVE, Compute())))


@needs_code
@pytest.mark.slow
def test_loss_and_gradients_are_the_same():
    """As near as they are to themselves when every number of the pictures changes in its last bit.

    Gradients that cancel are nothing but such changes: a few of them tell too little of how large others are.
    """
    _, params, batch_stats = functional(tiny_model())
    pictures = tiny_pictures(2, 64, 64)
    changes = 2.0**-24 * np.random.default_rng(0).choice([-1, 1], (16, *pictures.shape))
    nearly = [np.asarray(pictures * (1 + change), np.float32) for change in changes]

    def step(compute):
        apply = functional(DFine(TINY, compute=compute, rng=np.random.default_rng(0))).apply

        def loss(params, pictures):
            queries = apply(params, batch_stats, pictures, train=True)[0].queries
            return sum(jnp.sum(jnp.sin(layer.logits)) + jnp.sum(layer.boxes) for layer in queries.layers)

        compiled = jax.jit(jax.value_and_grad(loss)).lower(params, pictures).compile()
        return compiled, compiled.as_text().count("dfine_matrices")

    (native, calls), (plain, other_calls) = step(NATIVE), step(Compute())
    assert calls > 50
    assert other_calls == 0
    loss, gradients = native(params, pictures)
    losses, expected = zip(*(plain(params, x) for x in (pictures, *nearly)), strict=True)
    np.testing.assert_allclose(loss, losses[0], rtol=1e-5)
    for name, gradient in gradients.items():
        values = np.stack([each[name] for each in expected]).astype(np.float64)
        middle = values.mean(0)
        atol = 5 * np.abs(values - middle).max() + 1e-6 * np.abs(values).max()
        np.testing.assert_allclose(gradient, middle, rtol=0, atol=atol, err_msg=name)
