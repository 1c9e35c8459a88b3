"""Gradients of convolutions' kernels by machine code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_cases import check_kernel_gradient
from tiny import normal

from dfine_jax.model.convolution import _dense_on_cpu
from dfine_jax.model.kernel_gradients import gradient_for_kernel
from dfine_jax.native.registers import registers

pytestmark = pytest.mark.skipif(registers() is None, reason="no machine code for this processor")


SAME = (3, 1, (1, 1))


@pytest.mark.parametrize(
    ("shape", "outputs", "window"),
    [
        ((2, 6, 8, 3), 16, SAME),
        ((1, 5, 300, 7), 21, SAME),
        ((1, 3, 3, 1), 1, SAME),
        ((3, 7, 7, 16), 80, (3, 2, (1, 1))),
        ((3, 7, 7, 16), 80, (2, 1, (0, 1))),
        ((3, 7, 7, 16), 80, (2, 2, (0, 0))),
        ((2, 6, 8, 3), 21, (3, 1, (0, 2))),
    ],
)
def test_any_window_and_size(shape, outputs, window):
    check_kernel_gradient(shape, outputs, window)


def test_with_more_threads_than_rows(monkeypatch):
    monkeypatch.setattr("dfine_jax.model.kernel_gradients.threads", lambda: 5)
    gradient_for_kernel.clear_cache()
    check_kernel_gradient((1, 6, 9, 4), 16, SAME)
    gradient_for_kernel.clear_cache()


@pytest.mark.slow
def test_second_derivatives():
    x, kernel = normal(1, 6, 7, 2), normal(3, 3, 2, 4)

    def slopes(x, kernel, is_native):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(_dense_on_cpu(x, kernel, 2, (1, 1), is_native)))

        return jax.grad(loss, (0, 1))(x, kernel)

    def second(is_native):
        return jax.grad(lambda *both: sum(jnp.sum(g**2) for g in slopes(*both, is_native)), (0, 1))(x, kernel)

    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-3), second(True), second(False))
