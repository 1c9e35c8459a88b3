"""LLVM's code for multi-scale deformable attention, query by query: places, weights and the cells that they pick."""

from collections.abc import Iterable, Iterator

from dfine_jax.cpu.codegen.exponential import exponential
from dfine_jax.cpu.codegen.registers import WIDEST, Registers
from dfine_jax.cpu.codegen.scratch import CORNERS
from dfine_jax.cpu.codegen.text import first_lanes, lines, loop, repeated, splat

QUERIES = 24
"""That a thread is given at a time."""


def sampling(layout: Registers) -> str:
    """``@chunk.sampling``, which computes some queries of a picture, and what it calls.

    ``@largest`` is in ``dfine_jax.cpu.codegen.attention``.
    """
    lanes = layout.lanes
    return _declared(lanes) + _places(lanes) + _picked(lanes) + _chunk()


def _declared(lanes: int) -> str:
    vector, suffix = f"<{lanes} x float>", f"v{lanes}f32"
    return f"""
declare {vector} @llvm.floor.{suffix}({vector})
"""


def _places(lanes: int) -> str:
    """``@places``, for whose arguments see its comment."""
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    halves = {"x": range(0, 2 * lanes, 2), "y": range(1, 2 * lanes, 2)}

    def loaded(name: str, pointer: str, index: str, are_real: str) -> Iterable[str]:
        yield f"%{name}.at = getelementptr float, ptr {pointer}, i64 {index}"
        yield (
            f"%{name} = call {vector} @llvm.masked.load.{suffix}.p0(ptr %{name}.at, i32 4, {mask} {are_real}, "
            f"{vector} zeroinitializer)"
        )

    corners = [(row, column) for row in range(2) for column in range(2)]
    some = f"""
  {first_lanes(lanes, "are.real", "%index", "%count")}
  {lines(loaded("score", "%scores", "%index", "%are.real"))}
  %below = fsub {vector} %score, %tops
  {exponential(lanes, "below", "power")}
  %weight = select {mask} %are.real, {vector} %power, {vector} {splat(lanes, 0)}
  %sum.next = fadd {vector} %sum, %weight
  %pair = mul i64 %index, 2
  %pair.next = add i64 %pair, {lanes}
  {first_lanes(lanes, "are.first", "%pair", "%twice")}
  {first_lanes(lanes, "are.second", "%pair.next", "%twice")}
  {lines(loaded("first", "%offsets", "%pair", "%are.first"))}
  {lines(loaded("second", "%offsets", "%pair.next", "%are.second"))}
  {lines(loaded("factor", "%table", "%index", "%are.real"))}
  {lines(loaded("width", "%widths.from", "%index", "%are.real"))}
  {lines(loaded("height", "%heights.from", "%index", "%are.real"))}
  {lines(loaded("start", "%starts.from", "%index", "%are.real"))}
  {
        lines(
            f"%offset.{axis} = shufflevector {vector} %first, {vector} %second, <{lanes} x i32> <"
            + ", ".join(f"i32 {lane}" for lane in each)
            + ">"
            for axis, each in halves.items()
        )
    }
  {lines(_on_axis(lanes, "x", "w", "width"))}
  {lines(_on_axis(lanes, "y", "h", "height"))}
  {lines(line for corner in corners for line in _corner(lanes, *corner))}
"""
    return f"""
; Of a head's points, from offsets and scores, the place of each of the four cells around in a map of so many channels,
; and its share, times a weight of a softmax whose sum is the result. The table has for each point by what offsets are
; multiplied besides the box, the width and height of its level and the first of its cells.
define internal float @places(ptr %offsets, ptr %scores, i64 %count, ptr %box, ptr %table, i64 %channels, ptr %cells,
                              ptr %shares, i64 %pitch) {{
entry:
  %top = call float @largest(ptr %scores, i64 %count)
  %tops = call {vector} @splat(float %top)
  %twice = mul i64 %count, 2
  {lines(_box())}
  {lines(f"%box.{side}s = call {vector} @splat(float %box.{side})" for side in ("x", "y", "w", "h"))}
  %widths.from = getelementptr float, ptr %table, i64 %count
  %heights.from = getelementptr float, ptr %widths.from, i64 %count
  %starts.from = getelementptr float, ptr %heights.from, i64 %count
  %channels.short = trunc i64 %channels to i32
  {lines(repeated(lanes, "i32", "channels.short", "channel.counts"))}
{loop("some", "index", "%count", some, step=lanes, carried={"sum": (vector, "zeroinitializer")})}
  %total = call reassoc float @llvm.vector.reduce.fadd.{suffix}(float 0.0, {vector} %sum.next)
  ret float %total
}}
"""


