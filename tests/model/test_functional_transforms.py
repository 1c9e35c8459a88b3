"""Every functional transform works on the whole model, to pixels and to parameters, at inference and in training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config, tiny_model, tiny_pictures

from dfine_jax.model.dfine import functional

SIDE = 64


@pytest.fixture(scope="module")
def losses() -> dict[str, tuple[Callable, jax.Array, jax.Array]]:
    """Of pixels at inference, of one kernel in training: a smooth function of all outputs, a place and a direction.

    The pixels of one picture move together with one number a channel, which keeps Jacobians small.
    """
    small = functional(tiny_model(tiny_config(layers=1)))
    pictures = tiny_pictures(2, SIDE, SIDE)
    name = "backbone.stem.stem1.kernel"

    def of(params, pictures, train):
        output = small.apply(params, small.batch_stats, pictures, train=train)
        if not train:
            return jnp.sum(jnp.sin(output.logits)) + jnp.sum(output.boxes)
        layers = output[0].queries.layers
        return sum(jnp.sum(jnp.sin(layer.logits)) + jnp.sum(jnp.cos(layer.corners)) for layer in layers)

    def by_pixels(tint):
        return of(small.params, pictures + tint, False)

    def by_kernel(kernel):
        return of({**small.params, name: kernel}, pictures, True)

    kernel = small.params[name]
    tint, rng = jnp.zeros(3), np.random.default_rng(0)
    directions = [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in (tint, kernel)]
    return {
        "pixels": (by_pixels, tint, directions[0]),
        "a kernel in training": (by_kernel, kernel, directions[1]),
    }


def close(ours, theirs, *, rtol: float = 1e-3) -> None:
    np.testing.assert_allclose(ours, theirs, atol=rtol * float(jnp.abs(theirs).max()))


def hessian_product(f: Callable, x: jax.Array, v: jax.Array) -> jax.Array:
    return jax.jvp(jax.grad(f), (x,), (v,))[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pixels", "a kernel in training"])
def test_all_transforms_agree(losses, name):
    f, x, v = losses[name]

    @jax.jit
    def first(x, v):
        gradient = jax.grad(f)(x)
        value, slope = jax.jvp(f, (x,), (v,))
        again, linear = jax.linearize(f, x)
        return gradient, value, slope, again, linear(v)

    gradient, value, slope, again, linear = first(x, v)
    assert float(jnp.abs(gradient).max()) > 0
    close(slope, jnp.vdot(gradient, v))
    close(linear, slope)
    np.testing.assert_allclose(value, again)

    w = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)
    product = jax.jit(lambda x, v: hessian_product(f, x, v))
    close(jnp.vdot(w, product(x, v)), jnp.vdot(v, product(x, w)))  # a Hessian is symmetric


@pytest.mark.slow
def test_transforms_of_transforms_agree(losses):
    f, x, v = losses["pixels"]
    product = jax.jit(lambda x, v: hessian_product(jax.checkpoint(f), x, v))(x, v)
    close(jax.jit(lambda x, v: jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v))(x))(x, v), product)
    several = jax.jit(lambda x, v: jax.vmap(lambda v: hessian_product(f, x, v))(jnp.stack([v, -2 * v])))(x, v)
    close(several[0], product)
    close(several[1] / -2, product)


@pytest.mark.slow
def test_jacobians_and_the_hessian(losses):
    f, x, v = losses["pixels"]
    forward, reverse = jax.jit(lambda x: (jax.jacfwd(f)(x), jax.jacrev(f)(x)))(x)
    close(forward, reverse)
    hessian, product = jax.jit(lambda x: (jax.hessian(f)(x), hessian_product(f, x, v)))(x)
    close(hessian, hessian.T)
    close(hessian @ v, product)


def test_the_slope_is_that_of_finite_differences(model):
    """Through backbone and encoder: the decoder stops gradients on purpose."""
    pictures = tiny_pictures(1, SIDE, SIDE)

    def f(tint):
        return sum(jnp.sum(jnp.sin(x)) for x in model.encoder(model.backbone(pictures + tint)))

    x, v = jnp.zeros(3), jnp.asarray([1.0, -0.5, 0.25])
    value, step = jax.jit(f), 2.0**-11
    below, above = (float(value(x + sign * step * v)) for sign in (-1, 1))
    slope = jax.jit(lambda x, v: jax.jvp(f, (x,), (v,))[1])(x, v)
    assert float(slope) == pytest.approx((above - below) / (2 * step), rel=3e-2)
