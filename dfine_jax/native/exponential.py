"""LLVM's code for the exponential and the error function of a vector."""

import math
from collections.abc import Iterator

import numpy as np

from dfine_jax.native.text import lines, splat

_DEGREE = 7
_EXPONENT_BIAS, _MANTISSA = 127, 23  # of a float32
_LN2_HIGH = float(np.float32(0.693359375))  # few bits: n times it is exact

_ERF_ABOVE = (
    -2.72614225801306e-10,
    2.77068142495902e-8,
    -2.10102402082508e-6,
    -5.69250639462346e-5,
    -7.34990630326855e-4,
    -2.95459980854025e-3,
    -1.60960333262415e-2,
)
_ERF_BELOW = (
    -1.45660718464996e-5,
    -2.13374055278905e-4,
    -1.68282697438203e-3,
    -7.37332916720468e-3,
    -1.42647390514189e-2,
)
# Of x**2, the highest power first: the quotient times x is the error function from -4 to 4, to 4e-7 in float32. They
# are Eigen's.


def exponential(lanes: int, x: str, result: str) -> str:
    """Lines that set the vector ``result`` to the exponential of the vector ``x``, both names without their ``%``.

    exp(x) = 2**n exp(r), x = n ln 2 + r, and the Taylor polynomial of exp(r). Outside of -87 to 89, of which it is
    infinite, x counts as the nearest of these. What is not a number does too.
    """
    vector, integers, suffix = f"<{lanes} x float>", f"<{lanes} x i32>", f"v{lanes}f32"

    def named(part: str) -> str:
        return f"%{result}.{part}"

    def fused(target: str, factor: str, other: str, addend: str) -> str:
        return f"{target} = {_fused(lanes, factor, other, addend)}"

    def whole(value: int) -> str:
        return "<" + ", ".join([f"i32 {value}"] * lanes) + ">"

    terms, sums = [], splat(lanes, 1 / math.factorial(_DEGREE))
    for power in range(_DEGREE - 1, -1, -1):
        terms.append(fused(named(f"p.{power}"), sums, named("r"), splat(lanes, 1 / math.factorial(power))))
        sums = named(f"p.{power}")
    return lines(
        [
            *_bounded(lanes, f"%{x}", named("bounded"), -87, 89),
            f"{named('turns')} = fmul {vector} {named('bounded')}, {splat(lanes, 1 / math.log(2))}",
            f"{named('n')} = call {vector} @llvm.rint.{suffix}({vector} {named('turns')})",
            fused(named("r.high"), named("n"), splat(lanes, -_LN2_HIGH), named("bounded")),
            fused(named("r"), named("n"), splat(lanes, _LN2_HIGH - math.log(2)), named("r.high")),
            *terms,
            f"{named('n.whole')} = fptosi {vector} {named('n')} to {integers}",
            f"{named('exponent')} = add {integers} {named('n.whole')}, {whole(_EXPONENT_BIAS)}",
            f"{named('bits')} = shl {integers} {named('exponent')}, {whole(_MANTISSA)}",
            f"{named('power')} = bitcast {integers} {named('bits')} to {vector}",
            f"%{result} = fmul {vector} {sums}, {named('power')}",
        ]
    )


def error_function(lanes: int, x: str, result: str) -> str:
    """Lines that set the vector ``result`` to the error function of the vector ``x``, see ``exponential``."""
    vector, square = f"<{lanes} x float>", f"%{result}.square"
    code = [
        *_bounded(lanes, f"%{x}", f"%{result}.bounded", -4, 4),
        f"{square} = fmul {vector} %{result}.bounded, %{result}.bounded",
    ]
    sums = []
    for name, coefficients in (("above", _ERF_ABOVE), ("below", _ERF_BELOW)):
        total = splat(lanes, coefficients[0])
        for power, coefficient in enumerate(coefficients[1:]):
            target = f"%{result}.{name}.{power}"
            code.append(f"{target} = {_fused(lanes, total, square, splat(lanes, coefficient))}")
            total = target
        sums.append(total)
    above, below = sums
    return lines(
        [
            *code,
            f"%{result}.quotient = fdiv {vector} {above}, {below}",
            f"%{result} = fmul {vector} %{result}.quotient, %{result}.bounded",
        ]
    )


def _fused(lanes: int, factor: str, other: str, addend: str) -> str:
    """A product and a sum, rounded once."""
    vector = f"<{lanes} x float>"
    return f"call {vector} @llvm.fma.v{lanes}f32({vector} {factor}, {vector} {other}, {vector} {addend})"


def _bounded(lanes: int, x: str, target: str, least: float, most: float) -> Iterator[str]:
    vector, suffix = f"<{lanes} x float>", f"v{lanes}f32"
    yield f"{target}.low = call {vector} @llvm.maxnum.{suffix}({vector} {x}, {vector} {splat(lanes, least)})"
    yield f"{target} = call {vector} @llvm.minnum.{suffix}({vector} {target}.low, {vector} {splat(lanes, most)})"
