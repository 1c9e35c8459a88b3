"""What devices that share a batch need not tell each other, looked up in programs compiled for four of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def found() -> dict:
    script = Path(__file__).with_name("run_shared.py")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_each_device_matches_its_own_pictures(found):
    assert found["devices"] == 4
    assert found["match"] == {}
    assert found["same"]


@pytest.mark.parametrize("form", ["rows", "products"])
def test_each_device_samples_its_own_maps(found, form):
    assert found[form] == {}
