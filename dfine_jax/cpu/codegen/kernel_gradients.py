"""LLVM's code for gradients of convolutions' kernels.

What a row of a kernel covers in a row of a map lies together, as for ``@chunk.rows``: for each row of the result, each
of the kernel's gets a product of the map's row, transposed, and the gradient's.
"""

from dfine_jax.cpu.codegen.matrices import over_panels
from dfine_jax.cpu.codegen.scratch import DEPTH
from dfine_jax.cpu.codegen.text import loop
from dfine_jax.cpu.codegen.work import fields


def kernel_gradients() -> str:
    """``@kernel.gradients``, which XLA's handler calls, and what it calls."""
    return _rows() + _chunk() + _CALL


def _rows() -> str:
    row = """
  %which = add i64 %top, %index
  %begin.offset = mul i64 %index, %size
  %begin = getelementptr float, ptr %to, i64 %begin.offset
  %is.there = icmp ult i64 %which, %height
  br i1 %is.there, label %there, label %outside
outside:
  call ptr @memset(ptr %begin, i32 0, i64 %bytes)
  br label %next
there:
  %from.row = add i64 %above, %which
  %from.offset = mul i64 %from.row, %row.size
  %from = getelementptr float, ptr %base, i64 %from.offset
  call void @padded(ptr %from, i64 0, i64 %width, i64 %channels, i64 %first, i64 %cells, ptr %begin)
  br label %next
next:
"""
    return f"""
; As many rows of a picture's map as a kernel has, from one on, each with its padding to so many cells.
define internal void @padded.rows(ptr %work, i64 %picture, i64 %top, i64 %cells, ptr %to) {{
entry:
  %map = call ptr @map(ptr %work, i64 0)
  %base = call ptr @map.base(ptr %map)
  %channels = call i64 @map.numbers(ptr %map)
  {fields("taps", "height", "width", "low")}
  %first = sub i64 0, %low
  %above = mul i64 %picture, %height
  %row.size = mul i64 %width, %channels
  %size = mul i64 %cells, %channels
  %bytes = mul i64 %size, 4
{loop("row", "index", "%taps", row, last="next")}
  ret void
}}
"""


def _chunk() -> str:
    tap = """
  %tap.offset = mul i64 %tap.index, %row_size
  %tap.from = getelementptr float, ptr %from, i64 %tap.offset
  %to.offset = mul i64 %tap.index, %each
  %tap.to = getelementptr float, ptr %to, i64 %to.offset
  call void @set.map(ptr %here, i64 0, ptr %tap.from, i64 %numbers, i64 1, ptr %packed)
  call void @add.panel(ptr %here, i1 %is.narrow, i64 %covered, ptr %tap.to, i64 %width, i64 %step, i1 %is.begin)
"""
    panel = f"""
  %each = mul i64 %covered, %width
  %panel.from = getelementptr float, ptr %gradient.block, i64 %column
  call void @pack(ptr %panel.from, i64 %numbers, i64 %outputs, i64 1, i64 %columns, ptr %packed)
{loop("tap", "tap.index", "%taps", tap, before="panel")}
"""
    block = f"""
  %left = sub i64 %wide, %cell
  %numbers = call i64 @llvm.smin.i64(i64 %left, i64 {DEPTH})
  %is.first.block = icmp eq i64 %cell, 0
  %is.begin = and i1 %is.first.row, %is.first.block
  %from.offset = mul i64 %cell, %step
  %from = getelementptr float, ptr %padded, i64 %from.offset
  %gradient.cell = add i64 %cells.above, %cell
  %gradient.offset = mul i64 %gradient.cell, %outputs
  %gradient.block = getelementptr float, ptr %gradient, i64 %gradient.offset
{over_panels(panel, before="block", last="tap.end")}
"""
    row = f"""
  %picture = sdiv i64 %row.index, %high
  %place = srem i64 %row.index, %high
  %place.strided = mul i64 %place, %stride
  %top = sub i64 %place.strided, %low
  call void @padded.rows(ptr %work, i64 %picture, i64 %top, i64 %cells, ptr %padded)
  %cells.above = mul i64 %row.index, %wide
  %is.first.row = icmp eq i64 %row.index, %begin
{loop("block", "cell", "%wide", block, step=DEPTH, before="row", last="panel.end")}
"""
    return f"""
; Of one part of the rows of all pictures' results, in which a picture's place is taken by the part.
define internal void @chunk.gradients(ptr %work, i64 %part, i64 %first, i64 %count, ptr %scratch) {{
entry:
  %here = alloca %Map
  %map = call ptr @map(ptr %work, i64 0)
  %channels = call i64 @map.numbers(ptr %map)
  %gradient = call ptr @map.kernel(ptr %map)
  {fields("depth", "share", "taps", "stride", "low", "high", "wide", "outputs")}
  %covered = mul i64 %taps, %channels
  %step = mul i64 %stride, %channels
  %wide.less = sub i64 %wide, 1
  %last.cell = mul i64 %wide.less, %stride
  %cells = add i64 %last.cell, %taps
  %row_size = mul i64 %cells, %channels
  SCRATCH.gradients
  %kernel.rows = mul i64 %taps, %covered
  %kernel.size = mul i64 %kernel.rows, %outputs
  %result.offset = mul i64 %part, %kernel.size
  %all = call ptr @get.result(ptr %work)
  %result = getelementptr float, ptr %all, i64 %result.offset
  %begin = mul i64 %part, %share
  %begin.next = add i64 %begin, %share
  %end = call i64 @llvm.smin.i64(i64 %begin.next, i64 %depth)
{loop("row", "row.index", "%end", row, start="%begin", last="block.end")}
  br i1 %is.whole, label %done, label %unpad
unpad:
  call void @unpad(ptr %beyond, i64 %panel.width, i64 %kernel.rows, ptr %result.at, i64 %columns, i64 %outputs)
  br label %done
done:
  ret void
}}
"""


