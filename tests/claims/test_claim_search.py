"""The search for the smallest counterexample: order, limits, and what it finds of known claims."""

import pytest

import lp_routing as lpr
from lp_routing.claims import CLAIMS, smallest
from lp_routing.claims.claim import matrices, smallest_case

SEARCHED = [claim for claim in CLAIMS if claim.refutes_statement]


def test_the_fewest_pairs_come_first_and_rows_in_one_order():
    seen = [tuple(map(tuple, m.tolist())) for m in matrices(2, 2, (0, 1))]
    sizes = [len(m) * len(m[0]) for m in seen]
    assert sizes == sorted(sizes)
    assert len(seen) == len(set(seen)) == 2 + 4 + 3 + 10  # 1x1, 1x2, 2x1, 2x2
    assert ((0.0, 1.0), (1.0, 0.0)) in seen
    assert ((1.0, 0.0), (0.0, 1.0)) not in seen


def test_the_first_matrix_that_breaks_is_returned_with_its_words():
    found = smallest(lambda s: "two twos" if (s == 2).sum() == 2 else None)
    assert found.scores.tolist() == [[2.0, 2.0]]
    assert found.says == "two twos"
    assert found.tried > 3


def test_a_search_that_finds_nothing_says_how_far_it_looked():
    assert smallest(lambda _: None, most_tokens=1, most_experts=2).tried == 3 + 9
    found = smallest(lambda _: None, limit=5)
    assert (found.scores, found.says, found.tried) == (None, "", 5)


@pytest.mark.parametrize(
    "options", [{"most_tokens": 0}, {"most_experts": 1.5}, {"entries": ()}, {"limit": 0}]
)
def test_senseless_options_are_refused(options):
    with pytest.raises(lpr.InputError):
        smallest(lambda _: None, **options)


@pytest.mark.parametrize("claim", SEARCHED, ids=lambda claim: claim.id)
def test_a_case_no_larger_than_the_one_worked_by_hand_is_found(claim):
    found = smallest_case(claim)
    assert found.scores is not None
    assert found.scores.numel() <= claim.counterexample.tensor().numel()
    assert claim.refutes_statement(found.scores) == found.says


def test_a_claim_without_counterexample_has_nothing_to_search_for():
    with pytest.raises(lpr.InputError, match="no counterexample"):
        smallest_case(next(claim for claim in CLAIMS if claim.refutes_statement is None))
