"""Routers side by side: gaps worked by hand, failures that lose nobody else, times in turns."""

import math
import re
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lp_routing as lpr
from lp_routing.evaluation.compare import OPTIMUM, Optimum, compare, comparisons, router_input
from lp_routing.evaluation.evaluate import RouterResult, bounds_in_words
from lp_routing.routers import (
    CATALOGUE,
    Entmax,
    EntmaxBudget,
    ExpertChoice,
    NoisyTopK,
    ReLURouter,
    SoftTopK,
    StatefulRouter,
    TopK,
    assignment_from,
    largest,
)
from tests.strategies import problems

trials = sys.modules["lp_routing.evaluation.compare"]

# Both tokens like expert 0, which has one place. Token 0 gains 2 by having it, token 1 gains 3:
# the optimum sends token 1 there, 2 + 3 = 5. Top-1 takes 4 + 3 = 7 and breaks the capacity by one;
# dropping by score keeps token 0 (4 > 3) and drops token 1: 4. The logits are the scores here.
LIKED = torch.tensor([[4.0, 2.0], [3.0, 0.0]])
PROBLEM = lpr.problems.capacity(LIKED, 1, 1)
BEST = torch.tensor([[0, 1], [1, 0]], dtype=torch.bool)
DROP = TopK(1, 1, score="logits")


def rows(problem, routers, **options) -> dict[str, RouterResult]:
    """The rows by the name of the router, on logits equal to the scores; one timed call each."""
    given = {"repeats": 1, "logits": problem.scores, **options}
    found = comparisons(problem, routers, **given)
    return {row.router: row for row in found}


def broken(logits):
    raise RuntimeError("no such device")


@dataclass(frozen=True)
class Priced(StatefulRouter[torch.Tensor]):
    """Top-1 after prices; whoever gets more than one token charges one more."""

    source: ClassVar[str] = "this test"
    seeks: ClassVar[str] = "capacity"
    cost: ClassVar[str] = "one topk"
    causal = False

    def scores(self, logits, mask=None):
        return logits

    def initial(self, scores):
        return torch.zeros(scores.shape[-1])

    def step(self, scores, state):
        chosen = largest(scores - state, 1)
        return chosen, state + (chosen.sum(-2) > 1)


def test_a_comparison_worked_by_hand():
    found = rows(PROBLEM, {"drop": DROP, "best": lambda scores: BEST, "top-1": TopK(1)})
    assert list(found) == ["drop", "best", "top-1"]
    drop = found["drop"]
    assert (drop.value, drop.optimum, drop.bound, drop.gap) == (4.0, 5.0, 5.0, 1.0)
    assert drop.relative_gap == 0.2
    assert (drop.feasible, drop.violation, drop.breaks) == (True, 0.0, "")
    assert (drop.dropped, drop.dropped_fraction, drop.pairs) == (1, 0.5, 1.0)
    assert (drop.max_over_mean, drop.max_vio, drop.load_cv, drop.load_entropy) == (2, 1, 1, 0)
    assert drop.overlap == 0.0
    assert drop.problem == "tokens at_most(1), experts at_most(1)"
    assert (drop.seeks, drop.causal) == ("capacity", False)
    assert (drop.routed_on, drop.state) == ("logits", "")
    assert (drop.status, drop.optimum_status) == ("ok", "OPTIMAL")
    best = found["best"]
    assert (best.value, best.gap, best.relative_gap, best.overlap) == (5.0, 0.0, 0.0, 1.0)
    assert (best.dropped, best.max_over_mean, best.load_cv) == (0, 1.0, 0.0)
    assert (best.seeks, best.causal) == ("", None)


def test_a_router_that_breaks_a_bound_is_infeasible_and_has_no_gap():
    row = rows(PROBLEM, {"top-1": TopK(1)})["top-1"]
    assert (row.value, row.optimum, row.feasible, row.status) == (7.0, 5.0, False, "INFEASIBLE")
    assert row.violation == 1.0
    assert row.breaks == "expert_0 counts 2, at most 1"
    assert all(math.isnan(number) for number in (row.gap, row.relative_gap, row.overlap))


