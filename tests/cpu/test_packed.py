"""Products and convolutions of kernels in panels, by machine code where there is some for this processor."""

import threading
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from native_cases import (
    ACTIVATIONS,
    an_epilogue,
    cells,
    channels,
    check,
    heads,
    largest,
    last_channels,
    normalised,
    plainly,
    points,
    rows,
    tiles,
)
from tiny import normal

from dfine_jax.cpu.codegen.registers import registers
from dfine_jax.cpu.epilogue import Epilogue
from dfine_jax.cpu.kernels.attention import attend_heads
from dfine_jax.cpu.kernels.channelwise import max_pool
from dfine_jax.cpu.kernels.packed import gemm, pack, packed_size

WINDOWS = pytest.mark.parametrize(
    "window", [(3, 1, (1, 1)), (3, 2, (1, 1)), (2, 1, (0, 1)), (2, 2, (0, 0)), (1, 2, (0, 0)), (3, 1, (0, 2))]
)
KINDS = {
    "cells": lambda epilogue: cells(50, (8, 5), 21, epilogue),
    "rows": lambda epilogue: rows((2, 6, 7), (3, 5), 21, (3, 2, (1, 1)), epilogue),
    "channels": lambda epilogue: channels((2, 6, 7, 32), (3, 1, (1, 1)), epilogue),
    "tiles": lambda epilogue: tiles((2, 6, 7), 16, 32, (1, 1), epilogue),
    "largest": lambda _: largest((2, 6, 7, 24)),
    "normalised": lambda _: normalised((2, 31, 32)),
    "heads": lambda _: heads((2, 31, 32), 2),
    "points": lambda _: points(2, 5, (3, 2), 16),
    "last channels": lambda _: last_channels((2, 4, 6), (33, 8), (17, 8), 21),
}
OUTPUTS = {
    "cells": 21,
    "rows": 21,
    "channels": 32,
    "tiles": 32,
    "largest": 24,
    "normalised": 32,
    "heads": 32,
    "points": 48,
    "last channels": 21,
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("outputs", [1, 16, 17, 32, 48, 132])
def test_a_kernel_in_panels(outputs):
    kernel = np.arange(2 * 3 * outputs, dtype=np.float64).reshape(2, 3, outputs) + 1
    panels = pack(kernel)
    assert panels.shape == (2, packed_size(3, outputs))
    assert panels.dtype == np.float64
    assert sorted(panels[panels > 0]) == sorted(kernel.ravel())
    np.testing.assert_array_equal(panels[0, : min(outputs, 32)], kernel[0, 0, :32])


@pytest.mark.parametrize("count", [1, 13, 300, 1100])
@pytest.mark.parametrize("outputs", [4, 17, 80])
def test_products(count, outputs):
    check(*cells(count, (8, 5, 33), outputs, an_epilogue(outputs)))


def test_products_of_as_many_maps_as_may_be():
    check(*cells(50, (4, 1, 7, 16, 3, 32, 5, 6), 32, an_epilogue(32)))


@pytest.mark.parametrize(
    ("shape", "widths", "inputs"),
    [((1, 2, 2), (8,), (8,)), ((1, 40, 40), (33,), (5,)), ((2, 6, 10), (7, 16), (6, 16))],
)
def test_the_last_channels_of_maps_and_a_map_half_as_large(shape, widths, inputs):
    check(*last_channels(shape, widths, inputs, 21), 1e-5)


def test_no_cells():
    ours, _, maps = cells(0, (8,), 32, an_epilogue(32))
    assert ours(maps).shape == (0, 32)


def test_cells_of_any_shape():
    kernel, epilogue = normal(8, 5), Epilogue(normal(5), None)
    x = normal(2, 3, 4, 8)
    result = gemm([x], [jnp.asarray(pack(np.asarray(kernel)[None]))], epilogue)
    np.testing.assert_allclose(result, x @ kernel + epilogue.bias, atol=4e-6)


@WINDOWS
@pytest.mark.parametrize("shape", [(2, 6, 8), (1, 5, 90), (3, 40, 7)])
def test_convolutions_row_by_row(shape, window):
    check(*rows(shape, (3, 17), 12, window, an_epilogue(12)))


@pytest.mark.parametrize("window", [(3, 1, (1, 1)), (3, 2, (1, 1)), (5, 1, (2, 2)), (1, 1, (0, 0)), (2, 1, (0, 2))])
@pytest.mark.parametrize("shape", [(2, 6, 8, 16), (1, 5, 90, 40)])
def test_depthwise_convolutions(shape, window):
    check(*channels(shape, window, an_epilogue(shape[-1])))


@pytest.mark.parametrize("shape", [(2, 6, 8, 16), (1, 5, 90, 24), (1, 1, 1, 33)])
def test_the_largest_of_four(shape):
    check(*largest(shape), tolerance=0)


def test_the_largest_of_negative_numbers_is_zero_at_the_far_edges_alone():
    x = -1 - jnp.abs(normal(1, 3, 4, 16))
    result = max_pool(x)
    assert (result[:, :-1, :-1] < 0).all()
    assert (result[:, -1] == 0).all()
    assert (result[:, :, -1] == 0).all()


@pytest.mark.parametrize("shape", [(1, 16), (300, 128), (2, 31, 256)])
def test_layer_normalisation(shape):
    check(*normalised(shape), 2e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 1, 96), (2, 25, 96), (1, 300, 96)])
