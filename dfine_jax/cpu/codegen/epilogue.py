"""What follows a product, of sums that were just written: bias, activation, scale and shift, and maps that are added.

One is added before the activation, every cell to the four that it stands for; one, the shortcut, comes last. Where
registers are the widest, result and shortcut may be in float16; what is beyond its range becomes its largest number.
"""

import math
from collections.abc import Iterator

from dfine_jax.cpu.codegen.exponential import error_function, exponential
from dfine_jax.cpu.codegen.registers import WIDEST, Registers
from dfine_jax.cpu.codegen.text import first_lanes, lines, loop, splat, widened
from dfine_jax.cpu.codegen.work import fields

LARGEST = 65504
"""Of numbers in float16."""

EPILOGUES = {None: "none", "relu": "relu", "silu": "silu", "swish": "silu", "gelu": "gelu"}
"""Activations by their names in configurations, and in names of functions."""


def finishes(layout: Registers) -> str:
    """``@finish.*``, which take rows of sums to rows of the result, and what they call."""
    vector, mask, suffix = _types(layout.lanes)
    declared = f"""
declare {vector} @llvm.fma.{suffix}({vector}, {vector}, {vector})
declare {vector} @llvm.maxnum.{suffix}({vector}, {vector})
declare {vector} @llvm.minnum.{suffix}({vector}, {vector})
declare {vector} @llvm.masked.load.{suffix}.p0(ptr, i32, {mask}, {vector})
declare void @llvm.masked.store.{suffix}.p0({vector}, ptr, i32, {mask})
declare <{layout.lanes} x i16> @llvm.masked.load.v{layout.lanes}i16.p0(ptr, i32, {mask}, <{layout.lanes} x i16>)
declare void @llvm.masked.store.v{layout.lanes}i16.p0(<{layout.lanes} x i16>, ptr, i32, {mask})
declare <16 x float> @llvm.x86.avx512.rcp14.ps.512(<16 x float>, <16 x float>, i16)

define internal {vector} @splat(float %one) {{
  %first = insertelement {vector} poison, float %one, i64 0
  %all = shufflevector {vector} %first, {vector} poison, <{layout.lanes} x i32> zeroinitializer
  ret {vector} %all
}}

; Of a map half as large as the result, the cell that stands for that which begins at this number.
define internal ptr @coarse.row(ptr %work, ptr %coarse, i64 %place, i64 %outputs) {{
  %wide = call i64 @get.wide(ptr %work)
  %cell = udiv i64 %place, %outputs
  %row = udiv i64 %cell, %wide
  %column = urem i64 %cell, %wide
  %coarse.wide = lshr i64 %wide, 1
  %coarse.row = lshr i64 %row, 1
  %coarse.column = lshr i64 %column, 1
  %above = mul i64 %coarse.row, %coarse.wide
  %which = add i64 %above, %coarse.column
  %offset = mul i64 %which, %outputs
  %there = getelementptr float, ptr %coarse, i64 %offset
  ret ptr %there
}}
"""
    numbers = {"zero": 0, "one": 1, "half": 0.5, "root_of_half": math.sqrt(0.5), "least": -88}
    constants = {name: splat(layout.lanes, value) for name, value in numbers.items()}
    functions = dict(exp=exponential(layout.lanes, "negative", "exp"), erf=error_function(layout.lanes, "small", "erf"))
    functions["divided"] = lines(_divided(layout.lanes))
    names = dict(v=vector, m=mask, **constants, **functions)
    return declared + "".join(_finish(layout.lanes, name, code.format(**names)) for name, code in _ACTIVATIONS.items())


