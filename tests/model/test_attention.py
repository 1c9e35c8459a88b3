import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import normal

from dfine_jax.model.attention import SelfAttention
from dfine_jax.ops import attention as attention_module
from dfine_jax.ops.compute import Compute

COMMON = dict(compute=Compute(), rng=np.random.default_rng(0))


@pytest.mark.parametrize("few", [0, 100])
@pytest.mark.parametrize("batched_mask", [False, True])
def test_self_attention(batched_mask, few, monkeypatch):
    monkeypatch.setattr(attention_module, "FEW_SCORES", few)  # on CPUs, the heads in turn or at once
    attention = SelfAttention(8, 2, **COMMON)
    x, position = normal(2, 5, 8), normal(5, 8)
    blocked = np.zeros((2, 5, 5), bool)
    blocked[:, 1:, 0] = blocked[:, 0, 3:] = True

    def linear(layer, x):
        return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...])

    placed = np.asarray(x + position, np.float64)
    query, key = linear(attention.query, placed), linear(attention.key, placed)
    value = linear(attention.value, np.asarray(x, np.float64))
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = np.where(blocked, -np.inf, query[..., head] @ key[..., head].transpose(0, 2, 1) / 2)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ value[..., head])
    expected = linear(attention.out, np.concatenate(heads, -1))

    mask = jnp.asarray(blocked if batched_mask else blocked[0])
    np.testing.assert_allclose(attention(x, jnp.broadcast_to(position, x.shape), mask), expected, atol=1e-5)
    if not batched_mask:
        changed = attention(x.at[:, 0].add(1.0), jnp.broadcast_to(position, x.shape), mask)
        np.testing.assert_array_equal(changed[:, 1:], attention(x, jnp.broadcast_to(position, x.shape), mask)[:, 1:])


def test_self_attention_has_the_same_gradients_in_either_form(monkeypatch):
    attention = SelfAttention(8, 2, **COMMON)
    x, position = normal(2, 5, 8), normal(3, 5, 8)[:2]
    gradients = []
    for few in (0, 100):
        monkeypatch.setattr(attention_module, "FEW_SCORES", few)
        gradients.append(jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(attention(x, position)))))(x))
    assert np.abs(gradients[0]).max() > 0.01
    np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize(("platform", "rounded"), [("cpu", False), ("tpu", True), ("cuda", True)])
def test_self_attention_in_bfloat16_rounds_scores_but_on_cpus(platform, rounded):
    attention = SelfAttention(8, 2, compute=Compute.named("bfloat16"), rng=np.random.default_rng(0))
    program = jax.jit(lambda x: attention(x, x)).trace(normal(2, 5, 8))
    text = program.lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line and "x5x5x" in line]
    assert len(products) == 2  # the scores, and what they mix
    assert all(("5x4xbf16" in line) == rounded for line in products)


def test_attention_of_rounded_operands_is_near():
    heads = [normal(3, 5, 4) for _ in range(3)]
    exact, rounded = (
        attention_module.attend_head(*heads, None, Compute.named(name)) for name in ("float32", "bfloat16")
    )
    assert exact.dtype == rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.03


def test_self_attention_with_large_scores_is_finite():
    attention = SelfAttention(8, 2, **COMMON)
    x = normal(1, 5, 8)
    large = attention(1e4 * x, jnp.zeros_like(x))
    assert np.isfinite(large).all()
