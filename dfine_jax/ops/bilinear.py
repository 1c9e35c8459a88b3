"""Bilinear operations with forms of their own for a platform, as JAX primitives.

An operation such as a convolution is linear in a map and in a kernel, and so are the two that its gradients are made
of. Each of the three is the transpose of the others:

    forward     left, right    -> out        x * k
    for_left    out,  right    -> left       the gradient for x
    for_right   left, out      -> right      the gradient for k

Told this, JAX can differentiate any of them forward and backward, as often as one likes; ``jax.custom_vjp`` would stop
forward-mode transforms.
"""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array

from dfine_jax.ops.platform import is_portable

Operation = Callable[..., Array]
"""Of two arrays and ``options``; what it returns has the type that the ``Shape`` asked for says."""


class Shape(NamedTuple):
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, x: Array) -> "Shape":
        """That of an array."""
        return cls(tuple(x.shape), x.dtype.name)


class Operands(NamedTuple):
    """Shapes of all three that take part, without axes that ``vmap`` added."""

    left: Shape
    right: Shape
    out: Shape


class Forms(NamedTuple):
    """The three operations on one platform.

    Each takes its two arrays, the ``Operands`` and the options.
    """

    forward: Operation
    for_left: Operation
    for_right: Operation


class Bilinear:
    """A bilinear operation and its two transposes.

    ``forms`` has those of platforms (``"cpu"``, ``"cuda"``, ``"tpu"``), and under None those of all others. Where
    ``has_batch`` is true the first axis of left and out counts pictures that are computed alike: ``vmap`` over them
    with one right operand then makes more pictures of them, and stays fast. Otherwise ``vmap`` adds an axis of copies.
    """

    def __init__(self, name: str, forms: Mapping[str | None, Forms], *, has_batch: bool):
        self._forward, self._for_left, self._for_right = (Primitive(f"{name}_{kind}") for kind in Forms._fields)
        ad.defbilinear(
            self._forward,
            lambda ct, left, right, **static: self._for_left.bind(ct, right, **static),
            lambda ct, left, right, **static: self._for_right.bind(left, ct, **static),
        )
        ad.defbilinear(
            self._for_left,
            lambda ct, out, right, **static: self._forward.bind(ct, right, **static),
            lambda ct, out, right, **static: self._for_right.bind(ct, out, **static),
        )
        ad.defbilinear(
            self._for_right,
            lambda ct, left, out, **static: self._for_left.bind(out, ct, **static),
            lambda ct, left, out, **static: self._forward.bind(left, ct, **static),
        )
        results = {self._forward: "out", self._for_left: "left", self._for_right: "right"}
        for index, (primitive, result) in enumerate(results.items()):
            of_platforms = {platform: of_platform[index] for platform, of_platform in forms.items()}
            _define(primitive, result, of_platforms)
            merges = has_batch and primitive is not self._for_right
            batching.primitive_batchers[primitive] = _batching_rule(primitive, merges)
        self._portable = forms[None].forward

    def __call__(self, left: Array, right: Array, out: Shape, options: Hashable) -> Array:
        """The forward operation, whose result has this shape and type."""
        operands = Operands(Shape.of(left), Shape.of(right), out)
        if is_portable():
            return self._portable(left, right, operands=operands, options=options)
        return self._forward.bind(left, right, operands=operands, options=options, copies=())


def _define(primitive: Primitive, result: str, of_platforms: Mapping[str | None, Operation]) -> None:
    """Evaluation, alone and while tracing, and what it is lowered to."""

    def shape_of_result(*_, operands: Operands, options: Hashable, copies: tuple[int, ...]) -> ShapedArray:
        shape, dtype = getattr(operands, result)
        return ShapedArray((*copies, *shape), jnp.dtype(dtype))

    primitive.def_impl(lambda *arrays, **static: xla.apply_primitive(primitive, *arrays, **static))
    primitive.def_abstract_eval(shape_of_result)
    for platform, operation in of_platforms.items():
        lowered = mlir.lower_fun(_copied(operation), multiple_results=False)
        mlir.register_lowering(primitive, lowered, platform=platform)


def _copied(operation: Operation) -> Operation:
    """The operation of arrays that have an axis more for each of the ``copies``."""

    def of_copies(*arrays: Array, operands: Operands, options: Hashable, copies: tuple[int, ...]) -> Array:
        function = partial(operation, operands=operands, options=options)
        for _ in copies:
            function = jax.vmap(function)
        return function(*arrays)

    return of_copies


def _batching_rule(primitive: Primitive, merges: bool) -> Callable:
    def rule(arrays, axes, *, operands: Operands, options: Hashable, copies: tuple[int, ...]):
        (first, second), (size,) = (
            axes,
            {x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None},
        )
        if merges and second is None and not copies:
            left, right = arrays
            stacked = jnp.moveaxis(left, first, 0)
            merged = stacked.reshape(-1, *stacked.shape[2:])
            more = operands._replace(left=_with_batch(operands.left, size), out=_with_batch(operands.out, size))
            result = primitive.bind(merged, right, operands=more, options=options, copies=())
            return result.reshape(size, -1, *result.shape[1:]), 0
        each = [
            jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(arrays, axes, strict=True)
        ]
        return primitive.bind(*each, operands=operands, options=options, copies=(size, *copies)), 0

    return rule


def _with_batch(shape: Shape, times: int) -> Shape:
    return shape._replace(shape=(times * shape.shape[0], *shape.shape[1:]))