def _divided(lanes: int) -> Iterator[str]:
    """Lines that set ``%y`` to ``%biased`` by ``%below``, finite and at least 1, or to zero where that ``%is.small``.

    Where there is an instruction for an inverse to 14 bits, one step of Newton's method from it takes a third of the
    time of a division, and may be off by one bit more.
    """
    vector, mask, zero = f"<{lanes} x float>", f"<{lanes} x i1>", splat(lanes, 0)
    if lanes == WIDEST:
        one, fused = splat(lanes, 1), f"call {vector} @llvm.fma.v{lanes}f32"
        yield f"%nearly = call {vector} @llvm.x86.avx512.rcp14.ps.512({vector} %below, {vector} poison, i16 -1)"
        yield f"%minus = fneg {vector} %below"
        yield f"%off = {fused}({vector} %minus, {vector} %nearly, {vector} {one})"
        yield f"%inverse.all = {fused}({vector} %off, {vector} %nearly, {vector} %nearly)"
        yield f"%inverse = select {mask} %is.small, {vector} {zero}, {vector} %inverse.all"
        yield f"%y = fmul {vector} %biased, %inverse"
    else:
        yield f"%quotient = fdiv {vector} %biased, %below"
        yield f"%nothing = fmul {vector} %biased, {zero}"
        yield f"%y = select {mask} %is.small, {vector} %nothing, {vector} %quotient"


def _types(lanes: int) -> tuple[str, str, str]:
    """Of a vector and of a mask, and how the names of functions on vectors end."""
    return f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"


_NONE = "  %y = fadd {v} %biased, {zero}"


_RELU = """  %is.below = fcmp olt {v} %biased, {zero}
  %y = select {m} %is.below, {v} {zero}, {v} %biased"""
"""What is not a number stays so."""

_SILU = """  %negative = fneg {v} %biased
  {exp}
  %below = fadd {v} %exp, {one}
  %is.small = fcmp olt {v} %biased, {least}
  {divided}"""
"""x / (1 + exp(-x)); where nothing is left of x, the exponential counts as infinite."""

_GELU = """  %small = fmul {v} %biased, {root_of_half}
  {erf}
  %above = fadd {v} %erf, {one}
  %half = fmul {v} %biased, {half}
  %y = fmul {v} %half, %above"""
"""x (1 + erf(x / sqrt(2))) / 2"""

_ACTIVATIONS = {"none": _NONE, "relu": _RELU, "silu": _SILU, "gelu": _GELU}


