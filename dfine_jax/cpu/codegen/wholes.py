"""LLVM's code that scales numbers of maps and rounds them to whole ones of 16 bits, see ``cpu/kernels/packed16.py``."""

from collections.abc import Callable, Iterable, Iterator

from dfine_jax.cpu.codegen.text import lines, loaded, repeated

WHOLE = 14
"""Numbers are scaled to 2 to this power at most. That times the magnitudes of a block's kernel, summed, has to be less
than 2 to the 31."""


def rounding_of_wholes(lanes: int) -> str:
    """``@rounded`` and ``@rounded.cells``, see ``rounding.py``: the latter scales each cell by itself,
    since what is scaled alike is rounded alike, however small. Maps may be in float16.

    What is not finite makes sums with it no numbers; magnitudes below 1e-28 may become zero.
    """
    floats, bits, halves = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{lanes} x i16>"
    no_sign = "<" + ", ".join(["i32 2147483647"] * lanes) + ">"

    def looked(x: str, at: str) -> Iterator[str]:
        before, after = f"%largest.{at}", f"%largest.{_after(at)}"
        yield f"%seen.{at} = bitcast {floats} %{x} to {bits}"
        yield f"%magnitude.{at} = and {bits} %seen.{at}, {no_sign}"
        yield f"{after} = call {bits} @llvm.smax.v{lanes}i32({bits} {before}, {bits} %magnitude.{at})"

    def written(x: str, at: str) -> Iterator[str]:
        yield f"%scaled.{at} = fmul {floats} %{x}, %scale"
        yield (
            f"%whole.{at} = call {bits} @llvm.x86.avx512.mask.cvtps2dq.512({floats} %scaled.{at}, {bits} poison, "
            "i16 -1, i32 4)"
        )
        yield f"%half.{at} = trunc {bits} %whole.{at} to {halves}"
        yield f"%to.at.{at} = getelementptr i16, ptr %to.cell, i64 %place.{at}"
        yield f"store {halves} %half.{at}, ptr %to.at.{at}, align 2"

    to_cell = (
        "%to.row = mul i64 %write.cell.index, %to.pitch",
        "%to.offset = add i64 %to.row, %write.before",
        "%to.cell = getelementptr i16, ptr %to, i64 %to.offset",
    )
    return f"""
declare float @llvm.fma.f32(float, float, float)
declare {bits} @llvm.smax.v{lanes}i32({bits}, {bits})
declare {bits} @llvm.x86.avx512.mask.cvtps2dq.512({floats}, {bits}, i16, i32)

define internal float @rounded.from(ptr %maps, i64 %count, i64 %first, i64 %cells, float %factor, ptr %to,
                                    i64 %to.pitch) {{
entry:
  br label %look.map
{_over_maps(lanes, "look", "entry", (), looked, "largest")}
look.end:
  %most = call i32 @llvm.vector.reduce.smax.v{lanes}i32({bits} %largest)
  %scales = call {{ float, float }} @scales(i32 %most, i32 {WHOLE})
  %scale.one = extractvalue {{ float, float }} %scales, 0
  %inverse = extractvalue {{ float, float }} %scales, 1
  {lines(repeated(lanes, "float", "scale.one", "scale"))}
  br label %write.map
{_over_maps(lanes, "write", "look.end", to_cell, written)}
write.end:
  %number = bitcast i32 %most to float
  %nothing = fmul float %number, 0.0
  %multiplied = call float @llvm.fma.f32(float %inverse, float %factor, float %nothing)
  ret float %multiplied
}}

define internal float @rounded(ptr %maps, i64 %count, i64 %cells, float %factor, ptr %to, i64 %to.pitch) {{
  %scale = call float @rounded.from(ptr %maps, i64 %count, i64 0, i64 %cells, float %factor, ptr %to, i64 %to.pitch)
  ret float %scale
}}

define internal void @rounded.cells(ptr %maps, i64 %count, i64 %cells, float %factor, ptr %to, i64 %to.pitch,
                                    ptr %scales) {{
entry:
  br label %cell
cell:
  %index = phi i64 [ 0, %entry ], [ %index.next, %cell ]
  %to.offset = mul i64 %index, %to.pitch
  %to.cell = getelementptr i16, ptr %to, i64 %to.offset
  %scale = call float @rounded.from(ptr %maps, i64 %count, i64 %index, i64 1, float %factor, ptr %to.cell,
                                    i64 %to.pitch)
  %scale.at = getelementptr float, ptr %scales, i64 %index
  store float %scale, ptr %scale.at
  %index.next = add i64 %index, 1
  %is.more = icmp slt i64 %index.next, %cells
  br i1 %is.more, label %cell, label %done
done:
  ret void
}}
"""


def _after(at: str) -> str:
    """The next of the numbers that end names."""
    *before, last = at.split(".")
    return ".".join([*before, str(int(last) + 1)])


