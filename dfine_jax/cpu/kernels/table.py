"""All forms of kernels, by name."""

from dfine_jax.cpu.kernels.channelwise import Depthwise
from dfine_jax.cpu.kernels.kernel import Kernel
from dfine_jax.cpu.kernels.packed import Gemm, ImplicitGemm, PackedWinograd
from dfine_jax.cpu.kernels.packed16 import Gemm16, ImplicitGemm16, SplitGemm16, TwoColumns16
from dfine_jax.cpu.kernels.plain import Split, Whole
from dfine_jax.cpu.kernels.two_columns import TwoColumns
from dfine_jax.cpu.kernels.winograd import WinogradF2, WinogradF4
from dfine_jax.cpu.kernels.winograd16 import Winograd16, WinogradInt16

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Whole(),
        Split(),
        TwoColumns(),
        WinogradF2(),
        WinogradF4(),
        Gemm(),
        ImplicitGemm(),
        Depthwise(),
        PackedWinograd(),
        Gemm16(),
        SplitGemm16(),
        ImplicitGemm16(),
        TwoColumns16(),
        Winograd16(),
        WinogradInt16(),
    )
}
