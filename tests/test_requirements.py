"""What ``pyproject.toml`` promises of other packages is what is tested."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_that_are_tested_are_the_oldest_that_are_allowed():
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    allowed = dict(re.match(r"([\w.-]+)>=([\d.]+)", requirement).groups() for requirement in requirements)
    lines = (ROOT / ".ci" / "oldest.txt").read_text("utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tested.pop("jaxlib") == tested["jax"]
    assert tested.keys() == allowed.keys()
    for name, version in allowed.items():
        assert release(tested[name]) == release(version), name


def release(version: str) -> list[int]:
    """Its numbers, without zeros at the end."""
    numbers = [int(number) for number in version.split(".")]
    while numbers[-1:] == [0]:
        numbers.pop()
    return numbers
