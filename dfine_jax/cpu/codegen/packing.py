"""LLVM's code that puts columns of a matrix in panels, in a thread's own memory."""

from collections.abc import Iterator

from dfine_jax.cpu.codegen.product import LAST, PANEL
from dfine_jax.cpu.codegen.registers import Registers
from dfine_jax.cpu.codegen.text import first_lanes, lines


def packing(layout: Registers) -> str:
    """``@pack``, which packs one panel's columns or fewer, and ``@pack.panels``, which packs all that a matrix has.

    From number to number of a column it goes ``%down``, from column to column ``%across``, of which one is 1. Panels
    are as wide as ``product.py`` wants them, and what fills the last one up is anything. Where columns
    lie along memory, whole registers are written: beyond the numbers too.
    """
    return "\n".join([*(_pack(layout.lanes, panel) for panel in (PANEL, LAST)), _ONE, _ALL])


def _pack(lanes: int, panel: int) -> str:
    """A function that packs some numbers of some columns; what fills the panel up is anything."""
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    load = f"@llvm.masked.load.{suffix}.p0"
    parts, rows = range(panel // lanes), range(lanes)
    return f"""
define internal void @pack.{panel}(ptr %from, i64 %numbers, i64 %down, i64 %across, i64 %columns, ptr %to) {{
entry:
  %is.along = icmp eq i64 %across, 1
  br i1 %is.along, label %along, label %column
along:
  {lines(first_lanes(lanes, f"real.{i}", str(i * lanes), "%columns") for i in parts)}
  br label %row
row:
  %index = phi i64 [ 0, %along ], [ %index.next, %row ]
  %row.offset = mul i64 %index, %down
  %row.from = getelementptr float, ptr %from, i64 %row.offset
  %to.offset = mul i64 %index, {panel}
  %row.to = getelementptr float, ptr %to, i64 %to.offset
  {lines(f"%row.from.{i} = getelementptr float, ptr %row.from, i64 {i * lanes}" for i in parts)}
  {lines(f"%row.to.{i} = getelementptr float, ptr %row.to, i64 {i * lanes}" for i in parts)}
  {
        lines(
            f"%row.{i} = call {vector} {load}(ptr %row.from.{i}, i32 4, {mask} %real.{i}, {vector} zeroinitializer)"
            for i in parts
        )
    }
  {lines(f"store {vector} %row.{i}, ptr %row.to.{i}, align 4" for i in parts)}
  %index.next = add i64 %index, 1
  %is.row = icmp slt i64 %index.next, %numbers
  br i1 %is.row, label %row, label %done
column:
  %column.0 = phi i64 [ 0, %entry ], [ %column.next, %square.end ]
  %last = sub i64 %columns, 1
  {lines(f"%column.{i} = add i64 %column.0, {i}" for i in rows[1:])}
  {lines(f"%there.{i} = call i64 @llvm.smin.i64(i64 %column.{i}, i64 %last)" for i in rows)}
  {lines(f"%offset.{i} = mul i64 %there.{i}, %across" for i in rows)}
  {lines(f"%from.{i} = getelementptr float, ptr %from, i64 %offset.{i}" for i in rows)}
  %column.to = getelementptr float, ptr %to, i64 %column.0
  br label %square
square:
  %number = phi i64 [ 0, %column ], [ %number.next, %square ]
  {first_lanes(lanes, "are.numbers", "%number", "%numbers")}
  {lines(f"%at.{i} = getelementptr float, ptr %from.{i}, i64 %number" for i in rows)}
  {
        lines(
            f"%x.{i}.1 = call {vector} {load}(ptr %at.{i}, i32 4, {mask} %are.numbers, {vector} zeroinitializer)"
            for i in rows
        )
    }
  {lines(_transposed(lanes))}
  %square.offset = mul i64 %number, {panel}
  %to.0 = getelementptr float, ptr %column.to, i64 %square.offset
  {lines(f"%to.{i} = getelementptr float, ptr %to.0, i64 {i * panel}" for i in rows[1:])}
  {lines(f"store {vector} %x.{i}.{lanes}, ptr %to.{i}, align 4" for i in rows)}
  %number.next = add i64 %number, {lanes}
  %is.more = icmp slt i64 %number.next, %numbers
  br i1 %is.more, label %square, label %square.end
square.end:
  %column.next = add i64 %column.0, {lanes}
  %is.another = icmp slt i64 %column.next, %columns
  br i1 %is.another, label %column, label %done
done:
  ret void
}}
"""


def _transposed(lanes: int) -> Iterator[str]:
    """From rows ``%x.i.1`` of a square to its columns ``%x.i.lanes``: each step swaps blocks of twice the size."""
    vector = f"<{lanes} x float>"
    size = 1
    while size < lanes:
        kept = [lane if not lane & size else lanes + lane - size for lane in range(lanes)]
        given = [lane + size if not lane & size else lanes + lane for lane in range(lanes)]
        for i in (i for i in range(lanes) if not i & size):
            pair = f"{vector} %x.{i}.{size}, {vector} %x.{i + size}.{size}"
            for name, places in ((i, kept), (i + size, given)):
                mask = ", ".join(f"i32 {place}" for place in places)
                yield f"%x.{name}.{2 * size} = shufflevector {pair}, <{lanes} x i32> <{mask}>"
        size *= 2


_ONE = f"""
define internal void @pack(ptr %from, i64 %numbers, i64 %down, i64 %across, i64 %columns, ptr %to) {{
  %is.narrow = icmp sle i64 %columns, {LAST}
  br i1 %is.narrow, label %narrow, label %wide
narrow:
  call void @pack.{LAST}(ptr %from, i64 %numbers, i64 %down, i64 %across, i64 %columns, ptr %to)
  ret void
wide:
  call void @pack.{PANEL}(ptr %from, i64 %numbers, i64 %down, i64 %across, i64 %columns, ptr %to)
  ret void
}}
"""

_ALL = f"""
define internal void @pack.panels(ptr %from, i64 %numbers, i64 %down, i64 %across, i64 %columns, ptr %to) {{
entry:
  br label %panel
panel:
  %column = phi i64 [ 0, %entry ], [ %column.next, %panel ]
  %left = sub i64 %columns, %column
  %here = call i64 @llvm.smin.i64(i64 %left, i64 {PANEL})
  %from.offset = mul i64 %column, %across
  %panel.from = getelementptr float, ptr %from, i64 %from.offset
  %to.offset = mul i64 %column, %numbers
  %panel.to = getelementptr float, ptr %to, i64 %to.offset
  call void @pack(ptr %panel.from, i64 %numbers, i64 %down, i64 %across, i64 %here, ptr %panel.to)
  %column.next = add i64 %column, {PANEL}
  %is.more = icmp slt i64 %column.next, %columns
  br i1 %is.more, label %panel, label %done
done:
  ret void
}}
"""
