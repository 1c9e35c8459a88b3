"""One tiny model, compiled once, for all tests of the model."""

from collections.abc import Callable

import jax
import pytest
from tiny import tiny_model, tiny_pictures

from dfine_jax.model.dfine import DFine, Functional, functional

BATCH = 3


@pytest.fixture(scope="session")
def model() -> DFine:
    """Not to be changed."""
    return tiny_model()


@pytest.fixture(scope="session")
def tiny(model) -> Functional:
    return functional(model)


@pytest.fixture(scope="session")
def pictures() -> jax.Array:
    return tiny_pictures(BATCH)


@pytest.fixture(scope="session")
def forward(tiny) -> Callable:
    """``apply`` at inference; compiled once if it's given ``pictures``."""
    return jax.jit(tiny.apply)


@pytest.fixture
def without_machine_code(monkeypatch) -> None:
    """Models are fused as on processors that there is none for."""
    monkeypatch.setattr("dfine_jax.cpu.lowering.registers", lambda: None)


@pytest.fixture(scope="session")
def detected(tiny, forward, pictures):
    return forward(tiny.params, tiny.batch_stats, pictures)