def test_several_broken_bounds_are_counted():
    tight = lpr.problems.capacity(torch.tensor([[3.0, 2.0], [3.0, 2.0]]), 1, 1)
    row = rows(tight, {"all": lambda scores: torch.ones(2, 2)})["all"]
    assert row.breaks.endswith("(and 3 more)")


@pytest.mark.parametrize(
    ("router", "says"),
    [
        (broken, "RuntimeError: no such device"),
        (
            lambda logits: torch.ones(3, 3),
            r"NoRouterOutput: it returned torch.float32 of shape \(3, 3\)",
        ),
        (lambda logits: "none", "NoRouterOutput: it returned str; expected an Assignment"),
        (
            lambda logits: assignment_from(torch.tensor([[0], [2]]), logits, "TK"),
            r"NoRouterOutput: it names expert 2 of 2 at \[1, 0\]",
        ),
        (
            lambda logits: torch.tensor([[0], [1]]),
            r"NoRouterOutput: .* T = E = 2, so that they may be the experts .* say which",
        ),
        (
            lambda logits: (torch.ones(2, 1), torch.ones(2, 1)),
            "NoRouterOutput: no entry of its tuple",
        ),
        (lambda logits: logits * math.nan, "InputError: assignment"),
        (lambda logits: -logits.bool().float(), "InputError: load: a count of tokens cannot be -2"),
        (TopK(3), r"InputError: k=3 is more than E"),
        (TopK, "InputError: k=.*expected a whole number"),
    ],
)
def test_a_router_that_fails_is_a_row_with_its_error_and_loses_no_other(router, says):
    found = rows(PROBLEM, {"before": DROP, "fails": router, "after": DROP}, repeats=2)
    assert found["before"].gap == found["after"].gap == 1.0
    assert found["before"].runs == found["after"].runs == 2
    failed = found["fails"]
    assert re.match(says, failed.status, re.DOTALL)
    assert failed.feasible is None
    assert not failed.judged
    assert math.isnan(failed.value)
    assert (failed.runs, failed.dropped, failed.optimum) == (0, None, 5.0)


def test_an_exception_of_a_router_keeps_its_traceback():
    found = rows(PROBLEM, {"fails": broken, "fine": DROP, "nothing": lambda logits: None})
    assert "test_compare.py" in found["fails"].traceback
    assert "in broken" in found["fails"].traceback
    assert found["fine"].traceback == found["nothing"].traceback == ""  # not the router's exception
    assert "traceback" not in found["fails"].as_record()
    frame = compare(PROBLEM, {"fails": broken}, logits=LIKED, repeats=1)
    assert "in broken" in frame.traceback[0]


def test_combine_weights_are_judged_as_choices_with_a_note():
    # top-2 of 3 with weights 0.7 and 0.3: as amounts they would be worth half of what they are
    scores = torch.tensor([[4.0, 2.0, 0.0], [3.0, 0.0, 1.0]])
    problem = lpr.problems.token_choice(scores, 2)
    weights = torch.tensor([[0.7, 0.3, 0.0], [0.7, 0.0, 0.3]])
    found = rows(problem, {"weights": lambda _: weights, "map": lambda _: weights > 0})
    assert found["weights"].value == found["map"].value == 10.0
    assert found["weights"].gap == 0.0
    assert "read as combine weights" in found["weights"].note
    assert found["weights"].as_record()["note"] == found["weights"].note
    assert found["map"].note == ""
    amounts = rows(problem, {"asked": lambda _: lpr.Assignment(weights)})["asked"]
    assert amounts.value == pytest.approx(0.7 * 4 + 0.3 * 2 + 0.7 * 3 + 0.3)
    assert (amounts.feasible, amounts.note) == (False, "")
    soft = rows(problem, {"soft": lambda logits: logits.softmax(-1)})["soft"]
    assert "a fraction, and leaves out no pair" in soft.status


def test_a_router_that_fails_later_keeps_what_it_chose_and_says_so():
    calls = []

    def once(scores):
        calls.append(1)
        return BEST if len(calls) == 1 else broken(scores)

    row = rows(PROBLEM, {"once": once}, repeats=3)["once"]
    assert (row.value, row.status, row.runs) == (5.0, "RuntimeError: no such device", 0)
    assert not row.judged