def _over_maps(
    lanes: int,
    loop: str,
    come_from: str,
    cell: Iterable[str],
    each: Callable[[str, str], Iterable[str]],
    kept: str | None = None,
) -> str:
    """Blocks from ``{loop}.map`` on, which go on as ``{loop}.end``: over maps, cells from ``%first`` on, and channels.

    Lines that begin a cell are ``cell``. ``each`` takes a register of channels, by its name and by a place that ends in
    0 or 1: the last channels are taken with some of those before, where they don't fill one. What is ``kept`` is zero
    at first, ``%{kept}.{place}`` before a register, the same of a place one higher after it, and ``%{kept}`` in the
    end. Nothing is called in between: cells may be of few channels.
    """
    bits = f"<{lanes} x i32>"

    def carried(name: str, *values: tuple[str, str]) -> str:
        pairs = ", ".join(f"[ {value}, %{block} ]" for value, block in values)
        return f"%{kept}{name} = phi {bits} {pairs}" if kept else ""

    return f"""{loop}.map:
  %{loop}.index = phi i64 [ 0, %{come_from} ], [ %{loop}.index.next, %{loop}.map.end ]
  %{loop}.before = phi i64 [ 0, %{come_from} ], [ %{loop}.after, %{loop}.map.end ]
  {carried(".of.maps", ("zeroinitializer", come_from), (f"%{kept}", f"{loop}.map.end"))}
  %{loop}.map.at = getelementptr %Map, ptr %maps, i64 %{loop}.index
  %{loop}.base = load ptr, ptr %{loop}.map.at
  %{loop}.numbers.at = getelementptr %Map, ptr %{loop}.map.at, i32 0, i32 1
  %{loop}.numbers = load i64, ptr %{loop}.numbers.at
  %{loop}.pitch.at = getelementptr %Map, ptr %{loop}.map.at, i32 0, i32 2
  %{loop}.pitch = load i64, ptr %{loop}.pitch.at
  %{loop}.narrow.at = getelementptr %Map, ptr %{loop}.map.at, i32 0, i32 7
  %{loop}.narrow = load i64, ptr %{loop}.narrow.at
  %{loop}.is.narrow = icmp ne i64 %{loop}.narrow, 0
  %{loop}.last = sub i64 %{loop}.numbers, {lanes}
  br label %{loop}.cell
{loop}.cell:
  %{loop}.cell.index = phi i64 [ 0, %{loop}.map ], [ %{loop}.cell.next, %{loop}.cell.end ]
  {carried(".of.cells", (f"%{kept}.of.maps", f"{loop}.map"), (f"%{kept}", f"{loop}.cell.end"))}
  %{loop}.which = add i64 %{loop}.cell.index, %first
  %{loop}.offset = mul i64 %{loop}.which, %{loop}.pitch
  {lines(cell)}
  br i1 %{loop}.is.narrow, label %{loop}.narrow.some, label %{loop}.some
{_over_channels(lanes, loop, f"{loop}.some", each, kept, is_narrow=False)}
{_over_channels(lanes, loop, f"{loop}.narrow.some", each, kept, is_narrow=True)}
{loop}.cell.end:
  {carried("", (f"%{kept}.{loop}.some.2", f"{loop}.some"), (f"%{kept}.{loop}.narrow.some.2", f"{loop}.narrow.some"))}
  %{loop}.cell.next = add i64 %{loop}.cell.index, 1
  %{loop}.is.cell = icmp slt i64 %{loop}.cell.next, %cells
  br i1 %{loop}.is.cell, label %{loop}.cell, label %{loop}.map.end
{loop}.map.end:
  %{loop}.after = add i64 %{loop}.before, %{loop}.numbers
  %{loop}.index.next = add i64 %{loop}.index, 1
  %{loop}.is.map = icmp slt i64 %{loop}.index.next, %count
  br i1 %{loop}.is.map, label %{loop}.map, label %{loop}.end"""


def _over_channels(
    lanes: int, loop: str, block: str, each: Callable[[str, str], Iterable[str]], kept: str | None, is_narrow: bool
) -> str:
    """The block of ``_over_maps`` that takes the channels of one cell."""
    number = "half" if is_narrow else "float"

    def two() -> Iterator[str]:
        for part in range(2):
            at = f"{block}.{part}"
            yield f"%all.{at} = add i64 %{block}.channel, {part * lanes}"
            yield f"%place.{at} = call i64 @llvm.smin.i64(i64 %all.{at}, i64 %{loop}.last)"
            yield f"%number.{at} = add i64 %{loop}.offset, %place.{at}"
            yield f"%at.{at} = getelementptr {number}, ptr %{loop}.base, i64 %number.{at}"
            yield from loaded(lanes, f"x.{at}", f"at.{at}", is_narrow)
            yield from each(f"x.{at}", at)

    values = f"[ %{kept}.of.cells, %{loop}.cell ], [ %{kept}.{block}.2, %{block} ]"
    return f"""{block}:
  %{block}.channel = phi i64 [ 0, %{loop}.cell ], [ %{block}.channel.next, %{block} ]
  {f"%{kept}.{block}.0 = phi <{lanes} x i32> {values}" if kept else ""}
  {lines(two())}
  %{block}.channel.next = add i64 %{block}.channel, {2 * lanes}
  %{block}.is.more = icmp slt i64 %{block}.channel.next, %{loop}.numbers
  br i1 %{block}.is.more, label %{block}, label %{loop}.cell.end"""
