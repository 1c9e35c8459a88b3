"""Numbers that a call hands to machine code, by name: one table for both sides.

XLA sorts them by name. In LLVM's language ``ATTRIBUTE.KIND.NAME`` stands for a number's place among those of its kind.
"""

import re
from collections.abc import Iterable

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "work": ("low", "size", "stride", "tops", "twice"),
    "matrices": ("across", "depth", "down", "pitch", "share", "size", "step"),
    "gradients": ("low", "share", "stride"),
}
"""By kind of call: what a layer's functions take, products of matrices, and gradients of kernels."""

_PLACE = re.compile(r"ATTRIBUTE\.(\w+)\.(\w+)")


def placed(source: str) -> str:
    """LLVM's language with places instead of names; ``ValueError`` for a name that no call hands over."""
    return _PLACE.sub(lambda match: str(ATTRIBUTES[match[1]].index(match[2])), source)


def check_attributes(kind: str, names: Iterable[str]) -> None:
    """``ValueError`` unless these are the numbers that the code of this kind reads."""
    if tuple(sorted(names)) != tuple(sorted(ATTRIBUTES[kind])):
        raise ValueError(f"{', '.join(sorted(names))}: machine code of {kind} takes {', '.join(ATTRIBUTES[kind])}")
