"""A thread's own memory: code finds each region where the size that Python asks for has room for it."""

import re
from importlib import resources

import pytest

from dfine_jax.cpu.codegen.registers import Registers
from dfine_jax.cpu.codegen.scratch import SCRATCH, laid_out, scratch_size
from dfine_jax.cpu.codegen.targets import source

POINTER = re.compile(r"%([\w.]+) = getelementptr float, ptr %([\w.]+), i64 (%?[\w.]+)")
PRODUCT = re.compile(r"%([\w.]+) = mul i64 (%?[\w.]+), (%?[\w.]+)")


def begun(code: str, values: dict[str, int]) -> dict[str, int]:
    """Runs the lines: where each region begins, counted from what all are counted from."""
    numbers, places = dict(values), {}

    def number(operand: str) -> int:
        return numbers[operand[1:]] if operand.startswith("%") else int(operand)

    for line in code.splitlines():
        if product := PRODUCT.search(line):
            numbers[product[1]] = number(product[2]) * number(product[3])
        else:
            name, base, offset = POINTER.search(line).groups()
            places[name] = places.get(base, 0) + number(offset)
    return places


@pytest.mark.parametrize("kind", SCRATCH)
def test_regions_follow_each_other_and_fill_what_is_asked_for(kind):
    names = {factor for size in SCRATCH[kind].values() for factor in size if isinstance(factor, str)}
    values = dict(zip(sorted(names), (3, 5, 7, 11, 13), strict=False))  # primes: no two products are alike by chance
    places = begun(laid_out(f"  SCRATCH.{kind}"), values)
    assert list(places) == list(SCRATCH[kind])
    sizes = {}
    for name, size in SCRATCH[kind].items():
        sizes[name] = 1 if size else 0
        for factor in size:
            sizes[name] *= values.get(factor, factor)
    end = 0
    for name, place in places.items():
        assert place == end
        end += sizes[name]
    assert scratch_size(kind, **values) == end


def test_it_begins_where_it_is_told_to():
    assert laid_out("  SCRATCH.map16.FROM.memory").startswith("  %scales = getelementptr float, ptr %memory, i64 0\n")


def test_a_value_that_is_missing_and_a_kind_that_is_unknown_are_errors():
    with pytest.raises(KeyError, match="columns"):
        scratch_size("gemm", count=3)
    with pytest.raises(KeyError, match="gem"):
        laid_out("  SCRATCH.gem\n")


def test_every_kind_is_laid_out_in_code_and_every_line_is_replaced():
    folder = resources.files("dfine_jax.cpu.codegen")
    texts = [path.read_text("utf-8") for path in folder.iterdir() if path.name.endswith((".py", ".ll"))]
    used = {match[1] for text in texts for match in re.finditer(r"^  SCRATCH\.(\w+)", text, re.MULTILINE)}
    assert used == set(SCRATCH)
    layout = Registers(lanes=16, rows=12, columns=32)
    for purpose, kind in (("inference", None), ("training", None), ("halves", "half"), ("halves", "i16")):
        assert "SCRATCH" not in source(layout, purpose, kind)