def test_a_router_that_cannot_be_built_is_a_row_too(monkeypatch):
    monkeypatch.setitem(CATALOGUE, "odd", lambda shape: ExpertChoice(-shape.T))
    found = rows(PROBLEM, ["odd", "token-choice"])
    assert found["odd"].status.startswith("InputError: capacity=-2: expected a whole number")
    assert found["token-choice"].status == "INFEASIBLE"


def test_a_router_that_overwrites_its_input_harms_nobody():
    scores = LIKED.clone()
    problem = lpr.problems.capacity(scores, 1, 1)
    found = rows(problem, {"vandal": lambda given: given.zero_().bool(), "drop": DROP})
    assert found["drop"].gap == 1.0
    assert found["vandal"].value == 0.0
    assert torch.equal(scores, LIKED)


# Token 0 leaves expert 0 once its price is past 2: prices 1, 2, 3 after three overfull steps.
@pytest.mark.parametrize(("steps", "value", "age"), [(0, 7, "cold"), (3, 5, "after 3 step(s)")])
def test_a_router_with_a_state_starts_cold_or_after_some_steps(steps, value, age):
    row = rows(PROBLEM, {"priced": Priced()}, warm_up=steps)["priced"]
    assert (row.value, row.feasible, row.state) == (value, value == 5, age)
    assert row.label == f"priced, {age}"
    assert rows(PROBLEM, {"drop": DROP})["drop"].label == "drop"


def test_a_router_with_a_state_warms_up_on_other_batches():
    calm = torch.tensor([[4.0, 2.0], [0.0, 3.0]])  # nothing is overfull: prices stay
    for batches, value in (([LIKED] * 3, 5), ([LIKED, calm], 7), ([torch.cat([LIKED, LIKED])], 7)):
        row = rows(PROBLEM, {"priced": Priced(), "drop": DROP}, warm_on=batches)["priced"]
        assert (row.value, row.state) == (value, f"after {len(batches)} other batch(es)")
    assert rows(PROBLEM, {"priced": Priced()}, warm_on=[])["priced"].state == "cold"


def test_every_router_goes_by_its_own_scores_and_is_judged_by_those_of_the_problem():
    turned = -LIKED  # by these, token 0 likes expert 1 and token 1 expert 1
    seen = []

    def watch(values):
        seen.append(values)
        return BEST

    routers = {"top-1": TopK(1), "watch": watch}
    found = rows(PROBLEM, routers, logits=turned)
    assert found["top-1"].value == 2.0
    assert {row.routed_on for row in found.values()} == {"logits"}
    assert all(torch.equal(values, turned) for values in seen)


# Rules that lie in the scores as much as in the choice; none is shift-dependent but ReLU.
IN_THEIR_SCORES = {
    "entmax": Entmax(),
    "entmax-budget": EntmaxBudget(2),
    "soft-top-k": SoftTopK(2, alpha=0.1, truncate=0.05),
    "noisy": NoisyTopK(2),
    "sigmoid": TopK(2, 9, score="sigmoid"),
    "relu": ReLURouter(),
}
LOGITS = 3 * torch.randn(40, 8, generator=torch.Generator().manual_seed(3)) + 1
SHARES = lpr.problems.capacity(lpr.scores.softmax(LOGITS), 2, 13)


@pytest.mark.parametrize("name", IN_THEIR_SCORES)
def test_with_logits_a_router_takes_what_it_takes_when_called(name):
    router = IN_THEIR_SCORES[name]
    row = rows(SHARES, {name: router}, logits=LOGITS)[name]
    taken = router(LOGITS).x
    assert (row.pairs, row.routed_on) == (taken.sum(), "logits")
    assert row.value == pytest.approx(float(SHARES.scores[taken].sum()))


@pytest.mark.parametrize("name", IN_THEIR_SCORES)
def test_without_logits_it_takes_the_same_or_is_not_judged(name):
    row = rows(SHARES, {name: IN_THEIR_SCORES[name]}, logits=None)[name]
    if name in ("sigmoid", "relu"):
        assert row.status.startswith("not judged: its scores change with a constant added")
        assert (row.feasible, row.runs, row.judged) == (None, 0, False)
    else:
        assert (row.pairs, row.routed_on) == (
            IN_THEIR_SCORES[name](LOGITS).x.sum(),
            "log of scores",
        )


