"""LLVM's code that scales numbers of maps and rounds them to 16 bits, see ``dfine_jax.cpu.kernels.packed16``."""

from collections.abc import Callable, Iterator

from dfine_jax.cpu.codegen.registers import Half
from dfine_jax.cpu.codegen.text import first_lanes, lines

BITS: dict[Half, str] = {"half": "f16", "bfloat": "bf16", "i16": "i16"}
"""Types as they are called in names of functions."""

LARGEST = 7
"""Numbers are scaled to less than 2 to this power, and a kernel's to 1 at most: no sum of a block is then beyond the
65,504 that float16 ends at."""

GUESS = 3
"""To which power of two the numbers of the first cell are scaled: if others are so much larger that this is too much,
all are scaled again, by their largest."""


def rounding(lanes: int, half: Half) -> str:
    """``@rounded``, which rounds some cells of maps, next to each other, and returns what sums of products with them
    are multiplied by; and ``@rounded.cells``, which writes that for each cell.

    Numbers in bfloat16 have float32's range: they are multiplied by the kernel's factor themselves, and no sum is.
    """
    vector = f"<{lanes} x float>"
    scaled = _scaled_in_float16(lanes) if half == "half" else _scaled_in_bfloat16(lanes)
    return f"""{_magnitudes(lanes)}{_halve(lanes, half)}
define internal {vector} @halve.all(ptr %maps, i64 %count, i64 %cells, float %scale, ptr %to, i64 %to.pitch) {{
entry:
  br label %map
map:
  %index = phi i64 [ 0, %entry ], [ %index.next, %map ]
  %largest = phi {vector} [ zeroinitializer, %entry ], [ %largest.next, %map ]
  %to.map = phi ptr [ %to, %entry ], [ %to.next, %map ]
  %map.at = getelementptr %Map, ptr %maps, i64 %index
  %largest.next = call {vector} @halve(ptr %map.at, i64 %cells, float %scale, ptr %to.map, i64 %to.pitch,
                                       {vector} %largest)
  %numbers = call i64 @map.numbers(ptr %map.at)
  %to.next = getelementptr half, ptr %to.map, i64 %numbers
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %count
  br i1 %is.more, label %map, label %done
done:
  ret {vector} %largest.next
}}

define internal float @rounded(ptr %maps, i64 %count, i64 %cells, float %factor, ptr %to, i64 %to.pitch) {{
entry:
{scaled}}}

define internal void @rounded.cells(ptr %maps, i64 %count, i64 %cells, float %factor, ptr %to, i64 %to.pitch,
                                    ptr %scales) {{
  %scale = call float @rounded(ptr %maps, i64 %count, i64 %cells, float %factor, ptr %to, i64 %to.pitch)
  call void @fill(ptr %scales, i64 %cells, float %scale)
  ret void
}}
"""


def _scaled_in_float16(lanes: int) -> str:
    vector = f"<{lanes} x float>"
    return f"""  br label %look
look:
  %index = phi i64 [ 0, %entry ], [ %index.next, %look ]
  %so.far = phi {vector} [ zeroinitializer, %entry ], [ %first, %look ]
  %map.at = getelementptr %Map, ptr %maps, i64 %index
  %first = call {vector} @magnitudes(ptr %map.at, i64 1, {vector} %so.far)
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %count
  br i1 %is.more, label %look, label %round
round:
  %largest = phi {vector} [ %first, %look ], [ %all, %round ]
  %power = phi i32 [ {GUESS}, %look ], [ {LARGEST}, %round ]
  {scale(lanes, "%power")}
  %all = call {vector} @halve.all(ptr %maps, i64 %count, i64 %cells, float %scale.one, ptr %to, i64 %to.pitch)
  %all.bits = call i32 @most({vector} %all)
  %all.one = bitcast i32 %all.bits to float
  %most = fmul float %all.one, %scale.one
  %is.large = fcmp oge float %most, {2.0**LARGEST}
  %is.guess = icmp eq i32 %power, {GUESS}
  %is.again = and i1 %is.large, %is.guess
  br i1 %is.again, label %round, label %done
done:
  ret float %inverse
"""


