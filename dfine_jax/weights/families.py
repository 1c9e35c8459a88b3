"""Which family a checkpoint is of: D-FINE, or one that trains D-FINE's network with other activations in its decoder.

Names and shapes of the tensors are the same in all of them, so what a checkpoint computes is told from something else,
or has to be said: with the wrong activation everything loads, and what is found is wrong.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.rules import MASKS


@dataclass(frozen=True)
class Family:
    """A project that publishes weights of D-FINE's network."""

    name: str
    title: str
    activation: str
    """In its decoder: the feed-forward parts, location quality, query positions and all box heads."""


FAMILIES = {
    family.name: family
    for family in (
        Family("dfine", "D-FINE", "relu"),
        Family("deim", "DEIM", "silu"),
        Family("rtdetrv4", "RT-DETRv4", "silu"),
    )
}

_PROOFS = (("rtdetrv4", re.compile(r"encoder\.feature_projector\..*")), ("dfine", re.compile(MASKS)))
"""Tensors that only one family's checkpoints have."""
_IN_NAMES = (  # the first that fits: DEIM's files are called deim_dfine_...
    ("rtdetrv4", re.compile(r"rt[-_]?(detr)?[-_]?v4", re.IGNORECASE)),
    ("deim", re.compile(r"deim(?!v2)", re.IGNORECASE)),
    ("dfine", re.compile(r"d[-_]?fine", re.IGNORECASE)),
)
_RUN = re.compile(r"(deim|dfine|rtv4)(_dfine)?_hgnetv2_[nsmlx]_.*")
"""Folders that the projects' own trainings write to."""
_BATCHES = re.compile(r"(model\.)?backbone\..*\.num_batches_tracked")
FROZEN_SIZES = ("l", "x")
"""Sizes whose backbone D-FINE trains with frozen norms, and the others with norms that count batches."""


@dataclass(frozen=True)
class Told:
    """A checkpoint's family and the activation in its decoder."""

    family: Family
    activation: str
    remark: str | None = None
    """What was gone by, where it may be wrong."""


@dataclass(frozen=True)
class Signs:
    """What tells a checkpoint's family."""

    names: Collection[str]
    """Of its tensors."""
    path: Path
    size: str | None
    about: Mapping[str, Any]
    """What lies beside the tensors in the file."""

    def proof(self) -> str | None:
        """The family that the checkpoint itself names, or whose tensors it has."""
        if isinstance(named := self.about.get("model_family"), str):
            if named not in FAMILIES:
                known = ", ".join(FAMILIES)
                raise CheckpointError(f"{self.path} is of the family {named[:60]!r}, which is not read ({known} are)")
            return named
        return next((family for family, sign in _PROOFS if any(map(sign.fullmatch, self.names))), None)

    def counts_batches(self) -> bool:
        """Whether the backbone's norms were trained, rather than frozen."""
        return any(map(_BATCHES.fullmatch, self.names))

    def in_name(self) -> str | None:
        """The family that the file is called by, or the folder that a training of it wrote to."""
        names = [self.path.name, *([self.path.parent.name] if _RUN.fullmatch(self.path.parent.name) else [])]
        return next((family for name in names for family, sign in _IN_NAMES if sign.search(name)), None)


def told_family(signs: Signs, given: str | None, source: str) -> Told:
    """The family of a checkpoint with the names that the projects' own code gives to tensors.

    What was ``given`` counts first, unless the checkpoint proves another activation; then such a proof, then whether
    the norms of L's and X's backbone are frozen, then the file's name, and last whether those of other sizes are.
    ``CheckpointError`` in one line where nothing tells.
    """
    proof, frozen = signs.proof(), signs.size in FROZEN_SIZES and not signs.counts_batches()
    if given is not None:
        return _given(FAMILIES[given], proof, frozen and signs.size == "x", source)
    if proof is not None:
        return Told(FAMILIES[proof], FAMILIES[proof].activation)
    named = signs.in_name()
    if signs.size in FROZEN_SIZES:
        return _told_by_norms(signs.size, frozen, named, source)
    if named is None and not signs.counts_batches():
        dfine = FAMILIES["dfine"]
        said = "taken for D-FINE's, since its backbone's norms count no batches, as those of DEIM and RT-DETRv4 do"
        return Told(dfine, dfine.activation, remark=f"{said}{_otherwise(dfine)}")
    if named is None:
        raise CheckpointError(_question(source, "whose tensors have the same names and shapes"))
    family = FAMILIES[named]
    return Told(family, family.activation, remark=f"taken for {family.title}'s by its name{_otherwise(family)}")


def _given(family: Family, proof: str | None, frozen_x: bool, source: str) -> Told:
    if proof is not None and FAMILIES[proof].activation != family.activation:
        raise CheckpointError(
            f"{source} is {FAMILIES[proof].title}'s, as its tensors or what lies beside them say, "
            f"not {family.title}'s: leave --family out"
        )
    if family.name == "deim" and frozen_x and proof is None:
        said = "the norms of its backbone are frozen, as in DEIM's X from Objects365 alone: its decoder has ReLU"
        return Told(family, "relu", remark=said)
    return Told(family, family.activation)


def _told_by_norms(size: str, frozen: bool, named: str | None, source: str) -> Told:
    """For L and X: D-FINE trains them with the backbone's norms frozen, DEIM and RT-DETRv4 don't."""
    dfine, deim = FAMILIES["dfine"], FAMILIES["deim"]
    if not frozen:
        if named == "dfine":
            said = f"taken for D-FINE's by its name, although the backbone's norms were trained{_otherwise(dfine)}"
            return Told(dfine, dfine.activation, remark=said)
        if named is not None:
            return Told(FAMILIES[named], FAMILIES[named].activation)
        said = f"taken for DEIM's, since the norms of {size.upper()}'s backbone were trained{_otherwise(deim)}"
        return Told(deim, deim.activation, remark=said)
    if named in (None, "dfine"):
        return Told(dfine, dfine.activation)
    if (named, size) == ("deim", "x"):
        return _given(deim, None, True, source)
    raise CheckpointError(_question(source, "since its name says one thing and its backbone's frozen norms another"))


def _question(source: str, why: str) -> str:
    return (
        f"{source} may be of D-FINE, DEIM or RT-DETRv4, {why}: say which with --family {'|'.join(FAMILIES)} "
        f"of dfine convert, or family={next(iter(FAMILIES))!r} and so on in Python"
    )


def _otherwise(family: Family) -> str:
    other = ", ".join(name for name, entry in FAMILIES.items() if entry.activation != family.activation)
    return f"; if it is another's, convert it with --family ({other})"


def masks_left_out(names: Collection[str]) -> tuple[str, ...]:
    """A remark on the part of D-FINE-seg that draws masks, where a checkpoint has it."""
    count = sum(re.fullmatch(MASKS, name) is not None for name in names)
    return (f"left out: the {count} tensors of D-FINE-seg's masks; boxes are found without them",) if count else ()
