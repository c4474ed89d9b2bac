"""What prompts have in common is run once, and no token or log-prob of a reply shows it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_policy import SIZES, random_params

from memalpha_jax.errors import UserError
from memalpha_jax.policy.attention import MASKED, Shared, attend
from memalpha_jax.policy.generate import generate
from memalpha_jax.policy.prefix import ALONE, Plan, PromptLayout, choose_plan, make_plans, rest_of
from memalpha_jax.policy.sampling import SamplingConfig
from memalpha_jax.policy.sharding import MeshConfig, make_mesh, rows, tree_shardings

B, G, P, R, S0 = 3, 4, 32, 6, 7
N = B * G
RNG = np.random.default_rng(0)
SAMPLING = SamplingConfig(reply_tokens=R, temperature=1.0, eos_id=-1)
KEYS = jax.random.split(jax.random.key(5), N)
ALL = np.ones(N, bool)


def prompts(alike, lengths) -> tuple[np.ndarray, np.ndarray]:
    """Prompts [N, P] that begin with one prefix; `alike` [N] tokens are those of the group's first row."""
    lengths = np.broadcast_to(lengths, N)
    tokens = RNG.integers(1, SIZES.vocab_size, (N, P))
    first = np.repeat(tokens[::G], G, axis=0)
    tokens = np.where(np.arange(P) < np.broadcast_to(alike, N)[:, None], first, tokens)
    tokens[:, :S0] = tokens[0, :S0]
    return np.where(np.arange(P) < lengths[:, None], tokens, 0), lengths.astype(np.int32)


LENGTHS = RNG.integers(S0 + 1, P + 1, N)
BATCHES = {
    "the first chunk": prompts(P, np.repeat([P, S0 + 1, 15], G)),
    "all begin alike": prompts(P - 6, np.repeat(LENGTHS[:B], G)),
    "some begin alike": prompts(RNG.integers(0, P, N), LENGTHS),
    "nothing in common": prompts(0, LENGTHS),
    "short": prompts(0, RNG.integers(13, 17, N)),
}
LAYOUTS = {
    "prefix": PromptLayout(S0),
    "group": PromptLayout(group=G),
    "buckets": PromptLayout(buckets=3),
    "all": PromptLayout(S0, G, 2),
}


@pytest.fixture(scope="module")
def params():
    return random_params(SIZES)