def _box() -> Iterator[str]:
    for index, side in enumerate(("x", "y", "w", "h")):
        yield f"%box.{side}.at = getelementptr float, ptr %box, i64 {index}"
        yield f"%box.{side} = load float, ptr %box.{side}.at, align 4"


def _on_axis(lanes: int, axis: str, side: str, size: str) -> Iterator[str]:
    """The two cells next to each point along an axis, with their shares: nothing beyond the map's edges."""
    vector, mask, suffix = f"<{lanes} x float>", f"<{lanes} x i1>", f"v{lanes}f32"
    zero, one = splat(lanes, 0), splat(lanes, 1)
    yield f"%scaled.{axis} = fmul {vector} %offset.{axis}, %factor"
    yield (
        f"%place.{axis} = call {vector} @llvm.fma.{suffix}({vector} %scaled.{axis}, {vector} %box.{side}s, "
        f"{vector} %box.{axis}s)"
    )
    yield (
        f"%position.{axis} = call {vector} @llvm.fma.{suffix}({vector} %place.{axis}, {vector} %{size}, "
        f"{vector} {splat(lanes, -0.5)})"
    )
    yield f"%cell.{axis}.0 = call {vector} @llvm.floor.{suffix}({vector} %position.{axis})"
    yield f"%cell.{axis}.1 = fadd {vector} %cell.{axis}.0, {one}"
    yield f"%part.{axis}.1 = fsub {vector} %position.{axis}, %cell.{axis}.0"
    yield f"%part.{axis}.0 = fsub {vector} {one}, %part.{axis}.1"
    yield f"%last.{axis} = fsub {vector} %{size}, {one}"
    for index in range(2):
        name = f"{axis}.{index}"
        yield f"%is.low.{name} = fcmp oge {vector} %cell.{name}, {zero}"
        yield f"%is.high.{name} = fcmp olt {vector} %cell.{name}, %{size}"
        yield f"%is.inside.{name} = and {mask} %is.low.{name}, %is.high.{name}"
        yield f"%share.{name} = select {mask} %is.inside.{name}, {vector} %part.{name}, {vector} {zero}"
        yield f"%not.low.{name} = call {vector} @llvm.maxnum.{suffix}({vector} %cell.{name}, {vector} {zero})"
        yield f"%there.{name} = call {vector} @llvm.minnum.{suffix}({vector} %not.low.{name}, {vector} %last.{axis})"


def _corner(lanes: int, row: int, column: int) -> Iterator[str]:
    vector, integers, suffix = f"<{lanes} x float>", f"<{lanes} x i32>", f"v{lanes}f32"
    name, index = f"{row}.{column}", 2 * row + column
    yield f"%share.{name} = fmul {vector} %share.x.{column}, %share.y.{row}"
    yield f"%weighted.{name} = fmul {vector} %share.{name}, %weight"
    yield (
        f"%in.row.{name} = call {vector} @llvm.fma.{suffix}({vector} %there.y.{row}, {vector} %width, "
        f"{vector} %there.x.{column})"
    )
    yield f"%cell.{name} = fadd {vector} %in.row.{name}, %start"
    yield f"%whole.{name} = fptosi {vector} %cell.{name} to {integers}"
    yield f"%offset.{name} = mul {integers} %whole.{name}, %channel.counts"
    yield f"%row.{name} = mul i64 %pitch, {index}"
    yield f"%slot.{name} = add i64 %row.{name}, %index"
    yield f"%cells.at.{name} = getelementptr i32, ptr %cells, i64 %slot.{name}"
    yield f"store {integers} %offset.{name}, ptr %cells.at.{name}, align 4"
    yield f"%shares.at.{name} = getelementptr float, ptr %shares, i64 %slot.{name}"
    yield f"store {vector} %weighted.{name}, ptr %shares.at.{name}, align 4"


