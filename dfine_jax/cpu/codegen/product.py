"""LLVM's code for products of maps and kernels in panels, see ``dfine_jax.cpu.kernels.packed``.

A tile of the result stays in registers while products are summed. Columns of a kernel lie together in panels, so that
the innermost loop reads what it needs from one place; maps are read where they are. This is the scheme of Goto and van
de Geijn (doi 10.1145/1356052.1356053) without its packing of maps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from dfine_jax.cpu.codegen.registers import Registers
from dfine_jax.cpu.codegen.text import lines, repeated

PANEL = 32
"""Columns of a panel."""

LAST = 16
"""Columns of the last panel, where so many are left."""


def whole_columns(outputs: int) -> int:
    """Of a kernel, with those that fill its last panel."""
    return -(-outputs // LAST) * LAST


def products(layout: Registers) -> str:
    """``@rows``, which computes so many cells of a sum of products, and what it calls."""

    def multiplied(row: int, part: int) -> Iterator[str]:
        vector = f"<{layout.lanes} x float>"
        yield (
            f"%next.{row}.{part} = call {vector} @llvm.fma.v{layout.lanes}f32("
            f"{vector} %lanes.{row}, {vector} %kernel.at.{part}, {vector} %sum.{row}.{part})"
        )

    return sums(layout, "", partial(tile, multiplied=multiplied))


def sums(layout: Registers, suffix: str, one_tile: Callable[..., str]) -> str:
    """``@rows`` and all that it calls, with a suffix to their names. ``one_tile`` makes a tile's, see ``tile``."""
    heights = list(_heights(layout.rows))
    widths = {panel: min(panel, layout.columns) for panel in (PANEL, LAST)}
    sizes = [(rows, columns, panel) for panel, columns in widths.items() for rows in heights]
    tiles = [one_tile(f"tile{suffix}.{size[0]}.{size[2]}", layout.lanes, *size) for size in sizes]
    return "\n".join([*tiles, _rows(suffix, heights, widths)])


def _heights(most: int) -> Iterator[int]:
    """Those of the tiles that a map's rows are cut into, each as often as it fits."""
    while most > 1:
        yield most
        most = (most + 1) // 2
    yield 1


