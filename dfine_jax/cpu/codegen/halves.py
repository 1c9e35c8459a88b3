"""LLVM's code for products of numbers in 16 bits, see ``dfine_jax.cpu.kernels.packed16``: two lie in one float's place.

Maps are rounded before they are multiplied, a thread's share at a time. In a register of a kernel each column has two
numbers of a sum next to each other, and a tile of the result as many registers as in float32.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from dfine_jax.cpu.codegen.product import added, begun, sums, tile
from dfine_jax.cpu.codegen.registers import Half, Registers
from dfine_jax.cpu.codegen.rounding import largest_of_four, rounding, scales
from dfine_jax.cpu.codegen.text import lines, repeated
from dfine_jax.cpu.codegen.wholes import rounding_of_wholes


def halves(layout: Registers, half: Half) -> str:
    """``@rows.of.halves`` and ``@rows.of.windows``, which take what ``@rows`` does, and what rounds maps for them."""
    in_bfloat16 = partial(tile, multiplied=partial(_multiplied_in_bfloat16, layout.lanes))
    in_blocks = partial(_tile_in_blocks, half=half)
    products = sums(layout, ".of.halves", in_bfloat16 if half == "bfloat" else in_blocks)
    windows = sums(layout, ".of.windows", partial(_window, half=half))
    rounded = rounding_of_wholes(layout.lanes) if half == "i16" else rounding(layout.lanes, half)
    largest = largest_of_four(2 * layout.lanes, half)
    return "\n".join([_declared(layout.lanes), products, windows, scales(layout.lanes), rounded, largest])


def _declared(lanes: int) -> str:
    floats, halves, bfloats = f"<{lanes} x float>", f"<{2 * lanes} x half>", f"<{2 * lanes} x bfloat>"
    wholes = f"<{lanes} x i32>"
    return f"""
declare {halves} @llvm.fma.v{2 * lanes}f16({halves}, {halves}, {halves})
declare {floats} @llvm.x86.avx512bf16.dpbf16ps.512({floats}, {bfloats}, {bfloats})
declare {wholes} @llvm.x86.avx512.vpdpwssd.512({wholes}, {wholes}, {wholes})
"""


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


def _multiplied_in_wholes(lanes: int, row: int, part: int) -> Iterator[str]:
    """Lines that add products of pairs: the processor sums in 32 bits. It takes a pair as one number."""
    wholes = f"<{lanes} x i32>"
    yield (
        f"%next.{row}.{part} = call {wholes} @llvm.x86.avx512.vpdpwssd.512("
        f"{wholes} %sum.{row}.{part}, {wholes} %lanes.{row}, {wholes} %kernel.at.{part})"
    )


_MULTIPLIED = {"half": _multiplied_in_float16, "bfloat": _multiplied_in_bfloat16, "i16": _multiplied_in_wholes}


def _pairs(lanes: int, half: Half, row: int, part: int) -> Iterator[str]:
    """Lines that see a row's and a kernel's numbers as pairs of halves, before the first product that wants them."""
    vector, pairs = f"<{lanes} x float>", f"<{2 * lanes} x {half}>"
    if part == 0:
        yield f"%pairs.{row} = bitcast {vector} %lanes.{row} to {pairs}"
    if row == 0:
        yield f"%kernel.pairs.{part} = bitcast {vector} %kernel.at.{part} to {pairs}"


def _tile_in_blocks(name: str, lanes: int, rows: int, columns: int, panel: int, half: Half) -> str:
    """A function that sums one tile as ``dfine_jax.cpu.codegen.product.tile`` does; ``%step`` is 1.

    So many pairs as ``%run`` says are summed in float16, or as whole numbers, before their sum is added to others in
    float32.
    """
    cells = [(row, part) for row in range(rows) for part in range(columns // lanes)]
    return f"""{begun(name, lanes, cells)}
  br label %block
block:
  %first = phi i64 [ 0, %entry ], [ %block.next, %write ]
  %block.next = add i64 %first, %run
  %stop = call i64 @llvm.smin.i64(i64 %block.next, i64 %numbers)
  %kernel.offset = mul i64 %first, {panel}
  %kernel.first = getelementptr float, ptr %panel, i64 %kernel.offset
  {_run(lanes, cells, panel, half, "block", lambda row, part: "zeroinitializer")}
  %is.first.block = icmp eq i64 %first, 0
  %is.begin = and i1 %is.first.block, %is.first
  {lines(_written(lanes, cells, "block.end", "%is.begin", _scaled(lanes, cells, half)))}
  %is.another = icmp slt i64 %block.next, %numbers
  br i1 %is.another, label %block, label %done
done:
  ret void
}}
"""


def _summed(lanes: int, half: Half) -> str:
    """The type of sums as they grow."""
    return {"half": f"<{2 * lanes} x half>", "bfloat": f"<{lanes} x float>", "i16": f"<{lanes} x i32>"}[half]


def _run(
    lanes: int,
    cells: Sequence[tuple[int, int]],
    panel: int,
    half: Half,
    block: str,
    before: Callable[[int, int], str],
) -> str:
    """The rest of this block, which goes on as ``{block}.end``: adds products of pairs from ``%first`` to ``%stop``.

    The kernel's begin at ``%kernel.first``; a sum begins with what is ``before``.
    """
    summed = _summed(lanes, half)
    return f"""br label %add
