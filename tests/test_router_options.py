"""Options of all routers, and what they are given: wrong types and ranges are refused in words."""

import math
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

import lp_routing as lpr
from lp_routing import routers
from lp_routing.routers import (
    BIP,
    Auction,
    BatchPrioritised,
    CapacityFactor,
    CappedExpertChoice,
    Entmax,
    EntmaxBudget,
    ExpertChoice,
    GroupLimited,
    HashRouter,
    LossFree,
    MaxScore,
    MaxScoreFlow,
    NoisyTopK,
    OnlineBIP,
    QuantileBalancing,
    RandomRouter,
    RandomSecond,
    ReLURouter,
    Router,
    RunningThreshold,
    Sampled,
    Sinkhorn,
    StatefulRouter,
    Threshold,
    TopK,
    TopP,
    Unified,
    ZeroComputation,
)

NAN, INF = math.nan, math.inf
NO_NUMBER = ["2", None, [2], NAN, INF, -INF, True, 1j, np.array([1, 2]), torch.ones(2)]
COUNT = [*NO_NUMBER, 0, -1, 1.5]
"""Refused where a whole number from 1 on is expected."""
CAPACITY = [c for c in COUNT if c is not None and not (isinstance(c, int) and c == 0)] + [True]
POSITIVE = [*NO_NUMBER, 0, -1.0]
NOT_NEGATIVE = [*NO_NUMBER, -1e-9]
FLAG = ["yes", "", 1, 0, None, 1.0, [True]]
NAME = ["nosuch", "", 3, None, True, ["kept"], np.array(["kept", "all"]), torch.ones(2)]
SCORE = ["softmx", "", None, 3, ["softmax"], {"a": 1}, np.array([1, 2])]
NORMALISE = [n for n in NAME if n is not None]
SEED = [*NO_NUMBER, -1, 2**63, 0.5]

OPTIONS = {
    # what builds the router, and for each of its fields what it must refuse
    TopK: (
        {"k": 2},
        {"k": COUNT, "capacity": CAPACITY, "by": NAME, "order": NAME},
    ),
    Unified: (
        {"k": 2},
        {
            "k": COUNT,
            "rate": [*NOT_NEGATIVE, 1.01],
            "pool": NAME,
            "version": NAME,
            "serve_all": FLAG,
            "padding": NAME,
        },
    ),
    ExpertChoice: ({"capacity": 2}, {"capacity": [*CAPACITY, None]}),
    GroupLimited: (
        {"k": 2, "groups": 2, "top_groups": 1},
        {"k": COUNT, "groups": COUNT, "top_groups": [*COUNT, 3], "rank_by": NAME},
    ),
    BatchPrioritised: (
        {"k": 2, "capacity": 2},
        {"k": COUNT, "capacity": [*CAPACITY, None], "priority": NAME},
    ),
    RandomSecond: ({}, {"capacity": CAPACITY, "seed": SEED}),
    NoisyTopK: (
        {"k": 2},
        {
            "k": COUNT,
            "std": [
                *(n for n in NOT_NEGATIVE if not isinstance(n, torch.Tensor)),
                torch.tensor([1, 2]),
                torch.tensor([-1.0]),
                torch.tensor([NAN]),
                torch.eye(2).to_sparse(),
                torch.ones(2, device="meta"),
            ],
            "seed": SEED,
        },
    ),
    Sampled: ({"k": 2}, {"k": COUNT, "seed": SEED}),
    HashRouter: (
        {"k": 2},
        {
            "k": COUNT,
            "seed": SEED,
            "weights": NAME,
            "token_ids": [[1, 2], 1, "a", torch.ones(2), torch.tensor([True])],
        },
    ),
    RandomRouter: ({"k": 2}, {"k": COUNT, "seed": SEED, "weights": NAME}),
    Auction: (
        {"k": 2},
        {"k": COUNT, "capacity": CAPACITY, "epsilon": [e for e in POSITIVE if e is not None]},
    ),
    Sinkhorn: (
        {"k": 2},
        {
            "k": COUNT,
            "temperature": POSITIVE,
            "tolerance": NOT_NEGATIVE,
            "iterations": COUNT,
            "rounding": NAME,
        },
    ),
    CappedExpertChoice: (
        {"capacity": 2, "k": 2},
        {
            "capacity": [*CAPACITY, None],
            "k": COUNT,
            "temperature": POSITIVE,
            "tolerance": NOT_NEGATIVE,
            "iterations": COUNT,
            "rounding": NAME,
        },
    ),
    MaxScore: ({}, {"k": COUNT, "capacity": CAPACITY, "repeats": FLAG}),
    MaxScoreFlow: ({}, {"k": COUNT, "capacity": CAPACITY}),
    LossFree: ({"k": 2}, {"k": COUNT, "rate": NOT_NEGATIVE, "update": NAME}),
    QuantileBalancing: (
        {"k": 2},
        {"k": COUNT, "rounds": COUNT, "place": [*NOT_NEGATIVE, 1.01], "lag": FLAG},
    ),
    BIP: ({"k": 2}, {"k": COUNT, "iterations": COUNT, "capacity": [*CAPACITY, None]}),
    OnlineBIP: (
        {"k": 2, "window": 16},
        {"k": COUNT, "iterations": COUNT, "window": COUNT, "capacity": [*CAPACITY, 17]},
    ),
    Entmax: ({}, {"alpha": [*NO_NUMBER, 1, 1.7, 0], "temperature": POSITIVE}),
    EntmaxBudget: ({"budget": 2}, {"alpha": [*NO_NUMBER, 1, 1.7, 0], "budget": [*POSITIVE, 0.5]}),
    TopP: ({"p": 0.5}, {"p": [*POSITIVE, 1.01]}),
    Threshold: ({"value": 0.5}, {"value": [*NO_NUMBER, -1, -1e-9, 1.01]}),
    RunningThreshold: (
        {"budget": 2},
        {
            "budget": POSITIVE,
            "rate": [*NOT_NEGATIVE, 1.01],
            "update": NAME,
            "start": NO_NUMBER,
        },
    ),
    ReLURouter: ({}, {}),
    ZeroComputation: (
        {"k": 2, "free": 1},
        {
            "k": COUNT,
            "free": [*NO_NUMBER, -1, 1.5],
            "factor": [f for f in POSITIVE if f is not None],
            "tau": POSITIVE,
            "by": NAME,
            "order": NAME,
        },
    ),
    CapacityFactor: (
        {"factor": 1.0},
        {
            "factor": POSITIVE,
            "formula": NAME,
            "minimum": [*NO_NUMBER, -1, 1.5],
            "alignment": COUNT,
        },
    ),
}
SHARED = {"score": SCORE, "normalise": NORMALISE}


