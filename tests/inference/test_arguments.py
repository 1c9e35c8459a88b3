import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfine_jax.inference.arguments import ALIGNED, PACKED, of_packed, pack


@pytest.fixture
def params():
    count = iter(range(10**6))
    shapes = {"b.bias": (3,), "a.kernel": (2, 3), "a.bias": (ALIGNED + 1,), "c.scale": (1,)}
    values = {
        name: np.array([next(count) for _ in range(np.prod(shape))], np.float32).reshape(shape)
        for name, shape in shapes.items()
    }
    return {**values, "whole": np.arange(4), "rounded": jnp.ones(3, jnp.bfloat16)}


def test_float32_vectors_go_into_one(params):
    packed = pack(params)
    assert packed.keys() == {PACKED, "a.kernel", "whole", "rounded"}
    assert packed["a.kernel"] is params["a.kernel"]
    assert packed[PACKED].shape == (3 * ALIGNED + 1,)
    np.testing.assert_array_equal(packed[PACKED][2 * ALIGNED : 2 * ALIGNED + 3], params["b.bias"])


def test_a_function_gets_what_was_packed(params):
    def apply(params, factor, shift=0):
        return jax.tree.map(lambda x: factor * x + shift, params)

    function, shapes = of_packed(apply, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params))
    packed = pack(params)
    assert {name: (x.shape, x.dtype) for name, x in packed.items()} == {
        name: (x.shape, x.dtype) for name, x in shapes.items()
    }
    result = jax.jit(function)(packed, 2)
    assert result.keys() == params.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(result[name], 2 * value)


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_other_backends_are_given_all_as_it_is(params, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert pack(params) == params
    function, shapes = of_packed(lambda params: params, params)
    assert shapes == params
    assert function(params) == params


def test_nothing_to_pack():
    params = {"a.kernel": np.ones((2, 3), np.float32)}
    assert pack(params) == params
    function, _ = of_packed(lambda params: params, params)
    assert function(params) == params
