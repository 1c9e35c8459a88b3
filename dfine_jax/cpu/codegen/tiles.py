"""LLVM's code for the transforms of tiles, see ``cpu/kernels/winograd.py``: for a few at a time, in a CPU's caches."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dfine_jax.cpu.codegen.registers import Half, Registers
from dfine_jax.cpu.codegen.rounding import LARGEST, larger, rounded, scale
from dfine_jax.cpu.codegen.text import lines, loaded, splat
from dfine_jax.cpu.codegen.transforms import LARGE
from dfine_jax.cpu.codegen.work import fields

GROWTH = math.ceil(2 * math.log2(np.abs(LARGE.inputs).sum(1).max()))
"""To which power of two numbers may grow when they are transformed."""


def tiles(layout: Registers) -> str:
    """``@spread``, from a map's tiles to the inputs of products, and ``@gather``, from those to the result."""
    return _spread(layout.lanes, "spread") + _gather(layout.lanes)


def tiles_of_halves(layout: Registers) -> str:
    """``@spread.of.halves``, which does what ``@spread`` does and rounds the inputs of products to float16."""
    return _spread(layout.lanes, "spread.of.halves", half="half")


def tiles_of_narrow(layout: Registers) -> str:
    """``@spread.narrow``, which does what ``@spread`` does with a map in float16."""
    return _spread(layout.lanes, "spread.narrow", is_narrow=True)


def _spread(lanes: int, name: str, half: Half | None = None, is_narrow: bool = False) -> str:
    kind, before = (half, "looked") if half else ("float", "tile")
    number = "half" if is_narrow else "float"
    return f"""
define internal void @{
        name
    }(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %inputs, ptr %scales.to, ptr %outside) {{
entry:
  %map = call ptr @map(ptr %work, i64 0)
  %base = call ptr @map.base(ptr %map)
  %channels = call i64 @map.numbers(ptr %map)
  %channels.bytes = mul i64 %channels, 4
  call ptr @memset(ptr %outside, i32 0, i64 %channels.bytes)
  {fields("height", "width", "low", "wide")}
  %wide.up = add i64 %wide, 3
  %beside = sdiv i64 %wide.up, 4
  %row.size = mul i64 %width, %channels
  %picture.size = mul i64 %row.size, %height
  %picture.offset = mul i64 %picture, %picture.size
  %picture.at = getelementptr {number}, ptr %base, i64 %picture.offset
  %each = mul i64 %count, %channels
  br label %tile
{_TILE}
  %row.four = mul i64 %row, 4
  %row.0 = sub i64 %row.four, %low
  %column.four = mul i64 %column, 4
  %column.0 = sub i64 %column.four, %low
  {lines(_bounded("row", "height", 6))}
  {lines(_bounded("column", "width", 6))}
  {lines(_places(number))}
  %to.offset = mul i64 %index, %channels
  %to.0 = getelementptr {kind}, ptr %inputs, i64 %to.offset
  {lines(f"%to.{e} = getelementptr {kind}, ptr %to.{e - 1}, i64 %each" for e in range(1, 36))}
  br label %{"look" if half else "some"}
{_look(lanes) if half else ""}{
        _some(lanes, LARGE.inputs, "from.{0}.{1}", "to.{2}", "channels", before, "tile.end", half, is_narrow)
    }
{_NEXT}
"""


def _look(lanes: int) -> str:
    """What a tile is scaled by, as its largest number wants it, and what sums of products with it are multiplied by."""
    vector, cells = f"<{lanes} x float>", [(i, j) for i in range(6) for j in range(6)]
    names = [f"larger.{place}" for place in range(35)] + ["largest"]
    return f"""look:
  %look.channel = phi i64 [ 0, %tile ], [ %look.channel.next, %look ]
  %largest.before = phi {vector} [ zeroinitializer, %tile ], [ %largest, %look ]
  {lines(f"%look.at.{i}.{j} = getelementptr float, ptr %from.{i}.{j}, i64 %look.channel" for i, j in cells)}
  {lines(f"%seen.{i}.{j} = load {vector}, ptr %look.at.{i}.{j}, align 4" for i, j in cells)}
  {
        lines(
            line
            for (i, j), before, name in zip(cells, ["largest.before", *names], names, strict=False)
            for line in larger(lanes, f"seen.{i}.{j}", before, name)
        )
    }
  %look.channel.next = add i64 %look.channel, {lanes}
  %look.is.more = icmp slt i64 %look.channel.next, %channels
  br i1 %look.is.more, label %look, label %looked
looked:
  %factors = call ptr @get.factors(ptr %work)
  %factor = load float, ptr %factors
  {scale(lanes, LARGEST - GROWTH)}
  %scale.to = getelementptr float, ptr %scales.to, i64 %index
  store float %inverse, ptr %scale.to
  br label %some
"""


