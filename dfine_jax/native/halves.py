"""LLVM's code for products of numbers in 16 bits, see ``dfine_jax.model.halves``: two lie in one float's place.

Maps are rounded before they are multiplied, a thread's share at a time. In a register of a kernel each column has two
numbers of a sum next to each other, and a tile of the result as many registers as in float32.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from dfine_jax.native.product import added, begun, sums, tile
from dfine_jax.native.registers import Half, Registers
from dfine_jax.native.text import lines

BLOCK = 64
"""Pairs that are summed in float16 before their sum is added to others in float32."""

LARGEST = 8
"""Numbers are scaled to less than 2 to this power, and a kernel's to 1 at most: no sum of a block is then beyond the
65,504 that float16 ends at."""


def halves(layout: Registers, half: Half) -> str:
    """``@rows.of.halves`` and ``@rows.of.windows``, which take what ``@rows`` does, and what rounds maps for them:
    ``@scaled`` says by how much some cells are scaled, and ``@halve`` rounds them.
    """
    in_bfloat16 = partial(tile, multiplied=partial(_multiplied_in_bfloat16, layout.lanes))
    products = sums(layout, ".of.halves", _tile_in_float16 if half == "half" else in_bfloat16)
    windows = sums(layout, ".of.windows", partial(_window, half=half))
    return "\n".join([products, windows, _scales(layout.lanes), _scaled(layout.lanes, half), _halve(layout.lanes, half)])


def _multiplied_in_bfloat16(lanes: int, row: int, part: int) -> Iterator[str]:
    """Lines that add products of pairs: the processor sums in float32."""
    vector, pairs = f"<{lanes} x float>", f"<{2 * lanes} x bfloat>"
    yield from _pairs(lanes, "bfloat", row, part)
    yield (
        f"%next.{row}.{part} = call {vector} @llvm.x86.avx512bf16.dpbf16ps.512("
        f"{vector} %sum.{row}.{part}, {pairs} %pairs.{row}, {pairs} %kernel.pairs.{part})"
    )


def _multiplied_in_float16(lanes: int, row: int, part: int) -> Iterator[str]:
    """Lines that add products, each number of a pair to a sum of its own."""
    pairs = f"<{2 * lanes} x half>"
    yield from _pairs(lanes, "half", row, part)
    yield (
        f"%next.{row}.{part} = call {pairs} @llvm.fma.v{2 * lanes}f16("
        f"{pairs} %pairs.{row}, {pairs} %kernel.pairs.{part}, {pairs} %sum.{row}.{part})"
    )


def _pairs(lanes: int, half: Half, row: int, part: int) -> Iterator[str]:
    """Lines that see a row's and a kernel's numbers as pairs of halves, before the first product that wants them."""
    vector, pairs = f"<{lanes} x float>", f"<{2 * lanes} x {half}>"
    if part == 0:
        yield f"%pairs.{row} = bitcast {vector} %lanes.{row} to {pairs}"
    if row == 0:
        yield f"%kernel.pairs.{part} = bitcast {vector} %kernel.at.{part} to {pairs}"


def _tile_in_float16(name: str, lanes: int, rows: int, columns: int, panel: int) -> str:
    """A function that sums one tile as ``dfine_jax.native.product.tile`` does, block after block; ``%step`` is 1."""
    pairs, cells = f"<{2 * lanes} x half>", [(row, part) for row in range(rows) for part in range(columns // lanes)]
    return f"""{begun(name, lanes, cells)}
  br label %block
block:
  %block.first = phi i64 [ 0, %entry ], [ %block.next, %block.end ]
  %block.next = add i64 %block.first, {BLOCK}
  %stop = call i64 @llvm.smin.i64(i64 %block.next, i64 %numbers)
  %kernel.offset = mul i64 %block.first, {panel}
  %kernel.first = getelementptr float, ptr %panel, i64 %kernel.offset
  br label %add
add:
  %offset = phi i64 [ %block.first, %block ], [ %offset.next, %add ]
  %kernel.0 = phi ptr [ %kernel.first, %block ], [ %kernel.next, %add ]
  {
        lines(
            f"%sum.{row}.{part} = phi {pairs} [ zeroinitializer, %block ], [ %next.{row}.{part}, %add ]"
            for row, part in cells
        )
    }
  {lines(added(lanes, cells, panel, partial(_multiplied_in_float16, lanes)))}
  %offset.next = add i64 %offset, 1
  %is.more = icmp slt i64 %offset.next, %stop
  br i1 %is.more, label %add, label %block.end
