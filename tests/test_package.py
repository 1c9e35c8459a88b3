"""What an installation brings: one module, and one command under two names."""

import tomllib
from pathlib import Path

from dfine_jax.cli import main

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))


def test_one_command_has_two_names():
    scripts = PROJECT["project"]["scripts"]
    assert scripts == dict.fromkeys(("dfine", "dfine-jax"), "dfine_jax.cli.main:console")
    assert callable(main.console)


def test_nothing_but_the_package_is_installed():
    """Other names at top level might be those of others' modules; ``convert`` is one."""
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["dfine_jax"]
