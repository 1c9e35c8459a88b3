"""LLVM's code for one head of an attention: its scores and what it mixes never leave a thread's own memory.

Keys, a column each, and values are packed first, see ``dfine_jax.cpu.codegen.packing``, and ``@rows`` multiplies both.
"""

from dfine_jax.cpu.codegen.exponential import exponential
from dfine_jax.cpu.codegen.product import LAST
from dfine_jax.cpu.codegen.registers import Registers
from dfine_jax.cpu.codegen.scratch import QUERIES_OF_HEAD
from dfine_jax.cpu.codegen.text import first_lanes, loop


def attention(layout: Registers) -> str:
    """``@chunk.attention``, which computes one head of one picture, and what it calls."""
    return _largest(layout.lanes) + _weights(layout.lanes) + _mixed(layout.lanes) + _chunk()


def _largest(lanes: int) -> str:
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    none = "<" + ", ".join(["float 0xFFF0000000000000"] * lanes) + ">"
    some = f"""
  {first_lanes(lanes, "are.real", "%index", "%count")}
  %at = getelementptr float, ptr %from, i64 %index
  %x = call {vector} @llvm.masked.load.{suffix}.p0(ptr %at, i32 4, {mask} %are.real, {vector} {none})
  %is.larger = fcmp ogt {vector} %x, %largest
  %largest.next = select {mask} %is.larger, {vector} %x, {vector} %largest
"""
    return f"""
declare float @llvm.vector.reduce.fmax.{suffix}({vector})

define internal float @largest(ptr %from, i64 %count) {{
entry:
{loop("some", "index", "%count", some, step=lanes, carried={"largest": (vector, none)})}
  %top = call nnan float @llvm.vector.reduce.fmax.{suffix}({vector} %largest.next)
  ret float %top
}}
"""


def _weights(lanes: int) -> str:
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    none = "<" + ", ".join(["float 0xFFF0000000000000"] * lanes) + ">"
    fill = f"""
  {first_lanes(lanes, "are.real", "%filled", "%tokens")}
  %fill.at = getelementptr float, ptr %from, i64 %filled
  %real = load {vector}, ptr %fill.at, align 4
  %whole = select {mask} %are.real, {vector} %real, {vector} {none}
  store {vector} %whole, ptr %fill.at, align 4
"""
    some = f"""
  %place.at = getelementptr float, ptr %from, i64 %place
  %score = load {vector}, ptr %place.at, align 4
  %below = fsub {vector} %score, %tops
  %power = fmul {vector} %below, %factors
  {exponential(lanes, "power", "weight")}
  store {vector} %weight, ptr %place.at, align 4
  %sum.next = fadd {vector} %sum, %weight
"""
    zero = {"sum": (vector, "zeroinitializer")}
    row = f"""
  %offset = mul i64 %index, %columns
  %from = getelementptr float, ptr %scores, i64 %offset
{loop("fill", "filled", "%columns", fill, start="%last", step=lanes, before="row")}
  %top = call float @largest(ptr %from, i64 %tokens)
  %tops = call {vector} @splat(float %top)
{loop("some", "place", "%columns", some, step=lanes, before="fill.end", carried=zero)}
  %total = call reassoc float @llvm.vector.reduce.fadd.{suffix}(float 0.0, {vector} %sum.next)
  %to = getelementptr float, ptr %sums, i64 %index
  store float %total, ptr %to, align 4
"""
    return f"""
; Rows of scores become weights of the softmax that are not divided yet by their sums, which are stored. What fills the
; last panel counts as less than any score, of which nothing is left.
define internal void @weights(ptr %scores, i64 %rows, i64 %tokens, i64 %columns, float %factor, ptr %sums) {{
entry:
  %factors = call {vector} @splat(float %factor)
  %last = sub i64 %columns, {LAST}
{loop("row", "index", "%rows", row, last="some.end")}
  ret void
}}
"""


def _mixed(lanes: int) -> str:
    vector = f"<{lanes} x float>"
    some = f"""
  %at = getelementptr float, ptr %from, i64 %number
  %x = load {vector}, ptr %at, align 4
  %y = fmul {vector} %x, %factor
  %to.at = getelementptr float, ptr %to, i64 %number
  store {vector} %y, ptr %to.at, align 4
"""
    row = f"""
  %from.offset = mul i64 %index, %channels
  %from = getelementptr float, ptr %mixed, i64 %from.offset
  %to.offset = mul i64 %index, %width
  %to = getelementptr float, ptr %result, i64 %to.offset
  %sum.at = getelementptr float, ptr %sums, i64 %index
  %sum = load float, ptr %sum.at, align 4
  %inverse = fdiv float 1.0, %sum
  %factor = call {vector} @splat(float %inverse)
{loop("some", "number", "%channels", some, step=lanes, before="row")}
"""
    return f"""
; Divides sums of weighted values by the sums of weights.
define internal void @divide(ptr %mixed, i64 %rows, i64 %channels, i64 %width, ptr %sums, ptr %result) {{
entry:
{loop("row", "index", "%rows", row, last="some.end")}
  ret void
}}
"""


def _chunk() -> str:
    some = f"""
  %left = sub i64 %tokens, %first
  %count = call i64 @llvm.smin.i64(i64 %left, i64 {QUERIES_OF_HEAD})
  %row = mul i64 %first, %width
  %from = getelementptr float, ptr %head.queries, i64 %row
  %to = getelementptr float, ptr %head.result, i64 %row
  call void @set.map(ptr %here, i64 0, ptr %from, i64 %channels, i64 %width, ptr %packed.keys)
  call void @rows(ptr %here, i64 1, i64 %count, ptr %scores, i64 %columns)
  call void @weights(ptr %scores, i64 %count, i64 %tokens, i64 %columns, float %factor, ptr %sums)
  call void @set.map(ptr %here, i64 0, ptr %scores, i64 %tokens, i64 %columns, ptr %packed.values)
  call void @rows(ptr %here, i64 1, i64 %count, ptr %mixed, i64 %channels)
  call void @divide(ptr %mixed, i64 %count, i64 %channels, i64 %width, ptr %sums, ptr %to)
"""
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
  SCRATCH.attention
  call void @pack.panels(ptr %head.keys, i64 %channels, i64 1, i64 %width, i64 %tokens, ptr %packed.keys)
  call void @pack.panels(ptr %head.values, i64 %tokens, i64 %width, i64 1, i64 %channels, ptr %packed.values)
{loop("some", "first", "%tokens", some, step=QUERIES_OF_HEAD)}
  ret void
}}
"""
