"""A tiny model on disk in the Hub's layout, and parts of checkpoints to put together."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tiny import tiny_model

from dfine_jax.model.dfine import variables
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.hub_layout import save_hub_folder

SETTINGS = Preprocessing(64, 96)


class HubFolder(NamedTuple):
    """A folder in the Hub's layout and the arrays it was written from, by our names."""

    path: Path
    arrays: Mapping[str, np.ndarray]


@pytest.fixture(scope="session")
def stored_hub(tmp_path_factory) -> HubFolder:
    """The tiny model. Not to be changed: ``hub`` is a copy."""
    model = tiny_model()
    params, batch_stats = variables(model)
    arrays = {name: np.asarray(value) for name, value in {**params, **batch_stats}.items()}
    path = tmp_path_factory.mktemp("stored") / "tiny"
    save_hub_folder(path, model.config, SETTINGS, arrays.items())
    return HubFolder(path, arrays)


@pytest.fixture(scope="session")
def backbone_arrays(stored_hub) -> dict[str, np.ndarray]:
    """The tiny model's backbone, by our names."""
    return {name: x for name, x in stored_hub.arrays.items() if name.startswith("backbone.")}


@pytest.fixture
def hub(stored_hub, tmp_path) -> HubFolder:
    """A copy that a test may damage."""
    path = tmp_path / "tiny"
    path.mkdir()
    for file in stored_hub.path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return HubFolder(path, stored_hub.arrays)


@pytest.fixture
def same_arrays():
    """Asserts that a stream of names and arrays is exactly what is expected, to the bit."""

    def check(stream: Iterator[tuple[str, np.ndarray]], expected: Mapping[str, np.ndarray]) -> None:
        found = dict(stream)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, expected[name], err_msg=name)

    return check
