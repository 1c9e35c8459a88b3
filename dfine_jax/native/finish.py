"""What follows a product: bias, activation, and a scale and a shift, of sums that were just written."""

from dfine_jax.native.exponential import exponential
from dfine_jax.native.registers import Registers
from dfine_jax.native.text import splat

FINISHES = {None: "none", "relu": "relu", "silu": "silu", "swish": "silu"}
"""Activations by their names in configurations, and in names of functions."""


def finishes(layout: Registers) -> str:
    """``@finish.*``, which take rows of sums to rows of the result, and what they call."""
    vector, mask, suffix = _types(layout.lanes)
    declared = f"""
declare {vector} @llvm.fma.{suffix}({vector}, {vector}, {vector})
declare {vector} @llvm.maxnum.{suffix}({vector}, {vector})
declare {vector} @llvm.minnum.{suffix}({vector}, {vector})
declare {vector} @llvm.rint.{suffix}({vector})
declare {mask} @llvm.get.active.lane.mask.v{layout.lanes}i1.i64(i64, i64)
declare {vector} @llvm.masked.load.{suffix}.p0(ptr, i32, {mask}, {vector})
declare void @llvm.masked.store.{suffix}.p0({vector}, ptr, i32, {mask})

define internal {vector} @splat(float %one) {{
  %first = insertelement {vector} poison, float %one, i64 0
  %all = shufflevector {vector} %first, {vector} poison, <{layout.lanes} x i32> zeroinitializer
  ret {vector} %all
}}
"""
    constants = {name: splat(layout.lanes, value) for name, value in (("zero", 0), ("one", 1))}
    names = dict(v=vector, m=mask, exp=exponential(layout.lanes, "negative", "exp"), **constants)
    return declared + "".join(_finish(layout.lanes, name, code.format(**names)) for name, code in _ACTIVATIONS.items())


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
  %y = fdiv {v} %biased, %below"""
"""x / (1 + exp(-x))"""

_ACTIVATIONS = {"none": _NONE, "relu": _RELU, "silu": _SILU}


def _finish(lanes: int, name: str, activation: str) -> str:
    vector, mask, suffix = _types(lanes)
    return f"""
define internal void @finish.{name}(ptr %work, ptr %sums, ptr %result, i64 %rows) {{
entry:
  %biases = call ptr @get.bias(ptr %work)
  %affine = call ptr @get.affine(ptr %work)
  %outputs = call i64 @get.outputs(ptr %work)
  %columns = call i64 @get.columns(ptr %work)
  %scale.one = load float, ptr %affine
  %scale = call {vector} @splat(float %scale.one)
  %shift.at = getelementptr float, ptr %affine, i64 1
  %shift.one = load float, ptr %shift.at
  %shift = call {vector} @splat(float %shift.one)
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %row.end ]
  %from.offset = mul i64 %index, %columns
  %from = getelementptr float, ptr %sums, i64 %from.offset
  %to.offset = mul i64 %index, %outputs
  %to = getelementptr float, ptr %result, i64 %to.offset
  br label %some
some:
  %column = phi i64 [ 0, %row ], [ %column.next, %some ]
  %are.real = call {mask} @llvm.get.active.lane.mask.v{lanes}i1.i64(i64 %column, i64 %outputs)
  %at = getelementptr float, ptr %from, i64 %column
  %x = call {vector} @llvm.masked.load.{suffix}.p0(ptr %at, i32 4, {mask} %are.real, {vector} zeroinitializer)
  %bias.at = getelementptr float, ptr %biases, i64 %column
  %bias = call {vector} @llvm.masked.load.{suffix}.p0(ptr %bias.at, i32 4, {mask} %are.real,
                                                      {vector} zeroinitializer)
  %biased = fadd {vector} %x, %bias
{activation}
  %scaled = call {vector} @llvm.fma.{suffix}({vector} %y, {vector} %scale, {vector} %shift)
  %to.at = getelementptr float, ptr %to, i64 %column
  call void @llvm.masked.store.{suffix}.p0({vector} %scaled, ptr %to.at, i32 4, {mask} %are.real)
  %column.next = add i64 %column, {lanes}
  %is.more = icmp slt i64 %column.next, %outputs
  br i1 %is.more, label %some, label %row.end
row.end:
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %rows
  br i1 %is.another, label %row, label %done
done:
  ret void
}}
"""
