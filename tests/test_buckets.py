"""Buckets: widths that cover every row, and sums that do not depend on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memalpha_jax.policy.buckets import padding, sorted_by_length, sum_over_blocks, widths

RNG = np.random.default_rng(0)


def test_widths_end_with_the_whole_row_and_are_whole_blocks_where_rows_are_long():
    assert widths(13, 4) == (4, 7, 10, 13)
    assert widths(8192, 8) == tuple(range(1024, 8193, 1024))
    assert widths(1000, 3) == (384, 768, 1000)
    assert widths(13, 1) == (13,)


def test_sorting_moves_whole_rows():
    tokens_XM = RNG.integers(0, 9, (3, 4))
    rows = {"name": np.arange(12).reshape(3, 4), "text": np.arange(24).reshape(3, 4, 2)}
    found = sorted_by_length(rows, jnp.asarray(tokens_XM))
    order = found["name"].reshape(-1)
    assert sorted(order.tolist()) == list(range(12))
    assert (np.diff(tokens_XM.reshape(-1)[order]) >= 0).all()
    np.testing.assert_array_equal(found["text"].reshape(12, 2)[:, 0], 2 * order)


@pytest.mark.parametrize("buckets", [1, 3, 5])
def test_sums_are_those_of_a_loop_and_every_block_gets_the_least_width_that_holds_it(buckets):
    X, M, S = 6, 2, 10
    tokens_XM = RNG.integers(1, S + 1, (X, M))
    tokens_XM[2] = 0
    values_XMS = RNG.normal(size=(X, M, S)).astype(np.float32)

    def function(block, width):
        return {"sum": jnp.sum(block[:, :width]), "width": jnp.float32(width)}

    slots = widths(S, buckets)
    found = jax.jit(lambda v, t: sum_over_blocks(function, v, t, slots))(values_XMS, tokens_XM)
    used = [min(w for w in slots if w >= t.max()) if t.any() else 0 for t in tokens_XM]
    assert found["width"] == sum(used)
    assert padding(jnp.asarray(tokens_XM), slots) == pytest.approx(1 - tokens_XM.sum() / (M * sum(used)), abs=1e-6)
    expected = sum(v[:, :w].sum() for v, w in zip(values_XMS, used, strict=True))
    np.testing.assert_allclose(found["sum"], expected, rtol=1e-5)
