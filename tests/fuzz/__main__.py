"""Tries many inputs by hand and tells what is wrong by kind: ``python tests/fuzz --inputs 100000``.

Files made to do harm come first. Each fault is shown once, with the number that ``--first NUMBER --inputs 1`` repeats.
"""

import argparse
import collections
import contextlib
import faulthandler
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import fuzz_trial
import numpy as np
from fuzz_hostile import HOSTILE
from fuzz_kinds import KINDS, write_changed

from dfine_jax.errors import InputError

PATIENCE, STUCK = 120, 300
"""Seconds by the clock that a trial may take here, where runs are long and machines do other things beside, and after
which one that nothing could end ends the process, showing where it is."""
STANDARD_ERROR = os.dup(2)


def main() -> int:
    """Returns 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", help="only kinds whose names begin so")
    given = parser.parse_args()
    names = [name for name in KINDS if not given.kind or name.startswith(given.kind)]
    found: dict[str, list[str]] = collections.defaultdict(list)
    warnings.simplefilter("ignore")
    fuzz_trial.PATIENCE = PATIENCE
    began = time.monotonic()
    for name in names:
        with tempfile.TemporaryDirectory() as folder, _Silent():
            path = KINDS[name].write(Path(folder))
            with contextlib.suppress(InputError):
                KINDS[name].read(path)
    for title, (name, change) in HOSTILE.items() if given.first == 0 else ():
        if name in names:
            with tempfile.TemporaryDirectory() as folder:
                path = KINDS[name].write(Path(folder))
                change(Path(folder))
                if wrong := _tried(name, path):
                    _note(found, f"{name}: {wrong}", title)
    for number in range(given.first, given.first + given.inputs):
        name = names[number % len(names)]
        with tempfile.TemporaryDirectory() as folder:
            path = write_changed(np.random.default_rng([given.seed, number]), KINDS[name], Path(folder))
            if wrong := _tried(name, path):
                _note(found, f"{name}: {wrong.replace(folder, '')}", str(number))
        if number % 1000 == 999:
            tried, seconds = number + 1 - given.first, time.monotonic() - began
            print(f"{tried:,} inputs, {seconds:.0f} s, {len(found)} kinds of faults", flush=True)
    for wrong, where in sorted(found.items()):
        print(f"{len(where):5}  {wrong}   [{', '.join(where[:3])}]")
    print(f"{given.inputs:,} inputs of {len(names)} kinds in {time.monotonic() - began:.0f} s: {len(found)} faults")
    return 1 if found else 0


def _note(found: dict[str, list[str]], wrong: str, where: str) -> None:
    if wrong not in found:
        print(f"{wrong}   [{where}]", flush=True)
    found[wrong].append(where)


def _tried(name: str, path: Path) -> str | None:
    faulthandler.dump_traceback_later(STUCK, exit=True, file=STANDARD_ERROR)
    try:
        with _Silent():
            return fuzz_trial.fault(KINDS[name].read, path)
    finally:
        faulthandler.cancel_dump_traceback_later()


class _Silent:
    """Libraries in C print to standard error what they think of damaged files."""

    def __enter__(self):
        self.kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    def __exit__(self, *_):
        os.dup2(self.kept, 2)
        os.close(self.kept)


if __name__ == "__main__":
    sys.exit(main())
