import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.inference.preprocess import Preprocessing
from dfine_jax.pretrained import save_pretrained


def detect(folder: Path, cache: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    environment |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "dfine_jax.cli.main", "detect", "a.png", "--model", "tiny"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_second_run_compiles_nothing(tmp_path):
    save_pretrained(tmp_path / "tiny", tiny_model(), Preprocessing(HEIGHT, WIDTH))
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    cache = tmp_path / "cache"
    detect(tmp_path, cache)
    programs = {path.name for path in cache.glob("dfine_jax/compiled/*/*-cache")}
    assert any("detect" in name for name in programs)
    detect(tmp_path, cache)
    assert {path.name for path in cache.glob("dfine_jax/compiled/*/*-cache")} == programs


def test_a_home_that_can_not_be_written_to_is_no_error(tmp_path):
    save_pretrained(tmp_path / "tiny", tiny_model(), Preprocessing(HEIGHT, WIDTH))
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    detect(tmp_path, tmp_path / "file")
