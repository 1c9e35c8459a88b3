"""LLVM's code for products of two matrices as they lie in memory, neither packed ahead.

Every thread packs what it is about to multiply by, a few numbers of one panel's columns, and multiplies all its rows
by that. The tiles are those of ``dfine_jax.cpu.codegen.product``.
"""

from dfine_jax.cpu.codegen.product import LAST, PANEL
from dfine_jax.cpu.codegen.registers import Registers
from dfine_jax.cpu.codegen.scratch import DEPTH
from dfine_jax.cpu.codegen.text import first_lanes, loop
from dfine_jax.cpu.codegen.work import fields


def matrices(layout: Registers) -> str:
    """``@matrices``, which XLA's handler calls, and what it calls. ``@pack`` is in ``packing.py``."""
    return "\n".join([_unpad(layout.lanes), _PANEL, _chunk(), _CALL])


def over_panels(body: str, *, before: str, last: str | None = None) -> str:
    """A loop over panels of ``%outputs`` columns of ``%result``: what is computed of one goes to ``%to``.

    Rows of ``%to`` are ``%width`` apart. It is ``%beyond`` where the columns don't fill a panel, of which only
    ``%columns`` are to be kept then: not ``%is.whole``. ``before`` and ``last`` are as in ``loop``.
    """
    begun = f"""
  %columns.left = sub i64 %outputs, %column
  %columns = call i64 @llvm.smin.i64(i64 %columns.left, i64 {PANEL})
  %is.narrow = icmp sle i64 %columns, {LAST}
  %panel.width = select i1 %is.narrow, i64 {LAST}, i64 {PANEL}
  %is.whole = icmp eq i64 %columns, %panel.width
  %result.at = getelementptr float, ptr %result, i64 %column
  %to = select i1 %is.whole, ptr %result.at, ptr %beyond
  %width = select i1 %is.whole, i64 %outputs, i64 %panel.width
"""
    return loop("panel", "column", "%outputs", begun + body, step=PANEL, before=before, last=last)


def beyond_size(outputs: int, rows: int) -> int:
    """Numbers of ``%beyond``, see ``over_panels``, for so many rows: none where the columns fill all panels."""
    return 0 if outputs % LAST == 0 else rows * PANEL


def _unpad(lanes: int) -> str:
    """A function that takes rows of a panel's width to where narrower ones belong."""
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    some = f"""
  {first_lanes(lanes, "are.real", "%column", "%columns")}
  %at = getelementptr float, ptr %row.from, i64 %column
  %x = load {vector}, ptr %at, align 4
  %to.at = getelementptr float, ptr %row.to, i64 %column
  call void @llvm.masked.store.{suffix}.p0({vector} %x, ptr %to.at, i32 4, {mask} %are.real)
"""
    row = f"""
  %from.offset = mul i64 %index, %panel
  %row.from = getelementptr float, ptr %from, i64 %from.offset
  %to.offset = mul i64 %index, %width
  %row.to = getelementptr float, ptr %to, i64 %to.offset
{loop("some", "column", "%columns", some, step=lanes, before="row")}
"""
    return f"""
define internal void @unpad(ptr %from, i64 %panel, i64 %rows, ptr %to, i64 %columns, i64 %width) {{
entry:
{loop("row", "index", "%rows", row, last="some.end")}
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


def _chunk() -> str:
    panel = """
  %across.offset = mul i64 %column, %across
  %panel.kernel = getelementptr float, ptr %block.kernel, i64 %across.offset
  call void @pack(ptr %panel.kernel, i64 %numbers, i64 %down, i64 %across, i64 %columns, ptr %packed)
  call void @add.panel(ptr %here, i1 %is.narrow, i64 %count, ptr %to, i64 %width, i64 %step, i1 %is.begin)
  %is.there = or i1 %is.whole, %is.unfinished
  br i1 %is.there, label %there, label %unpad
unpad:
  call void @unpad(ptr %beyond, i64 %panel.width, i64 %count, ptr %result.at, i64 %columns, i64 %outputs)
  br label %there
there:
"""
    block = f"""
  %left = sub i64 %end, %number
  %numbers = call i64 @llvm.smin.i64(i64 %left, i64 {DEPTH})
  %is.begin = icmp eq i64 %number, %begin
  %is.unfinished = icmp sgt i64 %left, {DEPTH}
  %number.offset = mul i64 %number, %step
  %block.from = getelementptr float, ptr %from, i64 %number.offset
  call void @set.map(ptr %here, i64 0, ptr %block.from, i64 %numbers, i64 %pitch, ptr %packed)
  %down.offset = mul i64 %number, %down
  %block.kernel = getelementptr float, ptr %kernel, i64 %down.offset
{over_panels(panel, before="block", last="there")}
"""
    return f"""
; Some rows of one part of the sums, in which a picture's place is taken by the part.
define internal void @chunk.matrices(ptr %work, i64 %part, i64 %first, i64 %count, ptr %scratch) {{
entry:
  %here = alloca %Map
  %map = call ptr @map(ptr %work, i64 0)
  %base = call ptr @map.base(ptr %map)
  %pitch = call i64 @map.pitch(ptr %map)
  %kernel = call ptr @map.kernel(ptr %map)
  {fields("depth", "share", "step", "down", "across", "outputs", "rows")}
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
  SCRATCH.matrices
{loop("block", "number", "%end", block, start="%begin", step=DEPTH, last="panel.end")}
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
