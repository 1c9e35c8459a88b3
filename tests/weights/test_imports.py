"""``dfine_jax.weights`` stands on configurations and on modules that know of nothing above them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dfine_jax.weights

FOLDER = Path(dfine_jax.weights.__file__).parent
ROOMS = {path.parent.name for path in FOLDER.parents[0].glob("*/__init__.py")} - {"weights"}
"""The packages within the package: the network, inference, training and others."""


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in names if name.split(".")[0] == "dfine_jax"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_no_other_room_is_imported(path):
    assert not {name for name in imported(path) if len(name.split(".")) < 2 or name.split(".")[1] in ROOMS}


def test_the_rooms_are_known():
    assert {"model", "inference", "training", "evaluation", "cli", "data"} <= ROOMS


def test_no_network_is_loaded_to_open_weights():
    code = "import sys, dfine_jax.weights.sources; print([m for m in ('flax', 'orbax', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