def _picked(lanes: int) -> str:
    vector, suffix = f"<{lanes} x float>", f"v{lanes}f32"
    corners = range(CORNERS)

    def corner(index: int) -> Iterator[str]:
        yield f"%row.{index} = mul i64 %pitch, {index}"
        yield f"%slot.{index} = add i64 %row.{index}, %point"
        yield f"%cell.at.{index} = getelementptr i32, ptr %cells, i64 %slot.{index}"
        yield f"%cell.{index} = load i32, ptr %cell.at.{index}, align 4"
        yield f"%place.{index} = sext i32 %cell.{index} to i64"
        yield f"%from.{index} = getelementptr float, ptr %column.from, i64 %place.{index}"
        yield f"%x.{index} = load {vector}, ptr %from.{index}, align 4"
        yield f"%share.at.{index} = getelementptr float, ptr %shares, i64 %slot.{index}"
        yield f"%share.{index} = load float, ptr %share.at.{index}, align 4"
        yield from repeated(lanes, "float", f"share.{index}", f"share.all.{index}")
        yield (
            f"%sum.{index}.next = call {vector} @llvm.fma.{suffix}({vector} %x.{index}, {vector} %share.all.{index}, "
            f"{vector} %sum.{index})"
        )

    zeros = {f"sum.{index}": (vector, "zeroinitializer") for index in corners}
    add = lines(line for index in corners for line in corner(index))
    some = f"""
  %column.from = getelementptr float, ptr %map, i64 %column
{loop("add", "point", "%count", add, before="some", carried=zeros)}
  %upper = fadd {vector} %sum.0.next, %sum.1.next
  %lower = fadd {vector} %sum.2.next, %sum.3.next
  %all = fadd {vector} %upper, %lower
  %y = fmul {vector} %all, %factor
  %to = getelementptr float, ptr %result, i64 %column
  store {vector} %y, ptr %to, align 4
"""
    return f"""
; The sum of the picked cells' channels, divided by the sum of weights.
define internal void @picked(ptr %map, i64 %count, ptr %cells, ptr %shares, i64 %pitch, float %sum, i64 %channels,
                             ptr %result) {{
entry:
  %inverse = fdiv float 1.0, %sum
  %factor = call {vector} @splat(float %inverse)
{loop("some", "column", "%channels", some, step=lanes, last="add.end")}
  ret void
}}
"""


def _chunk() -> str:
    head = """
  %head.points = mul i64 %head.index, %points
  %head.scores = getelementptr float, ptr %query.scores, i64 %head.points
  %head.pairs = mul i64 %head.index, %pairs
  %head.offsets = getelementptr float, ptr %query.offsets, i64 %head.pairs
  %column = mul i64 %head.index, %channels
  %head.maps = getelementptr float, ptr %picture.maps, i64 %column
  %head.result = getelementptr float, ptr %query.result, i64 %column
  %sum = call float @places(ptr %head.offsets, ptr %head.scores, i64 %points, ptr %box, ptr %table, i64 %width,
                            ptr %cells, ptr %shares, i64 %pitch)
  call void @picked(ptr %head.maps, i64 %points, ptr %cells, ptr %shares, i64 %pitch, float %sum, i64 %channels,
                    ptr %head.result)
"""
    query = f"""
  %which = add i64 %first.query, %index
  %box.offset = mul i64 %which, 4
  %box = getelementptr float, ptr %boxes, i64 %box.offset
  %point.offset = mul i64 %which, %all.points
  %query.scores = getelementptr float, ptr %scores, i64 %point.offset
  %pair.offset = mul i64 %point.offset, 2
  %query.offsets = getelementptr float, ptr %offsets, i64 %pair.offset
  %result.offset = mul i64 %which, %width
  %query.result = getelementptr float, ptr %result, i64 %result.offset
{loop("head", "head.index", "%heads", head, before="query")}
"""
    return f"""
define internal void @chunk.sampling(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %scratch) {{
entry:
  %offsets.map = call ptr @map(ptr %work, i64 0)
  %scores.map = call ptr @map(ptr %work, i64 1)
  %boxes.map = call ptr @map(ptr %work, i64 2)
  %cells.map = call ptr @map(ptr %work, i64 3)
  %offsets = call ptr @map.base(ptr %offsets.map)
  %scores = call ptr @map.base(ptr %scores.map)
  %boxes = call ptr @map.base(ptr %boxes.map)
  %maps = call ptr @map.base(ptr %cells.map)
  %table = call ptr @map.kernel(ptr %offsets.map)
  %all.points = call i64 @map.numbers(ptr %scores.map)
  %points = call i64 @get.taps(ptr %work)
  %heads = sdiv i64 %all.points, %points
  %width = call i64 @get.outputs(ptr %work)
  %channels = sdiv i64 %width, %heads
  %tokens = call i64 @get.height(ptr %work)
  %queries = call i64 @get.rows(ptr %work)
  %result = call ptr @get.result(ptr %work)
  %picture.size = mul i64 %tokens, %width
  %picture.offset = mul i64 %picture, %picture.size
  %picture.maps = getelementptr float, ptr %maps, i64 %picture.offset
  %picture.first = mul i64 %picture, %queries
  %first.query = add i64 %picture.first, %first
  %points.up = add i64 %points, {WIDEST - 1}
  %pitch = and i64 %points.up, {-WIDEST}
  SCRATCH.sampling
  %pairs = mul i64 %points, 2
{loop("query", "index", "%count", query, last="head.end")}
  ret void
}}
"""
