"""Routers of the catalogue that draw: a seed decides, later tokens change nothing, none echoes."""

import itertools
from dataclasses import replace

import pytest
import torch

from lp_routing.routers import CATALOGUE, Shape, StatefulRouter

SHAPE = Shape(2, 200, 400, 8)
DRAWING = {
    name: router
    for name, router in ((name, build(SHAPE)) for name, build in CATALOGUE.items())
    if hasattr(router, "seed")
}
LOGITS = torch.randn(400, 8, generator=torch.Generator().manual_seed(5))
every = pytest.mark.parametrize("router", DRAWING.values(), ids=DRAWING)


def chosen(router, logits):
    taken = router(logits)
    return (taken[0] if isinstance(router, StatefulRouter) else taken).x


def test_there_are_routers_that_draw():
    assert {"noisy-top-k", "sampled", "hash", "random", "gshard"} <= set(DRAWING)
    assert "token-choice" not in DRAWING


@every
def test_a_seed_decides_and_the_state_of_torch_does_not(router):
    torch.manual_seed(1)
    first = chosen(router, LOGITS)
    state = torch.random.get_rng_state()
    assert torch.equal(chosen(router, LOGITS), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(chosen(replace(router, seed=1), LOGITS), first)


@every
def test_later_tokens_change_no_draw_of_a_causal_router(router):
    if router.causal:
        assert torch.equal(chosen(router, LOGITS)[:150], chosen(router, LOGITS[:150]))


def alike(first, second):
    """The share of tokens that both send to the same experts."""
    return float((chosen(first, LOGITS) == chosen(second, LOGITS)).all(-1).float().mean())


# Rules that drew the same numbers would agree on most tokens; these do on 2 to 18 %.
@pytest.mark.parametrize("pair", list(itertools.combinations(DRAWING, 2)), ids=" and ".join)
def test_two_rules_of_the_same_seed_do_not_draw_alike(pair):
    assert alike(*(DRAWING[name] for name in pair)) < 0.3


# The same normal noise under another score function chooses the same experts.
def test_rules_with_the_same_draws_are_found():
    noisy = DRAWING["noisy-top-k"]
    assert alike(noisy, replace(noisy, score=lambda logits, mask: (2 * logits).softmax(-1))) > 0.9
