"""Frontiers: hand-worked curves, every whole budget by HiGHS, questions, refusals."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing import frontier
from lp_routing.problem.bounds import at_least, at_most, between, exactly

NEVER = float("-inf")
# Token 0 brings 3 at expert 0 and 1 at expert 1; token 1 brings 2 and 0.
SMALL = torch.tensor([[3.0, 1.0], [2.0, 0.0]])


def drawn(seed, T=9, E=4, *, forbid=0.0, whole=False):
    """Scores of both signs, some forbidden, some tied if whole."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(T, E, generator=generator, dtype=torch.float64) + 0.5
    scores = (2 * scores).round() if whole else scores
    return scores.masked_fill(torch.rand(T, E, generator=generator) < forbid, NEVER)


def best(problem):
    """The optimum by a solver that the curves do not use here, or None where there is none."""
    solution = lpr.solve(problem, lpr.HiGHS())
    return None if solution.status is lpr.Status.INFEASIBLE else float(solution.value)


# --- pairs in all -------------------------------------------------------------------------------


def test_pairs_in_all_by_hand():
    curve = frontier.over_total(lpr.RoutingProblem(SMALL))
    assert curve.slopes.tolist() == [3, 2, 1, 0]
    assert curve.values.tolist() == [0, 3, 5, 6, 6]
    assert (curve.first, curve.last, curve.smallest(5.0)) == (0, 4, 2)


def test_pairs_in_all_where_every_token_is_served_by_hand():
    """The floor is 3 + 2; what is left is 1 and 0."""
    curve = frontier.over_total(lpr.RoutingProblem(SMALL, tokens=at_least(1)))
    assert (curve.first, curve.start, curve.slopes.tolist()) == (2, 5.0, [1, 0])


@pytest.mark.parametrize("tokens", [None, at_most(2), at_least(1), exactly(2), between(1, 3)])
@pytest.mark.parametrize("whole", [False, True])
def test_pairs_in_all_at_every_budget(tokens, whole):
    scores = drawn(1, whole=whole)
    curve = frontier.over_total(lpr.RoutingProblem(scores, tokens=tokens))
    for n in range(scores.numel() + 1):
        value = best(lpr.RoutingProblem(scores, tokens=tokens, total=exactly(n)))
        assert (value is None) == (not curve.first <= n <= curve.last)
        if value is not None:
            assert float(curve.value(n)) == pytest.approx(value, abs=1e-9)


def test_rows_that_stand_for_several_tokens_count_as_often():
    scores, copies = drawn(2, T=4, E=3), [1, 3, 2, 2]
    tokens = between([1, 0, 2, 3], [2, 4, 5, 6])
    curve = frontier.over_total(lpr.RoutingProblem(scores, tokens=tokens, multiplicity=copies))
    for n in range(curve.first, curve.last + 1):
        problem = lpr.RoutingProblem(scores, tokens=tokens, multiplicity=copies, total=exactly(n))
        assert float(curve.value(n)) == pytest.approx(best(problem), abs=1e-9)