def _scaled_in_bfloat16(lanes: int) -> str:
    vector = f"<{lanes} x float>"
    return f"""  %ignored = call {vector} @halve.all(ptr %maps, i64 %count, i64 %cells, float %factor, ptr %to,
                                         i64 %to.pitch)
  ret float 1.0
"""


def scales(lanes: int) -> str:
    """``@most``: the largest of magnitudes, as bits, which are ordered as those are; and ``@scales``: the power of two
    by which numbers become less than 2 to ``%power``, and its inverse.
    """
    floats, bits = f"<{lanes} x float>", f"<{lanes} x i32>"
    return f"""
declare i32 @llvm.smax.i32(i32, i32)
declare i32 @llvm.vector.reduce.smax.v{lanes}i32({bits})
declare {floats} @llvm.x86.avx512.mask.range.ps.512({floats}, {floats}, i32, {floats}, i16, i32)

define internal i32 @most({floats} %magnitudes) {{
  %bits = bitcast {floats} %magnitudes to {bits}
  %most = call i32 @llvm.vector.reduce.smax.v{lanes}i32({bits} %bits)
  ret i32 %most
}}

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


def scale(lanes: int, power: int | str) -> str:
    """Lines that set ``%scale`` by the ``%largest`` magnitudes, see ``@scales``, and ``%inverse`` to its inverse's
    product with ``%factor``, for sums of what was scaled.
    """
    return lines(
        [
            f"%largest.one = call i32 @most(<{lanes} x float> %largest)",
            f"%scales = call {{ float, float }} @scales(i32 %largest.one, i32 {power})",
            "%scale.one = extractvalue { float, float } %scales, 0",
            "%inverse.one = extractvalue { float, float } %scales, 1",
            f"%scale = call <{lanes} x float> @splat(float %scale.one)",
            "%inverse = fmul float %inverse.one, %factor",
        ]
    )


def _magnitudes(lanes: int) -> str:
    """``@magnitudes``: the larger ones of some cells' numbers and of those so far."""
    vector = f"<{lanes} x float>"

    def seen(part: int, at: str) -> Iterator[str]:
        yield f"%seen.{part} = load {vector}, ptr {at}, align 4"
        yield from larger(lanes, f"seen.{part}", f"largest.{part}", f"largest.{part + 1}")

    return f"""
define internal {vector} @magnitudes(ptr %map, i64 %cells, {vector} %so.far) {{
entry:
  {_over_cells(lanes, [], seen)}
  ret {vector} %largest.2
}}
"""


def _halve(lanes: int, half: Half) -> str:
    """``@halve``: some cells of a map, scaled and rounded; returns what ``@magnitudes`` does."""

    def halved(part: int, at: str) -> Iterator[str]:
        yield f"%x.{part} = load <{lanes} x float>, ptr {at}, align 4"
        yield from larger(lanes, f"x.{part}", f"largest.{part}", f"largest.{part + 1}")
        yield f"%to.at.{part} = getelementptr half, ptr %to.cell, i64 %part.{part}"
        yield from rounded(lanes, half, f"x.{part}", f"to.at.{part}")

    to_cell = ["%to.offset = mul i64 %index, %to.pitch", "%to.cell = getelementptr half, ptr %to, i64 %to.offset"]
    vector = f"<{lanes} x float>"
    return f"""
define internal {vector} @halve(ptr %map, i64 %cells, float %scale.one, ptr %to, i64 %to.pitch, {vector} %so.far) {{
entry:
  %scale = call {vector} @splat(float %scale.one)
  {_over_cells(lanes, to_cell, halved)}
  ret {vector} %largest.2
}}
"""