def _gather(lanes: int) -> str:
    return f"""
define internal void @gather(ptr %work, i64 %picture, i64 %first, i64 %count, ptr %products, ptr %sums) {{
entry:
  {fields("result", "outputs", "finish")}
  %height = call i64 @get.high(ptr %work)
  %width = call i64 @get.wide(ptr %work)
  %width.up = add i64 %width, 3
  %beside = sdiv i64 %width.up, 4
  %row.size = mul i64 %width, %outputs
  %picture.size = mul i64 %row.size, %height
  %picture.offset = mul i64 %picture, %picture.size
  %narrow = call i64 @get.narrow(ptr %work)
  %picture.at = call ptr @place(ptr %result, i64 %narrow, i64 %picture.offset)
  %each = mul i64 %count, %outputs
  br label %tile
{_TILE}
  %row.0 = mul i64 %row, 4
  %column.0 = mul i64 %column, 4
  {lines(_bounded("row", "height", 4))}
  %column.offset = mul i64 %column.0, %outputs
  {lines(_rows())}
  {lines(f"%to.offset.{cell} = mul i64 %outputs, {cell}" for cell in range(16))}
  {lines(f"%to.{cell} = getelementptr float, ptr %sums, i64 %to.offset.{cell}" for cell in range(16))}
  %from.offset = mul i64 %index, %outputs
  %from.0 = getelementptr float, ptr %products, i64 %from.offset
  {lines(f"%from.{e} = getelementptr float, ptr %from.{e - 1}, i64 %each" for e in range(1, 36))}
  br label %some
{_some(lanes, LARGE.outputs, "from.{2}", "to.{3}", "outputs", "tile", "tile.made")}
tile.made:
  %columns.left = sub i64 %width, %column.0
  %columns.here = call i64 @llvm.smin.i64(i64 4, i64 %columns.left)
  br label %finish.row.0
{"".join(_finished(row) for row in range(4))}{_NEXT}
"""


_TILE = """tile:
  %index = phi i64 [ 0, %entry ], [ %index.next, %tile.end ]
  %which = add i64 %first, %index
  %row = sdiv i64 %which, %beside
  %column = srem i64 %which, %beside"""

_NEXT = """tile.end:
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %count
  br i1 %is.another, label %tile, label %done
done:
  ret void
}"""


def _some(
    lanes: int,
    matrix: np.ndarray,
    source: str,
    result: str,
    width: str,
    before: str,
    after: str,
    half: Half | None = None,
    is_narrow: bool = False,
) -> str:
    """The loop that transforms a tile, some of its channels at a time, and rounds it where it is to be halves.

    ``source`` and ``result`` say how pointers are named, by an entry's row, its column, and its place among 36 and 16.
    """
    vector = f"<{lanes} x float>"
    results, sources = ([(i, j) for i in range(side) for j in range(side)] for side in matrix.shape)

    def read(i: int, j: int) -> Iterator[str]:
        number, at = "half" if is_narrow else "float", source.format(i, j, 6 * i + j)
        yield f"%at.{i}.{j} = getelementptr {number}, ptr %{at}, i64 %channel"
        yield from loaded(lanes, f"x.{i}.{j}", f"at.{i}.{j}", is_narrow)

    def written(i: int, j: int) -> Iterator[str]:
        to = result.format(i, j, 6 * i + j, 4 * i + j)
        yield f"%to.at.{i}.{j} = getelementptr {half or 'float'}, ptr %{to}, i64 %channel"
        if half is None:
            yield f"store {vector} %y.{i}.{j}, ptr %to.at.{i}.{j}, align 4"
        else:
            yield from rounded(lanes, half, f"y.{i}.{j}", f"to.at.{i}.{j}")

    return f"""some:
  %channel = phi i64 [ 0, %{before} ], [ %channel.next, %some ]
  {lines(line for cell in sources for line in read(*cell))}
  {lines(_along_both(lanes, matrix))}
  {lines(line for cell in results for line in written(*cell))}
  %channel.next = add i64 %channel, {lanes}
  %is.more = icmp slt i64 %channel.next, %{width}
  br i1 %is.more, label %some, label %{after}"""


