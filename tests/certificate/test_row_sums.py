"""The compiled sums of a certificate are those that torch makes; nothing broken is hidden."""

import pytest
import torch

import lp_routing as lpr
from lp_routing.certificate import certificate as module
from lp_routing.certificate.row_sums import row_sums

KINDS = [lpr.exactly(2), lpr.at_most(2), lpr.at_least(1), lpr.between(1, 3), None]


@pytest.mark.parametrize("kind", range(len(KINDS)))
@pytest.mark.parametrize("seed", range(8))
def test_compiled_sums_and_chunks_agree(kind, seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(40, 6, generator=generator)
    scores[torch.rand(40, 6, generator=generator) < 0.1] = float("-inf")
    copies = torch.randint(1, 4, (40,), generator=generator) if seed % 2 else None
    problem = lpr.RoutingProblem(
        scores, tokens=KINDS[kind], experts=lpr.at_most(30), multiplicity=copies
    )
    prices = lpr.Prices(experts=torch.randn(6, generator=generator).clamp(min=0))
    x = (torch.rand(40, 6, generator=generator) < 0.4) & problem.allowed
    quick, bound = lpr.certify(problem, x, prices), lpr.dual_bound(problem, prices)
    monkeypatch.setattr(module, "row_sums", lambda *_: None)
    slow = lpr.certify(problem, x, prices)
    # what is broken sends `certify` to torch; the bound alone never goes there
    assert bound == pytest.approx(slow.bound, rel=1e-12)
    assert quick.bound == pytest.approx(slow.bound, rel=1e-12)
    assert quick.value == pytest.approx(slow.value, rel=1e-12)
    assert quick.violations == slow.violations


def test_one_token_by_hand():
    """Scores 5, 3, -1 at prices 1, 1, 0: at most two earn 4 + 2, exactly three -1 more."""
    scores = torch.tensor([[5.0, 3.0, -1.0]])
    paid = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    two = lpr.RoutingProblem(scores, tokens=lpr.at_most(2))
    three = lpr.RoutingProblem(scores, tokens=lpr.exactly(3))
    assert row_sums(two, None, paid).worth == 6
    assert row_sums(three, None, paid).worth == 5
    assert row_sums(three, None, paid).magnitude == 11


@pytest.mark.parametrize(
    ("x", "broken"),
    [([[1, 1, 0]], 0), ([[1, 0, 0]], 1), ([[1, 1, 1]], 1), ([[2, 0, 0]], 1), ([[3, -1, 0]], 2)],
)
def test_what_is_broken_is_counted(x, broken):
    problem = lpr.RoutingProblem(torch.zeros(1, 3), tokens=lpr.exactly(2))
    sums = row_sums(problem, torch.tensor(x), torch.zeros(3, dtype=torch.float64))
    assert sums.broken == broken


def test_other_kinds_are_left_to_torch():
    problem = lpr.RoutingProblem(torch.zeros(2, 3).half(), tokens=lpr.exactly(2))
    free = torch.zeros(3, dtype=torch.float64)
    assert row_sums(problem, None, free) is None
    whole = lpr.RoutingProblem(torch.zeros(2, 3), tokens=lpr.exactly(2))
    assert row_sums(whole, torch.full((2, 3), 0.5), free) is None