def test_forbidden_pairs_end_the_curve():
    scores = drawn(3, forbid=0.4)
    curve = frontier.over_total(lpr.RoutingProblem(scores))
    assert curve.last == int((scores > NEVER).sum())
    assert bool(curve.slopes.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_of_any_precision_are_sorted_as_they_are(dtype):
    scores = drawn(4).to(dtype)
    curve = frontier.over_total(lpr.RoutingProblem(scores))
    assert torch.equal(
        curve.slopes.double(), scores.double().flatten().sort(descending=True).values
    )


def test_pairs_in_all_where_experts_and_groups_are_bounded():
    """Not sorted scores any more: each budget is a linear program, the prices join them."""
    problem = lpr.RoutingProblem(
        drawn(5), tokens=at_most(2), experts=between(1, 4), expert_groups=[((0, 1), at_most(5))]
    )
    curve = frontier.over_total(problem, points=None)
    assert curve.exact
    found = {}
    for n in range(37):
        with_total = lpr.RoutingProblem(
            problem.scores,
            tokens=at_most(2),
            experts=between(1, 4),
            expert_groups=[((0, 1), at_most(5))],
            total=exactly(n),
        )
        if (value := best(with_total)) is not None:
            found[n] = value
    assert (curve.first, curve.last) == (min(found), max(found))
    for n, value in found.items():
        assert float(curve.value(n)) == pytest.approx(value, abs=1e-8)


# --- capacity, experts per token ----------------------------------------------------------------


def test_capacity_by_hand():
    """One slot each: 3 + 0 or 1 + 2. Two each: 3 + 2."""
    curve = frontier.over_capacity(SMALL, 1)
    assert curve.budgets.tolist() == [0, 1, 2]
    assert curve.values.tolist() == [0, 3, 5]
    assert curve.exact


@pytest.mark.parametrize("serve", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_capacity_at_every_whole_budget(serve, seed):
    scores, k = drawn(seed, T=24, whole=seed == 2), 2
    tokens = exactly(k) if serve else at_most(k)
    curve = frontier.over_capacity(scores, k, points=None, serve=serve)
    assert curve.exact
    for C in range(25):
        value = best(lpr.RoutingProblem(scores, tokens=tokens, experts=at_most(C)))
        assert (value is None) == (curve.first > C)
        if value is not None:
            at = min(C, curve.last)
            assert float(curve.value(at)) == pytest.approx(value, abs=1e-8)
            assert float(curve.bound(at)) == pytest.approx(value, abs=1e-8)


def test_capacity_that_serves_tokens_with_few_allowed_experts():
    """Three tokens may only go to expert 0, so it needs three slots, though T k / E is one."""
    scores = torch.tensor([[1.0, NEVER, NEVER]] * 3)
    assert frontier.over_capacity(scores, 1, serve=True).first == 3
    scores = torch.tensor([[1.0, NEVER, NEVER]] * 3 + [[0.5, 1.0, 2.0]] * 3)
    curve = frontier.over_capacity(scores, 1, serve=True, points=None)
    assert (curve.first, curve.last) == (3, 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_experts_per_token_at_every_whole_budget(seed):
    scores, C = drawn(seed, T=12, E=6, forbid=0.2, whole=seed == 2), 4
    curve = frontier.over_k(scores, C, points=None)
    assert curve.exact
    for K in range(7):
        value = best(lpr.RoutingProblem(scores, tokens=at_most(K), experts=at_most(C)))
        at = min(K, curve.last)
        assert float(curve.value(at)) == pytest.approx(value, abs=1e-8)
        assert float(curve.bound(at)) == pytest.approx(value, abs=1e-8)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), points=st.integers(2, 6))
def test_few_points_bound_every_budget_between_them(seed, points):
    scores = drawn(seed, T=12, E=3, forbid=0.1)
    few = frontier.over_capacity(scores, 2, points=points)
    every = frontier.over_capacity(scores, 2, points=None)
    assert len(few.budgets) <= points
    n = torch.arange(few.first, few.last + 1)
    truth = every.value(n)
    assert bool((few.value(n) <= truth + 1e-8).all())
    assert bool((few.bound(n) >= truth - 1e-8).all())
    more, last = truth[1:] - truth[:-1], few.last
    least, most = few.right(n[:-1])
    assert bool((least <= more + 1e-8).all() & (most >= more - 1e-8).all())
    least, most = few.left(n[1:])
    assert bool((least <= more + 1e-8).all() & (most >= more - 1e-8).all())
    enough, needed = few.smallest(0.9 * float(truth[-1]))
    surely = every.smallest(0.9 * float(truth[-1]))[0]
    assert needed <= surely <= (last if enough is None else enough)


def test_a_curve_that_is_proved_has_breakpoints_and_slopes():
    curve = frontier.over_capacity(SMALL, 1).as_concave()
    assert (curve.slopes.tolist(), curve.breakpoints().tolist()) == ([3, 2], [0, 1, 2])
    scores = drawn(0, T=24)
    slopes = frontier.over_capacity(scores, 2, points=None).as_concave().slopes
    every = [best(lpr.problems.capacity(scores, 2, C)) for C in range(len(slopes) + 1)]
    optima = torch.tensor(every, dtype=torch.float64)
    assert slopes.tolist() == pytest.approx(optima.diff().tolist(), abs=1e-6)
    with pytest.raises(lpr.InputError, match="with points=None"):
        frontier.over_capacity(scores, 2, points=2).as_concave()


def test_named_capacities_are_solved_and_no_others():
    curve = frontier.over_capacity(drawn(0), 2, budgets=[1, 3, 4])
    assert curve.budgets.tolist() == [1, 3, 4]


def test_a_budget_that_cannot_be_solved_loses_no_other(monkeypatch):
    def without_an_answer_at_two(problem, solver):
        solution = lpr.solve(problem, solver)
        two = float(problem.family("expert").upper[0]) == 2
        return replace(solution, certificate=None) if two else solution

    monkeypatch.setattr("lp_routing.frontier.refine.solve", without_an_answer_at_two)
    curve = frontier.over_capacity(drawn(0, T=20), 2, points=None)
    assert 2 not in curve.budgets.tolist()
    assert len(curve.budgets) > 2


def test_nothing_allowed_and_nothing_worth_anything_are_curves_of_one_point():
    for scores in (torch.full((3, 2), NEVER), -torch.ones(3, 2)):
        for curve in (frontier.over_capacity(scores, 1), frontier.over_k(scores, 1)):
            assert (curve.budgets.tolist(), curve.values.tolist()) == ([0], [0])


# --- a curve that lies is refused ---------------------------------------------------------------


def test_a_value_above_what_prices_prove_is_refused():
    curve = frontier.over_capacity(drawn(0, T=20), 2)
    values = curve.values.clone()
    values[2] += 0.01
    with pytest.raises(lpr.InputError, match="a value, bound or price is wrong"):
        frontier.CertifiedCurve(curve.budgets, values, curve.bounds, curve.prices)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (([0, 0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]), "each above the one before"),
        (([0.5, 1], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]), "expected whole numbers"),
        (([0, 1], [0.0, 1.0], [0.0, 1.0], [1.0]), "one entry each per point, got 2, 2, 2 and 1"),
        (([0, 1], [0.0, math.nan], [0.0, 1.0], [1.0, 0.0]), "values: expected finite numbers"),
        (([], [], [], []), "expected a vector of numbers, one per point"),
    ],
)
def test_points_that_make_no_curve_are_refused(columns, says):
    with pytest.raises(lpr.InputError, match=says):
        frontier.CertifiedCurve(*map(torch.tensor, columns))


