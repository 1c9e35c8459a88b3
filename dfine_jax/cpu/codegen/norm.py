"""LLVM's code for layer normalisation, of a row in a processor's nearest cache."""

from dfine_jax.cpu.codegen.registers import Registers
from dfine_jax.cpu.codegen.text import loop, splat


def norm(layout: Registers) -> str:
    """``@chunk.norm``, which normalises some rows of a map."""
    lanes = layout.lanes
    vector, suffix = f"<{lanes} x float>", f"v{lanes}f32"
    summed = f"""
  %at = getelementptr float, ptr %row, i64 %column
  %x = load {vector}, ptr %at, align 4
  %off = fsub {vector} %x, %centre
  %factor = select i1 %is.squared, {vector} %off, {vector} {splat(lanes, 1)}
  %sum.next = call {vector} @llvm.fma.{suffix}({vector} %off, {vector} %factor, {vector} %sum)
"""
    normalised = f"""
  %at = getelementptr float, ptr %from, i64 %column
  %x = load {vector}, ptr %at, align 4
  %off = fsub {vector} %x, %centre
  %normal = fmul {vector} %off, %factor
  %scale.from = getelementptr float, ptr %scales, i64 %column
  %scale = load {vector}, ptr %scale.from, align 4
  %bias.from = getelementptr float, ptr %biases, i64 %column
  %bias = load {vector}, ptr %bias.from, align 4
  %y = call {vector} @llvm.fma.{suffix}({vector} %normal, {vector} %scale, {vector} %bias)
  %to.at = getelementptr float, ptr %to, i64 %column
  store {vector} %y, ptr %to.at, align 4
"""
    row = f"""
  %which = add i64 %first, %index
  %offset = mul i64 %which, %width
  %from = getelementptr float, ptr %base, i64 %offset
  %to = getelementptr float, ptr %result, i64 %offset
  %mean = call float @mean(ptr %from, i64 %width, {vector} zeroinitializer, i1 false)
  %centre = call {vector} @splat(float %mean)
  %variance = call float @mean(ptr %from, i64 %width, {vector} %centre, i1 true)
  %more = fadd float %variance, %epsilon
  %deviation = call float @llvm.sqrt.f32(float %more)
  %inverse = fdiv float 1.0, %deviation
  %factor = call {vector} @splat(float %inverse)
{loop("some", "column", "%width", normalised, step=lanes, before="row")}
"""
    return f"""
declare float @llvm.vector.reduce.fadd.{suffix}(float, {vector})
declare float @llvm.sqrt.f32(float)

; Of what differs from a centre, or of its squares.
define internal float @mean(ptr %row, i64 %width, {vector} %centre, i1 %is.squared) {{
entry:
{loop("some", "column", "%width", summed, step=lanes, carried={"sum": (vector, "zeroinitializer")})}
  %total = call reassoc float @llvm.vector.reduce.fadd.{suffix}(float 0.0, {vector} %sum.next)
  %count = sitofp i64 %width to float
  %mean = fdiv float %total, %count
  ret float %mean
}}

define internal void @chunk.norm(ptr %work, i64 %picture, i64 %first, i64 %rows, ptr %scratch) {{
entry:
  %map = call ptr @map(ptr %work, i64 0)
  %base = call ptr @map.base(ptr %map)
  %scales = call ptr @map.kernel(ptr %map)
  %biases = call ptr @get.bias(ptr %work)
  %epsilon.at = call ptr @get.affine(ptr %work)
  %epsilon = load float, ptr %epsilon.at
  %result = call ptr @get.result(ptr %work)
  %width = call i64 @get.outputs(ptr %work)
{loop("row", "index", "%rows", row, last="some.end")}
  ret void
}}
"""
