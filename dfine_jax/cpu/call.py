"""Calls of machine code for CPUs, how work is divided, and what others compute instead."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from dfine_jax.cpu.codegen.attributes import check_attributes
from dfine_jax.cpu.codegen.product import whole_columns
from dfine_jax.cpu.codegen.registers import HALVES, half, registers
from dfine_jax.cpu.codegen.scratch import scratch_size
from dfine_jax.cpu.codegen.targets import register, target
from dfine_jax.cpu.codegen.work import MOST, TAPS
from dfine_jax.cpu.epilogue import Epilogue

CELLS = 48
"""Of maps or tiles, that a thread multiplies at a time: what it then works on fits in its caches."""

FEW = 1024
"""Cells of a map, of which half as many are multiplied at a time, that each thread may get some."""

ROWS = 16
"""Of a convolution's result, that a thread computes at a time."""


class Window(NamedTuple):
    """Of a convolution."""

    size: int
    stride: int
    padding: tuple[int, int]
    pooled: int = 0
    """Maps, the first ones, of which the largest of each four cells count, see ``max_pool``; in halves."""
    two_columns: bool = False
    """Whether its kernel, of stride 1, has a column more and gives two cells of a row; in halves."""

    @property
    def columns(self) -> int:
        """Of the kernel."""
        return self.size + self.two_columns

    @property
    def step(self) -> int:
        """From column to column."""
        return self.stride + self.two_columns

    def wide(self, cells: int) -> int:
        """How many results there are in a row of so many cells, each of two cells if it is ``two_columns``."""
        return -(-self.over(cells) // (1 + self.two_columns))

    def beside(self, cells: int) -> tuple[int, int]:
        """Padding left and right of so many cells."""
        low, high = self.padding
        return low, max(high, (self.wide(cells) - 1) * self.step + self.columns - low - cells)

    def over(self, cells: int) -> int:
        """How many results there are along an axis of so many cells."""
        return (cells + sum(self.padding) - self.size) // self.stride + 1

    def at_edge(self, cells: int) -> int:
        """How many results, at most and at least one, need padding at one end of an axis of so many cells."""
        left = -(-self.padding[0] // self.stride)
        whole = max(left, (cells + self.padding[0] - self.size) // self.stride + 1)
        return max(1, left, self.over(cells) - whole)


class Plan(NamedTuple):
    """How threads share the work."""

    size: int
    """Rows of cells, or cells, or tiles, that a thread is given at a time."""
    chunks: int
    scratch: int
    """Numbers in a thread's own memory."""


def plan_gemm(maps: list[Array], kernels: list[Array], outputs: int, window: Window) -> Plan:
    """For products, and whatever else takes each cell by itself."""
    rows = math.prod(maps[0].shape[:-1])
    size = CELLS // 2 if rows < FEW else CELLS
    return Plan(size, -(-rows // size), scratch_size("gemm", count=size, columns=whole_columns(outputs)))


def plan_implicit_gemm(maps: list[Array], kernels: list[Array], outputs: int, window: Window) -> Plan:
    """For convolutions row by row."""
    pictures, *sides, _ = maps[0].shape
    high, wide = (window.over(side) for side in sides)
    size = even(high, ROWS)
    widths = [x.shape[-1] for x in maps]
    zeros = ((wide - 1) * window.stride + window.size) * max(widths)
    edge = ((window.at_edge(sides[1]) - 1) * window.stride + window.size) * window.size * sum(widths)
    columns = whole_columns(outputs)
    scratch = scratch_size("rows", wide=wide, columns=columns, zero_count=zeros, edge_count=edge)
    return Plan(size, pictures * -(-high // size), scratch)


def even(count: int, most: int) -> int:
    """How many, up to ``most``, every thread gets as often as the others."""
    rounds = -(-count // (most * threads()))
    return -(-count // (rounds * threads()))


def threads() -> int:
    """As many as XLA makes for itself: one for each processor that this process began with."""
    return len(os.sched_getaffinity(os.getpid())) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call(
    name: str,
    kind: str,
    arrays: list[Array],
    shape: tuple[int, ...],
    chunks: int,
    scratch: int,
    dtype: str = "float32",
    **numbers: int,
) -> Float[Array, "..."]:
    """What the target of this name makes of arrays and numbers, where each thread has so much memory of its own.

    ``kind`` says which numbers its code reads, see ``codegen/attributes.py``; ``ValueError`` for others.
    """
    check_attributes(kind, numbers)
    result = jax.ShapeDtypeStruct(shape, dtype)
    memory = jax.ShapeDtypeStruct((min(chunks, threads()), scratch), jnp.int32)  # in which nobody looks for NaNs
    function = jax.ffi.ffi_call(name, [result, memory], vmap_method="sequential")
    return function(*arrays, **{key: np.int64(number) for key, number in numbers.items()})[0]


def native(
    name: str,
    plain: Callable[..., Array],
    plan: Callable[..., Plan],
    in_16_bits: bool = False,
    takes_narrow: bool = False,
) -> Callable[..., Array]:
    """``plain``, but on CPUs the native function of this name, where there is one for this processor.

    All is in float32, but for kernels of products of halves, which are as ``kernels/packed16.py`` makes them.
    Those have machine code in one type for a processor, and it is ``plain`` in others. Where that is int16, functions
    that take narrow maps, in float16, don't have XLA widen them.

    ``ValueError`` for what there is no code for: too many maps or rows of kernels, padding as wide as a kernel, maps
    smaller than one.
    """

    def on_cpu(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Array:
        are_narrow = any(x.dtype == jnp.float16 for x in maps)
        register("halves" if in_16_bits or are_narrow else "inference")
        batch, *sides, _ = maps[0].shape
        results = [*map(window.over, sides[:1]), *map(window.wide, sides[1:])]
        size, chunks, scratch = plan(maps, kernels, len(epilogue.bias), window)
        affine = jnp.array([1, 0], jnp.float32) if epilogue.affine is None else epilogue.affine
        added = [jnp.zeros(0, jnp.float32) if x is None else x for x in (epilogue.coarse, epilogue.residual)]
        arrays = [*maps, *kernels, epilogue.bias, affine, *added]
        shape = (batch, *results, len(epilogue.bias))
        numbers = dict(
            low=window.padding[0], size=size, stride=window.stride, tops=window.pooled, twice=int(window.two_columns)
        )
        function = f"narrow_{name}" if are_narrow and not in_16_bits else name
        return call(
            target(function, epilogue.activation), "work", arrays, shape, chunks, scratch, epilogue.dtype, **numbers
        )

    def widened_and_plain(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Array:
        return plain(_widened(maps), kernels, epilogue, window)

    @partial(jax.custom_jvp, nondiff_argnums=(3,))
    def computed(maps: list[Array], kernels: list[Array], epilogue: Epilogue, window: Window) -> Array:
        is_other_type = in_16_bits and kernels[0].dtype.name != HALVES.get(half())
        if registers() is None or is_other_type or (epilogue.dtype != "float32" and half() != "i16"):
            return widened_and_plain(maps, kernels, epilogue, window)
        _check(maps, window)
        cpu, default = (partial(form, window=window) for form in (on_cpu, widened_and_plain))
        return lax.platform_dependent(maps, kernels, epilogue, cpu=cpu, default=default)

    @computed.defjvp
    def slopes(window: Window, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        return computed(*primals, window), jax.jvp(partial(widened_and_plain, window=window), primals, tangents)[1]

    def function(maps: Sequence[Array], kernels: Sequence[Array], epilogue: Epilogue, window: Window) -> Array:
        def as_taken(x: Array) -> Array:
            stays = half() == "i16" and x.dtype == jnp.float16
            return x if stays else x.astype(jnp.float32)

        maps = list(map(as_taken, maps) if takes_narrow else _widened(maps))
        residual = None if epilogue.residual is None else as_taken(epilogue.residual)
        epilogue = replace(_widened(replace(epilogue, residual=None)), residual=residual)
        return computed(maps, list(kernels) if in_16_bits else _widened(list(kernels)), epilogue, window)

    return function


def _widened(arrays: Any) -> Any:
    """A tree of arrays, in float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), arrays)


def _check(maps: list[Array], window: Window) -> None:
    if len(maps) > MOST or len(maps) * window.size > TAPS:
        raise ValueError(f"{len(maps)} maps and {window.size} rows of a kernel: at most {MOST}, and {TAPS} rows in all")
    if window.padding[0] and window.padding[0] >= window.size:
        raise ValueError(f"padding {window.padding}: a kernel of {window.size} rows takes less")
    _, *sides, _ = maps[0].shape
    if min(map(window.over, sides), default=1) < 1:
        raise ValueError(f"a map of {sides} is too small for a kernel of {window.size}")
