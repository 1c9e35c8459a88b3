import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def _compiled_once(tmp_path_factory):
    """Every run of a command compiles its model again; here they share what was compiled."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
