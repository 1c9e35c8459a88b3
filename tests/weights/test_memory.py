"""How much memory converting the largest model takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dfine_jax.config import DFineConfig
from dfine_jax.model.dfine import DFine, variables
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.weights.hub_layout import save_hub_folder

MEASURE = """
import resource, sys
from pathlib import Path
import jax.numpy, orbax.checkpoint
from dfine_jax.cli.convert import run

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

jax.numpy.zeros(1).block_until_ready()
before = peak()
run(sys.argv[1], Path(sys.argv[2]), to=sys.argv[3])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_converting_takes_less_than_one_and_a_half_times_the_weights(tmp_path):
    params, batch_stats = variables(DFine(DFineConfig.xlarge()))
    zeros = ((name, np.zeros(x.shape, np.float32)) for name, x in {**params, **batch_stats}.items())
    save_hub_folder(tmp_path / "hub", DFineConfig.xlarge(), Preprocessing(), zeros)
    weights = (tmp_path / "hub" / "model.safetensors").stat().st_size
    assert weights > 250e6

    def extra(source, target, to):
        command = [sys.executable, "-c", MEASURE, str(source), str(target), to]
        finished = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        return int(finished.stdout.splitlines()[-1])

    assert extra(tmp_path / "hub", tmp_path / "jax", "jax") < 1.5 * weights
    assert extra(tmp_path / "hub", tmp_path / "again", "hub") < 1.5 * weights
    assert extra(tmp_path / "jax", tmp_path / "back", "hub") < 1.5 * weights
