"""What became of each tensor of a checkpoint, and by which rule, or why nothing did."""

from collections.abc import Mapping
from typing import NamedTuple

from dfine_jax.weights.fill import Plan, Shape
from dfine_jax.weights.names import Recognised, is_known_behind_something
from dfine_jax.weights.rules import BOOKKEEPING, WRAPPERS, Dialect, Match, why_ignored


class Became(NamedTuple):
    """One tensor of a checkpoint."""

    name: str
    """As it is stored."""
    shape: Shape
    ours: tuple[tuple[str, Shape], ...]
    """Names and shapes of what is made of it: one, three where attention's projections are fused, or none."""
    why: str
    """The rule and how numbers are put in another order, or why nothing is made of it."""

    def __str__(self) -> str:
        made = ", ".join(f"{name} {list(shape)}" for name, shape in self.ours) or "nothing"
        return f"{self.name} {list(self.shape)} -> {made}: {self.why}"


def explained(
    dialect: Dialect, read: Recognised, stored: Mapping[str, Shape], plan: Plan, targets: Mapping[str, Shape]
) -> list[Became]:
    """What a plan makes of every tensor in a checkpoint, by the names that these have there."""
    made: dict[str, list[tuple[str, Match]]] = {}
    for ours, (name, match) in plan.origins.items():
        made.setdefault(name, []).append((ours, match))
    entries = []
    for name in read.tensors.shapes:
        called = read.stored_names.get(name, name)
        ours = sorted(made.get(name, ()), key=lambda entry: entry[1].part)
        why = _rule(ours[0][1], len(ours)) if ours else why_ignored(dialect, name) or "no rule knows it"
        shapes = tuple((target, targets[target]) for target, _ in ours)
        entries.append(Became(called, stored[called], shapes, why + _taken_off(called, name)))
    entries += [Became(name, stored[name], (), _why_left_out(dialect, name)) for name in read.left_out]
    return sorted(entries)


def _rule(match: Match, count: int) -> str:
    rule = match.rule
    several = f" in {count} equal parts" if count > 1 else ""
    return f"rule {rule.start} -> {rule.end}{several}, {match.layout.meaning}"


def _taken_off(called: str, name: str) -> str:
    """What is in or before a stored name and not in the dialect's, and what put it there where that is known."""
    if called == name:
        return ""
    parts = called.split(".")
    wrappers = [part for part in dict.fromkeys(parts) if part in WRAPPERS]
    plain = ".".join(part for part in parts if part not in WRAPPERS)
    off = [f"{part}. ({WRAPPERS[part]})" for part in wrappers]
    if before := plain.removesuffix(name):
        off.append(before)
    return f"; {', '.join(off)} taken off" if off else ""


def _why_left_out(dialect: Dialect, name: str) -> str:
    if name.rpartition(".")[2] in BOOKKEEPING:
        return "a number that an average counts with"
    return "of another copy of the model" if is_known_behind_something(dialect, name) else "no rule knows it"
