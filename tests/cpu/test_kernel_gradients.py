"""Gradients of convolutions' kernels by machine code."""

import pytest
from native_cases import check_kernel_gradient

from dfine_jax.cpu.codegen.registers import registers
from dfine_jax.cpu.kernels.kernel_gradients import gradient_for_kernel

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
    monkeypatch.setattr("dfine_jax.cpu.kernels.kernel_gradients.threads", lambda: 5)
    gradient_for_kernel.clear_cache()
    check_kernel_gradient((1, 6, 9, 4), 16, SAME)
    gradient_for_kernel.clear_cache()
