import jax.numpy as jnp
import pytest

from dfine_jax import processor
from dfine_jax.cli import compilation_cache
from dfine_jax.machine import Arithmetic, arithmetic
from dfine_jax.ops.compute import Compute

GENOA = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fma avx2 avx512f avx512_bf16

processor\t: 1
vendor_id\t: other
"""
RAPIDS = GENOA.replace("AuthenticAMD", "GenuineIntel").replace("AMD EPYC", "Intel(R) Xeon(R) Processor")
ROME = GENOA.replace(" avx512f avx512_bf16", "")
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.fixture
def runs_on(tmp_path, monkeypatch):
    def this(information):
        path = tmp_path / "cpuinfo"
        path.unlink(missing_ok=True)
        if information is not None:
            path.write_text(information)
        processor.name_and_instructions.cache_clear()

    monkeypatch.setattr(processor, "INFORMATION", tmp_path / "cpuinfo")
    yield this
    processor.name_and_instructions.cache_clear()


@pytest.mark.parametrize(
    ("information", "faster"),
    [
        (GENOA, True),
        (RAPIDS, False),
        (RAPIDS.replace("avx512_bf16", "avx512_bf16 amx_bf16"), True),
        (ROME, False),
        (GRAVITON, True),
        (GRAVITON.replace(" bf16", ""), False),
        ("", False),
        (None, False),
    ],
)
def test_bfloat16_is_for_processors_that_are_faster_at_it(runs_on, information, faster, monkeypatch):
    monkeypatch.setattr("dfine_jax.cpu.half", lambda: None)
    runs_on(information)
    assert processor.multiplies_tiles_of_bfloat16() == (faster and information is not GENOA)
    assert processor.is_faster_in_bfloat16() == faster
    assert arithmetic("bfloat16").compute.dtype == (jnp.bfloat16 if faster else jnp.float32)
    assert arithmetic("float32") == Arithmetic()


@pytest.mark.parametrize(("half", "dtype"), [("half", "float16"), ("bfloat", "bfloat16")])
def test_machine_code_in_16_bits_is_taken_where_it_is(half, dtype, monkeypatch):
    monkeypatch.setattr("dfine_jax.cpu.half", lambda: half)
    numbers = arithmetic("bfloat16")
    assert numbers == Arithmetic(operands=jnp.dtype(dtype))
    assert numbers.narrowest == dtype
    assert arithmetic("float32") == Arithmetic()


def test_other_backends_get_what_they_were_asked_for(runs_on, monkeypatch):
    runs_on(ROME)
    monkeypatch.setattr("jax.default_backend", lambda: "tpu")
    assert arithmetic("bfloat16") == Arithmetic(Compute.named("bfloat16"))


def test_an_unknown_type_is_an_error():
    with pytest.raises(ValueError, match="choose float32 or bfloat16"):
        arithmetic("int8")


def test_each_kind_of_processor_has_a_folder_of_programs(runs_on):
    folders = set()
    kinds = (GENOA, GENOA.replace("EPYC", "EPYC 2"), ROME, GRAVITON, None)
    for information in kinds:
        runs_on(information)
        folders.add(compilation_cache._processor())
    assert len(folders) == len(kinds)