def test_attention_of_heads(shape, count):
    """Both are up to 4e-6 from what float64 gives."""
    check(*heads(shape, count), 1e-5)


def test_scores_of_any_size_have_weights():
    """Only differences count, and a key that is far behind is nothing."""
    query = jnp.full((1, 1, 16), 100.0)
    key = jnp.stack([jnp.full(16, -100.0), jnp.full(16, -10.0), jnp.full(16, -10.0)])[None]
    value = jnp.stack([jnp.full(16, 1e30), jnp.full(16, 2.0), jnp.full(16, 4.0)])[None]
    result = attend_heads(jnp.broadcast_to(query, key.shape), key, value, 1)
    np.testing.assert_allclose(result, 3, rtol=1e-6)


@pytest.mark.parametrize(("queries", "channels", "levels"), [(1, 16, (4,)), (31, 48, (3, 2)), (25, 16, (9, 7, 3))])
def test_attention_to_points(queries, channels, levels):
    check(*points(2, queries, levels, channels))


@pytest.mark.parametrize("far", [1e9, 3e38, np.inf, np.nan])
def test_points_far_away_pick_nothing(far):
    ours, _, (offsets, scores, boxes, memory) = points(1, 5, (3, 2), 16)
    result = ours([np.full_like(offsets, far), scores, boxes, memory])
    np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("padding", [(1, 1), (0, 0), (2, 1)])
@pytest.mark.parametrize("shape", [(2, 6, 8), (1, 3, 5), (2, 33, 50)])
def test_convolutions_by_tiles(shape, padding):
    check(*tiles(shape, 16, 48, padding, an_epilogue(48)), 1e-5)


