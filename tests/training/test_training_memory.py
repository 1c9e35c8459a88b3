"""Memory that is not enough: known before the first step where it can be, and one line in any case."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from dfine_jax.host_memory import as_text, host_memory
from dfine_jax.training import memory
from dfine_jax.training.memory import (
    OutOfMemoryError,
    asked_for,
    available_memory,
    memory_errors,
    needed,
    require_memory,
)
from dfine_jax.training.recipe import Optimization, Recipe

GIB = 2**30
RECIPE = Recipe(batch_size=8, image_size=320, optimization=Optimization(accumulate=2))


def host(folder: Path, meminfo: str = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n", **files: str) -> dict:
    """A system's files: ``files`` are those of control groups, with ``__`` for a slash."""
    proc, groups = folder / "proc", folder / "groups"
    written = {proc / "meminfo": meminfo, proc / "self/cgroup": files.pop("own", "0::/\n")}
    written |= {groups / name.replace("__", "/"): text for name, text in files.items()}
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return dict(proc=proc, groups=groups)


def test_a_machine_without_groups_has_what_is_available(tmp_path):
    assert host_memory(**host(tmp_path)) == 8 * GIB


def test_nothing_is_said_of_a_system_that_tells_nothing(tmp_path):
    assert host_memory(tmp_path / "proc", tmp_path / "groups") is None


@pytest.mark.parametrize("own", ["0::/\n", "1:name=systemd:/job\n0::/unknown/here\n"])
def test_a_container_has_its_limit_less_what_is_used_beside_files(tmp_path, own):
    files = {
        "memory.max": f"{4 * GIB}\n",
        "memory.current": f"{3 * GIB}\n",
        "memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}\n",
    }
    assert host_memory(**host(tmp_path, own=own, **files)) == 2.5 * GIB


def test_the_smallest_group_on_the_way_up_counts(tmp_path):
    files = {
        "batch__job__memory.max": "max\n",
        "batch__job__memory.current": f"{GIB}\n",
        "batch__memory.max": f"{3 * GIB}\n",
        "batch__memory.current": f"{2 * GIB}\n",
        "other__memory.max": "0\n",
        "other__memory.current": "0\n",
    }
    assert host_memory(**host(tmp_path, own="0::/batch/job\n", **files)) == GIB


def test_groups_of_the_first_version(tmp_path):
    files = {
        "memory__job__memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory__job__memory.usage_in_bytes": f"{2 * GIB}\n",
        "memory__job__memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n",
        "memory__memory.limit_in_bytes": "9223372036854771712\n",
        "memory__memory.usage_in_bytes": f"{20 * GIB}\n",
    }
    assert host_memory(**host(tmp_path, own="4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n", **files)) == GIB


def test_a_group_that_is_over_its_limit_has_nothing(tmp_path):
    files = {"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n"}
    assert host_memory(**host(tmp_path, **files)) == 0


def test_a_limited_address_space_counts(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5 * GIB, 5 * GIB))
    files = host(tmp_path)
    (files["proc"] / "self/status").write_text(f"Name:\tpython\nVmSize:\t{4 * GIB // 1024} kB\n")
    assert host_memory(**files) == GIB


def test_this_machine_has_some():
    assert available_memory(jax.devices("cpu")[0]) is None or available_memory(jax.devices("cpu")[0]) > 0


def test_an_accelerator_tells_its_own():
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 10, "bytes_in_use": 3})
    assert available_memory(device) == 7
    assert available_memory(SimpleNamespace(platform="tpu", memory_stats=lambda: None)) is None


@pytest.fixture(scope="module")
def compiled() -> jax.stages.Compiled:
    """Sixteen MiB in, sixteen out that reuse them, and 16 in between for what is sorted."""
    numbers = jax.ShapeDtypeStruct((2048, 2048), jnp.float32)
    return jax.jit(lambda x: jnp.sort(x @ x, axis=0) @ x, donate_argnums=0).lower(numbers).compile()


def test_a_program_needs_what_it_holds_at_once(compiled):
    mib = 2**20
    assert 16 * mib <= needed(compiled) < 64 * mib
    assert needed(compiled, with_arguments=True) == needed(compiled) + 16 * mib


def test_a_backend_that_does_not_tell_refuses_nothing():
    silent = SimpleNamespace(memory_analysis=lambda: None)
    assert needed(silent) is None
    require_memory(silent, jax.devices()[:1], RECIPE)


def test_a_step_that_clearly_does_not_fit_is_refused(compiled, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: needed(compiled) // 2)
    with pytest.raises(OutOfMemoryError) as refused:
        require_memory(compiled, jax.devices()[:1], RECIPE)
    size = as_text(needed(compiled))
    assert str(refused.value) == (
        f"the training does not fit in memory: {size} were asked for, {as_text(needed(compiled) // 2)} are free on "
        "this machine; lower the batch size (now 8) or the image size (now 320), or let each batch go through in more "
        "parts (accumulate, now 2)"
    )


def test_simulated_devices_share_the_memory_of_the_host(compiled, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 2 * needed(compiled))
    require_memory(compiled, jax.devices()[:1] * 2, RECIPE)
    with pytest.raises(OutOfMemoryError):
        require_memory(compiled, jax.devices()[:1] * 3, RECIPE)


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 1099511627776 bytes.", 2**40),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4096 bytes.", 4096),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 10.50GiB.", round(10.5 * GIB)),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.25G of 15.75G hbm.", round(20.25 * GIB)),
        ("Unable to allocate 1.50 MiB for an array with shape (4, 5) and data type float32", round(1.5 * 2**20)),
        ("RESOURCE_EXHAUSTED: something else", None),
    ],
)
def test_what_was_asked_for_is_found_in_the_message(message, size):
    assert asked_for(message) == size


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 2147483648 bytes.\nmore\nlines"),
        jax.errors.JaxRuntimeError("INTERNAL: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ],
)
def test_memory_that_runs_out_is_one_line(error):
    with (
        pytest.raises(OutOfMemoryError, match=r"lower the batch size \(now 8\)") as told,
        memory_errors(jax.devices()[0], RECIPE),
    ):
        raise error
    assert "\n" not in str(told.value)
    assert ("2.0 GiB were asked for" in str(told.value)) == ("2147483648" in str(error))


def test_xla_really_says_so_when_it_runs_out():
    with pytest.raises(OutOfMemoryError, match=r"1024\.0 TiB were asked for"), memory_errors(jax.devices()[0], RECIPE):
        jax.jit(lambda: jnp.zeros((2**48,), jnp.int32))().block_until_ready()


def test_other_errors_pass():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: no"), memory_errors(jax.devices()[0], RECIPE):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")


def test_sizes_are_spelled_in_units_that_fit():
    assert [as_text(size) for size in (0, 512, 2048, 3 * 2**20, round(3.25 * GIB))] == [
        "0 bytes",
        "512 bytes",
        "2.0 KiB",
        "3.0 MiB",
        "3.2 GiB",
    ]
