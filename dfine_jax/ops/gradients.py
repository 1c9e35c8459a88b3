"""Functions whose gradient is written out, with all other derivatives as JAX finds them.

``jax.custom_vjp`` would do for ``grad`` alone: forward-mode transforms stop at it.
"""

from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array

Arrays = tuple[Array, ...]
Function = Callable[[Arrays, Hashable], tuple[Array, Arrays]]
"""Of inputs and options, to a result and what else comes of it, through which no derivative flows."""
Gradient = Callable[[Arrays, Arrays, Array, Hashable], Arrays]
"""Of inputs, what else came of them, the gradient of the result and options: the gradients of the inputs."""


def with_gradient(name: str, function: Function, gradient: Gradient) -> Function:
    """The same function, which ``grad`` differentiates by ``gradient``.

    Its tangents are an operation that is linear in those of the inputs. The transpose of that is ``gradient``. By their
    other arguments both are differentiated as JAX differentiates ``function`` itself, to any order.
    """
    push, pull = Primitive(f"{name}_tangent"), Primitive(f"{name}_gradient")
    pull.multiple_results = True

    def result(options: Hashable) -> Callable[..., Array]:
        return lambda *inputs: function(inputs, options)[0]

    def plain_push(inputs: Arrays, tangents: Arrays, options: Hashable) -> Array:
        return jax.jvp(result(options), inputs, tangents)[1]

    def plain_pull(inputs: Arrays, cotangent: Array, options: Hashable) -> Arrays:
        return jax.vjp(result(options), *inputs)[1](cotangent)

    def push_form(*arrays: Array, inputs: int, options: Hashable) -> Array:
        return plain_push(arrays[:inputs], arrays[-inputs:], options)

    def pull_form(*arrays: Array, inputs: int, options: Hashable) -> Arrays:
        return gradient(arrays[:inputs], arrays[inputs:-1], arrays[-1], options)

    def push_jvp(arrays: Arrays, tangents: Arrays, *, inputs: int, options: Hashable):
        """Linear in the last arguments; those in between are functions of the first."""
        static = dict(inputs=inputs, options=options)
        parts = []
        if moving := _instantiated(tangents[-inputs:]):
            parts.append(push.bind(*arrays[:-inputs], *moving, **static))
        if moving := _instantiated(tangents[:inputs]):
            fixed = arrays[-inputs:]
            parts.append(jax.jvp(lambda *given: plain_push(given, fixed, options), arrays[:inputs], moving)[1])
        value = push.bind(*arrays, **static)
        return value, sum(parts[1:], parts[0]) if parts else ad.Zero(ShapedArray(value.shape, value.dtype))

    def pull_jvp(arrays: Arrays, tangents: Arrays, *, inputs: int, options: Hashable):
        static = dict(inputs=inputs, options=options)
        parts = []
        if moving := _instantiated(tangents[-1:]):
            parts.append(pull.bind(*arrays[:-1], *moving, **static))
        if moving := _instantiated(tangents[:inputs]):
            fixed = arrays[-1]
            parts.append(jax.jvp(lambda *given: plain_pull(given, fixed, options), arrays[:inputs], moving)[1])
        values = pull.bind(*arrays, **static)
        if not parts:
            return values, [ad.Zero(ShapedArray(value.shape, value.dtype)) for value in values]
        return values, [sum(each[1:], each[0]) for each in zip(*parts, strict=True)]

    def push_transpose(cotangent, *arrays, inputs: int, options: Hashable):
        known = arrays[:-inputs]
        if type(cotangent) is ad.Zero:
            cotangents = [ad.Zero(x.aval) if ad.is_undefined_primal(x) else None for x in arrays[-inputs:]]
        else:
            cotangents = pull.bind(*known, cotangent, inputs=inputs, options=options)
        wanted = zip(cotangents, arrays[-inputs:], strict=True)
        return [None] * len(known) + [x if ad.is_undefined_primal(of) else None for x, of in wanted]

    def pull_transpose(cotangents, *arrays, inputs: int, options: Hashable):
        moving = tuple(map(ad.instantiate_zeros, cotangents))
        return [None] * (len(arrays) - 1) + [push.bind(*arrays[:-1], *moving, inputs=inputs, options=options)]

    for primitive, form in ((push, push_form), (pull, pull_form)):
        _define(primitive, form)
    ad.primitive_jvps.update({push: push_jvp, pull: pull_jvp})
    ad.primitive_transposes.update({push: push_transpose, pull: pull_transpose})

    def differentiable(inputs: Arrays, options: Hashable) -> tuple[Array, Arrays]:
        return function(inputs, options)

    computed = jax.custom_jvp(differentiable, nondiff_argnums=(1,))

    @computed.defjvp
    def tangents_of(options, primals, tangents):
        (inputs,), (moving,) = primals, tangents
        y, others = computed(inputs, options)
        tangent = push.bind(*inputs, *others, *moving, inputs=len(inputs), options=options)
        return (y, others), (tangent, jax.tree.map(jnp.zeros_like, others))

    return computed


def _define(primitive: Primitive, form: Callable) -> None:
    """Evaluation, ``vmap`` and lowering, all by what the form is made of."""

    def shapes(*arrays, **static):
        shaped = jax.eval_shape(lambda *given: form(*given, **static), *arrays)
        return jax.tree.map(lambda x: ShapedArray(x.shape, x.dtype), shaped)

    def batched(arrays, axes, **static):
        results = jax.vmap(lambda *given: form(*given, **static), axes)(*arrays)
        return results, jax.tree.map(lambda _: 0, results)

    primitive.def_impl(lambda *arrays, **static: xla.apply_primitive(primitive, *arrays, **static))
    primitive.def_abstract_eval(shapes)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(form, multiple_results=primitive.multiple_results))


def _instantiated(tangents: Arrays) -> Arrays:
    """With zeros where there is no tangent; empty where there is none at all."""
    if all(type(tangent) is ad.Zero for tangent in tangents):
        return ()
    return tuple(map(ad.instantiate_zeros, tangents))