@functools.partial(jax.jit, static_argnames=("sampling", "layout"))
def replies_to(params, prompt_NP, length_N, key_N, active_N, sampling=SAMPLING, layout=ALONE):
    return generate(SIZES, params, prompt_NP, length_N, key_N, active_N, sampling, layout)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.tokens_NR, expected.tokens_NR)
    np.testing.assert_array_equal(found.length_N, expected.length_N)
    np.testing.assert_allclose(found.logprobs_NR, expected.logprobs_NR, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_reply_depends_on_what_is_shared(params, layout):
    for batch in BATCHES.values():
        assert_same(
            replies_to(params, *batch, KEYS, ALL, layout=LAYOUTS[layout]), replies_to(params, *batch, KEYS, ALL)
        )


def chosen(name: str, layout: PromptLayout, active_N=ALL) -> tuple[Plan, list[Plan]]:
    plans = make_plans(layout, N, P - layout.prefix_tokens)
    rest = rest_of(layout, *(jnp.asarray(x) for x in (*BATCHES[name], active_N)))
    return plans[int(choose_plan(plans, rest))], plans


def test_each_batch_takes_the_cheapest_plan_that_it_fits():
    layout = LAYOUTS["all"]
    assert chosen("the first chunk", layout)[0] == Plan(own=1, lead=P - S0)
    assert chosen("all begin alike", layout)[0] == Plan(own=(P - S0) // 2, lead=P - S0)
    assert chosen("nothing in common", layout)[0] == Plan(own=P - S0, lead=0)
    assert chosen("short", layout)[0] == Plan(own=P // 2 - S0, lead=0)
    for name in BATCHES:
        plan, plans = chosen(name, LAYOUTS["buckets"])
        assert plan == min(p for p in plans if p.own >= BATCHES[name][1].max())
    assert chosen("nothing in common", ALONE)[1] == [Plan(P, 0)]


def test_rows_that_do_not_matter_widen_nothing(params):
    prompt_NP, length_N = prompts(P, 12)
    prompt_NP[5], length_N = RNG.integers(1, SIZES.vocab_size, P), length_N.copy()
    prompt_NP[5, :S0], length_N[5] = prompt_NP[0, :S0], P
    layout, active = LAYOUTS["all"], np.arange(N) != 5
    rest = rest_of(layout, *(jnp.asarray(x) for x in (prompt_NP, length_N, active)))
    plans = make_plans(layout, N, P - S0)
    assert plans[int(choose_plan(plans, rest))] == Plan(1, P // 2 - S0)
    found = replies_to(params, prompt_NP, length_N, KEYS, active, layout=layout)
    assert_same(found, replies_to(params, prompt_NP, length_N, KEYS, active))
    assert found.length_N.tolist() == [R * a for a in active]


def test_a_group_whose_first_row_does_not_matter_is_answered_all_the_same(params):
    active = np.arange(N) % G != 0
    batch = BATCHES["the first chunk"]
    found = replies_to(params, *batch, KEYS, active, layout=LAYOUTS["all"])
    assert_same(found, replies_to(params, *batch, KEYS, active))


@pytest.mark.parametrize("layout", ["prefix", "buckets", "all"])
def test_a_reply_does_not_depend_on_its_batch(params, layout):
    """Other rows choose another plan, and other groups; the keys go with the rows."""
    layout, (prompt_NP, length_N) = LAYOUTS[layout], BATCHES["some begin alike"]
    together = replies_to(params, prompt_NP, length_N, KEYS, ALL, layout=layout)
    for order in RNG.permutation(N), np.repeat(RNG.integers(N, size=B), G), np.full(N, length_N.argmin()):
        found = replies_to(params, prompt_NP[order], length_N[order], KEYS[order], ALL, layout=layout)
        assert_same(found, jax.tree.map(lambda x, order=order: x[order], together))


def test_groups_may_be_split_over_devices(params):
    """One of two groups on each half of the mesh."""
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    first = slice(0, 2 * G)
    for name in "the first chunk", "some begin alike":
        rows_N = [x[first] for x in (*BATCHES[name], KEYS, ALL)]
        placed = jax.device_put(params, tree_shardings(params, mesh)), *jax.device_put(tuple(rows_N), rows(mesh))
        found = replies_to(*placed, layout=LAYOUTS["all"])
        assert len(found.tokens_NR.sharding.device_set) == 8
        assert_same(jax.device_get(found), replies_to(params, *rows_N))


def test_shared_slots_are_attended_like_a_rows_own():
    H, K, D, T, S = 4, 2, 8, 5, 6
    q = jnp.asarray(RNG.normal(size=(N, H, T, D)), jnp.float32)
    k, v = (jnp.asarray(RNG.normal(size=(N, K, T, D)), jnp.float32) for _ in range(2))
    visible_N = RNG.integers(0, S + 1, N)
    parts = [(1, None), (B, visible_N)]
    shared = [tuple(jnp.asarray(RNG.normal(size=(M, K, S, D)), jnp.float32) for _ in range(2)) for M, _ in parts]
    given = tuple(
        Shared(a.swapaxes(2, 3), b, None if seen is None else jnp.asarray(seen))
        for (a, b), (_, seen) in zip(shared, parts, strict=True)
    )
    mask = jnp.tri(T, dtype=bool)[None]
    found = attend(q, k.swapaxes(2, 3), v, mask, shared=given)
    whole_k, whole_v = (
        np.concatenate([*(np.repeat(s[i], N // len(s[i]), axis=0) for s in shared), own], axis=2)
        for i, own in ((0, k), (1, v))
    )
    seen = np.ones((N, T, 2 * S + T), bool)
    seen[:, :, S : 2 * S] = np.arange(S) < visible_N[:, None, None]
    seen[:, :, 2 * S :] = np.tri(T, dtype=bool)
    scores = np.einsum("nhtd,nhsd->nhts", q, np.repeat(whole_k, H // K, axis=1)) / np.sqrt(D)
    probs = jax.nn.softmax(np.where(seen[:, None], scores, MASKED))
    expected = np.einsum("nhts,nhsd->nhtd", probs, np.repeat(whole_v, H // K, axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_shared_is_not_computed_again(params):
    """Multiplications by XLA's count: prefill of the first chunk's prompts and one token."""
    one = dataclasses.replace(SAMPLING, reply_tokens=1)
    batch = *BATCHES["the first chunk"], KEYS, ALL
    flops = {}
    for layout in ALONE, PromptLayout(P - 2):
        compiled = replies_to.lower(params, *batch, sampling=one, layout=layout).compile()
        flops[layout] = compiled.cost_analysis()["flops"]
    assert flops[PromptLayout(P - 2)] < flops[ALONE] * 3 / N


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (PromptLayout(P), f"prefix of {P} tokens does not fit prompts of {P}"),
        (PromptLayout(group=5), "12 prompts do not divide into groups of 5"),
        (PromptLayout(buckets=0), "at least 1"),
    ],
)
def test_a_layout_that_cannot_be_is_told(params, layout, told):
    with pytest.raises(UserError, match=told):
        replies_to(params, *BATCHES["short"], KEYS, ALL, layout=layout)