def _bounded(axis: str, end: str, count: int) -> Iterator[str]:
    """From ``%{axis}.0`` on: places along an axis, and whether they are on the map."""
    for i in range(count):
        if i:
            yield f"%{axis}.{i} = add i64 %{axis}.{i - 1}, 1"
        yield f"%{axis}.{i}.is.there = icmp ult i64 %{axis}.{i}, %{end}"


def _rows() -> Iterator[str]:
    """Where each row of a tile of the result begins."""
    for i in range(4):
        yield f"%result.row.{i} = mul i64 %row.{i}, %row.size"
        yield f"%result.offset.{i} = add i64 %result.row.{i}, %column.offset"
        yield f"%result.{i} = call ptr @place(ptr %picture.at, i64 %narrow, i64 %result.offset.{i})"


def _places(number: str) -> Iterator[str]:
    """Where each cell of a tile of the map lies: on the picture or, what isn't there, outside."""
    for i in range(6):
        yield f"%from.row.{i} = mul i64 %row.{i}, %row.size"
        for j in range(6):
            place = f"from.{i}.{j}"
            yield f"%{place}.column = mul i64 %column.{j}, %channels"
            yield f"%{place}.offset = add i64 %from.row.{i}, %{place}.column"
            yield f"%{place}.at = getelementptr {number}, ptr %picture.at, i64 %{place}.offset"
            yield f"%{place}.is.there = and i1 %row.{i}.is.there, %column.{j}.is.there"
            yield f"%{place} = select i1 %{place}.is.there, ptr %{place}.at, ptr %outside"


def _finished(row: int) -> str:
    """One row of a tile is finished, if it is on the map."""
    after = f"finish.row.{row + 1}" if row < 3 else "tile.end"
    return f"""finish.row.{row}:
  br i1 %row.{row}.is.there, label %finished.{row}, label %{after}
finished.{row}:
  call void %finish(ptr %work, ptr %to.{4 * row}, ptr %result.{row}, i64 %columns.here)
  br label %{after}
"""


def _along_both(lanes: int, matrix: np.ndarray) -> Iterator[str]:
    """From ``%x.*`` to ``%y.*``: the square's rows are combined first, then its columns."""
    outputs, inputs = matrix.shape
    for column in range(inputs):
        for row in range(outputs):
            terms = [f"%x.{i}.{column}" for i in range(inputs)]
            yield from _combined(lanes, matrix[row], terms, f"%half.{row}.{column}")
    for row in range(outputs):
        for column in range(outputs):
            terms = [f"%half.{row}.{j}" for j in range(inputs)]
            yield from _combined(lanes, matrix[column], terms, f"%y.{row}.{column}")


def _combined(lanes: int, factors: Sequence[float], terms: Sequence[str], name: str) -> Iterator[str]:
    """The sum of terms times factors."""
    vector = f"<{lanes} x float>"
    pairs = [(factor, term) for factor, term in zip(factors, terms, strict=True) if factor]
    (factor, term), *rest = pairs
    names = [f"{name}.{i}" for i in range(len(rest))] + [name]
    yield f"{names[0]} = fmul {vector} {term}, {splat(lanes, factor)}"
    for before, after, (factor, term) in zip(names, names[1:], rest, strict=False):
        yield (
            f"{after} = call {vector} @llvm.fma.v{lanes}f32({vector} {term}, {vector} {splat(lanes, factor)}, "
            f"{vector} {before})"
        )
