"""What the program for GPUs consists of, as lowered for them here."""

import re

import jax
import numpy as np
import pytest
from reference import with_compute
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax import functional, fuse
from dfine_jax.inference.compiled import picture_by_picture
from dfine_jax.inference.postprocess import postprocess
from dfine_jax.inference.preprocess import normalise
from dfine_jax.preprocessing import Preprocessing

BATCH = 3


def lowered(dtype: str, platform: str) -> str:
    """The text of the whole program, bytes to detections, for three pictures."""
    apply, params, batch_stats = functional(fuse(with_compute(tiny_model(), dtype), for_cpu=False))

    def detect(params, batch_stats, images, sizes):
        def in_batch(images, sizes):
            output = apply(params, batch_stats, normalise(images, Preprocessing(HEIGHT, WIDTH)))
            return postprocess(output.logits, output.boxes, sizes)

        return picture_by_picture(in_batch)(images, sizes)

    images, sizes = np.zeros((BATCH, HEIGHT, WIDTH, 3), np.uint8), np.ones((BATCH, 2), np.int32)
    traced = jax.jit(detect).trace(params, batch_stats, images, sizes)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {dtype: lowered(dtype, "cuda") for dtype in ("float32", "bfloat16")}


def test_all_pictures_go_through_at_once(texts):
    for text in texts.values():
        assert "stablehlo.while" not in text
        assert f"tensor<{BATCH}x{HEIGHT}x{WIDTH}x3xui8>" in text
    assert "stablehlo.while" in lowered("float32", "cpu")  # a CPU computes one after another


def test_maps_lie_channels_last(texts):
    orders = set(re.findall(r"stablehlo\.convolution.*?dim_numbers = (.*?), window", texts["bfloat16"]))
    assert orders == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    shapes = re.findall(r"stablehlo\.transpose.*?: \(tensor<(\S+?)>\)", texts["bfloat16"])
    maps = tuple(f"{BATCH}x{HEIGHT // stride}x{WIDTH // stride}x" for stride in (1, 2, 4, 8, 16))
    assert shapes
    assert not [shape for shape in shapes if shape.startswith(maps)]


def test_large_products_are_of_bfloat16_where_it_is_asked_for(texts):
    """All but the weighted sum of a distribution's bins, which gives the boxes' edges."""
    for name in ("dot_general", "convolution"):
        operands = re.findall(rf"stablehlo\.{name}.*?: \(tensor<(\S+?)>, tensor<(\S+?)>\)", texts["bfloat16"])
        assert operands
        exact = {kernel for x, kernel in operands if not (x.endswith("bf16") and kernel.endswith("bf16"))}
        assert all(re.fullmatch(r"\d+xf32", kernel) for kernel in exact), exact


def test_products_of_float32_are_exact(texts):
    """What GPUs do by default rounds operands to ten bits."""
    operations = re.findall(r"stablehlo\.(?:dot_general|convolution).*", texts["float32"])
    assert operations
    assert all(operation.count("HIGHEST") == 2 for operation in operations)