def _over_cells(lanes: int, cell: list[str], each: Callable[[int, str], Iterator[str]]) -> str:
    """The rest of a function: a loop over cells of a map, and one over a cell's channels, two registers at a time.

    The last channels are taken with some of those before, where they don't fill a register. Lines that begin a cell are
    ``cell``; ``each`` takes a register, by its place in two and where it is read, and ``%largest.{place}`` so far.
    """
    vector = f"<{lanes} x float>"

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
  %before = phi {vector} [ %so.far, %entry ], [ %largest.2, %cell.end ]
  {lines(cell)}
  %from.offset = mul i64 %index, %pitch
  %from.cell = getelementptr float, ptr %from, i64 %from.offset
  br label %some
some:
  %channel = phi i64 [ 0, %cell ], [ %channel.next, %some ]
  %largest.0 = phi {vector} [ %before, %cell ], [ %largest.2, %some ]
  {lines(two())}
  %channel.next = add i64 %channel, {2 * lanes}
  %is.more = icmp slt i64 %channel.next, %inputs
  br i1 %is.more, label %some, label %cell.end
cell.end:
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %cells
  br i1 %is.another, label %cell, label %done
done:"""


def largest_of_four(lanes: int, half: Half) -> str:
    """``@largest.of.four``: each number of rounded rows becomes the largest of itself, of its channel in the next cell,
    and of both below.

    Numbers are read before they are written: behind each row there has to be a cell of zeros, and a row more.
    """
    vector, mask = f"<{lanes} x {half}>", f"<{lanes} x i1>"
    compared = "icmp sgt" if half == "i16" else "fcmp ogt"
    larger = (
        line
        for before, name, after in (("here", "beside", "row"), ("row", "below", "three"), ("three", "corner", "all"))
        for line in (
            f"%is.{name} = {compared} {vector} %{name}, %{before}",
            f"%{after} = select {mask} %is.{name}, {vector} %{name}, {vector} %{before}",
        )
    )
    return f"""
declare void @llvm.masked.store.v{lanes}{BITS[half]}.p0({vector}, ptr, i32, {mask})

define internal {vector} @largest.at(ptr %here.at, ptr %below.at, i64 %channels) {{
  %beside.at = getelementptr {half}, ptr %here.at, i64 %channels
  %corner.at = getelementptr {half}, ptr %below.at, i64 %channels
  {lines(f"%{name} = load {vector}, ptr %{name}.at, align 2" for name in ("here", "beside", "below", "corner"))}
  {lines(larger)}
  ret {vector} %all
}}

define internal void @largest.of.four(ptr %rows, i64 %count, i64 %numbers, i64 %channels, i64 %down) {{
entry:
  br label %row
row:
  %index = phi i64 [ 0, %entry ], [ %index.next, %rest ]
  %row.offset = mul i64 %index, %down
  %row.at = getelementptr {half}, ptr %rows, i64 %row.offset
  %next.at = getelementptr {half}, ptr %row.at, i64 %down
  br label %some
some:
  %number = phi i64 [ 0, %row ], [ %number.next, %whole ]
  %here.at = getelementptr {half}, ptr %row.at, i64 %number
  %below.at = getelementptr {half}, ptr %next.at, i64 %number
  %largest = call {vector} @largest.at(ptr %here.at, ptr %below.at, i64 %channels)
  %number.next = add i64 %number, {lanes}
  %is.whole = icmp sle i64 %number.next, %numbers
  br i1 %is.whole, label %whole, label %rest
whole:
  store {vector} %largest, ptr %here.at, align 2
  br label %some
rest:
  {first_lanes(lanes, "are.real", "%number", "%numbers")}
  call void @llvm.masked.store.v{lanes}{BITS[half]}.p0({vector} %largest, ptr %here.at, i32 2, {mask} %are.real)
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %count
  br i1 %is.more, label %row, label %done
done:
  ret void
}}
"""
