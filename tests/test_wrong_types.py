"""Every public function with arguments of wrong types: an answer or a sentence, no raw error.

Each call below is right; one argument after the other is replaced by things of other types.
"""

import inspect
from functools import partial

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing import audits, extensions, frontier, problems, routers, scores, solvers, traces
from lp_routing.audits import AuditedRouter
from lp_routing.evaluation import evaluate
from lp_routing.report import plots
from lp_routing.sweep import sweep

LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
SHARES = LOGITS.softmax(-1)
PROBLEM = problems.capacity(LOGITS, 1, 3)
SOLUTION = lpr.solve(PROBLEM)
PRICES, TAKEN = SOLUTION.prices, SOLUTION.assignment
TOP = routers.TopK(1)
PLACES = torch.tensor([[True, True], [False, True]])
MASK = torch.ones(6, dtype=torch.bool)
CURVE = frontier.over_total(problems.token_choice(LOGITS, 1), solver=lpr.HiGHS())
SHARED = frontier.over_layers(LOGITS[None])


def problem_at(n):
    return problems.unified(LOGITS, n)


def unified(n):
    return routers.Unified(1)


def record(point):
    return {"square": point}


def stated(bounds):
    return lambda **amounts: lpr.RoutingProblem(LOGITS, experts=bounds(*amounts.values()))


