import subprocess
import sys

import pytest

from dfine_jax.cli.main import VERBS, main


def test_help_names_every_verb(capsys):
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(verb in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 15


def test_unknown_verb(capsys):
    assert main(["detekt"]) == 2
    assert "no verb 'detekt'" in capsys.readouterr().err


def test_unknown_option_is_exit_code_2():
    with pytest.raises(SystemExit) as stop:
        main(["detect", "a.jpg", "--nonsense", "1"])
    assert stop.value.code == 2


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, dfine_jax; print([m for m in ('jax', 'flax', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_had():
    import dfine_jax

    for name in dfine_jax.__all__:
        assert getattr(dfine_jax, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        dfine_jax.Nonsense  # noqa: B018
