"""LLVM's code for products of two matrices as they lie in memory, neither packed ahead.

Every thread packs what it is about to multiply by, a few numbers of one panel's columns, and multiplies all its rows
by that. The tiles are those of ``dfine_jax.cpu.codegen.product``.
"""

from dfine_jax.cpu.codegen.product import LAST, PANEL
from dfine_jax.cpu.codegen.registers import WIDEST, Registers
from dfine_jax.cpu.codegen.text import first_lanes

DEPTH = 256
"""Numbers of a column that are packed at a time: a panel of so many and a tile's rows fit the nearest cache."""

PACKED = (DEPTH + WIDEST) * PANEL
"""Numbers of a thread's memory for what it packs, with those that transposing writes beyond the end."""


def matrices(layout: Registers) -> str:
    """``@matrices``, which XLA's handler calls, and what it calls. ``@pack`` is in ``packing.py``."""
    return "\n".join([_unpad(layout.lanes), _PANEL, _CHUNK, _CALL])


def _unpad(lanes: int) -> str:
    """A function that takes rows of a panel's width to where narrower ones belong."""
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    return f"""
define internal void @unpad(ptr %from, i64 %panel, i64 %rows, ptr %to, i64 %columns, i64 %width) {{
entry:
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %row.end ]
  %from.offset = mul i64 %index, %panel
  %row.from = getelementptr float, ptr %from, i64 %from.offset
  %to.offset = mul i64 %index, %width
  %row.to = getelementptr float, ptr %to, i64 %to.offset
  br label %some
some:
  %column = phi i64 [ 0, %row ], [ %column.next, %some ]
  {first_lanes(lanes, "are.real", "%column", "%columns")}
  %at = getelementptr float, ptr %row.from, i64 %column
  %x = load {vector}, ptr %at, align 4
  %to.at = getelementptr float, ptr %row.to, i64 %column
  call void @llvm.masked.store.{suffix}.p0({vector} %x, ptr %to.at, i32 4, {mask} %are.real)
  %column.next = add i64 %column, {lanes}
  %is.more = icmp slt i64 %column.next, %columns
  br i1 %is.more, label %some, label %row.end
row.end:
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %rows
  br i1 %is.another, label %row, label %done
done:
  ret void
}}
"""


_PANEL = f"""
; Adds to so many rows of a panel's columns, or begins their sums.
define internal void @add.panel(ptr %map, i1 %is.narrow, i64 %rows, ptr %to, i64 %width, i64 %step, i1 %is.begin) {{
  br i1 %is.narrow, label %narrow, label %wide
narrow:
  call void @columns.{LAST}(ptr %map, i64 1, i64 %rows, i64 0, ptr %to, i64 %width, i64 %step, i1 %is.begin)
  ret void
wide:
  call void @columns.{PANEL}(ptr %map, i64 1, i64 %rows, i64 0, ptr %to, i64 %width, i64 %step, i1 %is.begin)
  ret void
}}
"""