def tile(
    name: str, lanes: int, rows: int, columns: int, panel: int, multiplied: Callable[[int, int], Iterable[str]]
) -> str:
    """A function that sums one tile over some numbers in: ``columns`` of the kernel times ``rows`` cells.

    From row to row of the map there are ``%pitch`` numbers, and from one number of a row to the next ``%step``. Lines
    that add a product of ``%lanes.{row}`` and ``%kernel.at.{part}`` to ``%sum.{row}.{part}`` are ``multiplied``.
    """
    vector, cells = f"<{lanes} x float>", [(row, part) for row in range(rows) for part in range(columns // lanes)]
    return f"""{begun(name, lanes, cells)}
  br i1 %is.first, label %sum, label %resume
resume:
  {lines(f"%so.far.{row}.{part} = load {vector}, ptr %to.{row}.{part}, align 4" for row, part in cells)}
  br label %sum
sum:
  {
        lines(
            f"%start.{row}.{part} = phi {vector} [ zeroinitializer, %entry ], [ %so.far.{row}.{part}, %resume ]"
            for row, part in cells
        )
    }
  br label %add
add:
  %number = phi i64 [ 0, %sum ], [ %number.next, %add ]
  %offset = phi i64 [ 0, %sum ], [ %offset.next, %add ]
  %kernel.0 = phi ptr [ %panel, %sum ], [ %kernel.next, %add ]
  {
        lines(
            f"%sum.{row}.{part} = phi {vector} [ %start.{row}.{part}, %sum ], [ %next.{row}.{part}, %add ]"
            for row, part in cells
        )
    }
  {lines(added(lanes, cells, panel, multiplied))}
  %offset.next = add i64 %offset, %step
  %number.next = add i64 %number, 1
  %is.more = icmp slt i64 %number.next, %numbers
  br i1 %is.more, label %add, label %end
end:
  {lines(f"store {vector} %next.{row}.{part}, ptr %to.{row}.{part}, align 4" for row, part in cells)}
  ret void
}}
"""


def begun(name: str, lanes: int, cells: Sequence[tuple[int, int]]) -> str:
    """How a tile's function begins: where each row of the map is, and each register of the result, in ``cells``.

    Rows are frozen: in the innermost loop LLVM would else find each from the one before, which takes 27 instructions
    where keeping all places takes 17 (of 16 columns; of 32 it is 52 and 42).
    """
    rows_after_first = [(row, row - 1) for row, part in cells if row and not part]
    return f"""
define internal void @{name}(ptr %from.0, i64 %numbers, i64 %pitch, ptr %panel, ptr %to.0, i64 %width, i64 %step,
                            ptr %scales, i64 %run, i64 %down, i1 %is.first) noinline {{
entry:
  {
        lines(
            line
            for row, above in rows_after_first
            for line in (
                f"%below.{above} = getelementptr float, ptr %from.{above}, i64 %pitch",
                f"%from.{row} = freeze ptr %below.{above}",
            )
        )
    }
  {lines(f"%to.{row} = getelementptr float, ptr %to.{above}, i64 %width" for row, above in rows_after_first)}
  {lines(f"%to.{row}.{part} = getelementptr float, ptr %to.{row}, i64 {part * lanes}" for row, part in cells)}"""


def added(
    lanes: int,
    cells: Sequence[tuple[int, int]],
    panel: int,
    multiplied: Callable[[int, int], Iterable[str]],
    number: str = "float",
) -> Iterator[str]:
    """Lines that add one product to each sum: of the number at ``%offset`` in a row and those at ``%kernel.0``.

    ``number`` is the type that they are read as, of as many bits as a float. Each is multiplied as soon as it is read:
    LLVM needs few registers then, and sums products of whole numbers by one instruction, not by two.
    """
    vector = f"<{lanes} x {number}>"
    for part in (part for row, part in cells if not row):
        yield f"%at.{part} = getelementptr float, ptr %kernel.0, i64 {part * lanes}"
        yield f"%kernel.at.{part} = load {vector}, ptr %at.{part}, align 4"
    for row, part in cells:
        if not part:
            yield f"%x.at.{row} = getelementptr float, ptr %from.{row}, i64 %offset"
            yield f"%x.{row} = load {number}, ptr %x.at.{row}, align 4"
            yield from repeated(lanes, number, f"x.{row}", f"lanes.{row}")
        yield from multiplied(row, part)
    yield f"%kernel.next = getelementptr float, ptr %kernel.0, i64 {panel}"


def _rows(suffix: str, heights: list[int], widths: dict[int, int]) -> str:
    """``@rows`` itself: panel after panel."""
    panels = "\n".join(
        _panel(suffix, panel, *edge)
        for panel, edge in {
            PANEL: ("entry", "0", "%whole", f"panel.{LAST}"),
            LAST: (f"panel.{PANEL}", "%whole", "%width", "end"),
        }.items()
    )
    return f"""
define internal void @rows{suffix}(ptr %maps, i64 %count, i64 %cells, ptr %result, i64 %width) {{
entry:
  %rest = and i64 %width, {PANEL - 1}
  %whole = sub i64 %width, %rest
  br label %panel.{PANEL}
{panels}
end:
  ret void
}}
{"".join(_columns(suffix, heights, panel, columns) for panel, columns in widths.items())}"""


def _panel(suffix: str, panel: int, before: str, start: str, stop: str, after: str) -> str:
    """Of ``@rows``: all panels of this width."""
    return f"""panel.{panel}:
  %column.{panel} = phi i64 [ {start}, %{before} ], [ %column.next.{panel}, %one.{panel} ]
  %is.more.{panel} = icmp slt i64 %column.{panel}, {stop}
  br i1 %is.more.{panel}, label %one.{panel}, label %{after}
one.{panel}:
  call void @columns{suffix}.{panel}(ptr %maps, i64 %count, i64 %cells, i64 %column.{panel}, ptr %result, i64 %width,
                              i64 1, i1 true)
  %column.next.{panel} = add i64 %column.{panel}, {panel}
  br label %panel.{panel}"""


def _columns(suffix: str, heights: list[int], panel: int, columns: int) -> str:
    """The function that computes one panel's columns of cells: map after map, tile after tile.

    It adds to what is there unless the sums begin.
    """
    loops, row, came = [], "0", "map"
    for height, following in zip(heights, [*heights[1:], None], strict=True):
        after = "next.map" if following is None else f"height.{following}"
        calls = lines(
            line
            for at in range(0, panel, columns)
            for line in (
                f"%panel.{height}.{at} = getelementptr float, ptr %panel, i64 {at}",
                f"%to.{height}.{at} = getelementptr float, ptr %to.{height}, i64 {at}",
                f"call void @tile{suffix}.{height}.{panel}(ptr %from.{height}, i64 %numbers, i64 %pitch, "
                f"ptr %panel.{height}.{at}, ptr %to.{height}.{at}, i64 %width, i64 %step, "
                f"ptr %scales.{height}, i64 %run, i64 %down, i1 %is.first)",
            )
        )
        loops.append(f"""height.{height}:
  %row.{height} = phi i64 [ {row}, %{came} ], [ %row.next.{height}, %tile.{height} ]
  %row.next.{height} = add i64 %row.{height}, {height}
  %fits.{height} = icmp sle i64 %row.next.{height}, %cells
  br i1 %fits.{height}, label %tile.{height}, label %{after}
tile.{height}:
  %row.from.{height} = mul i64 %row.{height}, %pitch
  %from.{height} = getelementptr float, ptr %base, i64 %row.from.{height}
  %row.to.{height} = mul i64 %row.{height}, %width
  %to.{height} = getelementptr float, ptr %result.column, i64 %row.to.{height}
  %scales.{height} = getelementptr float, ptr %scales, i64 %row.{height}
  {calls}
  br label %height.{height}
""")
        row, came = f"%row.{height}", f"height.{height}"
    return f"""
define internal void @columns{suffix}.{panel}(ptr %maps, i64 %count, i64 %cells, i64 %column, ptr %result, i64 %width,
                                  i64 %step, i1 %is.begin) {{
entry:
  %result.column = getelementptr float, ptr %result, i64 %column
  br label %map
map:
  %index = phi i64 [ 0, %entry ], [ %index.next, %next.map ]
  %map.at = getelementptr %Map, ptr %maps, i64 %index
  %base = call ptr @map.base(ptr %map.at)
  %numbers = call i64 @map.numbers(ptr %map.at)
  %pitch = call i64 @map.pitch(ptr %map.at)
  %kernel = call ptr @map.kernel(ptr %map.at)
  %scales = call ptr @map.scales(ptr %map.at)
  %run = call i64 @map.run(ptr %map.at)
  %down = call i64 @map.down(ptr %map.at)
  %offset = mul i64 %column, %numbers
  %panel = getelementptr float, ptr %kernel, i64 %offset
  %is.first.map = icmp eq i64 %index, 0
  %is.first = and i1 %is.first.map, %is.begin
  br label %height.{heights[0]}
{"".join(loops)}next.map:
  %index.next = add i64 %index, 1
  %is.another = icmp slt i64 %index.next, %count
  br i1 %is.another, label %map, label %done
done:
  ret void
}}
"""
