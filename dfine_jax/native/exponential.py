"""LLVM's code for the exponential function of a vector."""

import math

import numpy as np

from dfine_jax.native.text import lines, splat

_DEGREE = 7
_EXPONENT_BIAS, _MANTISSA = 127, 23  # of a float32
_LN2_HIGH = float(np.float32(0.693359375))  # few bits: n times it is exact


def exponential(lanes: int, x: str, result: str) -> str:
    """Lines that set the vector ``result`` to the exponential of the vector ``x``, both names without their ``%``.

    exp(x) = 2**n exp(r), x = n ln 2 + r, and the Taylor polynomial of exp(r). Outside of -87 to 89, of which it is
    infinite, x counts as the nearest of these. What is not a number does too.
    """
    vector, integers, suffix = f"<{lanes} x float>", f"<{lanes} x i32>", f"v{lanes}f32"

    def named(part: str) -> str:
        return f"%{result}.{part}"

    def fused(target: str, factor: str, other: str, addend: str) -> str:
        return f"{target} = call {vector} @llvm.fma.{suffix}({vector} {factor}, {vector} {other}, {vector} {addend})"

    def whole(value: int) -> str:
        return "<" + ", ".join([f"i32 {value}"] * lanes) + ">"

    terms, sums = [], splat(lanes, 1 / math.factorial(_DEGREE))
    for power in range(_DEGREE - 1, -1, -1):
        terms.append(fused(named(f"p.{power}"), sums, named("r"), splat(lanes, 1 / math.factorial(power))))
        sums = named(f"p.{power}")
    return lines(
        [
            f"{named('large')} = call {vector} @llvm.maxnum.{suffix}({vector} %{x}, {vector} {splat(lanes, -87)})",
            f"{named('bounded')} = call {vector} @llvm.minnum.{suffix}"
            f"({vector} {named('large')}, {vector} {splat(lanes, 89)})",
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
