"""Products of matrices by machine code, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_cases import check_product, matrices
from tiny import normal

from dfine_jax.cpu.codegen.registers import registers
from dfine_jax.cpu.kernels.products import BY_TRANSPOSED, OF_TRANSPOSED, PLAIN, multiply, product

pytestmark = pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
FORMS = (PLAIN, BY_TRANSPOSED, OF_TRANSPOSED)
forms = pytest.mark.parametrize("form", FORMS)


@forms
@pytest.mark.parametrize("columns", [1, 15, 16, 17, 32, 33, 130])
def test_any_number_of_columns(columns, form):
    check_product(form, 37, 19, columns)


@forms
@pytest.mark.parametrize("rows", [1, 11, 13, 797, 1601])
def test_any_number_of_rows(rows, form):
    check_product(form, rows, 40, 21)


@forms
@pytest.mark.parametrize("depth", [1, 16, 255, 257, 2049, 5003])
def test_sums_of_any_length(depth, form):
    check_product(form, 29, depth, 36)


@forms
def test_an_empty_matrix(form):
    for size in ((0, 5, 3), (4, 0, 3), (4, 5, 0)):
        result = product(form, *matrices(form, *size))
        np.testing.assert_array_equal(result, np.zeros((size[0], size[2])))


def test_many_at_once():
    a, b = normal(3, 37, 8), normal(8, 21)
    np.testing.assert_allclose(jax.vmap(multiply, (0, None))(a, b), a @ b, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda x: product(OF_TRANSPOSED, x, x))(a), a.mT @ a, atol=2e-5)


def test_cells_of_any_shape_and_type():
    x, kernel = normal(2, 3, 4, 8), normal(8, 5)
    result = multiply(x.astype(jnp.bfloat16), kernel)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, x.astype(jnp.bfloat16).astype(jnp.float32) @ kernel, atol=4e-6)
    np.testing.assert_allclose(multiply(x[0, 0, 0], kernel), x[0, 0, 0] @ kernel, atol=4e-6)


def test_what_is_not_a_number_stays_in_its_row_and_column():
    x, kernel = normal(20, 30).at[3, 4].set(jnp.nan), normal(30, 18).at[5, 6].set(jnp.inf)
    result = np.asarray(multiply(x, kernel))
    assert np.isnan(result[3]).all()
    assert not np.isfinite(result[:, 6]).any()
    assert np.isfinite(np.delete(np.delete(result, 3, 0), 6, 1)).all()
