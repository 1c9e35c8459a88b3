import pytest

from dfine_jax.cpu.codegen.registers import Registers, binding, registers
from dfine_jax.cpu.codegen.targets import source


@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
def test_products_of_whole_numbers_are_summed_by_one_instruction():
    llvm = binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor = llvm.Target.from_default_triple().create_target_machine(cpu="cascadelake", opt=3)
    code = source(Registers(lanes=16, rows=12, columns=32), "halves", "i16")
    assembly = processor.emit_assembly(llvm.parse_assembly(code))
    assert "vpdpwssd" in assembly
    assert "vpmaddwd" not in assembly
