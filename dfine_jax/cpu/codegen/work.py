"""What the threads that share one call know of it, as LLVM's types with functions to read and set each field."""

from dfine_jax.cpu.codegen.text import lines

MOST = 8
"""Maps that one call takes."""

TAPS = 24
"""Rows of kernels, of all maps together, that a convolution row by row takes."""

PAIRS = 128
"""Of numbers in 16 bits of a product, whose products are summed before the sum is added to others in float32."""

PAIRS_OF_TILES = 64
"""The same of tiles, whose transforms magnify errors."""

MAP = ("base", "numbers", "pitch", "kernel", "scales", "run", "down", "narrow")
"""What is known of a map."""

FIELDS = {
    "next": "i64",  # chunk to begin
    "finished": "i64",  # chunks
    "there": "i64",  # threads that haven't left
    "chunks": "i64",
    "slot": "i64",  # of the scratch memory, for the next thread
    "scratch": "ptr",
    "slot.size": "i64",
    "chunk": "ptr",  # the function that computes one
    "multiply": "ptr",  # the function that sums products: of all channels, or of each by itself
    "spread": "ptr",  # the function that transforms tiles
    "factors": "ptr",  # of halves: what sums of products with each kernel are multiplied by
    "halved": "i64",  # 1 where two numbers of a product lie in one float's place, else 0
    "deep": "i64",  # numbers of a kernel for each number of a map: as many as columns, or one
    "finish": "ptr",  # the function that finishes rows of the result
    "bias": "ptr",
    "affine": "ptr",  # scale and shift
    "coarse": "ptr",  # what is added before the activation, if anything is
    "shortcut": "ptr",  # what is added after all else, if anything is
    "result": "ptr",
    "outputs": "i64",  # channels of the result
    "columns": "i64",  # as many, and what fills the last panel
    "rows": "i64",  # of cells, of maps or of tiles, that are divided
    "size": "i64",  # rows of a chunk
    "each": "i64",  # chunks of a picture
    "low": "i64",  # padding above and on the left
    "stride": "i64",
    "height": "i64",  # of the maps
    "width": "i64",
    "high": "i64",  # the result's height
    "wide": "i64",  # the result's width
    "taps": "i64",  # rows of a kernel
    "zeros": "i64",  # as many numbers of the widest map as the windows of a row of the result cover
    "maps": "i64",
    "depth": "i64",  # numbers of a sum of products, of which each part's chunks take as many as a share has
    "share": "i64",
    "tops": "i64",  # maps, the first ones, of which the largest of each four cells count
    "narrow": "i64",  # 1 where the result is in float16, else 0
    "narrow.shortcut": "i64",  # the same of the shortcut
    "twice": "i64",  # 1 where a window, of one column more, is of two cells of the result, else 0
    "step": "i64",  # from a number of a map to the next
    "down": "i64",  # from a number of a column of the kernel to the next
    "across": "i64",  # from a column of the kernel to the next
}
"""Numbers of floats, not of bytes."""


def work() -> str:
    """The types, and functions ``@get.*``, ``@set.*`` and ``@map.*``."""
    types = ", ".join(FIELDS.values())
    fields = [_field(index, name, kind) for index, (name, kind) in enumerate(FIELDS.items())]
    return f"""
; A map's numbers, how many of them, from row to row, and what they are multiplied by. Where they are halves, also what
; each row's sums are multiplied by, how many are summed at a time, and in windows from where these begin to where the
; next do. And 1 where a map that XLA gave is in float16, else 0.
%Map = type {{ ptr, i64, i64, ptr, ptr, i64, i64, i64 }}
%Work = type {{ {types}, [{MOST} x %Map] }}

{"".join(_of_map(*field) for field in enumerate(MAP))}
define internal ptr @map(ptr %work, i64 %index) {{
  %map = getelementptr %Work, ptr %work, i32 0, i32 {len(FIELDS)}, i64 %index
  ret ptr %map
}}

define internal void @set.map(ptr %maps, i64 %index, ptr %base, i64 %numbers, i64 %pitch, ptr %kernel) {{
  %map = getelementptr %Map, ptr %maps, i64 %index
  store ptr %base, ptr %map
  %numbers.at = getelementptr %Map, ptr %map, i32 0, i32 1
  store i64 %numbers, ptr %numbers.at
  %pitch.at = getelementptr %Map, ptr %map, i32 0, i32 2
  store i64 %pitch, ptr %pitch.at
  %kernel.at = getelementptr %Map, ptr %map, i32 0, i32 3
  store ptr %kernel, ptr %kernel.at
  ret void
}}

define internal void @set.scales(ptr %maps, i64 %index, ptr %scales) {{
  %map = getelementptr %Map, ptr %maps, i64 %index
  %scales.at = getelementptr %Map, ptr %map, i32 0, i32 4
  store ptr %scales, ptr %scales.at
  ret void
}}

define internal void @set.window(ptr %maps, i64 %index, i64 %run, i64 %down) {{
  %map = getelementptr %Map, ptr %maps, i64 %index
  %run.at = getelementptr %Map, ptr %map, i32 0, i32 5
  store i64 %run, ptr %run.at
  %down.at = getelementptr %Map, ptr %map, i32 0, i32 6
  store i64 %down, ptr %down.at
  ret void
}}

define internal void @set.narrow.map(ptr %maps, i64 %index, i64 %narrow) {{
  %map = getelementptr %Map, ptr %maps, i64 %index
  %narrow.at = getelementptr %Map, ptr %map, i32 0, i32 7
  store i64 %narrow, ptr %narrow.at
  ret void
}}

; Where a number of an array in float32 lies, or of a narrow one, in float16.
define internal ptr @place(ptr %array, i64 %narrow, i64 %number) {{
  %power = sub i64 2, %narrow
  %bytes = shl i64 %number, %power
  %place = getelementptr i8, ptr %array, i64 %bytes
  ret ptr %place
}}
{"".join(fields)}"""


def fields(*names: str) -> str:
    """Lines that read fields of ``%work``, each to a value of its name."""
    return lines(f"%{name} = call {FIELDS[name]} @get.{name}(ptr %work)" for name in names)


def _of_map(index: int, name: str) -> str:
    kind = "ptr" if name in ("base", "kernel", "scales") else "i64"
    return f"""
define internal {kind} @map.{name}(ptr %map) {{
  %at = getelementptr %Map, ptr %map, i32 0, i32 {index}
  %value = load {kind}, ptr %at
  ret {kind} %value
}}
"""


def _field(index: int, name: str, kind: str) -> str:
    return f"""
define internal ptr @at.{name}(ptr %work) {{
  %at = getelementptr %Work, ptr %work, i32 0, i32 {index}
  ret ptr %at
}}

define internal {kind} @get.{name}(ptr %work) {{
  %at = call ptr @at.{name}(ptr %work)
  %value = load {kind}, ptr %at
  ret {kind} %value
}}

define internal void @set.{name}(ptr %work, {kind} %value) {{
  %at = call ptr @at.{name}(ptr %work)
  store {kind} %value, ptr %at
  ret void
}}
"""
