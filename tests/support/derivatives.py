"""Every functional transform of a function, to compare with those of another one that computes the same."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Scalar = Callable[[jax.Array], jax.Array]


def hessian_vector_forward_over_reverse(f: Scalar, x, v):
    return jax.jvp(jax.grad(f), (x,), (v,))[1]


def hessian_vector_reverse_over_forward(f: Scalar, x, v):
    return jax.grad(lambda x: jax.jvp(f, (x,), (v,))[1])(x)


def hessian_vector_reverse_over_reverse(f: Scalar, x, v):
    return jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v))(x)


def third_derivative(f: Scalar, x, v):
    return jax.jvp(lambda x: hessian_vector_forward_over_reverse(f, x, v), (x,), (v,))[1]


TRANSFORMS: dict[str, Callable] = {
    "grad": lambda f, x, v: jax.grad(f)(x),
    "jvp": lambda f, x, v: jax.jvp(f, (x,), (v,))[1],
    "linearize": lambda f, x, v: jax.linearize(f, x)[1](v),
    "forward over reverse": hessian_vector_forward_over_reverse,
    "reverse over forward": hessian_vector_reverse_over_forward,
    "reverse over reverse": hessian_vector_reverse_over_reverse,
    "third": third_derivative,
    "checkpoint": lambda f, x, v: hessian_vector_forward_over_reverse(jax.checkpoint(f), x, v),
    "vmap of grad": lambda f, x, v: jax.vmap(jax.grad(f))(jnp.stack([x, v])),
    "vmap of jvp": lambda f, x, v: jax.vmap(lambda v: jax.jvp(f, (x,), (v,))[1])(jnp.stack([x, v])),
    "grad of vmap": lambda f, x, v: jax.grad(lambda x: jnp.sum(jax.vmap(f)(jnp.stack([x, x + v]))))(x),
    "vmap of forward over reverse": lambda f, x, v: jax.vmap(lambda v: hessian_vector_forward_over_reverse(f, x, v))(
        jnp.stack([x, v])
    ),
}


def with_gradients(function: Callable, above: Callable, *arguments) -> tuple:
    """A function's value, and the gradients of all its arguments for what ``above`` makes of the value; one program."""

    def program(*arguments):
        y, pull_back = jax.vjp(function, *arguments)
        return y, *pull_back(above(y))

    return jax.jit(program)(*arguments)


def direction(x: jax.Array) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=x.shape), x.dtype)


def assert_same_derivatives(ours: Scalar, theirs: Scalar, x: jax.Array, *, rtol: float = 2e-5) -> None:
    """By all transforms, to so much of the largest number."""
    v = direction(x)
    for name, transform in TRANSFORMS.items():
        got, wanted = (jax.jit(lambda x, v, f=f, t=transform: t(f, x, v))(x, v) for f in (ours, theirs))
        np.testing.assert_allclose(got, wanted, atol=rtol * float(jnp.abs(wanted).max()), err_msg=name)