block.end:
  %is.first.block = icmp eq i64 %block.first, 0
  %is.begin = and i1 %is.first.block, %is.first
  {lines(_widened(lanes, cells, "%is.begin"))}
  %is.another = icmp slt i64 %block.next, %numbers
  br i1 %is.another, label %block, label %done
done:
  ret void
}}
"""


def _window(name: str, lanes: int, rows: int, columns: int, panel: int, half: Half) -> str:
    """A function that sums one tile as ``dfine_jax.native.product.tile`` does, of numbers ``%run`` by ``%run``.

    From the begin of a run to that of the next there are ``%down``. Sums in float16 are of all numbers.
    """
    multiplied = _multiplied_in_float16 if half == "half" else _multiplied_in_bfloat16
    added_to, summed = (
        (_widened, f"<{2 * lanes} x half>") if half == "half" else (_added_to_result, f"<{lanes} x float>")
    )
    cells = [(row, part) for row in range(rows) for part in range(columns // lanes)]
    return f"""{begun(name, lanes, cells)}
  br label %next.run
next.run:
  %number = phi i64 [ 0, %entry ], [ %number.next, %run.end ]
  %first = phi i64 [ 0, %entry ], [ %first.next, %run.end ]
  %kernel.first = phi ptr [ %panel, %entry ], [ %kernel.next, %run.end ]
  {
        lines(
            f"%before.run.{row}.{part} = phi {summed} [ zeroinitializer, %entry ], [ %next.{row}.{part}, %run.end ]"
            for row, part in cells
        )
    }
  %stop = add i64 %first, %run
  br label %add
add:
  %offset = phi i64 [ %first, %next.run ], [ %offset.next, %add ]
  %kernel.0 = phi ptr [ %kernel.first, %next.run ], [ %kernel.next, %add ]
  {
        lines(
            f"%sum.{row}.{part} = phi {summed} [ %before.run.{row}.{part}, %next.run ], [ %next.{row}.{part}, %add ]"
            for row, part in cells
        )
    }
  {lines(added(lanes, cells, panel, partial(multiplied, lanes)))}
  %offset.next = add i64 %offset, 1
  %is.more = icmp slt i64 %offset.next, %stop
  br i1 %is.more, label %add, label %run.end
run.end:
  %first.next = add i64 %first, %down
  %number.next = add i64 %number, %run
  %is.run = icmp slt i64 %number.next, %numbers
  br i1 %is.run, label %next.run, label %done
done:
  {lines(added_to(lanes, cells, "%is.first"))}
  ret void
}}
"""


def _added_to_result(lanes: int, cells: Sequence[tuple[int, int]], begins: str) -> Iterator[str]:
    """Lines that add sums to what is there, unless they begin."""
    vector = f"<{lanes} x float>"
    for at in (f"{row}.{part}" for row, part in cells):
        yield f"%so.far.{at} = load {vector}, ptr %to.{at}, align 4"
        yield f"%before.{at} = select i1 {begins}, {vector} zeroinitializer, {vector} %so.far.{at}"
        yield f"%total.{at} = fadd {vector} %next.{at}, %before.{at}"
        yield f"store {vector} %total.{at}, ptr %to.{at}, align 4"


def _widened(lanes: int, cells: Sequence[tuple[int, int]], begins: str) -> Iterator[str]:
    """Lines that make one float of both sums of a column, and add it, scaled, to what is there, unless sums begin."""
    for row in (row for row, part in cells if not part):
        yield f"%scale.at.{row} = getelementptr float, ptr %scales, i64 {row}"
        yield f"%scale.one.{row} = load float, ptr %scale.at.{row}"
        yield f"%scale.{row} = call <{lanes} x float> @splat(float %scale.one.{row})"
    for cell in cells:
        yield from _widened_register(lanes, *cell, begins)


def _widened_register(lanes: int, row: int, part: int, begins: str) -> Iterator[str]:
    at, floats, pairs, bits = f"{row}.{part}", f"<{lanes} x float>", f"<{2 * lanes} x half>", f"<{lanes} x i32>"
    sixteen = "<" + ", ".join(["i32 16"] * lanes) + ">"
    yield f"%bits.{at} = bitcast {pairs} %next.{at} to {bits}"
    yield f"%moved.{at} = lshr {bits} %bits.{at}, {sixteen}"
    yield f"%second.{at} = bitcast {bits} %moved.{at} to {pairs}"
    yield f"%both.{at} = fadd {pairs} %next.{at}, %second.{at}"
    yield f"%both.bits.{at} = bitcast {pairs} %both.{at} to {bits}"
    yield f"%short.{at} = trunc {bits} %both.bits.{at} to <{lanes} x i16>"
    yield f"%half.{at} = bitcast <{lanes} x i16> %short.{at} to <{lanes} x half>"
    yield f"%float.{at} = fpext <{lanes} x half> %half.{at} to {floats}"
    yield f"%so.far.{at} = load {floats}, ptr %to.{at}, align 4"
    yield f"%before.{at} = select i1 {begins}, {floats} zeroinitializer, {floats} %so.far.{at}"
    yield (
        f"%total.{at} = call {floats} @llvm.fma.v{lanes}f32("
        f"{floats} %float.{at}, {floats} %scale.{row}, {floats} %before.{at})"
    )
    yield f"store {floats} %total.{at}, ptr %to.{at}, align 4"


def _scales(lanes: int) -> str:
    """``@scales``: the power of two by which numbers become less than 2 to ``%power``, and its inverse."""
    floats, halves, bfloats = f"<{lanes} x float>", f"<{2 * lanes} x half>", f"<{2 * lanes} x bfloat>"
    bits = f"<{lanes} x i32>"
    return f"""