# --- experts kept -------------------------------------------------------------------------------


def test_experts_kept_against_every_choice():
    from itertools import combinations

    scores = drawn(6, T=12, E=5).clamp(min=0)
    for exact in (False, True):
        samples = frontier.over_experts_kept(scores, 2, exact=exact)
        assert samples.budgets.tolist() == [2, 3, 4, 5]
        for M, value, bound, kept in zip(
            samples.budgets.tolist(), samples.values, samples.bounds, samples.choices, strict=True
        ):
            truth = max(
                float(scores[:, list(some)].topk(2, 1).values.sum())
                for some in combinations(range(5), M)
            )
            assert int(kept.sum()) == M
            assert float(scores[:, kept].topk(2, 1).values.sum()) == pytest.approx(float(value))
            assert float(value) <= truth + 1e-9
            assert float(bound) >= truth - 1e-9
            assert not exact or float(value) == pytest.approx(truth)
    assert samples.gap == pytest.approx(0, abs=1e-6)
    assert samples.smallest(float(samples.values[1])) == (3, 3)
    assert samples.smallest(1e9) == (None, None)


# --- layers -------------------------------------------------------------------------------------


def test_layers_by_hand():
    """Sorted over both: 4, 3, 2, then three 1s, the first of layer 0."""
    other = torch.tensor([[4.0, 0.0], [1.0, 1.0]])
    shared = frontier.over_layers(torch.stack([SMALL, other]))
    assert shared.total.slopes.tolist() == [4, 3, 2, 1, 1, 1, 0, 0]
    assert shared.split(4).tolist() == [3, 1]
    assert [frontier.next_slot(shared, n) for n in range(4)] == [1, 0, 0, 0]


