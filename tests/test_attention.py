"""The fused kernels give the values and gradients of plain attention, with and without a shared part in front."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memalpha_jax.errors import UserError
from memalpha_jax.policy.attention import MOST_BLOCKS, QUERY_BLOCK, Causal, Shared, attend, fused

H, K, D = 4, 2, 128
HAS_GPU = jax.default_backend() == "gpu"
KERNELS = [
    "splash",
    pytest.param("cudnn", marks=pytest.mark.skipif(not HAS_GPU, reason="cudnn attention needs a GPU")),
]
DTYPE = jnp.bfloat16 if HAS_GPU else jnp.float32  # cudnn takes halves only
TOLERANCE = 3e-2 if HAS_GPU else 1e-5


def arrays(N: int, T: int, heads: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(T)
    return [jnp.asarray(rng.normal(size=(N, count, T, D)), DTYPE) for count in heads]


def value_and_gradient(implementation: str, q, k, v, weights):
    def total(q, k, v):
        out = attend(q, k.swapaxes(2, 3), v, Causal(), implementation)
        return jnp.sum(weights * out.astype(jnp.float32)), out

    (_, out), gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradient


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("N", "T"), [(2, 128), (1, 256), (2, 70)])
def test_kernels_equal_plain_attention_in_value_and_gradient(kernel, N, T):
    q, k, v, weights = arrays(N, T, (H, K, K, H))
    for found, expected in zip(
        value_and_gradient(kernel, q, k, v, weights), value_and_gradient("xla", q, k, v, weights), strict=True
    ):
        found, expected = (np.asarray(x, np.float32) for x in (found, expected))
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_see_what_is_shared(kernel):
    """A prefix of 40 tokens for all, then up to 56 of each pair of rows, then 32 of a row's own: 128 slots."""
    N, T = 4, 32
    q, k, v = arrays(N, T, (H, K, K))
    shared = ()
    for copies, slots, visible_N in (1, 40, None), (2, 56, jnp.array([56, 0, 13, 55])):
        k_MKSD, v_MKSD = arrays(copies, slots, (K, K))
        shared = (*shared, Shared(k_MKSD.swapaxes(2, 3), v_MKSD, visible_N))
    found, expected = (
        jax.jit(lambda *a, kind=kind: attend(*a, Causal(), kind, shared))(q, k.swapaxes(2, 3), v)
        for kind in (kernel, "xla")
    )
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), atol=TOLERANCE)


@pytest.mark.parametrize("T", [MOST_BLOCKS * QUERY_BLOCK + 90, QUERY_BLOCK + 1])
def test_blocks_of_queries_see_what_the_mask_shows_them(T):
    """Rows of more slots than that many smallest blocks hold, and of a last block of one; a prefix in front."""
    q, k, v = (x[..., :8] for x in arrays(2, T, (H, K, K)))
    front_k, front_v = (x[..., :8].astype(DTYPE) for x in arrays(1, 5, (K, K)))
    shared = (Shared(front_k.swapaxes(2, 3), front_v, jnp.array([5, 3])),)
    mask = jnp.tri(T, dtype=bool)[None]
    found, expected = (
        jax.jit(lambda *a, seen=seen: attend(*a, seen, "xla", shared))(q, k.swapaxes(2, 3), v)
        for seen in (Causal(), mask)
    )
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), atol=TOLERANCE)


def test_the_platform_chooses_and_can_be_overruled():
    def choice(implementation="auto", platform="cpu", dtype=jnp.bfloat16, D=128):
        return fused(implementation, D, dtype, platform)

    assert choice() == "xla"
    assert choice(platform="gpu") == "cudnn"
    assert choice(platform="gpu", dtype=jnp.float32) == "xla"
    assert choice(platform="tpu") == choice(platform="tpu", dtype=jnp.float32) == "splash"
    assert choice(platform="tpu", D=64) == "xla"
    for platform in ("cpu", "gpu", "tpu"):
        assert choice("xla", platform) == "xla"
    with pytest.raises(UserError, match=r"cudnn.*needs a GPU; this is a tpu"):
        choice("cudnn", "tpu")
