import json
from importlib.util import find_spec

import jax
import pytest

from dfine_jax.cli import compile_for
from dfine_jax.cli.main import main
from dfine_jax.export import topology
from dfine_jax.export.hlo import Counts, Size, count, count_instructions, size_of
from dfine_jax.export.topology import Program, TooLargeError, Topology

TPU = "tpu:v5e:2x2"

# What XLA writes for a TPU, shortened: results of several types, layouts with tiles, and names that mean nothing.
PROGRAM = """
HloModule jit_detect, is_scheduled=true, entry_computation_layout={(f32[3]{0:T(128)})->f32[3]{0:T(128)}}
%fused_computation.1 (param_0: bf16[40,1,40,256]) -> bf16[40,40,256] {
  %param_0 = bf16[40,1,40,256]{3,2,0,1:T(8,128)(2,1)} parameter(0)
  %copy.7 = bf16[40,1,40,256]{3,0,2,1:T(8,128)(2,1)S(1)} copy(%param_0)
  ROOT %copy_bitcast.2 = bf16[40,40,256]{2,1,0:T(8,128)(2,1)} bitcast(%copy.7), metadata={op_name="jit(f)/copy(x)"}
}
ENTRY %main.9 (x.1: f32[256,256]) -> f32[256,256] {
  %x.1 = f32[256,256]{1,0:T(8,128)} parameter(0), metadata={op_name="x"}
  %copy-start.1 = (f32[16]{0:T(128)S(1)}, f32[16]{0:T(128)}, u32[]{:S(2)}) copy-start(%x.1)
  %copy-done.1 = f32[16]{0:T(128)S(1)} copy-done(%copy-start.1)
  %transpose.3 = f32[256,256]{0,1:T(8,128)} transpose(%x.1), dimensions={1,0}
  %all-reduce.2 = (f32[256]{0:T(256)}, f32[256]{0:T(256)S(1)}) all-reduce(%reduce, %reduce.1), channel_id=1
  %all-reduce-start.4 = f32[256]{0:T(256)} all-reduce-start(%reduce.5), channel_id=2
  %all-reduce-done.4 = f32[256]{0:T(256)} all-reduce-done(%all-reduce-start.4)
  %all-to-all = f32[4,1,4096]{2,1,0:T(1,128)S(1)} all-to-all(%reshape.22), channel_id=3
  %send.1 = (f32[256]{0:T(256)}, u32[], token[]) send(%all-reduce.2, %token), channel_id=4
  ROOT %fusion = bf16[40,40,250]{2,1,0:T(8,128)} fusion(%x.1), kind=kLoop, calls=%fused_computation.1, \
backend_config={"window_config":{"estimated_cycles":"500","iteration_bounds":["1"]}}
}
"""
LOOP = """
%add.1 (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}
%asks_others (state.1: (s32[], f32[4])) -> pred[] {
  %all-reduce.9 = f32[] all-reduce(%state.1), channel_id=9, to_apply=%add.1
}
%body.1 (state.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  ROOT %chosen = (s32[], f32[4]) conditional(%state.2), branch_computations={%on.1, %off.1}
}
%on.1 (x.2: f32[4]) -> f32[4] {
  %all-gather-start.3 = (f32[1], f32[4]) all-gather-start(%x.2), channel_id=8
}
ENTRY %main.1 (x.3: f32[4]) -> f32[4] {
  ROOT %while.1 = (s32[], f32[4]) while(%x.3), condition=%asks_others, body=%body.1
}
"""
TO_HOST = """
  %debug_callback.8 = (f32[]{:T(128)}, u32[], token[]) send(%sum, %token), channel_id=1, is_host_transfer=true
  %debug_callback.9 = token[] send-done(%debug_callback.8), channel_id=1, is_host_transfer=true
  %callback.10 = (f32[]{:T(128)}, u32[], token[]) recv(%debug_callback.9), channel_id=2, is_host_transfer=true
  %offload.1 = (f32[9]{0:T(128)S(5)}, f32[9]{0:T(128)}, u32[]{:S(2)}) copy-start(%x.1)
  %outfeed.1 = token[] outfeed(%x.1, %token)
"""


def test_counts_of_a_program():
    counts = count(PROGRAM)
    assert counts._replace(padding=0) == Counts(
        copies=2,
        copied_bytes=2 * 40 * 40 * 256 + 4 * 256 * 256,
        padding=0,
        cycles=500,
        collectives={"all-reduce": 2, "all-to-all": 1},
        looped_collectives=0,
        host_transfers=0,
    )
    assert 0 < counts.padding < 0.5
    assert count(PROGRAM + TO_HOST).host_transfers == 4
    assert count_instructions(PROGRAM)["copy-start"] == 1


def test_collectives_in_loops_are_told_apart():
    counts = count(PROGRAM + LOOP)
    assert counts.collectives == {"all-reduce": 3, "all-to-all": 1, "all-gather": 1}
    assert counts.looped_collectives == 2