def test_layers_that_serve_every_token_are_best_budgets():
    scores = torch.stack([drawn(seed, T=8) for seed in range(3)])
    shared = frontier.over_layers(scores, serve=True)
    assert shared.total.first == 24
    for n in (24, 30, 51, 96):
        proved = lpr.frontier.best_budgets(scores, n)
        assert float(shared.total.value(n)) == pytest.approx(proved.value)
        assert proved.bound == pytest.approx(proved.value)
        assert shared.split(n).tolist() == pytest.approx(proved.budgets.tolist())
    with pytest.raises(lpr.InputError, match="n=96 is more than the largest budget less one"):
        frontier.next_slot(shared, 96)


# --- routers and questions ----------------------------------------------------------------------


def test_a_routers_curve_is_what_it_takes_and_whether_it_may():
    """Top-1 that minds no capacity takes 5 always; two tokens fit in two slots, not in one."""
    logits = SMALL.clone()
    curve = frontier.router_curve(
        lambda _: lpr.routers.TopK(1), [1, 2], lambda C: lpr.problems.capacity(SMALL, 1, C), logits
    )
    assert (curve.name, curve.budgets.tolist()) == ("TopK", [1, 2])
    assert (curve.values.tolist(), curve.feasible.tolist()) == ([5, 5], [False, True])


def test_no_router_is_above_the_optimum():
    logits = lpr.traces.sample().layer(0)[:64]
    scores = lpr.scores.softmax(logits)
    curve = frontier.over_capacity(scores, 2)
    own = frontier.router_curve(
        lambda C: lpr.routers.TopK(2, C),
        [int(C) for C in curve.budgets if C],
        lambda C: lpr.problems.capacity(scores, 2, C),
        logits,
        name="drop-by-score",
    )
    assert bool(own.feasible.all())
    assert bool((own.values <= curve.bound(own.budgets)).all())


def test_smallest_budget_of_each_kind():
    exact = frontier.over_total(lpr.RoutingProblem(SMALL))
    solved = frontier.over_capacity(SMALL, 1)
    assert frontier.smallest_budget(exact, 5.0) == (2, 2)
    assert frontier.smallest_budget(solved, 5.0) == (2, 2)
    assert frontier.smallest_budget(solved, 5.5) == (None, None)
    with pytest.raises(lpr.InputError, match="value=nan"):
        frontier.smallest_budget(exact, math.nan)


def test_a_slot_by_hand():
    """With one slot each: 3. Expert 0 with none: token 0 goes to 1; with two: 3 + 2."""
    problem = lpr.problems.capacity(SMALL, 1, 1)
    assert frontier.slot_worth(problem, 0) == (2, 2)
    assert frontier.slot_worth(problem, 1) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_slot_is_worth_what_the_optimum_gains(seed):
    scores, caps = drawn(seed, T=12), torch.tensor([2.0, 3.0, 1.0, 4.0])

    def value(expert, by):
        moved = caps.clone()
        moved[expert] += by
        return best(lpr.RoutingProblem(scores, tokens=at_most(1), experts=at_most(moved)))

    problem = lpr.RoutingProblem(scores, tokens=at_most(1), experts=at_most(caps))
    price = lpr.solve(problem).prices.experts
    for j in range(4):
        last, more = frontier.slot_worth(problem, j)
        assert last == pytest.approx(value(j, 0) - value(j, -1), abs=1e-8)
        assert more == pytest.approx(value(j, 1) - value(j, 0), abs=1e-8)
        assert more - 1e-8 <= float(price[j]) <= last + 1e-8


