"""Names of tensors that wrappers and trainers have put something in front of: what is taken off so that rules fit."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dfine_jax.display import printable
from dfine_jax.weights.fill import MOST_TENSORS, CheckpointError, Shape, Source
from dfine_jax.weights.rules import AVERAGE, BOOKKEEPING, WRAPPERS, Dialect, is_ignored, to_jax

DEEPEST = 8
"""Parts of a name that may stand in front of those that a rule knows."""
ALMOST = 0.9
"""Of the best match's tensors, what those behind another prefix must be to be a copy of the model."""


class Renamed:
    """A checkpoint under a dialect's own names."""

    def __init__(self, source: Source, names: Mapping[str, str]):
        """``names``: by the dialect's name that in the checkpoint."""
        self.shapes: dict[str, Shape] = {name: source.shapes[stored] for name, stored in names.items()}
        self.types = {name: source.types[stored] for name, stored in names.items()}
        self._source, self._names = source, names

    def read(self, name: str) -> np.ndarray:
        """One tensor by the dialect's name."""
        return self._source.read(self._names[name])


@dataclass(frozen=True)
class Recognised:
    """A checkpoint whose names were understood."""

    dialect: Dialect
    tensors: Source
    """Under the dialect's names."""
    taken_off: str
    """What was in names and in front of them, or nothing."""
    stored_names: Mapping[str, str]
    """By the dialect's name that in the checkpoint, where it is another."""
    left_out: tuple[str, ...]
    """Tensors without that in front, which no rule knows, and numbers that averages count with."""


def recognise(source: Source, dialects: tuple[Dialect, ...], called: str) -> Recognised:
    """The dialect that knows most of a checkpoint's tensors, once what all or nearly all names begin with is off.

    Where several copies of a model lie side by side, as ``model.`` and ``ema.``, the average is taken.
    ``CheckpointError`` where no rule knows any tensor, with what the names begin with.
    """
    stored = list(source.shapes)
    if len(stored) > MOST_TENSORS:
        raise CheckpointError(f"{called} holds {len(stored):,} tensors, up to {MOST_TENSORS:,} are read")
    plain = {name: _unwrapped(name) for name in stored}
    if all(name == short for name, short in plain.items()):
        for dialect in dialects:  # the usual case, without looking for what could be in front of names
            if _knows_all(dialect, stored):
                return Recognised(dialect, source, "", {}, ())
    by_dialect = [(dialect, _prefixes(dialect, plain.values())) for dialect in dialects]
    dialect, prefixes = max(by_dialect, key=lambda entry: max(entry[1].values(), default=0))
    if not prefixes:
        raise CheckpointError(f"{called} holds no weights of D-FINE: no rule knows any of its tensors{_some(stored)}")
    most = max(prefixes.values())
    copies = [prefix for prefix, count in prefixes.items() if count >= ALMOST * most]
    prefix = min(copies, key=lambda start: (not is_average(start), "teacher" in start, -prefixes[start], len(start)))
    counted = {name for name in stored if plain[name].rpartition(".")[2] in BOOKKEEPING and not source.shapes[name]}
    names, left_out = _behind(prefix, {name: short for name, short in plain.items() if name not in counted}, dialect)
    left_out += sorted(counted)
    inside = sorted({part for name in stored for part in name.split(".") if part in WRAPPERS})
    taken_off = ", ".join([*(f"{part}." for part in inside), *([prefix] if prefix else [])])
    return Recognised(dialect, Renamed(source, names), taken_off, names, tuple(left_out))


def _knows_all(dialect: Dialect, names: Iterable[str]) -> bool:
    """Whether there is a rule for every name as it is, and not for all of them to be ignored."""
    known = ignored = 0
    for name in names:
        if to_jax(dialect, name):
            known += 1
        elif is_ignored(dialect, name):
            ignored += 1
        else:
            return False
    return known > ignored


def count_known(dialect: Dialect, names: Iterable[str]) -> int:
    """How many tensors a dialect knows, whatever is put in front of their names, as long as it is the same."""
    return max(_prefixes(dialect, map(_unwrapped, names)).values(), default=0)


def is_known_behind_something(dialect: Dialect, name: str) -> bool:
    """Whether a dialect knows a tensor, whatever is put in front of its name."""
    return count_known(dialect, [name]) > 0


def is_average(name: str) -> bool:
    """Whether a name says that weights under it are a moving average."""
    return AVERAGE.search(name) is not None


def _behind(prefix: str, plain: Mapping[str, str], dialect: Dialect) -> tuple[dict[str, str], list[str]]:
    """By the dialect's name the name in the checkpoint, and what is left out: all else in front of which is nothing."""
    names: dict[str, str] = {}
    for stored, name in plain.items():
        if name.startswith(prefix) and name.removeprefix(prefix):
            if other := names.get(name.removeprefix(prefix)):
                raise CheckpointError(f"{printable(stored)} and {printable(other)} would be the same tensor")
            names[name.removeprefix(prefix)] = stored
    left_out = []
    for stored, name in plain.items():
        if not name.startswith(prefix):
            if name not in names and (to_jax(dialect, name) or is_ignored(dialect, name)):
                names[name] = stored
            else:
                left_out.append(stored)
    return names, left_out


def _prefixes(dialect: Dialect, names: Iterable[str]) -> Counter[str]:
    """How many tensors the dialect knows behind each prefix."""
    counts: Counter[str] = Counter()
    for name in names:
        rest, taken = name, 0
        while rest and taken <= DEEPEST:
            if to_jax(dialect, rest):
                counts[name[: len(name) - len(rest)]] += 1
                break
            rest, taken = rest.partition(".")[2], taken + 1
    return counts


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _some(names: list[str]) -> str:
    """The first names, and what most of them begin with."""
    if not names:
        return " (it is empty)"
    shown = ", ".join(printable(name)[:60] for name in sorted(names)[:3])
    start, count = Counter(name.partition(".")[0] for name in names).most_common(1)[0]
    begin = f"; {count:,} of {len(names):,} begin with {printable(start)[:60]!r}" if count > 1 else ""
    return f" ({shown}{', ...' if len(names) > 3 else ''}{begin})"
