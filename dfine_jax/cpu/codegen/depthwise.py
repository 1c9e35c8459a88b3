"""LLVM's code for windows over each channel by itself: depthwise convolutions and maxima."""

import math
from collections.abc import Callable
from functools import partial
from itertools import chain

from dfine_jax.cpu.codegen.registers import Registers
from dfine_jax.cpu.codegen.text import lines, loaded, splat

CELLS = (8, 4, 1)
"""So many are summed at a time, in registers."""


def depthwise(layout: Registers) -> str:
    """``@depthwise`` and ``@maximum``, which take what ``@rows`` does, and what they call."""
    lanes, vector = layout.lanes, f"<{layout.lanes} x float>"

    def larger(x: str, _: str, so_far: str) -> str:
        return f"call {vector} @llvm.maximum.v{lanes}f32({vector} {x}, {vector} {so_far})"

    declared = f"declare {vector} @llvm.maximum.v{lanes}f32({vector}, {vector})"
    maximum = _function(lanes, "maximum", -math.inf, larger)
    return "\n".join([declared, _function(lanes, "depthwise", 0, partial(_added, lanes)), maximum])


def depthwise_of_narrow(layout: Registers) -> str:
    """``@depthwise.narrow``, which does what ``@depthwise`` does with maps in float16."""
    return _function(layout.lanes, "depthwise.narrow", 0, partial(_added, layout.lanes), is_narrow=True)


def _added(lanes: int, x: str, factor: str, so_far: str) -> str:
    vector = f"<{lanes} x float>"
    return f"call {vector} @llvm.fma.v{lanes}f32({vector} {x}, {vector} {factor}, {vector} {so_far})"


Step = Callable[[str, str, str], str]


def _function(lanes: int, name: str, start: float, step: Step, is_narrow: bool = False) -> str:
    """The function of this name, for maps in float16 if they are narrow, and what it calls."""
    some = [_some(lanes, count, name, start, step, is_narrow) for count in CELLS]
    return "\n".join([*some, _all(lanes, name)])


def _some(lanes: int, count: int, name: str, start: float, step: Step, is_narrow: bool) -> str:
    """A function that takes some cells' channels, as many as a register has lanes, over all rows of the window."""
    vector, cells, number = f"<{lanes} x float>", range(count), "half" if is_narrow else "float"
    return f"""
define internal void @{name}.{count}(ptr %maps, i64 %count, i64 %cell, i64 %channel, ptr %result, i64 %width) {{
entry:
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %row.end ]
  {lines(f"%so.far.{i} = phi {vector} [ {splat(lanes, start)}, %entry ], [ %next.{i}, %row.end ]" for i in cells)}
  %map = getelementptr %Map, ptr %maps, i64 %index
  %base = load ptr, ptr %map
  %numbers.at = getelementptr %Map, ptr %map, i32 0, i32 1
  %numbers = load i64, ptr %numbers.at
  %pitch.at = getelementptr %Map, ptr %map, i32 0, i32 2
  %pitch = load i64, ptr %pitch.at
  %kernel.at = getelementptr %Map, ptr %map, i32 0, i32 3
  %kernel = load ptr, ptr %kernel.at
  %offset = mul i64 %cell, %pitch
  %from.0 = getelementptr {number}, ptr %base, i64 %offset
  {lines(f"%from.{i} = getelementptr {number}, ptr %from.{i - 1}, i64 %pitch" for i in cells[1:])}
  br label %tap
tap:
  %number = phi i64 [ %channel, %row ], [ %number.next, %tap ]
  {lines(f"%sum.{i} = phi {vector} [ %so.far.{i}, %row ], [ %next.{i}, %tap ]" for i in cells)}
  %factor.at = getelementptr float, ptr %kernel, i64 %number
  %factor = load {vector}, ptr %factor.at, align 4
  {lines(f"%at.{i} = getelementptr {number}, ptr %from.{i}, i64 %number" for i in cells)}
  {lines(chain(*(loaded(lanes, f"x.{i}", f"at.{i}", is_narrow) for i in cells)))}
  {lines(f"%next.{i} = {step(f'%x.{i}', '%factor', f'%sum.{i}')}" for i in cells)}
  %number.next = add i64 %number, %width
  %is.tap = icmp slt i64 %number.next, %numbers
  br i1 %is.tap, label %tap, label %row.end
row.end:
  %index.next = add i64 %index, 1
  %is.row = icmp slt i64 %index.next, %count
  br i1 %is.row, label %row, label %end
end:
  %to.cell = mul i64 %cell, %width
  %to.offset = add i64 %to.cell, %channel
  %to.0 = getelementptr float, ptr %result, i64 %to.offset
  {lines(f"%to.{i} = getelementptr float, ptr %to.{i - 1}, i64 %width" for i in cells[1:])}
  {lines(f"store {vector} %next.{i}, ptr %to.{i}, align 4" for i in cells)}
  ret void
}}
"""


def _all(lanes: int, name: str) -> str:
    """The function itself. The last channels are taken with some of those before, where they don't fill a register."""
    loops, cell, came = [], "0", "channels"
    for count, following in zip(CELLS, [*CELLS[1:], None], strict=True):
        after = "channels.end" if following is None else f"cells.{following}"
        loops.append(f"""cells.{count}:
  %cell.{count} = phi i64 [ {cell}, %{came} ], [ %cell.next.{count}, %some.{count} ]
  %cell.next.{count} = add i64 %cell.{count}, {count}
  %fits.{count} = icmp sle i64 %cell.next.{count}, %cells
  br i1 %fits.{count}, label %some.{count}, label %{after}
some.{count}:
  call void @{name}.{count}(ptr %maps, i64 %count, i64 %cell.{count}, i64 %channel, ptr %result, i64 %width)
  br label %cells.{count}
""")
        cell, came = f"%cell.{count}", f"cells.{count}"
    return f"""
define internal void @{name}(ptr %maps, i64 %count, i64 %cells, ptr %result, i64 %width) {{
entry:
  %last = sub i64 %width, {lanes}
  br label %channels
channels:
  %channel.all = phi i64 [ 0, %entry ], [ %channel.next, %channels.end ]
  %channel = call i64 @llvm.smin.i64(i64 %channel.all, i64 %last)
  br label %cells.{CELLS[0]}
{"".join(loops)}channels.end:
  %channel.next = add i64 %channel.all, {lanes}
  %is.more = icmp slt i64 %channel.next, %width
  br i1 %is.more, label %channels, label %done
done:
  ret void
}}
"""