CALLS = [
    (stated(lpr.exactly), {"amount": 2}),
    (stated(lpr.at_most), {"amount": 2}),
    (stated(lpr.at_least), {"amount": 1}),
    (stated(lpr.between), {"lower": 1, "upper": 2}),
    (
        lpr.RoutingProblem,
        {
            "scores": LOGITS,
            "tokens": lpr.at_most(1),
            "experts": lpr.at_most(3),
            "total": lpr.at_most(5),
            "token_groups": [lpr.Group([0, 1], lpr.at_most(2))],
            "expert_groups": [lpr.Group([0, 1], lpr.at_most(4))],
            "multiplicity": [1] * 6,
        },
    ),
    (
        lambda **group: lpr.RoutingProblem(LOGITS, token_groups=[lpr.Group(**group)]),
        {"members": [0, 1], "bounds": lpr.at_most(2), "name": "a"},
    ),
    (lpr.groups_by, {"labels": ["a", "b", "a"], "bounds": lpr.at_most(2)}),
    (PROBLEM.with_scores, {"scores": LOGITS}),
    (problems.token_choice, {"scores": LOGITS, "k": 1}),
    (problems.expert_choice, {"scores": LOGITS, "capacity": 1}),
    (problems.unified, {"scores": LOGITS, "total": 1}),
    (problems.served_unified, {"scores": LOGITS, "total": 7}),
    (problems.capacity, {"scores": LOGITS, "k": 1, "capacity": 3}),
    (problems.balanced, {"scores": LOGITS, "k": 1, "capacity": 2}),
    (problems.capped_expert_choice, {"scores": LOGITS, "capacity": 1, "k": 1}),
    (
        lpr.solve,
        {"problem": PROBLEM, "solver": "highs", "integral": False, "tolerance": 1e-9},
    ),
    (
        lpr.certify,
        {"problem": PROBLEM, "assignment": TAKEN, "prices": PRICES, "exact": True, "group": None},
    ),
    (
        lambda **given: lpr.certify(PROBLEM, TAKEN, lpr.Prices(**given)),
        {"experts": PRICES.experts, "total": 0.0, "token_groups": None, "expert_groups": None},
    ),
    (
        lambda **given: lpr.certify(PROBLEM, lpr.Assignment(**given), PRICES),
        {"x": TAKEN.x, "weights": None, "mask": None},
    ),
    (lpr.dual_bound, {"problem": PROBLEM, "prices": PRICES, "group": None}),
    (lpr.token_prices, {"problem": PROBLEM, "prices": PRICES}),
    (lpr.ties, {"problem": PROBLEM, "prices": PRICES, "tolerance": 0.0}),
    (lpr.linear_program, {"problem": PROBLEM}),
    (solvers.cvxpy_model, {"problem": PROBLEM}),
    (solvers.write, {"problem": PROBLEM, "path": "p.mps"}),
    (SOLUTION.certificate.proves_optimal, {"tolerance": 1e-9}),
    (SOLUTION.certificate.keeps_bounds, {"tolerance": 1e-9}),
    (lpr.HiGHS, {"time_limit_s": 9}),
    (lpr.CVXPY, {"backend": "CLARABEL", "time_limit_s": 9}),
    (
        lpr.compare,
        {
            "problem": PROBLEM,
            "routers": {"top": TOP},
            "logits": LOGITS,
            "solver": "highs",
            "repeats": 1,
            "warm_up": 0,
            "warm_on": [LOGITS],
            "seed": 0,
            "shape": routers.Shape(1, 3, 6, 3),
        },
    ),
    (
        lambda **given: lpr.evaluation.Optimum(**given)(LOGITS),
        {"problem": PROBLEM, "solver": lpr.HiGHS()},
    ),
    *((measure, {"load": [1, 2]}) for measure in (evaluate.max_over_mean, evaluate.variation)),
    (routers.router, {"name": "token-choice", "shape": routers.Shape(1, 3, 6, 3), "seed": 0}),
    (
        lambda **given: routers.router("token-choice", routers.Shape(**given)),
        {"k": 1, "capacity": 3, "T": 6, "E": 3},
    ),
    (
        lambda T, E, k, **given: routers.CapacityFactor(**given).of(T, E, k),
        {
            "T": 6,
            "E": 3,
            "k": 1,
            "factor": 1.0,
            "formula": "megatron",
            "minimum": 0,
            "alignment": 1,
        },
    ),
    (routers.largest, {"scores": LOGITS, "count": 1}),
    (routers.assignment_from, {"answer": TAKEN.x, "logits": LOGITS, "layout": "TE"}),
    (routers.layer_budgets, {"eta": torch.ones(2), "total": 3.0, "experts": 3}),
    (routers.masses, {"p": LOGITS.softmax(-1), "chosen": TAKEN.x}),
    (TOP, {"logits": LOGITS, "mask": MASK}),
    *(
        (score, {"values": LOGITS, "mask": MASK})
        for score in (scores.logits, scores.softmax, scores.sigmoid, scores.sqrt_softplus)
    ),
    (scores.unified, {"values": LOGITS, "mask": MASK, "rate": 0.5}),
    (scores.unified_v1, {"values": LOGITS, "mask": MASK, "rate": 0.5}),
    (scores.named, {"score": "softmax"}),
    (scores.check_logits, {"values": LOGITS}),
    (scores.competition_scores, {"outputs": torch.ones(2, 3, 4), "response": "norm"}),
    (traces.read, {"path": "a.npz", "axes": "TE", "values": "logits"}),
    (
        traces.Trace,
        {
            "router_logits": LOGITS[None],
            "source": "here",
            "mask": MASK,
            "sequence": torch.zeros(6, dtype=torch.long),
            "up_to_a_constant": False,
            "k": 1,
            "score": "softmax",
            "capacity_factor": 1.0,
            "layer_names": ["a"],
            "bias": torch.zeros(1, 3),
        },
    ),
    (
        lambda model, names: traces.capture(model, names).__enter__(),
        {"model": torch.nn.Sequential(torch.nn.Linear(2, 2)), "names": "0"},
    ),
    (audits.audit, {"router": TOP, "logits": LOGITS, "problem": PROBLEM, "limit_s": 9.0}),
    (audits.feasibility, {"router": TOP, "logits": LOGITS, "problem": PROBLEM}),
    (audits.repeatable, {"router": TOP, "logits": LOGITS}),
    (audits.causality, {"router": TOP, "logits": LOGITS, "cuts": 2}),
    (audits.causality_map, {"router": TOP, "logits": LOGITS, "prefixes": 2}),
    (audits.batch_invariance, {"router": TOP, "logits": LOGITS, "sequences": 2}),
    (audits.prefill, {"router": TOP, "logits": LOGITS, "most": 2}),
    (audits.ties, {"router": TOP, "logits": LOGITS, "orders": 2}),
    (audits.precision, {"router": TOP, "logits": LOGITS, "rounded_to": "bf16"}),
    (audits.precision_flips, {"router": TOP, "logits": LOGITS, "formats": ["bf16"]}),
    (audits.scale, {"router": TOP, "logits": LOGITS, "way": audits.WAYS[0]}),
    (audits.margins, {"logits": LOGITS, "chosen": TAKEN.x}),
    (audits.as_choice_mask, {"answer": TAKEN, "logits": LOGITS}),
    (
        audits.CausalityMap,
        {"lengths": torch.tensor([1, 2]), "changed": torch.zeros(1, 2, dtype=torch.bool)},
    ),
    (AuditedRouter, {"router": TOP, "limit_s": 1.0}),
    (extensions.best_in_groups, {"scores": LOGITS, "k": 1, "groups": 3, "top_groups": 1}),
    (extensions.relaxed_in_groups, {"scores": LOGITS, "k": 1, "groups": 3, "top_groups": 1}),
    (
        extensions.of_proxy,
        {"scores": LOGITS, "k": 1, "groups": 3, "top_groups": 1, "rank_by": "max"},
    ),
    (
        extensions.searched_in_groups,
        {
            "scores": LOGITS,
            "k": 1,
            "groups": 3,
            "top_groups": 1,
            "capacity": 6,
            "integral": True,
            "time_limit_s": 9.0,
        },
    ),
    *(
        (of_kept, {"scores": SHARES, "keep": 2, "k": 1, "counts": None, **more})
        for of_kept, more in (
            (extensions.best_kept, {"time_limit_s": 9.0}),
            (extensions.bound_on_kept, {"steps": 3}),
            (extensions.greedy, {}),
            (extensions.heavy_hitters, {"by": "score"}),
        )
    ),
    (
        extensions.kept_value,
        {"scores": SHARES, "kept": torch.tensor([True, True, False]), "k": 1, "counts": None},
    ),
    (
        extensions.within_budget,
        {"scores": LOGITS, "k": 1, "costs": [1.0, 1.0, 1.0], "budget": 9.0},
    ),
    (
        extensions.searched_within_budget,
        {
            "scores": LOGITS,
            "k": 1,
            "costs": [1.0, 1.0, 1.0],
            "budget": 9.0,
            "integral": True,
            "time_limit_s": 9.0,
        },
    ),
    (extensions.spread, {"loads": [3, 1], "places": PLACES, "integral": True}),
    (extensions.greedy_placement, {"loads": [3, 1], "devices": 2, "slots": 1}),
    (extensions.placement, {"loads": [3, 1], "devices": 2, "slots": 1}),
    (
        extensions.searched_placement,
        {"loads": [3, 1], "devices": 2, "slots": 1, "integral": True, "time_limit_s": 9.0},
    ),
    (extensions.running_mean, {"loads": [[3.0, 1.0], [1.0, 3.0]], "decay": 0.5}),
    (extensions.confined_load, {"loads": [3, 1], "places": PLACES, "devices": [0]}),
    (
        extensions.edge_wise,
        {
            "loads": [3, 1],
            "places": PLACES,
            "home": [0, 1],
            "sweeps": 9,
            "integral": True,
        },
    ),
    (frontier.over_total, {"problem": PROBLEM, "points": 3, "solver": lpr.HiGHS()}),
    (
        frontier.over_capacity,
        {
            "scores": LOGITS,
            "k": 1,
            "points": 3,
            "at": (),
            "budgets": None,
            "serve": False,
            "solver": lpr.HiGHS(),
            "kept": None,
        },
    ),
    (
        frontier.over_k,
        {
            "scores": LOGITS,
            "capacity": 2,
            "points": 2,
            "at": (),
            "solver": lpr.HiGHS(),
            "kept": None,
        },
    ),
    (
        frontier.over_experts_kept,
        {"scores": SHARES, "k": 1, "keeps": [1], "exact": False, "time_limit_s": 9.0},
    ),
    (frontier.over_layers, {"scores": LOGITS[None], "serve": False}),
    (frontier.cost_of_balance, {"scores": LOGITS, "k": 1, "solver": lpr.HiGHS()}),
    (frontier.cost_of_serving, {"scores": LOGITS, "total": 7, "solver": lpr.HiGHS()}),
    (frontier.slot_worth, {"problem": PROBLEM, "expert": 0, "solver": lpr.HiGHS()}),
    (frontier.smallest_budget, {"curve": CURVE, "value": 0.1}),
    (frontier.next_slot, {"shared": SHARED, "n": 2}),
    (frontier.best_budgets, {"scores": LOGITS[None].softmax(-1), "pairs": 9.0}),
    (
        frontier.worth_of_budgets,
        {"scores": LOGITS[None].softmax(-1), "budgets": torch.tensor([9.0])},
    ),
    (
        frontier.router_curve,
        {
            "make": unified,
            "budgets": [2, 3],
            "problem_at": problem_at,
            "logits": LOGITS,
            "name": "unified",
        },
    ),
    (sweep, {"task": record, "points": [1], "path": None, "jobs": 1, "progress": None}),
    (lpr.claims.smallest, {"refutes": lambda scores: None, "most_tokens": 1, "most_experts": 1}),
    (lpr.claims.ClaimInput, {"logits": LOGITS[None], "k": 1, "seed": 0}),
    (plots.assignment, {"optimal": TAKEN, "router": TAKEN, "names": ("a", "b"), "title": ""}),
    (plots.load, {"loads": {"a": [1, 2]}, "capacity": 3, "ordered": True, "title": ""}),
    (plots.prices, {"solution": SOLUTION, "ordered": False, "title": ""}),
    (plots.frontier, {"curve": CURVE, "routers": (), "over": "total", "in_use": 1}),
    (plots.check_drawable, {"path": "a.png"}),
]
ROUTERS = [
    (routers.TopK, {"k": 1, "capacity": 3, "by": "score", "order": "rank"}),
    (routers.BatchPrioritised, {"k": 1, "capacity": 3, "priority": "max"}),
    (routers.RandomSecond, {"capacity": 3, "seed": 0}),
    (routers.GroupLimited, {"k": 1, "groups": 3, "top_groups": 1, "rank_by": "max"}),
    (routers.ZeroComputation, {"k": 1, "free": 1, "factor": 1.0, "tau": 0.75}),
    (routers.ExpertChoice, {"capacity": 2}),
    (
        routers.CappedExpertChoice,
        {
            "capacity": 2,
            "k": 1,
            "temperature": 0.05,
            "tolerance": 1e-4,
            "iterations": 9,
            "rounding": "capped",
        },
    ),
    (
        routers.Unified,
        {"k": 1, "rate": 0.5, "pool": "batch", "version": "v1", "serve_all": True},
    ),
    (routers.Auction, {"k": 1, "capacity": 3, "epsilon": 0.1}),
    (routers.Sinkhorn, {"k": 1, "temperature": 0.1, "tolerance": 1e-3, "iterations": 9}),
    (routers.MaxScore, {"k": 1, "capacity": 3, "repeats": False}),
    (routers.MaxScoreFlow, {"k": 1, "capacity": 3}),
    (routers.Optimal, {"k": 1, "capacity": 3}),
    (routers.PriceRouter, {"k": 1, "capacity": 3, "rows": "at_most", "steps": 2}),
    (routers.FixedPrices, {"k": 1, "capacity": 3, "enforce": True}),
    (routers.BIP, {"k": 1, "iterations": 2, "capacity": 3}),
    (routers.OnlineBIP, {"k": 1, "iterations": 2, "window": 4, "capacity": 2}),
    (routers.LossFree, {"k": 1, "rate": 0.1, "update": "sign"}),
    (routers.QuantileBalancing, {"k": 1, "rounds": 1, "place": 0.0, "lag": False}),
    (routers.SoftTopK, {"k": 1.5, "alpha": 1.0, "truncate": 0.0, "most": 2}),
    (routers.TopP, {"p": 0.5}),
    (routers.Threshold, {"value": 0.3}),
    (routers.RunningThreshold, {"budget": 1.0, "rate": 0.1, "update": "step", "start": 0.0}),
    (routers.ReLURouter, {}),
    (routers.Entmax, {"alpha": 1.5, "temperature": 1.0}),
    (routers.EntmaxBudget, {"budget": 1.0, "alpha": 1.5}),
    (routers.NoisyTopK, {"k": 1, "std": 1.0, "seed": 0}),
    (routers.Sampled, {"k": 1, "seed": 0}),
    (routers.HashRouter, {"k": 1, "seed": 0, "weights": "equal", "token_ids": None}),
    (routers.RandomRouter, {"k": 1, "seed": 0, "weights": "equal"}),
]
SCORED = {"score": "softmax", "normalise": None}


