import jax
import jax.numpy as jnp
import numpy as np
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


def test_only_what_a_release_of_xla_does_not_know_is_left_out():
    tried = []

    class Newer:
        in_avals = ()

        def compile(self, compiler_options):
            tried.append(compiler_options)
            if "xla_cpu_use_fusion_emitters" in compiler_options:
                raise jax.errors.JaxRuntimeError("No such compile option: 'xla_cpu_use_fusion_emitters'")
            return "compiled"

    assert compiled.compile_lowered(Newer(), quick=True) == "compiled"
    left_out = tried[0].keys() - tried[1].keys()
    assert left_out == {"xla_cpu_use_fusion_emitters"}
    assert tried[1]["xla_backend_optimization_level"] == 0  # still quick


def test_other_failures_are_not_hidden(monkeypatch):
    class Failing:
        in_avals = ()

        def compile(self, compiler_options=None):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compiled.compile_lowered(Failing())


def test_a_batch_is_computed_picture_by_picture_on_a_cpu_and_at_once_elsewhere():
    def in_batch(images, factors):
        return {"largest": images.max((1, 2)), "weighted": jnp.cumsum(images * factors[:, None, None], axis=1)}

    rng = np.random.default_rng(0)
    images, factors = rng.standard_normal((3, 4, 5), np.float32), rng.standard_normal(3, np.float32)
    function = jax.jit(compiled.picture_by_picture(in_batch))
    for name, value in in_batch(images, factors).items():
        np.testing.assert_allclose(function(images, factors)[name], value, rtol=1e-6)
    traced = function.trace(images, factors)
    for platform, loops in (("cpu", True), ("cuda", False), ("tpu", False)):
        assert ("stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()) == loops
    alone = function.trace(images[:1], factors[:1]).lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.while" not in alone


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends compute the whole batch at once")
def test_memory_of_a_batch_is_that_of_a_picture():
    def in_batch(images):
        return jax.lax.sort(jnp.sin(images), dimension=1).sum((1, 2))

    def temporaries(batch):
        lowered = jax.jit(compiled.picture_by_picture(in_batch)).lower(jnp.zeros((batch, 64, 1024)))
        return compiled.compile_lowered(lowered).memory_analysis().temp_size_in_bytes

    assert temporaries(16) < 1.5 * temporaries(1)
