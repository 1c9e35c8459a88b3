"""Numbers of a call are named once for Python and for machine code."""

import pytest

from dfine_jax.cpu.codegen.attributes import ATTRIBUTES, check_attributes, placed


def test_places_are_those_of_sorted_names():
    """As XLA hands them over."""
    for names in ATTRIBUTES.values():
        assert list(names) == sorted(names)
    assert placed("i64 ATTRIBUTE.work.stride, i64 ATTRIBUTE.matrices.step") == "i64 2, i64 6"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="not in tuple"):
        placed("ATTRIBUTE.work.deep")
    with pytest.raises(ValueError, match="low, share: machine code of gradients takes low, share, stride"):
        check_attributes("gradients", {"share", "low"})