def built_and_called(kind, **given):
    return kind(**given)(LOGITS)


for kind, given in ROUTERS:
    takes = inspect.signature(kind).parameters
    more = {name: value for name, value in SCORED.items() if name in takes}
    CALLS.append((partial(built_and_called, kind), given | more))

WRONG = [
    None,
    3,
    -1,
    2.5,
    float("nan"),
    1j,
    True,
    "x",
    b"x",
    "",
    [],
    ["x"],
    [None],
    (1, 2),
    {"a": 1},
    object(),
    print,
    torch.ones(2, 2),
    torch.ones(6, 3) * 1j,
    lpr.at_most(1),
    TAKEN,
]


def name_of(function):
    inner = function.args[0] if isinstance(function, partial) else function
    return getattr(inner, "__qualname__", type(inner).__name__)


@pytest.mark.parametrize(
    ("function", "given"), CALLS, ids=[f"{n}-{name_of(f)}" for n, (f, _) in enumerate(CALLS)]
)
def test_wrong_types_are_refused_in_one_sentence(function, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", router_logits=LOGITS.numpy())
    function(**given)
    found = []
    for name in given:
        for wrong in WRONG:
            try:
                function(**{**given, name: wrong})
            except lpr.InputError as error:
                if not str(error):
                    found.append(f"{name}={wrong!r}: no words")
            except Exception as error:
                found.append(
                    f"{name}={str(wrong)[:20]!r}: {type(error).__name__}: {str(error)[:90]}"
                )
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: lpr.RoutingProblem(LOGITS, tokens=lpr.exactly(1 + 1j)),
            r"tokens=exactly\(\(1\+1j\)\): expected real numbers, got torch.complex128",
        ),
        (
            lambda: lpr.RoutingProblem(LOGITS, experts=lpr.at_most(torch.ones(3) * 1j)),
            r"experts=at_most\(<3 values>\): expected real numbers, got torch.complex64",
        ),
        (
            lambda: lpr.RoutingProblem(LOGITS, tokens=lpr.at_most(True)),
            "expected numbers, got booleans",
        ),
        (lambda: lpr.solve(PROBLEM, integral="no"), "integral='no': expected True or False"),
        (lambda: lpr.certify(PROBLEM, TAKEN, PRICES, exact="no"), "exact='no': expected True or"),
        (lambda: lpr.solve(PROBLEM, tolerance=10), "tolerance=10: expected a number from 0 to bel"),
        (lambda: lpr.solve(PROBLEM, tolerance=1.0), "tolerance=1.0: expected a number from 0"),
        (lambda: SOLUTION.certificate.proves_optimal(10), "tolerance=10: expected a number from"),
        (lambda: SOLUTION.certificate.keeps_bounds(1), "tolerance=1: expected a number from 0"),
        (lambda: traces.read(3), "traces.read: path=3: expected the name of a file"),
        (lambda: lpr.linear_program(3), "linear_program expects a RoutingProblem first, got int"),
        (lambda: solvers.cvxpy_model(3), "cvxpy_model expects a RoutingProblem first, got int"),
        (lambda: solvers.write("x", "p.mps"), "write expects a RoutingProblem .* got str"),
        (lambda: audits.chosen(3, torch.eye(3)), "router: expected a callable"),
        (lambda: audits.chosen(lambda x: x > 0, "x"), "logits: expected"),
        (lambda: lpr.evaluation.choice_facts(3, 0), "choice_facts: expected lp_routing.traces"),
        (lambda: lpr.evaluation.differences(3, 3), "differences: expected lp_routing.traces"),
        (lambda: solvers.write(PROBLEM, 3), "write: path=3: expected the name of a file"),
        (
            lambda: traces.Trace(-torch.eye(3), "mine").save(3),
            "Trace.save: path=3: expected the name of a file",
        ),
        (lambda: lpr.ties(PROBLEM, None), "prices: expected Prices, such as .*, got NoneType"),
        (lambda: lpr.ties(3, PRICES), "ties expects a RoutingProblem first, got int"),
        (lambda: lpr.ties(PROBLEM, PRICES, "x"), "ties: tolerance='x': expected a number >= 0"),
        (
            lambda: extensions.searched_in_groups(LOGITS, 1, 3, 1, integral="no"),
            "integral='no': expected True or False",
        ),
        (lambda: extensions.spread([3, 1], PLACES, integral="no"), "integral='no': expected True"),
        (lambda: plots.assignment(TAKEN, TAKEN, names="ab"), "names: expected two names, got str"),
    ],
)
def test_what_would_be_taken_for_something_else_is_refused(call, says):
    with pytest.raises(lpr.InputError, match=says):
        call()
