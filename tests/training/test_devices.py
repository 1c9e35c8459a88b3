from types import SimpleNamespace

import jax
import numpy as np

from dfine_jax.training.devices import CPU_OPTIONS, Devices


def options_given(monkeypatch, devices: Devices) -> dict | None:
    """What ``jax.jit`` is told about compiling."""
    given = {}
    monkeypatch.setattr(jax, "jit", lambda function, **options: given.update(options))
    devices.compile(lambda state, *batch: None)
    return given["compiler_options"]


def test_a_step_is_compiled_with_the_options_for_cpus(monkeypatch, optimised):
    assert options_given(monkeypatch, Devices()) == CPU_OPTIONS


def test_a_setting_to_optimise_little_is_left_alone(monkeypatch):
    assert options_given(monkeypatch, Devices()) is None


def test_other_devices_are_not_given_options_for_cpus(monkeypatch, optimised):
    devices = Devices()
    devices.mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform="tpu")]))
    assert options_given(monkeypatch, devices) is None
