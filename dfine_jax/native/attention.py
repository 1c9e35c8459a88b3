"""LLVM's code for one head of an attention: its scores and what it mixes never leave a thread's own memory.

Keys and values are put in panels first, see ``dfine_jax.native.product``, whose ``@rows`` multiplies both.
"""

from dfine_jax.native.exponential import exponential
from dfine_jax.native.product import LAST, PANEL, whole_columns
from dfine_jax.native.registers import Registers
from dfine_jax.native.text import first_lanes

QUERIES = 24
"""Whose scores a thread has at a time."""


def scratch_of_head(tokens: int, channels: int) -> int:
    """Numbers in a thread's own memory: keys, values, some scores, what they mix, and the sums of weights."""
    return (channels + QUERIES) * whole_columns(tokens) + channels * tokens + QUERIES * (channels + 1)


def attention(layout: Registers) -> str:
    """``@chunk.attention``, which computes one head of one picture, and what it calls."""
    return _keys() + _values(layout.lanes) + _weights(layout.lanes) + _mixed(layout.lanes) + _chunk()


def _keys() -> str:
    return f"""
; In panels, a column a key. Those that fill the last panel are zeros.
define internal void @put.keys(ptr %from, i64 %tokens, i64 %columns, i64 %channels, i64 %width, ptr %to) {{
entry:
  br label %key
key:
  %index = phi i64 [ 0, %entry ], [ %index.next, %key.end ]
  %source = phi ptr [ %from, %entry ], [ %source.next, %key.end ]
  %is.real = icmp slt i64 %index, %tokens
  %place = and i64 %index, {PANEL - 1}
  %start = sub i64 %index, %place
  %left = sub i64 %columns, %start
  %is.whole = icmp sge i64 %left, {PANEL}
  %step = select i1 %is.whole, i64 {PANEL}, i64 {LAST}
  %panel.offset = mul i64 %start, %channels
  %offset = add i64 %panel.offset, %place
  %target.first = getelementptr float, ptr %to, i64 %offset
  br label %channel
channel:
  %number = phi i64 [ 0, %key ], [ %number.next, %store ]
  %target = phi ptr [ %target.first, %key ], [ %target.next, %store ]
  br i1 %is.real, label %load, label %store
load:
  %at = getelementptr float, ptr %source, i64 %number
  %loaded = load float, ptr %at, align 4
  br label %store
store:
  %x = phi float [ 0.0, %channel ], [ %loaded, %load ]
  store float %x, ptr %target, align 4
  %target.next = getelementptr float, ptr %target, i64 %step
  %number.next = add i64 %number, 1
  %is.more = icmp slt i64 %number.next, %channels
  br i1 %is.more, label %channel, label %key.end
key.end:
  %source.next = getelementptr float, ptr %source, i64 %width
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %columns
  br i1 %is.another, label %key, label %done
done:
  ret void
}}
"""


def _values(lanes: int) -> str:
    vector = f"<{lanes} x float>"
    return f"""
; In panels, a column a channel.
define internal void @put.values(ptr %from, i64 %tokens, i64 %channels, i64 %width, ptr %to) {{
entry:
  br label %panel
panel:
  %start = phi i64 [ 0, %entry ], [ %start.next, %panel.end ]
  %target.panel = phi ptr [ %to, %entry ], [ %target.next, %panel.end ]
  %left = sub i64 %channels, %start
  %is.whole = icmp sge i64 %left, {PANEL}
  %step = select i1 %is.whole, i64 {PANEL}, i64 {LAST}
  %source.panel = getelementptr float, ptr %from, i64 %start
  br label %row
row:
  %index = phi i64 [ 0, %panel ], [ %index.next, %row.end ]
  %source = phi ptr [ %source.panel, %panel ], [ %source.next, %row.end ]
  %target = phi ptr [ %target.panel, %panel ], [ %target.next, %row.end ]
  br label %some
some:
  %number = phi i64 [ 0, %row ], [ %number.next, %some ]
  %at = getelementptr float, ptr %source, i64 %number
  %x = load {vector}, ptr %at, align 4
  %to.at = getelementptr float, ptr %target, i64 %number
  store {vector} %x, ptr %to.at, align 4
  %number.next = add i64 %number, {lanes}
  %is.more = icmp slt i64 %number.next, %step
  br i1 %is.more, label %some, label %row.end
row.end:
  %source.next = getelementptr float, ptr %source, i64 %width
  %target.next = getelementptr float, ptr %target, i64 %step
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %tokens
  br i1 %is.another, label %row, label %panel.end
panel.end:
  %start.next = add i64 %start, %step
  %is.panel = icmp slt i64 %start.next, %channels
  br i1 %is.panel, label %panel, label %done
done:
  ret void
}}
"""


def _weights(lanes: int) -> str:
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    none = "<" + ", ".join(["float 0xFFF0000000000000"] * lanes) + ">"
    return f"""
declare float @llvm.vector.reduce.fmax.{suffix}({vector})

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
  br i1 %is.unfilled, label %fill, label %compare
compare:
  %column = phi i64 [ 0, %fill ], [ %column.next, %compare ]
  %largest = phi {vector} [ {none}, %fill ], [ %largest.next, %compare ]
  %at = getelementptr float, ptr %from, i64 %column
  %x = load {vector}, ptr %at, align 4
  %is.larger = fcmp ogt {vector} %x, %largest
  %largest.next = select {mask} %is.larger, {vector} %x, {vector} %largest
  %column.next = add i64 %column, {lanes}
  %is.more = icmp slt i64 %column.next, %columns
  br i1 %is.more, label %compare, label %compared
compared:
  %top = call nnan float @llvm.vector.reduce.fmax.{suffix}({vector} %largest.next)
  %tops = call {vector} @splat(float %top)
  br label %some
some:
  %place = phi i64 [ 0, %compared ], [ %place.next, %some ]
  %sum = phi {vector} [ zeroinitializer, %compared ], [ %sum.next, %some ]
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
  call void @put.keys(ptr %head.keys, i64 %tokens, i64 %columns, i64 %channels, i64 %width, ptr %scratch)
  call void @put.values(ptr %head.values, i64 %tokens, i64 %channels, i64 %width, ptr %values.panels)
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