def test_scores_that_tell_no_logits_judge_nobody_but_the_optimum():
    gates = lpr.problems.capacity(torch.sigmoid(LOGITS), 2, 13)
    found = rows(gates, {"top": TopK(2), "mine": lambda x: x, "best": Optimum(gates)}, logits=None)
    for name in ("top", "mine"):
        assert found[name].status.startswith("not judged: the scores are no softmax")
        assert math.isnan(found[name].value)
    assert (found["best"].gap, found["best"].status) == (0.0, "ok")


def test_scores_below_zero_are_taken_for_logits():
    plain = lpr.problems.capacity(LOGITS, 2, 13)
    row = rows(plain, {"entmax": Entmax()}, logits=None)["entmax"]
    assert (row.pairs, row.routed_on) == (Entmax()(LOGITS).x.sum(), "scores as logits")


def test_forbidden_pairs_stay_forbidden_and_underflow_does_not_forbid():
    scores = torch.tensor([[1.0, 0.0, -math.inf], [-math.inf] * 3])
    given = router_input(None, scores)
    assert given.words == "log of scores"
    assert (given.values > -math.inf).tolist() == [[True, True, False], [False] * 3]
    half = torch.softmax(LOGITS, 1).bfloat16().float()
    assert router_input(None, half).words == "log of scores"
    assert router_input(None, half / 2).values is None


def test_amounts_may_come_as_numpy_as_an_assignment_or_beside_a_state():
    ways = {
        "numpy": lambda scores: BEST.numpy(),
        "assignment": lambda scores: lpr.Assignment(BEST),
        "state": lambda scores: (lpr.Assignment(BEST), "a state"),
        "indices": lambda scores: assignment_from(torch.tensor([[1], [0]]), scores, "TK"),
        "of experts": lambda scores: assignment_from(torch.tensor([[1], [0]]), scores, "EC"),
        "list": lambda scores: BEST.tolist(),
        "halves": lambda scores: assignment_from(np.full((2, 2), 0.5), scores, "TE"),
    }
    found = rows(PROBLEM, ways)
    assert [row.gap for row in found.values()] == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
    assert found["halves"].dropped == 0


def test_overlap_is_left_out_where_ties_leave_the_optimum_open():
    level = lpr.problems.capacity(torch.ones(8, 2), 1, 4)
    row = rows(level, {"first": TopK(1, 4)})["first"]
    assert row.feasible
    assert math.isnan(row.overlap)
    settled = lpr.problems.capacity(torch.eye(2).repeat(4, 1), 1, 4)
    assert rows(settled, {"first": TopK(1, 4)})["first"].overlap == 1.0


def test_tokens_that_may_go_nowhere_are_not_dropped():
    scores = torch.cat([LIKED, torch.full((2, 2), -math.inf)])
    row = rows(lpr.problems.capacity(scores, 1, 1), {"drop": DROP})["drop"]
    assert (row.dropped, row.dropped_fraction) == (1, 0.5)


# Two experts want both tokens each, but no token goes to two; top-2 sends them all the same: 9.
def test_a_problem_without_any_assignment_has_no_optimum_and_no_gap():
    problem = lpr.RoutingProblem(LIKED, tokens=lpr.at_most(1), experts=lpr.exactly(2))
    found = rows(problem, [OPTIMUM, "token-choice"])
    top = found["token-choice"]
    assert top.optimum_status.startswith("INFEASIBLE: ")
    assert all(math.isnan(number) for number in (top.optimum, top.bound, top.gap, top.overlap))
    assert (top.status, top.feasible, top.value) == ("INFEASIBLE", False, 9.0)
    assert found[OPTIMUM].status.startswith("InputError: no assignment: ")


def test_a_problem_without_whole_optima_goes_to_highs():
    problem = lpr.RoutingProblem(LIKED, total=lpr.at_most(1.5))
    found = rows(problem, {"optimum": Optimum(problem), "best": lambda scores: LIKED == 4})
    assert found["best"].optimum == pytest.approx(5.5)
    assert found["best"].gap == pytest.approx(1.5)
    assert found["optimum"].gap == pytest.approx(0, abs=1e-9)
    assert math.isnan(found["best"].overlap)


