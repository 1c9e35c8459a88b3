"""LLVM's code for one head of an attention: its scores and what it mixes never leave a thread's own memory.

Keys, a column each, and values are packed first, see ``dfine_jax.cpu.codegen.packing``, and ``@rows`` multiplies both.
"""

from dfine_jax.cpu.codegen.exponential import exponential
from dfine_jax.cpu.codegen.product import LAST, whole_columns
from dfine_jax.cpu.codegen.registers import Registers
from dfine_jax.cpu.codegen.text import first_lanes

QUERIES = 24
"""Whose scores a thread has at a time."""


def scratch_of_head(tokens: int, channels: int) -> int:
    """Numbers in a thread's own memory: keys, values, some scores, what they mix, and the sums of weights."""
    return (channels + QUERIES) * whole_columns(tokens) + channels * tokens + QUERIES * (channels + 1)


def attention(layout: Registers) -> str:
    """``@chunk.attention``, which computes one head of one picture, and what it calls."""
    return _largest(layout.lanes) + _weights(layout.lanes) + _mixed(layout.lanes) + _chunk()


def _largest(lanes: int) -> str:
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    none = "<" + ", ".join(["float 0xFFF0000000000000"] * lanes) + ">"
    return f"""
declare float @llvm.vector.reduce.fmax.{suffix}({vector})

define internal float @largest(ptr %from, i64 %count) {{
entry:
  br label %some
some:
  %index = phi i64 [ 0, %entry ], [ %index.next, %some ]
  %largest = phi {vector} [ {none}, %entry ], [ %largest.next, %some ]
  {first_lanes(lanes, "are.real", "%index", "%count")}
  %at = getelementptr float, ptr %from, i64 %index
  %x = call {vector} @llvm.masked.load.{suffix}.p0(ptr %at, i32 4, {mask} %are.real, {vector} {none})
  %is.larger = fcmp ogt {vector} %x, %largest
  %largest.next = select {mask} %is.larger, {vector} %x, {vector} %largest
  %index.next = add i64 %index, {lanes}
  %is.more = icmp slt i64 %index.next, %count
  br i1 %is.more, label %some, label %done
done:
  %top = call nnan float @llvm.vector.reduce.fmax.{suffix}({vector} %largest.next)
  ret float %top
}}
"""


def _weights(lanes: int) -> str:
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    none = "<" + ", ".join(["float 0xFFF0000000000000"] * lanes) + ">"
    return f"""
; Rows of scores become weights of the softmax that are not divided yet by their sums, which are stored. What fills the
; last panel counts as less than any score, of which nothing is left.
define internal void @weights(ptr %scores, i64 %rows, i64 %tokens, i64 %columns, float %factor, ptr %sums) {{
entry:
  %factors = call {vector} @splat(float %factor)
  %last = sub i64 %columns, {LAST}
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %row.end ]
  %offset = mul i64 %index, %columns
  %from = getelementptr float, ptr %scores, i64 %offset
  br label %fill
fill:
  %filled = phi i64 [ %last, %row ], [ %filled.next, %fill ]
  {first_lanes(lanes, "are.real", "%filled", "%tokens")}
  %fill.at = getelementptr float, ptr %from, i64 %filled
  %real = load {vector}, ptr %fill.at, align 4
  %whole = select {mask} %are.real, {vector} %real, {vector} {none}
  store {vector} %whole, ptr %fill.at, align 4
  %filled.next = add i64 %filled, {lanes}
  %is.unfilled = icmp slt i64 %filled.next, %columns
  br i1 %is.unfilled, label %fill, label %filled.all
filled.all:
  %top = call float @largest(ptr %from, i64 %tokens)
  %tops = call {vector} @splat(float %top)
  br label %some
some:
  %place = phi i64 [ 0, %filled.all ], [ %place.next, %some ]
  %sum = phi {vector} [ zeroinitializer, %filled.all ], [ %sum.next, %some ]
  %place.at = getelementptr float, ptr %from, i64 %place
  %score = load {vector}, ptr %place.at, align 4
  %below = fsub {vector} %score, %tops
  %power = fmul {vector} %below, %factors
  {exponential(lanes, "power", "weight")}
  store {vector} %weight, ptr %place.at, align 4
  %sum.next = fadd {vector} %sum, %weight
  %place.next = add i64 %place, {lanes}
  %is.another = icmp slt i64 %place.next, %columns
  br i1 %is.another, label %some, label %row.end
row.end:
  %total = call reassoc float @llvm.vector.reduce.fadd.{suffix}(float 0.0, {vector} %sum.next)
  %to = getelementptr float, ptr %sums, i64 %index
  store float %total, ptr %to, align 4
  %index.next = add i64 %index, 1
  %is.row = icmp slt i64 %index.next, %rows
  br i1 %is.row, label %row, label %done
done:
  ret void
}}
"""