add:
  %offset = phi i64 [ %first, %{block} ], [ %offset.next, %add ]
  %kernel.0 = phi ptr [ %kernel.first, %{block} ], [ %kernel.next, %add ]
  {
        lines(
            f"%sum.{row}.{part} = phi {summed} [ {before(row, part)}, %{block} ], [ %next.{row}.{part}, %add ]"
            for row, part in cells
        )
    }
  {lines(added(lanes, cells, panel, partial(_MULTIPLIED[half], lanes), "i32" if half == "i16" else "float"))}
  %offset.next = add i64 %offset, 1
  %is.more = icmp slt i64 %offset.next, %stop
  br i1 %is.more, label %add, label %{block}.end
{block}.end:"""


def _window(name: str, lanes: int, rows: int, columns: int, panel: int, half: Half) -> str:
    """A function that sums one tile as ``dfine_jax.cpu.codegen.product.tile`` does, of numbers ``%run`` by ``%run``.

    From the begin of a run to that of the next there are ``%down``. Sums in float16, or of whole numbers, are of all.
    """
    cells = [(row, part) for row in range(rows) for part in range(columns // lanes)]
    summed = _summed(lanes, half)
    return f"""{begun(name, lanes, cells)}
  br label %window
window:
  %number = phi i64 [ 0, %entry ], [ %number.next, %window.end ]
  %first = phi i64 [ 0, %entry ], [ %first.next, %window.end ]
  %kernel.first = phi ptr [ %panel, %entry ], [ %kernel.next, %window.end ]
  {
        lines(
            f"%before.{row}.{part} = phi {summed} [ zeroinitializer, %entry ], [ %next.{row}.{part}, %window.end ]"
            for row, part in cells
        )
    }
  %stop = add i64 %first, %run
  {_run(lanes, cells, panel, half, "window", lambda row, part: f"%before.{row}.{part}")}
  %first.next = add i64 %first, %down
  %number.next = add i64 %number, %run
  %is.run = icmp slt i64 %number.next, %numbers
  br i1 %is.run, label %window, label %done
done:
  {lines(_written(lanes, cells, "done", "%is.first", _scaled(lanes, cells, half)))}
  ret void
}}
"""


def _written(
    lanes: int, cells: Sequence[tuple[int, int]], come_from: str, begins: str, scaled: Iterable[str]
) -> Iterator[str]:
    """The end of a block: adds ``%scaled.*``, which lines set, to what is there, and doesn't look where sums begin."""
    vector, places = f"<{lanes} x float>", [f"{row}.{part}" for row, part in cells]
    yield from scaled
    yield f"br i1 {begins}, label %write, label %resume"
    yield "resume:"
    for at in places:
        yield f"%so.far.{at} = load {vector}, ptr %to.{at}, align 4"
        yield f"%total.{at} = fadd {vector} %scaled.{at}, %so.far.{at}"
    yield "br label %write"
    yield "write:"
    for at in places:
        yield f"%written.{at} = phi {vector} [ %scaled.{at}, %{come_from} ], [ %total.{at}, %resume ]"
    for at in places:
        yield f"store {vector} %written.{at}, ptr %to.{at}, align 4"


def _scaled(lanes: int, cells: Sequence[tuple[int, int]], half: Half) -> Iterator[str]:
    """Lines that make floats of sums, scaled as each row's are; in bfloat16 they are."""
    floats = f"<{lanes} x float>"
    if half == "bfloat":
        yield from (f"%scaled.{row}.{part} = bitcast {floats} %next.{row}.{part} to {floats}" for row, part in cells)
        return
    widened = _widened_from_float16 if half == "half" else _widened_from_wholes
    for row, part in cells:
        if not part:
            yield f"%scale.at.{row} = getelementptr float, ptr %scales, i64 {row}"
            yield f"%scale.one.{row} = load float, ptr %scale.at.{row}"
            yield from repeated(lanes, "float", f"scale.one.{row}", f"scale.{row}")
        at = f"{row}.{part}"
        yield from widened(lanes, at)
        yield f"%scaled.{at} = fmul {floats} %float.{at}, %scale.{row}"


def _widened_from_wholes(lanes: int, at: str) -> Iterator[str]:
    yield f"%float.{at} = sitofp <{lanes} x i32> %next.{at} to <{lanes} x float>"


def _widened_from_float16(lanes: int, at: str) -> Iterator[str]:
    """Lines that make one float of both sums of a column."""
    floats, pairs, bits = f"<{lanes} x float>", f"<{2 * lanes} x half>", f"<{lanes} x i32>"
    sixteen = "<" + ", ".join(["i32 16"] * lanes) + ">"
    yield f"%bits.{at} = bitcast {pairs} %next.{at} to {bits}"
    yield f"%moved.{at} = lshr {bits} %bits.{at}, {sixteen}"
    yield f"%second.{at} = bitcast {bits} %moved.{at} to {pairs}"
    yield f"%both.{at} = fadd {pairs} %next.{at}, %second.{at}"
    yield f"%both.bits.{at} = bitcast {pairs} %both.{at} to {bits}"
    yield f"%short.{at} = trunc {bits} %both.bits.{at} to <{lanes} x i16>"
    yield f"%half.{at} = bitcast <{lanes} x i16> %short.{at} to <{lanes} x half>"
    yield f"%float.{at} = fpext <{lanes} x half> %half.{at} to {floats}"
