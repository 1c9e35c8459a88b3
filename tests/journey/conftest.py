"""A user: the wheel installed in an environment of its own, an empty home, and no settings but the shell's."""

import os
import signal
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from people import things_that_people_have

ROOT = Path(__file__).parents[2]
LIMIT = 900
"""Seconds that no command may take."""


@dataclass
class Ran:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def last(self) -> str:
        """The last line it said."""
        return ([line for line in self.text.splitlines() if line.strip()] or [""])[-1]


@dataclass
class User:
    """Somebody who types commands in a folder of theirs."""

    programs: Path
    """Where the commands of the environment lie."""
    home: Path
    folder: Path
    """Where commands are typed."""

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.programs}{os.pathsep}{os.defpath}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
        }

    def start(self, arguments: list[str]) -> subprocess.Popen:
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return subprocess.Popen(arguments, cwd=self.folder, env=self.environment(), text=True, **pipes)

    def types(self, *arguments: str) -> Ran:
        """Runs a command; it must not end in a traceback."""
        process = self.start(list(arguments))
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            pytest.fail(f"{arguments} took more than {LIMIT} s")
        assert "Traceback" not in out + err, f"{arguments}: {err[-2000:]}"
        return Ran(process.returncode, out, err)

    def kills(self, *arguments: str, once: str) -> None:
        """Runs a command and kills it as soon as a file or folder of this pattern is there."""
        process = self.start(list(arguments))
        began = time.monotonic()
        while not any(self.folder.glob(once)):
            assert process.poll() is None, (
                f"{arguments} ended before it could be killed: {process.communicate()[1][-2000:]}"
            )
            assert time.monotonic() - began < LIMIT, f"{once} never came"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def user(tmp_path_factory) -> User:
    """With the package as a wheel brings it: built from this source, installed from the file."""
    place = tmp_path_factory.mktemp("journey")
    _quietly(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", place / "wheel", ROOT)
    (wheel,) = (place / "wheel").glob("*.whl")
    venv.create(place / "environment", with_pip=True)
    programs = place / "environment" / "bin"
    _quietly(programs / "python", "-m", "pip", "install", wheel)
    for name in ("home", "folder"):
        (place / name).mkdir()
    things_that_people_have(place / "folder")
    return User(programs, place / "home", place / "folder")


def _quietly(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
