"""LLVM's code for the exponential and the error function of a vector."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from dfine_jax.cpu.codegen.text import lines, splat

_MANTISSA = 23  # bits of a float32
_ROUNDING = 1.5 * 2**_MANTISSA  # a sum with it is a whole number, which its last bits are
_LN2_HIGH = float(np.float32(0.693359375))  # few bits: n times it is exact
_EXPONENTIAL = Chebyshev.interpolate(np.exp, 6, [-math.log(2) / 2, math.log(2) / 2]).convert(kind=Polynomial).coef

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

    exp(x) = 2**n exp(r), x = n ln 2 + r, and the polynomial of exp(r), by Estrin's scheme: few steps wait for others.
    Outside of -87 to 88 x counts as the nearest of these. What is not a number does too.
    """
    vector, integers = f"<{lanes} x float>", f"<{lanes} x i32>"

    def named(part: str) -> str:
        return f"%{result}.{part}"

    def fused(target: str, factor: str, other: str, addend: str) -> str:
        return f"{named(target)} = {_fused(lanes, factor, other, addend)}"

    bounded, turns, n, r, square, fourth = map(named, ("bounded", "turns", "n", "r", "square", "fourth"))
    c = [splat(lanes, coefficient) for coefficient in _EXPONENTIAL]
    mantissa = "<" + ", ".join([f"i32 {_MANTISSA}"] * lanes) + ">"
    return lines(
        [
            *_bounded(lanes, f"%{x}", bounded, -87, 88),
            fused("turns", bounded, splat(lanes, 1 / math.log(2)), splat(lanes, _ROUNDING)),
            f"{n} = fsub {vector} {turns}, {splat(lanes, _ROUNDING)}",
            fused("r.high", n, splat(lanes, -_LN2_HIGH), bounded),
            fused("r", n, splat(lanes, _LN2_HIGH - math.log(2)), named("r.high")),
            f"{square} = fmul {vector} {r}, {r}",
            fused("low", c[1], r, c[0]),
            fused("middle", c[3], r, c[2]),
            fused("high", c[5], r, c[4]),
            f"{fourth} = fmul {vector} {square}, {square}",
            fused("lower", named("middle"), square, named("low")),
            fused("higher", c[6], square, named("high")),
            fused("whole", named("higher"), fourth, named("lower")),
            f"{named('turns.bits')} = bitcast {vector} {turns} to {integers}",
            f"{named('power')} = shl {integers} {named('turns.bits')}, {mantissa}",
            f"{named('whole.bits')} = bitcast {vector} {named('whole')} to {integers}",
            f"{named('bits')} = add {integers} {named('whole.bits')}, {named('power')}",
            f"%{result} = bitcast {integers} {named('bits')} to {vector}",
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
