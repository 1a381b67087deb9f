"""Capacity: the named formulas, minimum and alignment, and what is dropped; first come is first."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.routers import CAPACITY_FORMULAS, CapacityFactor
from lp_routing.routers.capacity import (
    check_capacity,
    keep_by_score,
    keep_first_choices,
    keep_first_tokens,
    resolve_capacity,
)

NEVER = float("-inf")


# What each project computes. In floats 1.1 * 100 is 110.00000000000001, so dividing by 10 rounds
# up to 12 where 10 * 1.1 is 11 exactly; and 100 * 1.1 rounds up to 111, in float32 to 110.
@pytest.mark.parametrize(
    ("T", "E", "K", "factor", "expected"),
    [
        (100, 10, 1, 1.1, {"vmoe": 12, "megatron": 11, "switch": 11, "deepspeed": 11, "tutel": 11}),
        (800, 8, 1, 1.1, {"megatron": 111, "deepspeed": 110, "vmoe": 111, "switch": 110}),
        # 2.5 and 3.5 tokens: half to even, up, down.
        (10, 4, 1, 1.0, {"flaxformer": 2, "vmoe": 3, "megatron": 3, "switch": 2, "megablocks": 2}),
        (14, 4, 1, 1.0, {"flaxformer": 4, "vmoe": 4, "megatron": 4, "switch": 3, "megablocks": 3}),
        # Three experts a token: Switch and Flaxformer leave K out, Tutel multiplies it last.
        (10, 4, 3, 1.0, {"switch": 2, "flaxformer": 2, "vmoe": 8, "megablocks": 7, "tutel": 9}),
        (10, 4, 2, 1.25, {"tutel": 6, "megatron": 7, "deepspeed": 7, "megablocks": 6, "vmoe": 7}),
        # Fewer tokens than experts: those who round down leave no place at all.
        (3, 8, 1, 1.0, {"switch": 0, "flaxformer": 0, "megablocks": 0, "vmoe": 1, "tutel": 1}),
    ],
)
def test_capacity_formulas_give_the_numbers_of_their_projects(T, E, K, factor, expected):
    received = {name: CapacityFactor(factor, name).of(T, E, K) for name in expected}
    assert received == expected


def test_every_formula_appears_in_the_hand_worked_table():
    assert set(CAPACITY_FORMULAS) == {
        *("switch", "flaxformer", "vmoe", "megatron", "deepspeed", "tutel", "megablocks")
    }


@given(st.integers(1, 5000), st.integers(1, 256), st.integers(1, 8), st.floats(0.01, 8))
def test_the_deepspeed_formula_equals_torch_arithmetic_in_single_precision(T, E, K, factor):
    in_torch = torch.ceil((T / E) * torch.tensor(factor * K, dtype=torch.float32))
    assert CapacityFactor(factor, "deepspeed").of(T, E, K) == int(in_torch)


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 8))
def test_at_factor_one_the_formulas_with_k_stay_within_one_rounding_of_the_equal_share(T, E, K):
    share = T * K / E
    for name in ("vmoe", "megatron", "deepspeed"):
        assert math.ceil(share) <= CapacityFactor(1.0, name).of(T, E, K) <= share + 1
    assert CapacityFactor(1.0, "megablocks").of(T, E, K) == math.floor(share)


# 100 tokens, 10 experts, factor 1.25: 12.5 by itself, 13 rounded up.
@pytest.mark.parametrize(
    ("minimum", "alignment", "expected"),
    [(0, 1, 13), (4, 1, 13), (20, 1, 20), (0, 4, 16), (13, 13, 13), (17, 4, 20), (0, 100, 100)],
)
def test_the_minimum_comes_first_and_is_then_rounded_up_to_the_alignment(
    minimum, alignment, expected
):
    assert CapacityFactor(1.25, "vmoe", minimum, alignment).of(100, 10, 1) == expected


def test_a_capacity_factor_counts_padding_like_its_sources():
    tokens_with_padding = torch.full((2, 8, 4), NEVER)
    assert resolve_capacity(CapacityFactor(1.0), tokens_with_padding, k=2) == 4
    assert resolve_capacity(3, tokens_with_padding, k=2) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"factor": 0}, r"capacity factor 0: expected a positive number"),
        ({"factor": -1.5}, r"capacity factor -1\.5: expected a positive"),
        ({"factor": math.nan}, r"capacity factor nan: expected a positive"),
        ({"factor": math.inf}, r"capacity factor inf: expected a positive"),
        ({"factor": "2"}, r"capacity factor '2': expected a positive"),
        ({"factor": True}, r"capacity factor True: expected a positive"),
        ({"formula": "gshard"}, r"formula 'gshard' is unknown; choose one of switch, flaxf"),
        ({"formula": None}, r"formula None is unknown; choose one of switch, flaxf"),
        ({"formula": ["vmoe"]}, r"formula \['vmoe'\] is unknown; choose one of"),
        ({"minimum": -1}, r"minimum=-1: it must be at least 0"),
        ({"alignment": 0}, r"alignment=0: it must be at least 1"),
        ({"minimum": 1.5}, r"minimum=1\.5"),
        ({"alignment": 1.5}, r"alignment=1\.5"),
        ({"minimum": "4"}, r"minimum='?4"),
    ],
    ids=str,
)
def test_bad_capacity_factors_are_refused_with_what_was_received(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        CapacityFactor(**{"factor": 1.25, **arguments})


def test_a_numpy_number_is_a_factor_like_any_other():
    assert CapacityFactor(np.float64(1.1)).of(100, 10, 1) == 11
    assert CapacityFactor(np.float32(1.5)).of(100, 10, 1) == 15


@pytest.mark.parametrize("capacity", [-1, 1.5, True, "2", math.nan, None])
def test_bad_capacities_are_refused_with_what_was_received(capacity):
    with pytest.raises(lpr.InputError, match=rf"capacity={capacity!r}: .*whole number.* >= 0"):
        check_capacity(capacity)


@pytest.mark.parametrize("capacity", [0, 7, CapacityFactor(1.25), np.int64(2)], ids=str)
def test_good_capacities_pass(capacity):
    check_capacity(capacity)


# Three tokens, two places at each expert, everybody asks for everybody it does not forbid.
#   expert 0 scores 2, 3, 2: tokens 0 and 2 tie for the second place, and token 0 is earlier.
#   expert 1 scores 1, -, 5: two ask, two fit.
def test_a_tie_at_the_capacity_edge_goes_to_the_earlier_token():
    scores = torch.tensor([[2.0, 1.0], [3.0, NEVER], [2.0, 5.0]])
    kept = keep_by_score(scores, scores > NEVER, 2)
    assert kept.int().tolist() == [[1, 1], [1, 0], [0, 1]]


# Four tokens ask expert 0, two of them also expert 1; two places each.
def test_first_tokens_keep_their_places_whatever_their_scores():
    chosen = torch.tensor([[1, 0], [1, 1], [1, 0], [1, 1]], dtype=torch.bool)
    assert keep_first_tokens(chosen, 2).int().tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]


# Token 0 likes expert 1 best, then 0; tokens 1 and 2 like expert 0 best, then 1. One place each.
# First choices: 0 gets 1; 1 gets 0; 2 comes too late at 0. Second choices find no place.
# With two places: all three first choices are served, then token 0's second choice finds expert 0
# full, token 1's second choice takes the last place of expert 1.
@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        (0, [[0, 0], [0, 0], [0, 0]]),
        (1, [[0, 1], [1, 0], [0, 0]]),
        (2, [[0, 1], [1, 1], [1, 0]]),
        (3, [[1, 1], [1, 1], [1, 1]]),
    ],
)
def test_first_choices_come_before_second_choices(capacity, expected):
    scores = torch.tensor([[1.0, 2.0], [2.0, 1.0], [2.0, 1.0]])
    kept = keep_first_choices(scores, scores > NEVER, capacity, k=2)
    assert kept.int().tolist() == expected


def in_line(scores, chosen, capacity, order) -> list[list[bool]]:
    """The definition: put all requests in one line, and let each in while its expert has room."""
    requests = []
    for t, row in enumerate(scores):
        asked = sorted((e for e in range(len(row)) if chosen[t][e]), key=lambda e: (-row[e], e))
        requests += [(row[e], rank, t, e) for rank, e in enumerate(asked)]
    line = {
        "rank": lambda request: request[1:3],
        "token": lambda request: (request[2], request[1]),
        "score": lambda request: (-request[0], request[2]),
    }[order]
    kept, load = [[False] * len(row) for row in scores], [0] * len(scores[0])
    for _, _, t, e in sorted(requests, key=line):
        if load[e] < capacity:
            kept[t][e], load[e] = True, load[e] + 1
    return kept


def drop(scores, chosen, capacity, order) -> torch.Tensor:
    if order == "score":
        return keep_by_score(scores, chosen, capacity)
    if order == "token":
        return keep_first_tokens(chosen, capacity)
    return keep_first_choices(scores, chosen, capacity, scores.shape[-1])


def asked(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores 0..3 of 9 tokens and 4 experts, 12 times over; requests need not be for the best."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (12, 9, 4), generator=draw).to(dtype)
    return scores, torch.rand(scores.shape, generator=draw) < 0.7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("order", ["score", "token", "rank"])
@pytest.mark.parametrize("capacity", [0, 1, 3, 5, 9, 20])
def test_dropping_equals_letting_requests_in_one_by_one(capacity, order, dtype):
    scores, chosen = asked(dtype)
    expected = [
        in_line(*pair, capacity, order)
        for pair in zip(scores.tolist(), chosen.tolist(), strict=True)
    ]
    assert drop(scores, chosen, capacity, order).tolist() == expected


def test_the_random_requests_tell_the_three_orders_apart():
    scores, chosen = asked()
    by = {order: drop(scores, chosen, 3, order) for order in ("score", "token", "rank")}
    for one, other in [("score", "token"), ("token", "rank"), ("rank", "score")]:
        assert (by[one] != by[other]).any((1, 2)).sum() > 6
    later_tokens_first = keep_by_score(scores.flip(-2), chosen.flip(-2), 3).flip(-2)
    assert (later_tokens_first != by["score"]).any((1, 2)).sum() > 6


@pytest.mark.parametrize("order", ["score", "token", "rank"])
@given(st.integers(0, 10), st.integers(0, 5))
def test_dropping_only_drops_fills_every_place_it_can_and_keeps_more_with_more_room(
    order, capacity, seed
):
    scores, chosen = asked(seed=seed)
    kept, kept_with_more = (drop(scores, chosen, c, order) for c in (capacity, capacity + 1))
    assert not (kept & ~chosen).any()
    assert torch.equal(kept.sum(-2), chosen.sum(-2).clamp(max=capacity))
    assert not (kept & ~kept_with_more).any()


# Five tokens all want expert 0, by 9, 8, 7, 6, 5 more than expert 1, where all are worth 1.
WANTED = [[10.0, 1.0], [9.0, 1.0], [8.0, 1.0], [7.0, 1.0], [6.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, 10 + 9 + 8 + 7 + 1),  # ceil(1.25 * 5 / 2) = 4 places
        ({"factor": 1.0}, 10 + 9 + 8 + 1 + 1),  # ceil(2.5) = 3
        ({"factor": 0.4}, 10 + 1),  # 1 place each: three tokens are dropped
        ({"capacity": 2}, 10 + 9 + 1 + 1),
        ({"capacity": [1, 4]}, 10 + 4),
        ({"capacity": [5, 0]}, 40),
        ({"capacity": np.array([1, 4])}, 10 + 4),
        ({"capacity": torch.tensor(2)}, 10 + 9 + 1 + 1),
    ],
)
def test_the_capacity_problem_by_factor_by_number_and_by_expert(options, value):
    assert lpr.solve(lpr.capacity(WANTED, 1, **options)).value == value


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 8), st.floats(0.1, 4))
def test_the_factor_gives_the_capacity_that_routers_have(T, E, k, factor):
    problem = lpr.capacity(torch.zeros(T, E), min(k, E), factor=factor)
    expected = CapacityFactor(factor).of(T, E, min(k, E))
    assert problem.family("expert").upper.tolist() == [expected] * E


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"factor": 0}, "capacity factor 0: expected a positive number"),
        ({"capacity": [1, 2, 3]}, "expected one number or 2 .one per expert."),
        ({"capacity": [1, -2]}, r"capacity\[1\]=-2: it must be at least 0"),
        ({"capacity": [1, 2.5]}, r"capacity\[1\]=2.5: expected a whole number"),
        ({"capacity": "12"}, "capacity='12': expected a whole number"),
    ],
)
def test_capacities_that_make_no_sense_are_refused(options, says):
    with pytest.raises(lpr.InputError, match=says):
        lpr.capacity(WANTED, 1, **options)
