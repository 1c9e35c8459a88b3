import jax
import jax.numpy as jnp
import pytest

from dfine_jax.inference import compiled


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the options are for CPUs")
def test_a_release_of_xla_without_the_option_compiles_all_the_same(monkeypatch):
    lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(3))
    unknown = {"xla_no_such_option_at_all": ""}
    monkeypatch.setattr(compiled, "CPU_OPTIONS", {"float32": unknown})
    with pytest.raises(jax.errors.JaxRuntimeError):
        lowered.compile(compiler_options=unknown)
    assert compiled.compile_lowered(lowered)(jnp.zeros(3)).tolist() == [1, 1, 1]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the options are for CPUs")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_options_are_known_to_this_release_of_xla(dtype):
    lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(3, dtype))
    assert lowered.compile(compiler_options=compiled.CPU_OPTIONS[dtype])(jnp.zeros(3, dtype)).tolist() == [1, 1, 1]


def test_other_failures_are_not_hidden(monkeypatch):
    class Failing:
        in_avals = ()

        def compile(self, compiler_options=None):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compiled.compile_lowered(Failing())