@pytest.mark.parametrize("kind", ["cells", "rows", "channels", "tiles"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_follows_the_sums(activation, affine, kind):
    check(*KINDS[kind](an_epilogue(OUTPUTS[kind], activation, affine)), 1e-5)


@pytest.mark.parametrize("kind", ["cells", "rows", "channels", "tiles"])
def test_a_shortcut_is_added_last(kind):
    epilogue = an_epilogue(OUTPUTS[kind])
    _, plain, maps = KINDS[kind](epilogue)
    epilogue = replace(epilogue, residual=normal(*jax.eval_shape(plain, maps).shape))
    check(*KINDS[kind](epilogue)[:2], maps, 1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_exact(activation):
    """To two units in the last place or, where nearly nothing is left, to what float32 can tell from it.

    The error function is less exact, here and there.
    """
    bounds = dict(rtol=1e-6, atol=1e-6) if activation == "gelu" else dict(rtol=2.5e-7, atol=1e-35)
    special = [0, 1e-30, -1e-30, 3e38, -1e37, np.inf, -np.inf, np.nan]
    x = np.concatenate([np.linspace(-110, 110, 3000), special]).astype(np.float32)
    one = jnp.asarray(pack(np.ones((1, 1, 1), np.float32)))
    result = gemm([x[:, None]], [one], Epilogue(jnp.zeros(1), activation))[:, 0]
    np.testing.assert_allclose(result, plainly(x, Epilogue(jnp.zeros(1), activation)), **bounds)


@pytest.mark.parametrize("kind", ["cells", "rows", "tiles"])
def test_derivatives_forward(kind):
    ours, plain, maps = KINDS[kind](an_epilogue(OUTPUTS[kind], "silu"))
    both = jax.jit(lambda maps: [jax.jvp(function, (maps,), (maps,)) for function in (ours, plain)])
    for result, expected in zip(*both(maps), strict=True):
        np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_backward(kind):
    ours, plain, maps = KINDS[kind](an_epilogue(OUTPUTS[kind], "silu"))
    slopes = [jax.grad(lambda x, function=function: jnp.sum(jnp.sin(function(x))))(maps) for function in (ours, plain)]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), *slopes)


@kinds
def test_many_at_once(kind):
    ours, plain, maps = KINDS[kind](an_epilogue(OUTPUTS[kind]))
    several = [np.stack([x, -np.asarray(x), 2 * np.asarray(x)]) for x in maps]
    check(jax.vmap(ours), jax.vmap(plain), several, 2e-5)


@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
@kinds
def test_other_backends_compute_the_same(kind, monkeypatch):
    chosen = []

    def as_others(*operands, default, **others):
        chosen.append(default)
        return default(*operands)

    monkeypatch.setattr(lax, "platform_dependent", as_others)
    check(*KINDS[kind](an_epilogue(OUTPUTS[kind])), 1e-5)
    assert chosen


@kinds
def test_maps_in_bfloat16_give_float32(kind):
    ours, plain, maps = KINDS[kind](an_epilogue(OUTPUTS[kind]))
    rounded = [np.asarray(x).astype(jnp.bfloat16) for x in maps]
    assert jax.eval_shape(ours, rounded).dtype == jnp.float32
    check(ours, lambda maps: plain([x.astype(jnp.float32) for x in maps]), rounded, 1e-5)


@kinds
def test_arrays_of_other_types_are_read_as_what_they_are(kind):
    ours, plain, maps = KINDS[kind](an_epilogue(OUTPUTS[kind], affine=False))
    with jax.enable_x64(True):
        result, expected = jax.jit(lambda wide, maps: (ours(wide), plain(maps)))([np.float64(x) for x in maps], maps)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_parameters_in_bfloat16_are_widened():
    kernel, bias, x = (normal(*shape).astype(jnp.bfloat16) for shape in ((8, 16), (16,), (5, 8)))
    panels = jnp.asarray(pack(np.asarray(kernel, np.float32)[None]), jnp.bfloat16)
    result = gemm([x], [panels], Epilogue(bias, None, jnp.array([2, 1], jnp.bfloat16)))
    x, kernel, bias = (array.astype(jnp.float32) for array in (x, kernel, bias))
    np.testing.assert_allclose(result, 2 * (x @ kernel + bias) + 1, atol=2e-5)


def test_without_machine_code_the_result_is_the_same(monkeypatch):
    monkeypatch.setattr("dfine_jax.cpu.call.registers", lambda: None)
    monkeypatch.setattr("dfine_jax.cpu.call.register", None)
    check(*rows((2, 6, 7), (3, 5), 21, (3, 2, (1, 1)), an_epilogue(21)))


@pytest.mark.skipif(registers() is None, reason="no machine code for this processor")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cells(5, (4,) * 9, 16, an_epilogue(16)), "9 maps"),
        (lambda: rows((1, 30, 30), (2, 2), 16, (13, 1, (0, 0)), an_epilogue(16)), "24 rows"),
        (lambda: rows((1, 9, 9), (2,), 16, (2, 1, (2, 0)), an_epilogue(16)), "padding"),
        (lambda: rows((1, 2, 9), (2,), 16, (3, 1, (0, 0)), an_epilogue(16)), "too small"),
        (lambda: tiles((1, 6, 6), 24, 32, (1, 1), an_epilogue(32)), "24 channels"),
        (lambda: channels((1, 6, 6, 15), (3, 1, (1, 1)), an_epilogue(15)), "15 channels"),
        (lambda: largest((1, 6, 6, 8)), "8 channels"),
        (lambda: normalised((6, 24)), "24 numbers"),
        (lambda: heads((1, 6, 48), 2), "48 channels of 2 heads"),
        (lambda: points(1, 6, (3, 2), 8), "24 channels of 3 heads"),
    ],
)
def test_what_there_is_no_code_for_is_an_error(call, message):
    ours, _, maps = call()
    with pytest.raises(ValueError, match=message):
        ours(maps)


def test_several_threads_may_call_at_once():
    ours, _, maps = rows((1, 40, 90), (16,), 32, (3, 1, (1, 1)), an_epilogue(32))
    program = jax.jit(ours)
    expected = np.asarray(program(maps))
    wrong = []

    def calls():
        for _ in range(50):
            if not np.array_equal(program(maps), expected):
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("width", [1, 2, 4, 5, 6])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_maps_narrower_than_a_kernel(width, size, stride):
    window = (size, stride, (size // 2,) * 2)
    check(*rows((1, 4, width), (16,), 16, window, an_epilogue(16)))
    check(*channels((1, 4, width, 16), window, an_epilogue(16)))