def names(kind):
    return {field.name for field in fields(kind)}


REFUSED = [
    pytest.param(kind, built, name, wrong, id=f"{kind.__name__} {name}={wrong!r}")
    for kind, (built, table) in OPTIONS.items()
    for name, values in (table | {n: SHARED[n] for n in SHARED if n in names(kind)}).items()
    for wrong in values
]


def answer(router, logits):
    taken = router(logits)
    return taken[0] if isinstance(router, StatefulRouter) else taken


def test_the_table_holds_every_option_of_every_router():
    elsewhere = {routers.PriceRouter, routers.FixedPrices, routers.SoftTopK}
    public = [getattr(routers, name) for name in routers.__all__]
    kinds = [kind for kind in public if is_dataclass(kind) and isinstance(kind, type)]
    rules = {kind for kind in kinds if issubclass(kind, Router | StatefulRouter)}
    assert rules - elsewhere | {CapacityFactor} == set(OPTIONS)
    for kind, (_, table) in OPTIONS.items():
        assert names(kind) == set(table) | (set(SHARED) & names(kind))


@pytest.mark.parametrize("kind", OPTIONS)
def test_score_and_normalise_are_given_by_keyword_only(kind):
    shared = [field for field in fields(kind) if field.name in SHARED]
    assert all(field.kw_only for field in shared)
    positional = [field for field in fields(kind) if not field.kw_only]
    if shared:
        with pytest.raises(TypeError, match="positional"):
            kind(*[2] * len(positional), "softmax")


@pytest.mark.parametrize(("kind", "built", "name", "wrong"), REFUSED)
def test_a_wrong_option_is_refused_by_its_name(kind, built, name, wrong):
    with pytest.raises(lpr.InputError, match=name):
        kind(**{**built, name: wrong})


LOGITS = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0)).abs()
WHOLE = {"k", "groups", "top_groups", "iterations", "rounds", "window", "free", "seed", "capacity"}
REAL = {"rate", "place", "temperature", "tolerance", "epsilon", "p", "value", "std", "tau"} | {
    "budget",
    "start",
    "alpha",
    "factor",
}
SMALL = {"place": 0.5, "rate": 0.5, "start": 0.5, "epsilon": 0.5, "seed": 3, "tau": 0.5, "std": 0.5}
GIVEN = {"rounds": 2, "iterations": 8, "temperature": 0.5, "tolerance": 0.5, "capacity": 12}


