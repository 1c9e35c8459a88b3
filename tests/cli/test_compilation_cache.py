import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.cpu.codegen.registers import registers
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import arrays_of
from dfine_jax.weights.hub_layout import save_hub_folder

LOADED = """
import sys

from dfine_jax.cli.main import main

code = main()
heavy = ("flax", "orbax", "optax", "huggingface_hub", "llvmlite")
print("loaded:", *(name for name in heavy if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def folder(tmp_path):
    """A model in the Hub's layout and two pictures."""
    model = tiny_model()
    save_hub_folder(tmp_path / "tiny", model.config, Preprocessing(HEIGHT, WIDTH), arrays_of(model))
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def detect(folder: Path, cache: Path, *pictures: str, **more: str) -> tuple[list, str]:
    """What a process of its own finds, and what it loaded for that."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    environment |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu", **more}
    options = ("--model", "tiny", "--threshold", "0", "--json", "-")
    command = [sys.executable, "-c", LOADED, "detect", *(pictures or ("a.png",)), *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    return json.loads(done.stdout), said[-1].removeprefix("loaded:").strip()


def programs(cache: Path) -> dict[str, bytes]:
    """What is kept of programs, by name."""
    return {path.name: path.read_bytes() for path in cache.glob("dfine_jax/compiled/*/programs/program-*.kept")}


@pytest.mark.parametrize("pictures", [("a.png",), pytest.param(("a.png", "b.png"), marks=pytest.mark.slow)])
def test_the_second_run_compiles_nothing_and_finds_the_same(folder, pictures):
    """A program for several pictures calls machine code, which each process makes anew."""
    cache = folder / "cache"
    first, loaded = detect(folder, cache, *pictures)
    assert first[0]["detections"]
    assert "flax" in loaded
    before = programs(cache)
    assert len(before) == 1
    second, loaded = detect(folder, cache, *pictures)
    assert second == first
    assert loaded == ("llvmlite" if len(pictures) > 1 and registers() is not None else "")
    assert programs(cache) == before
    (place,) = cache.glob("dfine_jax/compiled/*/programs")
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_a_damaged_program_is_compiled_again(folder):
    cache = folder / "cache"
    first, _ = detect(folder, cache)
    (path,) = cache.glob("dfine_jax/compiled/*/programs/program-*.kept")
    path.write_bytes(path.read_bytes()[:-100])
    again, loaded = detect(folder, cache)
    assert again == first
    assert "flax" in loaded
    assert detect(folder, cache)[1] == ""


@pytest.mark.slow
def test_other_options_of_the_compiler_are_another_program(folder):
    cache = folder / "cache"
    detect(folder, cache)
    detect(folder, cache, XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_enable_fast_min_max=true")
    assert len(programs(cache)) == 2


@pytest.mark.slow
def test_several_at_once(folder):
    cache = folder / "cache"
    with ThreadPoolExecutor(3) as pool:
        found = [found for found, _ in pool.map(lambda _: detect(folder, cache), range(3))]
    assert found[0] == found[1] == found[2]
    assert detect(folder, cache)[1] == ""
    assert not list(cache.rglob("*.part"))


@pytest.mark.slow
def test_a_home_that_can_not_be_written_to_is_no_error(folder):
    (folder / "file").write_text("")
    assert detect(folder, folder / "file")[0]
