"""Draws by seed and position: a slow Python version, prefixes, moments, errors."""

import itertools
import math
import zlib

import pytest
import torch

import lp_routing as lpr
from lp_routing.routers import HashRouter, NoisyTopK, RandomRouter, Sampled
from lp_routing.routers.selection import check_seed, gumbel, normal, uniform, uniform_by_number

CPU = torch.device("cpu")
BITS = 2**64 - 1


def mixed(bits: int) -> int:
    """The published SplitMix64 scrambling, on Python's unbounded numbers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & BITS
    return bits ^ (bits >> 31)


def by_loop(seed: int, *place: int, by_number: bool = False) -> float:
    """One step of the generator's counter per coordinate, then the upper 52 bits."""
    state = mixed(seed) ^ (BITS if by_number else 0)
    for index in place:
        state = mixed((state + (index + 1) * 0x9E3779B97F4A7C15) & BITS)
    return ((state >> 12) + 0.5) / 2**52


# The first outputs of SplitMix64 from state 0, as published with the generator.
def test_the_slow_version_is_splitmix64():
    outputs = [mixed((n * 0x9E3779B97F4A7C15) & BITS) for n in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("seed", [0, 1, 12345678901234567, 2**63 - 1])
def test_every_draw_is_a_function_of_the_seed_and_its_place(seed):
    draws = uniform(seed, (3, 4, 5), CPU)
    places = [(a, b, c) for a in range(3) for b in range(4) for c in range(5)]
    assert all(float(draws[place]) == by_loop(seed, *place) for place in places)
    assert len(set(draws.flatten().tolist())) == 60


def test_more_tokens_change_no_earlier_draw():
    assert torch.equal(uniform(7, (2, 9, 4), CPU)[:, :5], uniform(7, (2, 5, 4), CPU))


@pytest.mark.parametrize("draw", [uniform, normal, gumbel])
def test_more_tokens_change_no_earlier_draw_of_any_kind(draw):
    long = draw(7, (2, 19, 13), CPU)
    for T in range(1, 19):
        for E in (1, 3, 8, 13):
            assert torch.equal(long[:, :T, :E], draw(7, (2, T, E), CPU))


def test_each_rule_has_draws_of_its_own_and_its_name_is_the_first_coordinate():
    place = zlib.crc32(b"Sampled")
    draws = uniform(7, (3, 4), CPU, "Sampled")
    assert all(float(draws[a, b]) == by_loop(7, place, a, b) for a in range(3) for b in range(4))
    assert not torch.equal(draws, uniform(7, (3, 4), CPU))


# All three order the experts of a token by chance alone where its logits are equal. Of C(8, 2) = 28
# pairs of experts two independent draws agree on 1 in 28: 143 of 4,000 tokens, give or take 12.
def test_rules_of_the_same_seed_do_not_draw_the_same_experts():
    logits = torch.zeros(4000, 8)
    drawn = [kind(2, seed=0)(logits).x for kind in (RandomRouter, Sampled, NoisyTopK, HashRouter)]
    for one, other in itertools.combinations(drawn, 2):
        assert 95 < int((one == other).all(-1).sum()) < 191


def test_equal_numbers_have_equal_draws():
    draws = uniform_by_number(3, torch.tensor([[5, 9], [9, 5]]), 4)
    assert torch.equal(draws[0], draws[1].flip(0))
    assert float(draws[0, 1, 2]) == by_loop(3, 9, 2, by_number=True)
    assert float(draws[0, 1, 2]) != by_loop(3, 9, 2)


# Mean 1/2 and variance 1/12; mean 0 and 1; Euler's constant and pi^2 / 6. Fourth moments give the
# errors of the variances: 1/180, 2 and about 14.6 (22/5 times the squared variance, less it).
@pytest.mark.parametrize(
    ("draw", "mean", "variance", "error"),
    [
        (uniform, 0.5, 1 / 12, 1 / 180),
        (normal, 0.0, 1.0, 2.0),
        (gumbel, 0.5772156649, math.pi**2 / 6, 4.4 * (math.pi**2 / 6) ** 2),
    ],
)
def test_draws_have_the_moments_of_their_distribution(draw, mean, variance, error):
    draws = draw(0, (1000, 200), CPU)
    assert draws.isfinite().all()
    assert abs(float(draws.mean()) - mean) < 4 * math.sqrt(variance / draws.numel())
    assert abs(float(draws.var()) - variance) < 4 * math.sqrt(error / draws.numel())
    neighbours = torch.corrcoef(torch.stack([draws[:, 1:].flatten(), draws[:, :-1].flatten()]))
    assert abs(float(neighbours[0, 1])) < 4 / math.sqrt(draws.numel())
    other = torch.corrcoef(torch.stack([draws.flatten(), draw(1, (1000, 200), CPU).flatten()]))
    assert abs(float(other[0, 1])) < 4 / math.sqrt(draws.numel())


@pytest.mark.parametrize(
    ("seed", "says"),
    [
        (-1, r"seed=-1: it must be at least 0"),
        (2**63, r"is more than 2\*\*63 - 1"),
        (1.5, r"seed=1\.5: expected a whole number"),
        (None, r"seed=None: expected a whole number"),
    ],
)
def test_bad_seeds_are_refused(seed, says):
    with pytest.raises(lpr.InputError, match=says):
        check_seed(seed)