declare i32 @llvm.smax.i32(i32, i32)
declare i32 @llvm.vector.reduce.smax.v{lanes}i32({bits})
declare {halves} @llvm.fma.v{2 * lanes}f16({halves}, {halves}, {halves})
declare {floats} @llvm.x86.avx512.mask.range.ps.512({floats}, {floats}, i32, {floats}, i16, i32)
declare {floats} @llvm.x86.avx512bf16.dpbf16ps.512({floats}, {bfloats}, {bfloats})

define internal {{ float, float }} @scales(i32 %largest, i32 %power) {{
  %exponent.all = lshr i32 %largest, 23
  %exponent = call i32 @llvm.smax.i32(i32 %exponent.all, i32 %power)  ; so that neither is too small for a float
  %top = add i32 %power, 253
  %down = sub i32 %top, %exponent
  %above = sub i32 %exponent, %power
  %up = add i32 %above, 1
  %down.bits = shl i32 %down, 23
  %up.bits = shl i32 %up, 23
  %scale = bitcast i32 %down.bits to float
  %inverse = bitcast i32 %up.bits to float
  %first = insertvalue {{ float, float }} poison, float %scale, 0
  %both = insertvalue {{ float, float }} %first, float %inverse, 1
  ret {{ float, float }} %both
}}
"""


def rounded(lanes: int, half: Half, name: str, at: str) -> Iterator[str]:
    """Lines that round ``%{name}`` times ``%scale`` and write it to ``%{at}``."""
    floats, halves = f"<{lanes} x float>", f"<{lanes} x {half}>"
    yield f"%{name}.scaled = fmul {floats} %{name}, %scale"
    yield f"%{name}.half = fptrunc {floats} %{name}.scaled to {halves}"
    yield f"store {halves} %{name}.half, ptr %{at}, align 2"


def larger(lanes: int, name: str, so_far: str, largest: str) -> Iterator[str]:
    """Lines that set ``%{largest}`` to the larger magnitudes of ``%{name}`` and ``%{so_far}``."""
    vector = f"<{lanes} x float>"
    yield (
        f"%{largest} = call {vector} @llvm.x86.avx512.mask.range.ps.512({vector} %{name}, {vector} %{so_far}, i32 11, "
        f"{vector} poison, i16 -1, i32 4)"
    )


def scale(lanes: int, power: int) -> str:
    """Lines that set ``%scale`` by the ``%largest`` magnitudes, and ``%inverse`` to its inverse's product with
    ``%factor``, for sums of what was scaled.
    """
    return lines(
        [
            f"%largest.bits = bitcast <{lanes} x float> %largest to <{lanes} x i32>",  # are ordered as magnitudes are
            f"%largest.one = call i32 @llvm.vector.reduce.smax.v{lanes}i32(<{lanes} x i32> %largest.bits)",
            f"%scales = call {{ float, float }} @scales(i32 %largest.one, i32 {power})",
            "%scale.one = extractvalue { float, float } %scales, 0",
            "%inverse.one = extractvalue { float, float } %scales, 1",
            f"%scale = call <{lanes} x float> @splat(float %scale.one)",
            "%inverse = fmul float %inverse.one, %factor",
        ]
    )


def _scaled(lanes: int, half: Half) -> str:
    """``@scaled``: by what some cells of maps are scaled; writes, so often, what sums of products are multiplied by.

    Numbers in bfloat16 have float32's range: they are multiplied by the kernel's factor themselves, and no sum is.
    """
    if half == "bfloat":
        return """