@pytest.mark.parametrize("solver", ["mincostflow", "highs", "cvxpy"])
def test_whoever_solves_it_the_gap_is_the_same(solver):
    found = rows(PROBLEM, {"drop": DROP}, solver=solver)
    assert found["drop"].gap == pytest.approx(1.0, abs=1e-6)
    assert found["drop"].gap == found["drop"].bound - found["drop"].value


def test_times_are_medians_in_units_of_topk():
    found = rows(PROBLEM, {"drop": DROP}, repeats=3)["drop"]
    assert found.runs == 3
    assert found.seconds > 0
    assert found.topk_units > 0


def test_routers_are_timed_in_turns():
    turns = []
    routers = {name: lambda scores, name=name: turns.append(name) or BEST for name in "ab"}
    rows(PROBLEM, routers, repeats=3)
    assert turns == ["a", "b"] * 4  # chosen and judged once, then timed


def test_a_slow_router_is_run_once(monkeypatch):
    monkeypatch.setattr(trials, "PATIENCE_S", -1.0)  # the first call was too long
    calls = []
    row = rows(PROBLEM, {"slow": lambda s: calls.append(1) or BEST}, repeats=5)["slow"]
    assert (len(calls), row.runs) == (1, 1)
    assert row.seconds > 0


def test_timed_calls_end_once_they_took_long_together(monkeypatch):
    monkeypatch.setattr(trials, "PATIENCE_S", 0.25)
    seconds = iter([0.1, *[0.2, 0.1] * 9])  # the first call; then topk and router in turns
    monkeypatch.setattr(trials, "_timed", lambda work, values: (next(seconds), work(values)))
    row = rows(PROBLEM, {"middling": lambda s: BEST}, repeats=9)["middling"]
    assert (row.runs, row.seconds, row.topk_units) == (3, 0.1, 0.5)


def test_the_unit_is_the_same_for_all_rows():
    found = rows(PROBLEM, {"drop": DROP, "best": lambda scores: BEST}, repeats=3).values()
    units = [row.seconds / row.topk_units for row in found]
    assert units[0] == pytest.approx(units[1])


def test_the_catalogue_is_compared_by_name_on_any_precision():
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(24, 4, generator=draw).to(torch.bfloat16)
    found = rows(lpr.problems.capacity(scores, 2, 15), [OPTIMUM, *CATALOGUE])
    assert list(found) == [OPTIMUM, *CATALOGUE]
    assert {row.status for row in found.values()} == {"ok", "INFEASIBLE"}
    assert (found[OPTIMUM].gap, found[OPTIMUM].feasible) == (0.0, True)
    assert found["drop-by-score"].feasible
    assert all(row.gap >= 0 for row in found.values() if row.feasible)


def test_a_seed_reaches_the_routers_that_have_one(monkeypatch):
    seen = []

    @dataclass(frozen=True)
    class Drawn(TopK):
        seed: int = 7

        def select(self, scores):
            seen.append(self.seed)
            return super().select(scores)

    monkeypatch.setitem(CATALOGUE, "drawn", lambda shape: Drawn(shape.k))
    rows(PROBLEM, ["drawn"], seed=3)
    rows(PROBLEM, {"mine": Drawn(1)}, seed=3)
    assert seen == [3, 3, 7, 7]


@given(problems(), st.integers(0, 2**31))
@settings(max_examples=25)
def test_no_feasible_router_beats_the_bound_and_the_columns_add_up(problem, seed):
    if problem.multiplicity is not None:
        return
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(problem.scores.shape, generator=draw) < 0.5) & problem.allowed
    row = rows(problem, {"random": lambda scores: x})["random"]
    assert row.value == pytest.approx(float(problem.scores[x].sum()))
    assert row.pairs == x.sum()
    assert row.dropped == sum(
        bool(may.any()) and not bool(takes.any())
        for may, takes in zip(problem.allowed, x, strict=True)
    )
    if row.feasible:
        assert row.gap == pytest.approx(row.bound - row.value)
        assert row.gap >= 0
    else:
        assert (math.isnan(row.gap), row.status) == (True, "INFEASIBLE")
    assert row.feasible == (row.violation == 0)


