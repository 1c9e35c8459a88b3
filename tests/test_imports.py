"""Which part of the package may import which: arrows go down."""

import ast
import subprocess
import sys
from pathlib import Path

import dfine_jax

PACKAGE = Path(dfine_jax.__file__).parent
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
"""The packages within the package: the network, inference, training and others."""


def imported(folder: str) -> dict[str, set[str]]:
    """By file: the package's own modules that it imports, wherever in the file."""
    found = {}
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[str(path.relative_to(PACKAGE))] = {name for name in names if name.startswith("dfine_jax")}
    return found


def outside(folder: str, *allowed: str) -> dict[str, set[str]]:
    """What a folder imports besides itself and what is allowed."""
    prefixes = tuple(f"dfine_jax.{each}" for each in (folder, *allowed))
    others = {
        path: {n for n in names if n != "dfine_jax" and not n.startswith(prefixes)}
        for path, names in imported(folder).items()
    }
    return {path: names for path, names in others.items() if names}


def test_the_network_imports_its_configuration_and_operations_alone():
    assert not outside("model", "ops", "config", "boxes", "errors")


def test_operations_import_nothing_of_the_network():
    assert not outside("ops", "errors")


def test_weights_import_no_other_room():
    assert {"model", "inference", "training", "evaluation", "cli", "data"} <= ROOMS
    others = ROOMS - {"weights"}
    for path, names in imported("weights").items():
        assert not {name for name in names if name.split(".")[1:2] and name.split(".")[1] in others}, path


def test_no_network_is_loaded_to_open_weights():
    code = "import sys, dfine_jax.weights.sources; print([m for m in ('flax', 'orbax', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_one_module_knows_the_code_for_cpus():
    knowing = set()
    for path, names in imported("").items():
        speaks = '"dfine_jax.cpu' in (PACKAGE / path).read_text("utf-8")
        if not path.startswith("cpu/") and (speaks or any(name.startswith("dfine_jax.cpu") for name in names)):
            knowing.add(path)
    assert knowing == {"machine.py"}


def test_the_network_does_not_speak_of_processors():
    """It reads like the paper; what is done for a processor is done elsewhere."""
    for path in (PACKAGE / "model").glob("*.py"):
        words = path.read_text("utf-8").lower()
        for word in ("cpu", "native", "machine code", "panels", "halves", ".form"):
            assert word not in words, f"{word!r} in {path.name}"


def test_the_network_is_short():
    assert sum(len(path.read_text("utf-8").splitlines()) for path in (PACKAGE / "model").glob("*.py")) <= 1300