@pytest.mark.parametrize("kind", [kind for kind in OPTIONS if kind is not CapacityFactor])
def test_numbers_of_every_type_are_the_same_option(kind):
    built, table = OPTIONS[kind]
    for name in (WHOLE | REAL) & set(table):
        value = {**SMALL, **GIVEN, "factor": 2.0, "alpha": 2, **built}.get(name, 1)
        plain = answer(kind(**{**built, name: value}), LOGITS)
        others = [np.float64(value), np.float32(value)]
        if name in WHOLE:
            others = [np.int64(value), np.int32(value), float(value), torch.tensor(value)]
        for other in others:
            router = kind(**{**built, name: other})
            given = answer(router, LOGITS)
            assert torch.equal(given.x, plain.x), (name, type(other))
            assert torch.equal(given.weights, plain.weights), (name, type(other))
            assert given.weights.dtype == plain.weights.dtype
            assert router.causal == kind(**{**built, name: value}).causal


def test_a_truth_of_numpy_is_a_truth():
    assert torch.equal(
        Unified(1, serve_all=np.True_)(LOGITS).x, Unified(1, serve_all=True)(LOGITS).x
    )


ROUTERS = [kind(**built) for kind, (built, _) in OPTIONS.items() if kind is not CapacityFactor]
every_router = pytest.mark.parametrize("router", ROUTERS, ids=lambda router: type(router).__name__)


@every_router
def test_lists_and_arrays_are_routed_like_tensors(router):
    table = LOGITS[0].double()
    expected = answer(router, table)
    for given in (table.tolist(), table.numpy(), np.asfortranarray(table.numpy())):
        assert torch.equal(answer(router, given).x, expected.x)
        assert torch.equal(answer(router, given).weights, expected.weights)


@every_router
@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (torch.eye(4).to_sparse(), r"dense tensor, got a torch.sparse_coo tensor; .*to_dense"),
        (torch.eye(4, device="meta"), r"got a meta tensor; give one that holds numbers"),
        (torch.eye(4).long(), r"got torch.int64 of shape \(4, 4\); .*\.float\(\)"),
        (torch.eye(4).bool(), r"got torch.bool of shape \(4, 4\)\."),
        ([[1, 2], [3, 4]], r"got torch.int64 .*\.float\(\)"),
        ([["a"]], r"got list that torch cannot read"),
        ([[1.0], [1.0, 2.0]], r"got list that torch cannot read"),
        ([[NAN, 1.0]], r"logits\[0, 0\] is nan"),
        ([1.0, 2.0], r"\(\.\.\., tokens, experts\).*shape \(2,\)"),
        (None, r"NoneType"),
        ("logits", r"logits: expected floating-point numbers"),
    ],
    ids=str,
)
def test_what_is_no_dense_matrix_of_floats_is_refused(router, logits, says):
    with pytest.raises(lpr.InputError, match=says):
        router(logits)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda logits, mask: logits > 0, r"returned torch.bool; .*floating-point"),
        (lambda logits, mask: logits.long(), r"returned torch.int64; .*floating-point"),
        (lambda logits, mask: logits[0], r"returned shape"),
        (lambda logits, mask: 3, r"returned int; it must return a tensor"),
        (lambda logits, mask: logits * NAN, r"result\[0, 0, 0\] is nan"),
    ],
)
def test_a_score_function_that_makes_no_scores_is_refused(made, says):
    with pytest.raises(lpr.InputError, match=says):
        TopK(1, score=made)(LOGITS)


def test_a_mask_that_a_rule_cannot_serve_is_refused_with_its_batch():
    # Of batch 1 two tokens are real: four experts that take two each ask for 8, two tokens give 4.
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 2:] = False
    router = CappedExpertChoice(2, 2, rounding="capped")
    with pytest.raises(lpr.InputError, match=r"^batch \[1\], 2 of 12 tokens real: no assignment"):
        router(LOGITS, mask=mask)
    assert int(router(LOGITS[0]).x.sum()) == 8
    with pytest.raises(lpr.InputError, match=r"^no assignment"):
        router(LOGITS[1], mask=mask[1])


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@every_router
def test_quantised_logits_are_refused(router):
    logits = torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.quint8)
    with pytest.raises(lpr.InputError, match=r"got a quantized tensor; write \.dequantize\(\)"):
        router(logits)
