"""What all tests share: shapes checked in every call, quick compiles, and the sample picture."""

import gc
import hashlib
import io
import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib
import jaxtyping
import pytest
import shape_checks
from PIL import Image

shape_checks.install()

# Most of the suite's time is compiling; optimised programs are wanted only where ``optimised`` is asked for.
jax.config.update("jax_disable_most_optimizations", True)
# XLA's newer emitters take twice as long to compile. Another release may not know the option, and would abort.
EMITTERS_CAN_BE_CHOSEN = jaxlib.__version__.startswith("0.10.")
if EMITTERS_CAN_BE_CHOSEN:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

WORTH_KEEPING = 0.1
"""Seconds of compiling; what took less is compiled again sooner than read."""

SAMPLE_NAME = "000000039769"
SAMPLE_ADDRESS = f"http://images.cocodataset.org/val2017/{SAMPLE_NAME}.jpg"
SAMPLE_HASH = "8050ada414034a490fc2bd6ed13a8d78b7d2ce7d896ba4fcd4651317b9471efe"
"""SHA-256 of the picture's pixels, RGB, row by row."""
SECONDS = 10
"""How long a download may take."""


LONGEST = ("test_research.py", "test_trainer.py", "test_accelerator.py", "training", "model", "cli")
QUICKEST = ("data_sets",)
"""Files, and folders of tests whose files take longest; and folders of which no file takes long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first and the quickest last, so that all processes end at about the same time."""
    places = dict.fromkeys(QUICKEST, len(LONGEST) + 1) | {name: place for place, name in enumerate(LONGEST)}
    names = {item: (item.path.name, item.path.parent.name) for item in items}
    items.sort(key=lambda item: min(places.get(name, len(LONGEST)) for name in names[item]))


def pytest_collection_finish() -> None:
    """What was imported stays to the end: it is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of JAX's compilation cache: what one test, process or run has compiled, no other compiles again.

    It lasts for one run, or for several where ``JAX_COMPILATION_CACHE_DIR`` is set.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)
    if given := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(given)
    temporary = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose folders lie in one
        temporary = temporary.parent
    jax.config.update("jax_compilation_cache_dir", str(temporary / "compiled"))
    return temporary / "compiled"


@pytest.fixture
def optimised() -> Iterator[dict[str, bool]]:
    """Programs are compiled as users have them, if this is given to ``jax.jit`` as ``compiler_options``."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield {"xla_cpu_use_fusion_emitters": True} if EMITTERS_CAN_BE_CHOSEN else {}
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes aren't checked, so that what a function says itself about a wrong one can be seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def sample_picture() -> Image.Image:
    """COCO's val2017/000000039769 (two cats, two remotes, a sofa; 640x480), in RGB."""
    for path in _sample_paths():
        if picture := _sample(path):
            return picture
    if picture := _downloaded(_cache_folder() / f"{SAMPLE_NAME}.jpg"):
        return picture
    pytest.skip(
        f"no sample picture: download {SAMPLE_ADDRESS} and set DFINE_SAMPLE_IMAGE to its path "
        "(decoded, its pixels must be those that the reference numbers were made from)"
    )


def _sample_paths() -> Iterator[Path]:
    """Where the picture may lie on this machine."""
    yield Path(__file__).parents[2] / "shared" / "images" / f"{SAMPLE_NAME}.png"
    if named := os.environ.get("DFINE_SAMPLE_IMAGE"):
        yield Path(named)
    yield _cache_folder() / f"{SAMPLE_NAME}.jpg"
    from huggingface_hub.constants import HF_HUB_CACHE

    for depth in ("", "*/"):
        yield from Path(HF_HUB_CACHE).glob(f"*/snapshots/*/{depth}{SAMPLE_NAME}.*")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dfine-jax"


def _sample(source: Path | io.BytesIO) -> Image.Image | None:
    try:
        picture = Image.open(source).convert("RGB")
    except OSError:
        return None
    return picture if hashlib.sha256(picture.tobytes()).hexdigest() == SAMPLE_HASH else None


def _downloaded(path: Path) -> Image.Image | None:
    """The picture from COCO's site, kept at ``path``; None where there is no network or it is too slow."""
    received: list[bytes] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(SAMPLE_ADDRESS, timeout=SECONDS) as response:
                received.append(response.read())
        except OSError:
            pass

    # In a thread, because looking a name up has no time limit of its own.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(SECONDS)
    picture = _sample(io.BytesIO(received[0])) if received else None
    if picture:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(received[0])
        except OSError:
            pass  # it is here, if not for next time
    return picture