def test_the_table_has_a_row_a_router_and_a_column_a_number():
    pandas = pytest.importorskip("pandas")
    routers = {"cheat": TopK(1), "fails": broken, "drop": DROP}
    frame = compare(PROBLEM, routers, logits=LIKED, repeats=1)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.sort_values("gap").router.iloc[0] == "drop"  # who breaks bounds is not the best
    assert list(frame.columns) == list(RouterResult.__dataclass_fields__)
    assert frame.gap[2] == 1.0
    assert frame.dropped[1] is pandas.NA
    assert frame.feasible.tolist() == [False, pandas.NA, True]
    assert list(frame[frame.feasible].router) == ["drop"]
    assert frame.status.tolist() == ["INFEASIBLE", "RuntimeError: no such device", "ok"]


def test_without_pandas_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(lpr.InputError, match="pip install pandas"):
        compare(PROBLEM, ["token-choice"])
    assert rows(PROBLEM, ["token-choice"])["token-choice"].value == 7.0


def test_a_record_holds_nothing_that_json_cannot():
    record = rows(PROBLEM, {"fails": broken})["fails"].as_record()
    assert (record["value"], record["dropped"], record["optimum"]) == (None, None, 5.0)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (PROBLEM, "tokens at_most(1), experts at_most(1)"),
        (lpr.problems.token_choice(LIKED, 2), "tokens exactly(2)"),
        (lpr.problems.served_unified(LIKED, 3), "tokens at_least(1), total exactly(3)"),
        (lpr.problems.balanced(torch.ones(3, 2), 1), "tokens exactly(1), experts between(1, 2)"),
        (lpr.RoutingProblem(LIKED, tokens=lpr.at_most([1, 2])), "tokens at_most(1..2)"),
        (
            lpr.RoutingProblem(LIKED, expert_groups=[lpr.Group([0, 1], lpr.at_most(2.5))]),
            "1 expert group at_most(2.5)",
        ),
        (lpr.RoutingProblem(LIKED), "no bounds"),
    ],
    ids=str,
)
def test_bounds_in_words(problem, words):
    assert bounds_in_words(problem) == words


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((LIKED, ["token-choice"]), "compare expects a RoutingProblem first, got Tensor"),
        ((PROBLEM, ["topk"]), "router 'topk' is now called 'token-choice'"),
        ((PROBLEM, "token-choice"), "routers='token-choice': expected name -> router, or a list"),
        ((PROBLEM, []), r"routers=\[\]: expected name -> router"),
        ((PROBLEM, {"a": 3}), r"routers\['a'\]: expected a router or a function, got int"),
    ],
)
def test_bad_arguments_are_refused_with_what_to_do(arguments, says):
    with pytest.raises(lpr.InputError, match=says):
        compare(*arguments)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"repeats": 0}, "repeats=0: it must be at least 1"),
        ({"warm_up": -1}, "warm_up=-1: it must be at least 0"),
        ({"warm_on": LIKED}, "warm_on: expected a list of logits"),
        ({"warm_on": [LIKED], "warm_up": 1}, "not on both"),
        ({"warm_on": [LIKED, torch.zeros(4, 3)]}, r"warm_on\[1\]: expected logits \(T, 2\)"),
        ({"warm_on": [LIKED * math.nan]}, r"warm_on\[0\]\[0, 0\] is nan"),
        ({"logits": torch.zeros(3, 2)}, r"shape of the problem's scores, \(2, 2\), got \(3, 2\)"),
        ({"logits": LIKED * math.nan}, r"logits\[0, 0\] is nan"),
        ({"solver": "guess"}, "unknown solver 'guess'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(lpr.InputError, match=says):
        compare(PROBLEM, ["token-choice"], **options)


def test_rows_that_stand_for_several_tokens_are_refused():
    problem = lpr.RoutingProblem(LIKED, tokens=lpr.at_most(1), multiplicity=[2, 1])
    with pytest.raises(lpr.InputError, match="repeat the rows"):
        compare(problem, ["token-choice"])