def _finish(lanes: int, name: str, activation: str) -> str:
    vector, mask, suffix = _types(lanes)
    has_narrow = lanes == WIDEST

    def loaded(name: str, row: str) -> Iterator[str]:
        yield f"%{name}.at = getelementptr float, ptr %{row}, i64 %column"
        yield (
            f"%{name} = call {vector} @llvm.masked.load.{suffix}.p0(ptr %{name}.at, i32 4, {mask} %are.real, "
            f"{vector} zeroinitializer)"
        )

    some = f"""
  {first_lanes(lanes, "are.real", "%column", "%outputs")}
  {lines(loaded("x", "from"))}
  {lines(loaded("bias", "biases"))}
  %sum = fadd {vector} %x, %bias
  br i1 %has.coarse, label %with.coarse, label %active
with.coarse:
  {lines(loaded("other", "coarse.row"))}
  %sum.other = fadd {vector} %sum, %other
  br label %active
active:
  %biased = phi {vector} [ %sum, %some ], [ %sum.other, %with.coarse ]
{activation}
  %scaled = call {vector} @llvm.fma.{suffix}({vector} %y, {vector} %scale, {vector} %shift)
  br i1 %has.shortcut, label %with.shortcut, label %store
with.shortcut:
  br i1 %is.shortcut.narrow, label %narrow.shortcut, label %wide.shortcut
wide.shortcut:
  {lines(loaded("wide", "shortcut.row"))}
  br label %short.read
narrow.shortcut:
  {lines(_loaded_narrow(lanes) if has_narrow else ["unreachable"])}
  {"br label %short.read" if has_narrow else ""}
short.read:
  %short = phi {vector} [ %wide, %wide.shortcut ]{", [ %narrow.x, %narrow.shortcut ]" if has_narrow else ""}
  %longer = fadd {vector} %scaled, %short
  br label %store
store:
  %finished = phi {vector} [ %scaled, %active ], [ %longer, %short.read ]
  br i1 %is.narrow, label %to.narrow, label %to.wide
to.narrow:
  {lines(_stored_narrow(lanes) if has_narrow else ["unreachable"])}
  {"br label %stored" if has_narrow else ""}
to.wide:
  %to.at = getelementptr float, ptr %to, i64 %column
  call void @llvm.masked.store.{suffix}.p0({vector} %finished, ptr %to.at, i32 4, {mask} %are.real)
  br label %stored
stored:
"""
    row = f"""
  %from.offset = mul i64 %index, %columns
  %from = getelementptr float, ptr %sums, i64 %from.offset
  %to.offset = mul i64 %index, %outputs
  %to.bytes = shl i64 %to.offset, %power  ; nothing is called in between: cells may be of few channels
  %to = getelementptr i8, ptr %result, i64 %to.bytes
  %place = add i64 %begin, %to.offset
  %shortcut.bytes = shl i64 %place, %shortcut.power
  %shortcut.row = getelementptr i8, ptr %shortcut, i64 %shortcut.bytes
  br i1 %has.coarse, label %find, label %found
find:
  %coarse.there = call ptr @coarse.row(ptr %work, ptr %coarse, i64 %place, i64 %outputs)
  br label %found
found:
  %coarse.row = phi ptr [ %coarse, %row ], [ %coarse.there, %find ]
{loop("some", "column", "%outputs", some, step=lanes, before="found", last="stored")}
"""
    return f"""
define internal void @finish.{name}(ptr %work, ptr %sums, ptr %result, i64 %rows) {{
entry:
  %biases = call ptr @get.bias(ptr %work)
  {fields("affine", "outputs", "columns")}
  %scale.one = load float, ptr %affine
  %scale = call {vector} @splat(float %scale.one)
  %shift.at = getelementptr float, ptr %affine, i64 1
  %shift.one = load float, ptr %shift.at
  %shift = call {vector} @splat(float %shift.one)
  %coarse = call ptr @get.coarse(ptr %work)
  %shortcut = call ptr @get.shortcut(ptr %work)
  %has.coarse = icmp ne ptr %coarse, null
  %has.shortcut = icmp ne ptr %shortcut, null
  %first = call ptr @get.result(ptr %work)
  %first.address = ptrtoint ptr %first to i64
  %address = ptrtoint ptr %result to i64
  %bytes = sub i64 %address, %first.address
  %narrow = call i64 @get.narrow(ptr %work)
  %power = sub i64 2, %narrow
  %begin = ashr i64 %bytes, %power
  %is.narrow = icmp ne i64 %narrow, 0
  %shortcut.narrow = call i64 @get.narrow.shortcut(ptr %work)
  %shortcut.power = sub i64 2, %shortcut.narrow
  %is.shortcut.narrow = icmp ne i64 %shortcut.narrow, 0
{loop("row", "index", "%rows", row, last="some.end")}
  ret void
}}
"""


def _loaded_narrow(lanes: int) -> Iterator[str]:
    """Lines that set ``%narrow.x`` to the shortcut's numbers, read from float16."""
    bits, mask = f"<{lanes} x i16>", f"<{lanes} x i1>"
    yield "%narrow.at = getelementptr half, ptr %shortcut.row, i64 %column"
    yield (
        f"%narrow.bits = call {bits} @llvm.masked.load.v{lanes}i16.p0(ptr %narrow.at, i32 2, {mask} %are.real, "
        f"{bits} zeroinitializer)"
    )
    yield from widened(lanes, "narrow.bits", "narrow.x")


def _stored_narrow(lanes: int) -> Iterator[str]:
    """Lines that write ``%finished`` in float16; what is not a number stays so."""
    floats, bits, mask = f"<{lanes} x float>", f"<{lanes} x i16>", f"<{lanes} x i1>"
    most, least = splat(lanes, LARGEST), splat(lanes, -LARGEST)
    yield f"%is.above = fcmp ogt {floats} %finished, {most}"
    yield f"%bounded = select {mask} %is.above, {floats} {most}, {floats} %finished"
    yield f"%is.under = fcmp olt {floats} %bounded, {least}"
    yield f"%in.range = select {mask} %is.under, {floats} {least}, {floats} %bounded"
    yield f"%shorter = fptrunc {floats} %in.range to <{lanes} x half>"
    yield f"%shorter.bits = bitcast <{lanes} x half> %shorter to {bits}"
    yield "%narrow.to = getelementptr half, ptr %to, i64 %column"
    yield f"call void @llvm.masked.store.v{lanes}i16.p0({bits} %shorter.bits, ptr %narrow.to, i32 2, {mask} %are.real)"
