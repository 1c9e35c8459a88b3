"""The package without ``dfine_jax/cpu`` detects, trains a step and takes gradients."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dfine_jax

PACKAGE = Path(dfine_jax.__file__).parent
TESTS = Path(__file__).parents[1] / "support"

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
import dfine_jax
from dfine_jax import DFine, Detector, functional
from dfine_jax.config import DFineConfig
from dfine_jax.machine import arithmetic, machine_code
from tiny import TINY, tiny_model

assert dfine_jax.__file__.startswith(sys.argv[1]), dfine_jax.__file__
assert machine_code() is None

found = Detector.from_pretrained("shapes", size=(192, 192))(np.zeros((50, 60, 3), np.uint8), threshold=0)
assert len(found) > 10, len(found)

from dfine_jax.training.devices import Devices
compute = Devices(jax.devices()[:1]).compute("float32")
apply, params, batch_stats = functional(DFine(TINY, compute=compute, rng=np.random.default_rng(0)))

def loss(params, pictures):
    output, _ = apply(params, batch_stats, pictures, train=True)
    return sum(jnp.sum(jnp.sin(layer.logits)) for layer in output.queries.layers)

slopes = jax.jit(jax.grad(loss))(params, jnp.full((1, 64, 64, 3), 0.5))
assert all(np.isfinite(x).all() for x in slopes.values())
params = {name: value - 1e-3 * slopes[name] for name, value in params.items()}
print("done")
"""


@pytest.mark.slow
def test_the_package_works_without_the_code_for_cpus(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "dfine_jax", ignore=shutil.ignore_patterns("cpu", "__pycache__"))
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(TESTS)!r}]\n{PROGRAM}"]
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")