_CHUNK = f"""
; Some rows of one part of the sums, in which a picture's place is taken by the part.
define internal void @chunk.matrices(ptr %work, i64 %part, i64 %first, i64 %count, ptr %scratch) {{
entry:
  %here = alloca %Map
  %map = call ptr @map(ptr %work, i64 0)
  %base = call ptr @map.base(ptr %map)
  %pitch = call i64 @map.pitch(ptr %map)
  %kernel = call ptr @map.kernel(ptr %map)
  %depth = call i64 @get.depth(ptr %work)
  %share = call i64 @get.share(ptr %work)
  %step = call i64 @get.step(ptr %work)
  %down = call i64 @get.down(ptr %work)
  %across = call i64 @get.across(ptr %work)
  %outputs = call i64 @get.outputs(ptr %work)
  %rows = call i64 @get.rows(ptr %work)
  %begin = mul i64 %part, %share
  %begin.next = add i64 %begin, %share
  %end = call i64 @llvm.smin.i64(i64 %begin.next, i64 %depth)
  %rows.above = mul i64 %part, %rows
  %row = add i64 %rows.above, %first
  %row.offset = mul i64 %row, %outputs
  %all = call ptr @get.result(ptr %work)
  %result = getelementptr float, ptr %all, i64 %row.offset
  %from.offset = mul i64 %first, %pitch
  %from = getelementptr float, ptr %base, i64 %from.offset
  %padded = getelementptr float, ptr %scratch, i64 {PACKED}
  br label %block
block:
  %number = phi i64 [ %begin, %entry ], [ %number.next, %block.end ]
  %number.next = add i64 %number, {DEPTH}
  %left = sub i64 %end, %number
  %numbers = call i64 @llvm.smin.i64(i64 %left, i64 {DEPTH})
  %is.begin = icmp eq i64 %number, %begin
  %is.more = icmp slt i64 %number.next, %end
  %number.offset = mul i64 %number, %step
  %block.from = getelementptr float, ptr %from, i64 %number.offset
  call void @set.map(ptr %here, i64 0, ptr %block.from, i64 %numbers, i64 %pitch, ptr %scratch)
  %down.offset = mul i64 %number, %down
  %block.kernel = getelementptr float, ptr %kernel, i64 %down.offset
  br label %panel
panel:
  %column = phi i64 [ 0, %block ], [ %column.next, %panel.end ]
  %column.next = add i64 %column, {PANEL}
  %columns.left = sub i64 %outputs, %column
  %columns = call i64 @llvm.smin.i64(i64 %columns.left, i64 {PANEL})
  %is.narrow = icmp sle i64 %columns, {LAST}
  %panel.width = select i1 %is.narrow, i64 {LAST}, i64 {PANEL}
  %is.whole = icmp eq i64 %columns, %panel.width
  %result.at = getelementptr float, ptr %result, i64 %column
  %to = select i1 %is.whole, ptr %result.at, ptr %padded
  %width = select i1 %is.whole, i64 %outputs, i64 %panel.width
  %across.offset = mul i64 %column, %across
  %panel.kernel = getelementptr float, ptr %block.kernel, i64 %across.offset
  call void @pack(ptr %panel.kernel, i64 %numbers, i64 %down, i64 %across, i64 %columns, ptr %scratch)
  call void @add.panel(ptr %here, i1 %is.narrow, i64 %count, ptr %to, i64 %width, i64 %step, i1 %is.begin)
  %is.there = or i1 %is.whole, %is.more
  br i1 %is.there, label %panel.end, label %unpad
unpad:
  call void @unpad(ptr %padded, i64 %panel.width, i64 %count, ptr %result.at, i64 %columns, i64 %outputs)
  br label %panel.end
panel.end:
  %is.panel = icmp slt i64 %column.next, %outputs
  br i1 %is.panel, label %panel, label %block.end
block.end:
  br i1 %is.more, label %block, label %done
done:
  ret void
}}
"""

_CALL = """
; Of two matrices to (parts, rows, columns), whose sum over parts is the product. Attributes: across, depth, down,
; pitch, share, size, step.
define internal void @matrices(ptr %frame, ptr %finish) {
  %work = call ptr @new.work(ptr %frame, ptr @chunk.matrices)
  %left = call ptr @data(ptr %frame, i32 0, i64 0)
  %right = call ptr @data(ptr %frame, i32 0, i64 1)
  %parts = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 0)
  %rows = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 1)
  %across = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.matrices.across)
  %depth = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.matrices.depth)
  %down = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.matrices.down)
  %pitch = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.matrices.pitch)
  %share = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.matrices.share)
  %size = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.matrices.size)
  %step = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.matrices.step)
  call void @set.across(ptr %work, i64 %across)
  call void @set.depth(ptr %work, i64 %depth)
  call void @set.down(ptr %work, i64 %down)
  call void @set.share(ptr %work, i64 %share)
  call void @set.size(ptr %work, i64 %size)
  call void @set.step(ptr %work, i64 %step)
  %map = call ptr @map(ptr %work, i64 0)
  call void @set.map(ptr %map, i64 0, ptr %left, i64 %depth, i64 %pitch, ptr %right)
  call void @share(ptr %frame, ptr %work, i64 %parts, i64 %rows)
  ret void
}
"""