def test_a_slot_that_cannot_be_taken_away_or_added():
    balanced = lpr.problems.balanced(torch.rand(4, 2), 1)
    assert frontier.slot_worth(balanced, 0) == (math.inf, -math.inf)
    assert frontier.slot_worth(lpr.problems.capacity(SMALL, 1, 0), 0) == (math.inf, 3)
    with pytest.raises(lpr.InputError, match="expert 0 has no upper bound"):
        frontier.slot_worth(lpr.problems.token_choice(SMALL, 1), 0)
    with pytest.raises(lpr.InputError, match="expert=2"):
        frontier.slot_worth(lpr.problems.capacity(SMALL, 1, 1), 2)


def test_costs_by_hand():
    """Token choice takes 3 and 2; balanced, 3 and 0 or 1 and 2. Of two pairs, both are served."""
    assert frontier.cost_of_balance(SMALL, 1) == (5, 3, 2, 0.4)
    assert frontier.cost_of_serving(SMALL, 2) == (5, 5, 0, 0)
    alone = torch.tensor([[3.0, 2.0], [1.0, 0.0]])
    assert frontier.cost_of_serving(alone, 2) == (5, 4, 1, 0.2)
    with pytest.raises(lpr.InputError, match="INFEASIBLE"):
        frontier.cost_of_balance(torch.tensor([[1.0, NEVER], [1.0, NEVER]]), 1)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: frontier.over_total(lpr.problems.unified(SMALL, 2)), "the total is what varies"),
        (lambda: frontier.over_total(SMALL), "expects a RoutingProblem, got Tensor"),
        (
            lambda: frontier.over_total(lpr.RoutingProblem(SMALL, tokens=at_most(0.5))),
            "token 0 are not whole",
        ),
        (lambda: frontier.over_capacity(SMALL, 3), "k=3 is more than E"),
        (lambda: frontier.over_capacity(SMALL, 1, points=1), "points=1: it must be at least 2"),
        (lambda: frontier.over_capacity(SMALL, 1, budgets=[2, 1]), "numbers that rise"),
        (lambda: frontier.over_capacity(SMALL, 1, budgets=[]), "numbers that rise"),
        (lambda: frontier.over_capacity(SMALL, 1, serve="yes"), "expected True or False"),
        (
            lambda: frontier.over_capacity(SMALL, 1, serve=True, budgets=[0]),
            "budget 0: INFEASIBLE",
        ),
        (lambda: frontier.over_capacity(SMALL * math.nan, 1), "is nan"),
        (lambda: frontier.over_k(SMALL, -1), "capacity=-1"),
        (lambda: frontier.over_layers(SMALL), r"write scores\[None\]"),
        (lambda: frontier.over_layers(SMALL[None] * math.nan), "layer 0: "),
        (lambda: frontier.over_experts_kept(SMALL, 1, keeps=[3]), "keeps=3"),
        (lambda: frontier.over_experts_kept(-SMALL, 1), "numbers >= 0"),
        (
            lambda: frontier.router_curve(lpr.routers.TopK, [2, 1], lambda _: None, SMALL),
            "numbers that rise",
        ),
    ],
)
def test_bad_input_is_refused(ask, says):
    with pytest.raises(lpr.InputError, match=says):
        ask()


def test_scores_whose_sums_leave_float64_are_refused():
    with pytest.raises(lpr.InputError, match="could leave the range"):
        frontier.over_experts_kept(torch.full((12, 6), 1e308, dtype=torch.float64), 2)