define internal float @scaled(ptr %maps, i64 %count, i64 %cells, float %factor, ptr %to, i64 %often) {
  ret float %factor
}
"""
    vector = f"<{lanes} x float>"

    def seen(part: int, at: str) -> Iterator[str]:
        yield f"%seen.{part} = load {vector}, ptr {at}, align 4"
        yield from larger(lanes, f"seen.{part}", f"largest.{part}", f"largest.{part + 1}")

    before = f"%before = phi {vector} [ %so.far, %entry ], [ %largest.2, %cell.end ]"
    so_far = f"%largest.0 = phi {vector} [ %before, %cell ], [ %largest.2, %some ]"
    return f"""
define internal {vector} @magnitudes(ptr %map, i64 %cells, {vector} %so.far) {{
entry:
  {_over_cells(lanes, [before], [so_far], seen)}
  ret {vector} %largest.2
}}

define internal float @scaled(ptr %maps, i64 %count, i64 %cells, float %factor, ptr %to, i64 %often) {{
entry:
  br label %map
map:
  %which = phi i64 [ 0, %entry ], [ %which.next, %map ]
  %so.far = phi {vector} [ zeroinitializer, %entry ], [ %largest, %map ]
  %map.at = getelementptr %Map, ptr %maps, i64 %which
  %largest = call {vector} @magnitudes(ptr %map.at, i64 %cells, {vector} %so.far)
  %which.next = add i64 %which, 1
  %is.map = icmp slt i64 %which.next, %count
  br i1 %is.map, label %map, label %all
all:
  {scale(lanes, LARGEST)}
  br label %next
next:
  %index = phi i64 [ 0, %all ], [ %index.next, %next ]
  %at = getelementptr float, ptr %to, i64 %index
  store float %inverse, ptr %at
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %often
  br i1 %is.more, label %next, label %done
done:
  ret float %scale.one
}}
"""


def _halve(lanes: int, half: Half) -> str:
    """``@halve``: some cells of a map, scaled and rounded."""

    def halved(part: int, at: str) -> Iterator[str]:
        yield f"%x.{part} = load <{lanes} x float>, ptr {at}, align 4"
        yield f"%to.at.{part} = getelementptr half, ptr %to.cell, i64 %part.{part}"
        yield from rounded(lanes, half, f"x.{part}", f"to.at.{part}")

    to_cell = ["%to.offset = mul i64 %index, %to.pitch", "%to.cell = getelementptr half, ptr %to, i64 %to.offset"]
    return f"""
define internal void @halve(ptr %map, i64 %cells, float %scale.one, ptr %to, i64 %to.pitch) {{
entry:
  %scale = call <{lanes} x float> @splat(float %scale.one)
  {_over_cells(lanes, to_cell, [], halved)}
  ret void
}}
"""


def _over_cells(lanes: int, cell: list[str], some: list[str], each: Callable[[int, str], Iterator[str]]) -> str:
    """The rest of a function: a loop over cells of a map, and one over a cell's channels, two registers at a time.

    The last channels are taken with some of those before, where they don't fill a register. Lines that begin a cell and some
    of its channels are ``cell`` and ``some``; ``each`` takes a register, by its place in two and where it is read.
    """

    def two() -> Iterator[str]:
        for part in range(2):
            yield f"%part.all.{part} = add i64 %channel, {part * lanes}"
            yield f"%part.{part} = call i64 @llvm.smin.i64(i64 %part.all.{part}, i64 %last)"
            yield f"%from.at.{part} = getelementptr float, ptr %from.cell, i64 %part.{part}"
            yield from each(part, f"%from.at.{part}")

    return f"""%from = call ptr @map.base(ptr %map)
  %inputs = call i64 @map.numbers(ptr %map)
  %pitch = call i64 @map.pitch(ptr %map)
  %last = sub i64 %inputs, {lanes}
  br label %cell
cell:
  %index = phi i64 [ 0, %entry ], [ %index.next, %cell.end ]
  {lines(cell)}
  %from.offset = mul i64 %index, %pitch
  %from.cell = getelementptr float, ptr %from, i64 %from.offset
  br label %some
some:
  %channel = phi i64 [ 0, %cell ], [ %channel.next, %some ]
  {lines(some)}
  {lines(two())}
  %channel.next = add i64 %channel, {2 * lanes}
  %is.more = icmp slt i64 %channel.next, %inputs
  br i1 %is.more, label %some, label %cell.end
cell.end:
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %cells
  br i1 %is.another, label %cell, label %done
done:"""
