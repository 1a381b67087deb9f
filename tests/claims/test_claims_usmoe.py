"""B1 to B9: hand-worked cases, smallest counterexamples, hunts in vain, faulty parts noticed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from benchmarks import jacobian as trained
from lp_routing.claims.claim import Verdict, smallest
from lp_routing.claims.usmoe import CLAIMS, integrality, jacobian, rules, score, serving, values
from lp_routing.solvers import HiGHS
from lp_routing.solvers.solve import solve
from tests.brute_force import best_value
from tests.strategies import problems, score_matrices

BY_ID = {claim.id: claim for claim in CLAIMS}
QUICK = settings(max_examples=25, deadline=None)


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture(scope="module")
def logits():
    generator = torch.Generator().manual_seed(3)
    skew = torch.linspace(1, -1, 8, dtype=torch.float64)
    sharp = torch.linspace(0.3, 3, 24, dtype=torch.float64)[:, None]
    return torch.randn(2, 24, 8, generator=generator, dtype=torch.float64) * sharp + skew


def test_all_ten_are_there():
    assert [claim.id for claim in CLAIMS] == [f"B{n}" for n in range(1, 11)]
    assert {claim.id for claim in CLAIMS if claim.verdict is Verdict.FAILS} == {
        "B4",
        "B5",
        "B6",
        "B7",
        "B10",
    }
    assert BY_ID["B8"].verdict is Verdict.EMPIRICAL


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
@pytest.mark.parametrize("k", [1, 2])
def test_the_numbers_agree_with_the_verdict(claim, k, logits):
    evidence = claim.check(logits, k=k)
    assert evidence.agrees is True, evidence.sentence
    assert len(evidence.numbers) >= 2


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_the_smallest_inputs_do_not_crash(claim):
    for shape in ((1, 1), (1, 2), (2, 1), (3, 2)):
        assert claim.check(torch.zeros(shape), k=1).agrees in (True, None)


BREAKING = [claim for claim in CLAIMS if claim.refutes_statement]


@pytest.mark.parametrize("claim", BREAKING, ids=lambda claim: claim.id)
def test_the_counterexample_breaks_the_statement(claim):
    assert claim.refutes_statement(claim.counterexample.tensor())


@pytest.mark.parametrize(
    ("id_", "says"),
    [
        ("B1", "top-N is worth 0, the LP 1"),
        ("B2", "mass 1.000, token choice 1.381"),
        ("B3", "the LP is worth 18, whole choices 17"),
        ("B5", "k=1, N=2: token 1 gets no expert"),
        ("B6", "whether token 0 gets expert 0 depends on token 1"),
        ("B7", "span of 2 embeddings; 4 directions are claimed"),
        ("B9", "token choice, k=1 is worth 4, the 2 best pairs 5"),
    ],
)
def test_what_is_found_is_what_the_story_tells(id_, says):
    claim = BY_ID[id_]
    assert says in claim.refutes_statement(claim.counterexample.tensor())


@pytest.mark.parametrize(
    ("id_", "shape", "entries", "most"),
    [
        ("B1", (1, 1), (0, 1, 2), (2, 2)),
        ("B2", (2, 2), (0, 2, -2, -4), (2, 2)),
        ("B3", (1, 6), (0, 1, 2), (1, 6)),
        ("B4", (1, 2), (0, 1, 2), (2, 2)),
        ("B5", (2, 2), (0, 1, 2), (2, 2)),
        ("B6", (2, 2), (0, 1, 2), (2, 2)),
        ("B7", (1, 2), (0, 1, 2), (2, 2)),
        ("B9", (2, 2), (0, 1, 2), (2, 2)),
    ],
)
def test_the_smallest_counterexample(id_, shape, entries, most):
    claim = BY_ID[id_]
    found = smallest(
        claim.refutes_statement, most_tokens=most[0], most_experts=most[1], entries=entries
    )
    assert found.scores is not None
    assert tuple(found.scores.shape) == shape
    T, E = claim.counterexample.tensor().shape
    assert shape[0] * shape[1] <= T * E


def whole_scores(most_tokens=5, most_experts=5, low=-3):
    """(T, E) small whole numbers with many ties."""
    sizes = st.tuples(st.integers(1, most_tokens), st.integers(1, most_experts))
    entry = st.integers(low, 4)
    return sizes.flatmap(
        lambda size: st.lists(
            st.lists(entry, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
        )
    ).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize("id_", ["B1", "B2", "B4", "B5", "B6"])
@QUICK
@given(scores=whole_scores())
def test_nothing_betrays_the_verdict(id_, scores):
    assert BY_ID[id_].refutes_verdict(scores) is None


@settings(max_examples=15, deadline=None)
@given(scores=whole_scores(4, 3))
def test_nothing_betrays_b3(scores):
    assert BY_ID["B3"].refutes_verdict(scores) is None


@settings(max_examples=15, deadline=None)
@given(scores=whole_scores(4, 4))
def test_nothing_betrays_b7(scores):
    assert BY_ID["B7"].refutes_verdict(scores) is None


@settings(max_examples=25, deadline=None)
@given(scores=whole_scores(4, 3))
def test_nothing_betrays_b9(scores):
    assert BY_ID["B9"].refutes_verdict(scores) is None


@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_lps_with_whole_bounds_and_nested_groups_are_whole(problem):
    best, solution = best_value(problem), solve(problem, HiGHS())
    if best == float("-inf"):
        assert solution.assignment is None
    else:
        assert float(solution.bound) == pytest.approx(best, abs=1e-7)


def test_half_a_pair_is_not_whole():
    # a budget of 1.5 pairs: the LP takes the 3 and half of the 2, whole choices the 3 alone
    problem = lpr.RoutingProblem(matrix((3, 2)), total=lpr.at_most(1.5))
    assert float(solve(problem, HiGHS()).value) == pytest.approx(4)
    assert float(solve(problem, HiGHS(), integral=True).value) == pytest.approx(3)


@QUICK
@given(scores=score_matrices(max_tokens=3, max_experts=3, forbid=False))
def test_the_dual_of_the_budget_is_the_lp(scores):
    for total in range(scores.numel() + 1):
        for used_up, bound in ((True, lpr.exactly(total)), (False, lpr.at_most(total))):
            by_trial = best_value(lpr.RoutingProblem(scores, total=bound))
            assert rules.budget_optimum(scores, total, used_up=used_up) == by_trial


def test_served_by_hand():
    # (5, 4) and (1, 0): three pairs, both served: 5 + 1 and then the 4
    assert serving.best_served(matrix((5, 4), (1, 0)), 3) == 10
    assert serving.best_served(matrix((5, 4), (1, 0)), 2) == 6


def test_best_whole_by_hand():
    # one slot an expert: 3 + 2 across, not 3 + 3 in the first column; a total of 1 leaves 3
    scores = matrix((3, 1), (3, 2))
    assert integrality.best_whole(scores, 1, 1, 2) == 5
    assert integrality.best_whole(scores, 1, 1, 1) == 3
    assert integrality.best_whole(scores, 1, 2, 2) == 6


class TestJacobian:
    def test_softmax_and_sigmoid_at_zero_by_hand(self):
        # two equal logits: softmax moves by .25 (e1 - e2), the sigmoid by .25 e_j
        routing, _ = jacobian.tiny(matrix((0, 0)))
        soft = jacobian.jacobian(lpr.scores.softmax, *routing)
        both = jacobian.jacobian(jacobian.unified_of_two, *routing)
        assert torch.allclose(soft[0], matrix((0.25, -0.25, 0, 0), (-0.25, 0.25, 0, 0)))
        assert torch.allclose(both[0], matrix((0.25, -0.125, 0, 0), (-0.125, 0.25, 0, 0)))
        assert jacobian.rank(soft).tolist() == [1]
        assert jacobian.rank(both).tolist() == [2]

    def test_autograd_against_finite_differences(self):
        generator = torch.Generator().manual_seed(0)
        hidden, first, second = (
            torch.randn(size, 5, generator=generator, dtype=torch.float64) for size in (2, 3, 3)
        )
        found = jacobian.jacobian(jacobian.unified_of_two, hidden, first, second)
        step = 1e-6
        for d in range(5):
            move = torch.zeros(5, dtype=torch.float64)
            move[d] = step
            ends = [
                jacobian.two_routers((hidden + s) @ first.mT, (hidden + s) @ second.mT)
                for s in (move, -move)
            ]
            assert torch.allclose(found[..., d], (ends[0] - ends[1]) / (2 * step), atol=1e-8)

    def test_recovered_states_give_the_logits(self, logits):
        for given_logits in (logits[0], logits[0, :3]):
            generator = torch.Generator().manual_seed(1)
            hidden, embeddings = jacobian.recovered(given_logits, generator)
            assert hidden.shape[1] == embeddings.shape[1] == 16
            assert torch.allclose(hidden @ embeddings.mT, given_logits)

    def test_angles_by_hand(self):
        # along the axis; 45 degrees off it; at a right angle
        axis = matrix((1, 0, 0))
        angles = jacobian.principal_angles
        assert angles(axis * 3, axis).tolist() == pytest.approx([0], abs=1e-9)
        assert angles(matrix((1, 1, 0)), axis).tolist() == pytest.approx([45])
        assert angles(matrix((1, 0, 0), (0, 0, 2)), axis).tolist() == [90, 0]
        assert angles(matrix((0, 0, 0)), axis).tolist() == []
        assert jacobian.outside(matrix((3, 0, 0), (0, 0, 1)), axis * 2) == 0.5

    def test_a_second_router_leaves_the_span(self, logits):
        numbers = BY_ID["B7"].check(logits).numbers
        assert numbers["rank over tokens, unified, layer 0"] == 8
        assert numbers["rank over tokens, two routers, layer 0"] > 8
        assert numbers["largest principal angle, two routers, degrees, layer 0"] > 10
        assert numbers["rank at a token, two routers, layer 0"] == 8

    def test_on_the_hidden_states_of_a_trained_model(self):
        for routing in trained.routings():
            E, _ = routing.embeddings.shape
            layer = jacobian.measured(routing, routing.embeddings.flip(1))
            assert jacobian.within(layer, E)
            assert (layer.softmax_token, layer.unified_all) == (E - 1, E)
            assert layer.two_all > E
            assert trained.numbers(layer)["two routers: rank at a token"] == str(E)


class TestBrokenPartsAreNoticed:
    """Each check must disagree once the part it examines is faulty."""

    def worst(self, scores, k, **_):
        """The smallest pairs in place of the largest."""
        return values.top_of_pool(-scores.mT, k * scores.shape[0]).mT

    @pytest.mark.parametrize(
        ("id_", "module"),
        [
            ("B1", values),
            ("B2", values),
            ("B5", serving),
            ("B9", values),
        ],
    )
    def test_a_pool_of_the_worst(self, id_, module, logits, monkeypatch):
        monkeypatch.setattr(module, "pooled_choice", self.worst)
        assert BY_ID[id_].check(logits).agrees is False
        if id_ != "B9":  # its hunt asks no pool
            assert BY_ID[id_].refutes_verdict(matrix((3, 1), (2, 0))) is not None

    @pytest.mark.parametrize("rule", ["row_choice", "column_choice"])
    def test_wrong_rows_and_columns(self, rule, logits, monkeypatch):
        right = getattr(values, rule)
        monkeypatch.setattr(values, rule, lambda s, n: right(-s, n))
        assert BY_ID["B9"].check(logits).agrees is False
        assert BY_ID["B9"].refutes_verdict(matrix((3, 1), (2, 0))) is not None

    def test_a_whole_choice_that_is_not_best(self, logits, monkeypatch):
        def spoilt(problem, solver, **options):
            solution = solve(problem, solver, **options)
            if problem.family("token") is None:  # half a pair, or groups that cross
                return solution
            return replace(solution, assignment=lpr.Assignment(~(solution.assignment.x > 0.5)))

        monkeypatch.setattr(integrality, "solve", spoilt)
        assert BY_ID["B3"].check(logits).agrees is False

    def test_a_half_or_a_crossing_that_is_not_worth_what_it_should(self, logits, monkeypatch):
        monkeypatch.setattr(integrality, "of_half_a_pair", lambda *_: -1e-3)
        assert BY_ID["B3"].check(logits).agrees is False
        monkeypatch.undo()
        right = integrality._crossing
        monkeypatch.setattr(
            integrality, "_crossing", lambda scores: right(scores)._replace(lp=scores[:, 0])
        )
        assert BY_ID["B3"].check(logits).agrees is False

    def test_a_brute_force_that_differs(self, monkeypatch):
        monkeypatch.setattr(integrality, "best_whole", lambda *_: 1e3)
        assert "whole choices 1000" in BY_ID["B3"].refutes_verdict(matrix((3, 1), (2, 0)))

    def test_a_score_that_reverses_experts(self, logits, monkeypatch):
        monkeypatch.setattr(score, "unified", lambda z, rate=0.5: -z)
        assert BY_ID["B4"].check(logits).agrees is False
        assert BY_ID["B4"].refutes_verdict(matrix((3, 1), (2, 0))) is not None
        assert BY_ID["B4"].refutes_statement(matrix((3, 1), (2, 0))) is None

    def test_a_score_that_looks_ahead(self, logits, monkeypatch):
        monkeypatch.setattr(score, "unified", lpr.scores.unified_v1)
        assert BY_ID["B6"].check(logits).agrees is False
        assert "the score" in BY_ID["B6"].refutes_verdict(matrix((3, 1), (2, 0)))

    def test_a_threshold_that_takes_what_is_below(self, logits, monkeypatch):
        monkeypatch.setattr(score, "threshold_choice", lambda s, value: s <= value)
        assert BY_ID["B6"].check(logits).agrees is False
        assert "not optimal" in BY_ID["B6"].refutes_verdict(matrix((3, 1), (2, 0)))

    def test_a_gradient_from_outside(self, logits, monkeypatch):
        right = jacobian.jacobian
        monkeypatch.setattr(jacobian, "jacobian", lambda score, h, *e: right(score, h, *e) + 1e-3)
        assert BY_ID["B7"].check(logits).agrees is False
        assert BY_ID["B7"].refutes_verdict(matrix((3, 1), (2, 0))) is not None

    def test_a_claim_whose_counterexample_shows_nothing(self, logits):
        tame = replace(BY_ID["B5"], refutes_statement=lambda scores: None)
        assert tame.check(logits).agrees is False
