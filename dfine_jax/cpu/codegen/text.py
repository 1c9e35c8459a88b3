"""Pieces of LLVM's language that all code here is written with."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np


def lines(code: Iterable[str]) -> str:
    """Indented, as code in a function is."""
    return "\n  ".join(code)


def loop(
    block: str,
    index: str,
    stop: str,
    body: str,
    *,
    start: str = "0",
    step: int = 1,
    before: str = "entry",
    last: str | None = None,
    carried: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    """Gives a loop over ``%{index}`` from ``start`` to before ``stop``, run at least once; ``{block}.end`` follows it.

    The loop comes after the block ``before`` and begins the block ``block``. ``last`` is the block that the body ends
    in, where that is another one: that after an inner loop. Values that are carried from round to round, with type and
    start, are called ``%{name}`` in the body, which sets ``%{name}.next``.
    """
    last = last or block
    values = {index: ("i64", start)} | dict(carried or {})
    phis = [
        f"%{name} = phi {kind} [ {value}, %{before} ], [ %{name}.next, %{last} ]"
        for name, (kind, value) in values.items()
    ]
    return f"""  br label %{block}
{block}:
  {lines(phis)}
  {body.strip()}
  %{index}.next = add i64 %{index}, {step}
  %{block}.is.more = icmp slt i64 %{index}.next, {stop}
  br i1 %{block}.is.more, label %{block}, label %{block}.end
{block}.end:"""


def splat(lanes: int, value: float) -> str:
    """A vector of one number."""
    bits = np.float64(np.float32(value)).view(np.uint64)
    return "<" + ", ".join([f"float 0x{bits:016X}"] * lanes) + ">"


def repeated(lanes: int, kind: str, one: str, name: str) -> Iterator[str]:
    """Lines that set ``%{name}`` to a vector of ``%{one}``, which is of this kind, without a call."""
    vector = f"<{lanes} x {kind}>"
    yield f"%{name}.first = insertelement {vector} poison, {kind} %{one}, i64 0"
    yield f"%{name} = shufflevector {vector} %{name}.first, {vector} poison, <{lanes} x i32> zeroinitializer"


def widened(lanes: int, bits: str, name: str) -> Iterator[str]:
    """Lines that set ``%{name}`` to the floats of ``%{bits}``, numbers in float16 as whole ones of 16 bits."""
    yield f"%{name}.half = bitcast <{lanes} x i16> %{bits} to <{lanes} x half>"
    yield f"%{name} = fpext <{lanes} x half> %{name}.half to <{lanes} x float>"


def loaded(lanes: int, name: str, at: str, is_narrow: bool) -> Iterator[str]:
    """Lines that set ``%{name}`` to the floats at ``%{at}``, which are in float16 if they are narrow."""
    if is_narrow:
        yield f"%{name}.bits = load <{lanes} x i16>, ptr %{at}, align 2"
        yield from widened(lanes, f"{name}.bits", name)
    else:
        yield f"%{name} = load <{lanes} x float>, ptr %{at}, align 4"


def first_lanes(lanes: int, name: str, start: str, stop: str) -> str:
    """Lines that set a mask of the lanes whose place, counted from ``start``, is before ``stop``.

    It is compared in 32 bits: LLVM's own way, in 64, takes three times as many instructions.
    """
    vector = f"<{lanes} x i32>"
    places = "<" + ", ".join(f"i32 {lane}" for lane in range(lanes)) + ">"
    return lines(
        [
            f"%{name}.left = sub i64 {stop}, {start}",
            f"%{name}.short = trunc i64 %{name}.left to i32",
            *repeated(lanes, "i32", f"{name}.short", f"{name}.all"),
            f"%{name} = icmp sgt {vector} %{name}.all, {places}",
        ]
    )