@pytest.mark.parametrize(
    ("result", "data", "padded"),
    [
        ("f32[3,5]", 60, 60),
        ("bf16[40,256]{1,0:T(8,128)(2,1)}", 20480, 20480),
        ("bf16[2,40,3]{2,1,0:T(8,128)(2,1)S(1)}", 480, 2 * 40 * 128 * 2),
        ("bf16[2,40,3]{1,2,0:T(4,128)(2,1)}", 480, 2 * 4 * 128 * 2),
        ("pred[100]{0:T(512)(128)(4,1)}", 100, 512),
        ("(f32[16]{0:T(128)}, token[], u32[]{:S(2)})", 68, 516),
    ],
)
def test_sizes_with_and_without_padding(result, data, padded):
    assert size_of(result) == Size(data, padded)


def test_counts_of_a_compiled_program():
    text = jax.jit(lambda x: x.T @ x).lower(jax.ShapeDtypeStruct((8, 4), "float32")).compile().as_text()
    assert sum(count_instructions(text).values()) > 1
    assert count(text).collectives == {}
    assert count(text).host_transfers == 0
    assert count(text).padding == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compile-for", "tpu"], "give a topology such as tpu:v5e:2x2"),
        (["--compile-for", "gpu:v5e:2x2"], "give a topology such as tpu:v5e:2x2"),
        (["--compile-for", "tpu:v5e:four"], "give a topology such as tpu:v5e:2x2"),
        (["--compile-for", TPU, "--model", "shapes"], "model 'shapes': --compile-for takes one of the sizes n, s"),
        (["--compile-for", TPU, "--batch-size", "0"], "batch size 0: give 1 or more"),
        (["--compile-for", TPU, "--size", "320x320"], "--size can't be combined with --compile-for"),
    ],
)
def test_what_can_not_be_compiled_for_is_one_line(capsys, arguments, message):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_without_the_compiler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    assert main(["bench", "--compile-for", TPU]) == 2
    error = capsys.readouterr().err
    assert "python -m pip install 'jax[tpu]'" in error
    assert len(error.strip().splitlines()) == 1


COUNTS = Counts(256, 12_000_000, 0.25, 3_600_000, {}, 0, 0)


class FourChips:
    """Stands in for a topology; training fits with up to 16 pictures a chip, size X's not at all."""

    def __init__(self, name: str):
        self.name = name
        self.devices = [None] * 4
        self.chip_gb = 16

    def inference(self, size: str, batch: int, dtype: str) -> Program:
        return Program(size, "inference", batch, 1, dtype, 2.0, 8e9 * batch, 3e9, 2**20 * batch, *COUNTS)

    def training(self, size: str, batch: int, dtype: str) -> Program:
        if batch > 16 or size == "x":
            raise TooLargeError("Ran out of memory")
        counts = COUNTS._replace(collectives={"all-reduce": 7}, looped_collectives=3)
        return Program(size, "training", batch, 4, dtype, 3.0, 5e12, 6e11, 2**30, *counts)

    largest_training = Topology.largest_training


def test_table_and_file_hold_the_same_programs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compile_for, "Topology", FourChips)
    assert main(["bench", "--compile-for", TPU, "--json", str(tmp_path / "needs.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "needs.json").read_text())
    assert [program["batch"] for program in found["results"] if program["purpose"] == "inference"] == [1, 32] * 5
    training = [program for program in found["results"] if program["purpose"] == "training"]
    assert [(program["size"], program["batch"]) for program in training] == [("n", 16), ("s", 8), ("m", 8), ("l", 8)]
    assert found["too_large"] == {"x, training step": "Ran out of memory"}
    assert "x, training step does not fit in the 16 GB of a chip: Ran out of memory" in printed
    assert "accumulate 2" in printed
    assert training[0]["collectives"] == {"all-reduce": 7}
    needs, moves = (line.split() for line in printed.splitlines() if line.startswith("n training"))
    assert needs[2:] == ["4x16", "5,000", "600.0", "3.6", "1,024", "3"]
    assert moves[2:] == ["4x16", "25%", "256", "12", "7", "3", "0"]
    for program in found["results"]:
        assert f"{program['size']} {program['purpose']}" in printed
        assert f"{program['chips']}x{program['batch']}" in printed


def test_a_size_a_batch_and_a_type_can_be_chosen(monkeypatch, capsys):
    monkeypatch.setattr(compile_for, "Topology", FourChips)
    arguments = ["--model", "s", "--batch-size", "4", "--dtype", "float32"]
    assert main(["bench", "--compile-for", TPU, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "s, inference, batch 4: compiled in 2 s" in printed
    assert f"{TPU}, float32" in printed
    assert "All fit in the 16 GB of a chip; the largest, s, training, 8 a chip, needs 1.00 GiB." in printed
    assert "n, inference" not in printed


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs the package libtpu")
def test_inference_for_a_tpu_stays_on_it(tmp_path):
    jax.config.update("jax_disable_most_optimizations", False)
    folder, before = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        program = Topology(TPU).inference("n", 1)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
        jax.config.update("jax_compilation_cache_dir", folder)
    assert program.host_transfers == 0
    assert program.collectives == {}
    assert 5e9 < program.flops < 12e9
    assert 20 * 2**20 < program.memory_bytes < 200 * 2**20
    assert jax.config.jax_enable_compilation_cache == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("jit_detect")]
