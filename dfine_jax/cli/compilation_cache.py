"""What the commands compile is kept for the next run, so that it starts in a fraction of the time."""

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path

import jax

from dfine_jax.kept import UntrustedFolderError, keep_in, require_own
from dfine_jax.processor import name_and_instructions

LARGEST = 2 * 1024**3
"""Bytes that stay; what was not used for longest goes first."""
LEAST_SECONDS = 0.3
"""What compiles faster is not kept."""


def keep_compiled(*, by_jax: bool = True) -> None:
    """Keeps detectors' programs whole, see ``dfine_jax.kept``, and ``by_jax`` whatever else is compiled.

    JAX finds programs by their code, options, versions and devices, so that nothing stale is ever taken. It does not
    look at what a CPU is able to do, so processors of different kinds that share a home each have a folder. Where its
    cache is on already (``JAX_COMPILATION_CACHE_DIR``) everything is left to it.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.config.jax_compilation_cache_dir is not None:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "dfine_jax" / "compiled" / _processor()
    with contextlib.suppress(OSError):  # a home that can't be written to is no reason to fail
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            require_own(folder)  # JAX runs what it finds there, and so do we
            keep_in(folder / "programs")
        except UntrustedFolderError as error:
            print(f"dfine: {error}", file=sys.stderr)
            return
        if not by_jax:
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", LARGEST)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def _processor() -> str:
    """A name for this kind of processor."""
    name, instructions = name_and_instructions()
    known = f"{platform.system()} {name} {sorted(instructions)}"
    return hashlib.sha256(known.encode()).hexdigest()[:12]
