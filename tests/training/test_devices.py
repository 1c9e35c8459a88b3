from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.training.devices import CPU_OPTIONS, Devices
from dfine_jax.training.memory import OutOfMemoryError
from dfine_jax.training.recipe import Recipe


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


def test_an_update_is_compiled_once_for_each_size_of_pictures():
    traced = []

    def update(state, images, targets):
        traced.append(images.shape)
        return state + images.sum() + targets.sum(), images.max()

    fitting = Devices().fitting(update, Recipe())
    state = jnp.zeros(())
    for side in (2, 2, 3, 2):
        state, largest = fitting(state, jnp.ones((1, side, side, 3)), jnp.ones(2))
        assert largest == 1
    assert state == 3 * (4 + 4 + 9 + 4) + 4 * 2
    assert traced == [(1, 2, 2, 3), (1, 3, 3, 3)]


def test_an_update_that_does_not_fit_is_refused_before_it_runs(monkeypatch):
    monkeypatch.setattr("dfine_jax.training.memory.host_memory", lambda: 1000)
    fitting = Devices().fitting(lambda state, images, targets: (state, jnp.sort(images @ images)), Recipe())
    state = jnp.zeros(())
    with pytest.raises(OutOfMemoryError, match="1000 bytes are free on this machine"):
        fitting(state, jnp.ones((1, 100, 100)), None)
    assert state == 0  # not used up
