"""Every router of the catalogue on logits that tie: constant ones, and experts or tokens alike.

A law is tested on every router that breaks ties by index, but for those named here with a reason;
`Router` says the rule.
"""

import pytest
import torch

from lp_routing.routers import CATALOGUE, Shape, StatefulRouter

AT = Shape(2, 8, 16, 8)
WHOLE = {name for name, build in CATALOGUE.items() if build(AT).ties == "any"}
BY_INDEX = [name for name in CATALOGUE if name not in WHOLE]
BY_CHANCE = {"noisy-top-k", "sampled", "hash", "random"}
"""Draw who is taken where logits are equal ("gshard" does not: its second is certain)."""
LEVEL = {"relu", "threshold", "running-threshold"}
"""What they take depends on the level of the logits, or of a score, not on who is better."""
NOT_K_EACH = {
    *("expert-choice", "capped-expert-choice", "unified-probability", "unified-usmoe"),
    *("served-probability", "served-usmoe"),
    *("soft-top-k", "entmax", "entmax-budget", "top-p"),
}
"""Tokens take other numbers of experts than k."""
DROPPING = {
    "drop-by-score",
    "drop-by-position",
    "drop-token-major",
    "batch-prioritised",
    "gshard",
    "switch",
    "fixed-prices",
}
"""The first of two experts alike may drop a token that the second keeps."""
SHAPES = [(1, 17), (7, 13), (9, 17), (12, 6), (33, 4)]
MIXED = [
    (7, 13, torch.float32),
    (9, 17, torch.float64),
    (33, 4, torch.float32),
    (24, 19, torch.float32),
    (57, 13, torch.float64),
]
"""Odd sizes, small and large, each in one precision."""


def routed(name, logits):
    T, E = logits.shape
    k = min(2, E)
    router = CATALOGUE[name](Shape(k, -(-T * k * 5 // (4 * E)), T, E))
    answer = router(logits)
    return (answer[0] if isinstance(router, StatefulRouter) else answer).x


def alike(count, draw):
    """Which of `count` lines each is a copy of."""
    return torch.randint(0, count, (count,), generator=draw)


def jumped(taken, source):
    """Where a line holds what an earlier line that is its copy does not; lines are rows."""
    earlier = (source[:, None] == source).tril(-1)
    passed = taken[:, None] & ~taken[None]
    return int((passed & earlier[..., None]).sum())


def test_rules_that_settle_a_whole_assignment_say_so():
    assert {"auction", "maxscore", "sinkhorn-balanced", "prices"} <= WHOLE
    assert {"token-choice", "sinkhorn", "fixed-prices"} <= set(BY_INDEX)
    assert set(BY_INDEX) >= BY_CHANCE | LEVEL | NOT_K_EACH | DROPPING


def test_a_jump_is_found():
    taken = torch.tensor([[True, False], [False, True], [True, True]])
    assert jumped(taken, torch.tensor([0, 1, 2])) == 0
    assert jumped(taken, torch.tensor([0, 0, 2])) == 1
    assert jumped(taken, torch.tensor([0, 0, 0])) == 3


@pytest.mark.parametrize("name", [n for n in BY_INDEX if n not in LEVEL])
def test_equal_logits_of_every_level_are_routed_alike(name):
    draw = torch.Generator().manual_seed(0)
    for T, E in SHAPES:
        expected = routed(name, torch.zeros(T, E))
        for dtype in (torch.float32, torch.float64):
            for level in (torch.rand(1, generator=draw, dtype=torch.float64) * 8 - 4).tolist():
                assert torch.equal(routed(name, torch.full((T, E), level, dtype=dtype)), expected)


@pytest.mark.parametrize("name", [n for n in BY_INDEX if n not in BY_CHANCE | LEVEL | NOT_K_EACH])
def test_tokens_with_equal_logits_take_the_lowest_experts(name):
    for T, E in SHAPES:
        taken = routed(name, torch.full((T, E), -2.9277071952819824))
        assert not taken[:, 2:].any()
        assert taken[0, 0]


@pytest.mark.parametrize(
    "name",
    [n for n in BY_INDEX if n not in BY_CHANCE | DROPPING | {"group-limited"}],
)
def test_of_experts_alike_a_token_takes_the_lower_ones(name):
    draw = torch.Generator().manual_seed(1)
    for T, E, dtype in MIXED:
        source = alike(E, draw)
        logits = 2 * torch.randn(T, E, generator=draw, dtype=dtype)
        assert jumped(routed(name, logits[:, source]).mT, source) == 0


@pytest.mark.parametrize(
    "name", [n for n in BY_INDEX if n not in BY_CHANCE | {"gshard", "bip-online"}]
)
def test_of_tokens_alike_an_expert_takes_the_earlier_ones(name):
    draw = torch.Generator().manual_seed(2)
    for T, E, dtype in MIXED:
        source = alike(T, draw)
        logits = 2 * torch.randn(T, E, generator=draw, dtype=dtype)
        assert jumped(routed(name, logits[source]), source) == 0


@pytest.mark.parametrize("name", sorted(WHOLE | BY_CHANCE))
def test_where_no_index_decides_the_same_logits_are_routed_the_same(name):
    logits = torch.randint(0, 2, (24, 6), generator=torch.Generator().manual_seed(3)).float()
    assert torch.equal(routed(name, logits), routed(name, logits))