_CALL = """
; Of maps (pictures, height, width, channels in) and gradients (pictures, height, width, channels out) to (parts, rows
; of the kernel, columns times channels in, channels out), whose sum over parts it is. Attributes: low, share, stride.
define internal void @kernel.gradients(ptr %frame, ptr %finish) {
  %work = call ptr @new.work(ptr %frame, ptr @chunk.gradients)
  %base = call ptr @data(ptr %frame, i32 0, i64 0)
  %gradient = call ptr @data(ptr %frame, i32 0, i64 1)
  %height = call i64 @dimension(ptr %frame, i32 0, i64 0, i64 1)
  %width = call i64 @dimension(ptr %frame, i32 0, i64 0, i64 2)
  %channels = call i64 @dimension(ptr %frame, i32 0, i64 0, i64 3)
  %pictures = call i64 @dimension(ptr %frame, i32 0, i64 1, i64 0)
  %high = call i64 @dimension(ptr %frame, i32 0, i64 1, i64 1)
  %wide = call i64 @dimension(ptr %frame, i32 0, i64 1, i64 2)
  %parts = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 0)
  %taps = call i64 @dimension(ptr %frame, i32 1, i64 0, i64 1)
  %low = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.gradients.low)
  %share = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.gradients.share)
  %stride = call i64 @attribute(ptr %frame, i64 ATTRIBUTE.gradients.stride)
  %depth = mul i64 %pictures, %high
  call void @set.height(ptr %work, i64 %height)
  call void @set.width(ptr %work, i64 %width)
  call void @set.high(ptr %work, i64 %high)
  call void @set.wide(ptr %work, i64 %wide)
  call void @set.taps(ptr %work, i64 %taps)
  call void @set.low(ptr %work, i64 %low)
  call void @set.stride(ptr %work, i64 %stride)
  call void @set.depth(ptr %work, i64 %depth)
  call void @set.share(ptr %work, i64 %share)
  call void @set.size(ptr %work, i64 1)
  %map = call ptr @map(ptr %work, i64 0)
  call void @set.map(ptr %map, i64 0, ptr %base, i64 %channels, i64 %channels, ptr %gradient)
  call void @share(ptr %frame, ptr %work, i64 %parts, i64 1)
  ret void
}
"""