def _mixed(lanes: int) -> str:
    vector = f"<{lanes} x float>"
    return f"""
; Divides sums of weighted values by the sums of weights.
define internal void @divide(ptr %mixed, i64 %rows, i64 %channels, i64 %width, ptr %sums, ptr %result) {{
entry:
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %row.end ]
  %from.offset = mul i64 %index, %channels
  %from = getelementptr float, ptr %mixed, i64 %from.offset
  %to.offset = mul i64 %index, %width
  %to = getelementptr float, ptr %result, i64 %to.offset
  %sum.at = getelementptr float, ptr %sums, i64 %index
  %sum = load float, ptr %sum.at, align 4
  %inverse = fdiv float 1.0, %sum
  %factor = call {vector} @splat(float %inverse)
  br label %some
some:
  %number = phi i64 [ 0, %row ], [ %number.next, %some ]
  %at = getelementptr float, ptr %from, i64 %number
  %x = load {vector}, ptr %at, align 4
  %y = fmul {vector} %x, %factor
  %to.at = getelementptr float, ptr %to, i64 %number
  store {vector} %y, ptr %to.at, align 4
  %number.next = add i64 %number, {lanes}
  %is.more = icmp slt i64 %number.next, %channels
  br i1 %is.more, label %some, label %row.end
row.end:
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %rows
  br i1 %is.another, label %row, label %done
done:
  ret void
}}
"""


def _chunk() -> str:
    return f"""
define internal void @chunk.attention(ptr %work, i64 %picture, i64 %head, i64 %heads, ptr %scratch) {{
entry:
  %here = alloca %Map
  %query.map = call ptr @map(ptr %work, i64 0)
  %key.map = call ptr @map(ptr %work, i64 1)
  %value.map = call ptr @map(ptr %work, i64 2)
  %queries = call ptr @map.base(ptr %query.map)
  %keys = call ptr @map.base(ptr %key.map)
  %values = call ptr @map.base(ptr %value.map)
  %result = call ptr @get.result(ptr %work)
  %width = call i64 @get.outputs(ptr %work)
  %tokens = call i64 @get.high(ptr %work)
  %all.heads = call i64 @get.rows(ptr %work)
  %channels = sdiv i64 %width, %all.heads
  %tokens.up = add i64 %tokens, {LAST - 1}
  %columns = and i64 %tokens.up, {-LAST}
  %factor.at = call ptr @get.affine(ptr %work)
  %factor = load float, ptr %factor.at
  %picture.size = mul i64 %tokens, %width
  %picture.offset = mul i64 %picture, %picture.size
  %column = mul i64 %head, %channels
  %offset = add i64 %picture.offset, %column
  %head.queries = getelementptr float, ptr %queries, i64 %offset
  %head.keys = getelementptr float, ptr %keys, i64 %offset
  %head.values = getelementptr float, ptr %values, i64 %offset
  %head.result = getelementptr float, ptr %result, i64 %offset
  %keys.size = mul i64 %channels, %columns
  %values.size = mul i64 %channels, %tokens
  %scores.size = mul i64 %columns, {QUERIES}
  %mixed.size = mul i64 %channels, {QUERIES}
  %values.panels = getelementptr float, ptr %scratch, i64 %keys.size
  %scores = getelementptr float, ptr %values.panels, i64 %values.size
  %mixed = getelementptr float, ptr %scores, i64 %scores.size
  %sums = getelementptr float, ptr %mixed, i64 %mixed.size
  call void @pack.panels(ptr %head.keys, i64 %channels, i64 1, i64 %width, i64 %tokens, ptr %scratch)
  call void @pack.panels(ptr %head.values, i64 %tokens, i64 %width, i64 1, i64 %channels, ptr %values.panels)
  br label %some
some:
  %first = phi i64 [ 0, %entry ], [ %first.next, %some ]
  %left = sub i64 %tokens, %first
  %count = call i64 @llvm.smin.i64(i64 %left, i64 {QUERIES})
  %row = mul i64 %first, %width
  %from = getelementptr float, ptr %head.queries, i64 %row
  %to = getelementptr float, ptr %head.result, i64 %row
  call void @set.map(ptr %here, i64 0, ptr %from, i64 %channels, i64 %width, ptr %scratch)
  call void @rows(ptr %here, i64 1, i64 %count, ptr %scores, i64 %columns)
  call void @weights(ptr %scores, i64 %count, i64 %tokens, i64 %columns, float %factor, ptr %sums)
  call void @set.map(ptr %here, i64 0, ptr %scores, i64 %tokens, i64 %columns, ptr %values.panels)
  call void @rows(ptr %here, i64 1, i64 %count, ptr %mixed, i64 %channels)
  call void @divide(ptr %mixed, i64 %count, i64 %channels, i64 %width, ptr %sums, ptr %to)
  %first.next = add i64 %first, {QUERIES}
  %is.more = icmp slt i64 %first.next, %tokens
  br i1 %is.more, label %some, label %done
done:
  ret void
}}
"""
