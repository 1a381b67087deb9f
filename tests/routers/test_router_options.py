"""Options of all registered routers, and what they are given: wrong ones are refused in words.

What an option must refuse follows from its type and its name, so a new router is tested as it is
registered. An option of a new name is tested by its type; add a row to `RANGE` for its range.
"""

import math
from dataclasses import fields, replace
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

import lp_routing as lpr
from lp_routing.routers import (
    CapacityFactor,
    CappedExpertChoice,
    Shape,
    StatefulRouter,
    TopK,
    Unified,
    ZeroComputation,
)
from lp_routing.routers.catalogue import REGISTERED

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

SHAPE = Shape(k=2, capacity=2, T=12, E=4)
WITHOUT_A_ROW = {ZeroComputation: ZeroComputation(2, 1)}
"""Classes that the catalogue does not build."""
ROUTERS = [
    next(iter(entry.rows.values()))(SHAPE) if entry.rows else WITHOUT_A_ROW[entry.kind]
    for entry in REGISTERED
]
every_router = pytest.mark.parametrize("router", ROUTERS, ids=lambda router: type(router).__name__)

BY_TYPE = {
    int: [*NO_NUMBER, -1, 1.5],
    float: NO_NUMBER,
    bool: FLAG,
    str: SCORE,
    CapacityFactor: CAPACITY,
}
"""Type of an option -> what it must refuse; `str` is the name of a score function."""
RANGE = {
    "k": [0, -1],
    "groups": [0],
    "top_groups": [0, 99],
    "iterations": [0],
    "rounds": [0],
    "window": [0],
    "most": [0],
    "seed": [2**63, 0.5],
    "temperature": [0, -1.0],
    "tolerance": [-1e-9],
    "epsilon": [0, -1.0],
    "tau": [0, -1.0],
    "factor": [0, -1.0],
    "p": [0, -1.0, 1.01],
    "place": [-1e-9, 1.01],
    "truncate": [-1e-9, 1.0],
    "budget": [0, -1.0],
    "alpha": [0],
    "rate": [-1e-9],
    "std": [
        *(one for one in NO_NUMBER if not isinstance(one, Tensor)),
        -1e-9,
        torch.tensor([1, 2]),
        torch.tensor([-1.0]),
        torch.tensor([NAN]),
        torch.eye(2).to_sparse(),
        torch.ones(2, device="meta"),
    ],
    "token_ids": [[1, 2], 1, "a", torch.ones(2), torch.tensor([True])],
}
"""Name of an option -> what else it must refuse, in any router that has it."""
MORE = {
    "Entmax alpha": [1, 1.7],
    "EntmaxBudget alpha": [1, 1.7],
    "EntmaxBudget budget": [0.5],
    "Threshold value": [-1, -1e-9, 1.01],
    "Unified rate": [1.01],
    "RunningThreshold rate": [1.01],
    "OnlineBIP capacity": [257],
}
"""What one router alone must refuse."""


def types_of(hint):
    """The types that an annotation allows; a `Literal` counts as one."""
    inside = [hint] if get_origin(hint) in (None, Literal) else get_args(hint)
    return {Literal if get_origin(one) is Literal else one for one in inside}


def refused(router, name):
    """What an option of a router must refuse, by its type, its name and the router."""
    types = types_of(get_type_hints(type(router))[name])
    wrong = list(RANGE.get(name, [])) + MORE.get(f"{type(router).__name__} {name}", [])
    if Literal in types:
        wrong += NAME
    elif Tensor not in types:
        kinds = [kind for kind in (CapacityFactor, bool, int, float, str) if kind in types]
        assert kinds, f"say in BY_TYPE what {type(router).__name__}.{name} must refuse"
        wrong += BY_TYPE[kinds[0]]
    return [one for one in wrong if not (one is None and NoneType in types)]


REFUSED = [
    pytest.param(router, field.name, wrong, id=f"{type(router).__name__} {field.name}={wrong!r}")
    for router in ROUTERS
    for field in fields(router)
    for wrong in refused(router, field.name)
]


def answer(router, logits):
    taken = router(logits)
    return taken[0] if isinstance(router, StatefulRouter) else taken


def test_every_registered_class_is_exported_under_its_name():
    for entry in REGISTERED:
        assert getattr(lpr.routers, entry.kind.__name__) is entry.kind
        assert entry.kind.__name__ in lpr.routers.__all__


def test_every_option_has_something_that_it_refuses():
    tested = {(type(param.values[0]), param.values[1]) for param in REFUSED}
    every = {(type(router), field.name) for router in ROUTERS for field in fields(router)}
    assert every == tested


@every_router
def test_score_and_normalise_are_given_by_keyword_only(router):
    shared = [field for field in fields(router) if field.name in ("score", "normalise")]
    assert all(field.kw_only for field in shared)
    positional = [field for field in fields(router) if not field.kw_only]
    if shared:
        with pytest.raises(TypeError, match="positional"):
            type(router)(*[2] * len(positional), "softmax")


@pytest.mark.parametrize(("router", "name", "wrong"), REFUSED)
def test_a_wrong_option_is_refused_by_its_name(router, name, wrong):
    with pytest.raises(lpr.InputError, match=name):
        replace(router, **{name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("factor", wrong) for wrong in [*NO_NUMBER, 0, -1.0]]
    + [("formula", wrong) for wrong in NAME]
    + [("minimum", wrong) for wrong in [*NO_NUMBER, -1, 1.5]]
    + [("alignment", wrong) for wrong in [*NO_NUMBER, 0, -1, 1.5]],
)
def test_a_wrong_part_of_a_capacity_factor_is_refused_by_its_name(name, wrong):
    with pytest.raises(lpr.InputError, match=name):
        CapacityFactor(**{"factor": 1.0, name: wrong})


LOGITS = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0)).abs()
GIVEN = {"iterations": 8, "rounds": 2, "budget": 2.0, "factor": 2.0, "capacity": 12, "value": 0.25}
"""Values that all number types hold, for options whose present one is None or not such."""


def numbers_of(router):
    """(option, value) of all options that are numbers, the value the same in float32."""
    hints = get_type_hints(type(router))
    for field in fields(router):
        types = types_of(hints[field.name])
        if bool in types or not types & {int, float}:
            continue
        real, value = float in types, GIVEN.get(field.name, getattr(router, field.name))
        if value is None or (real and value != float(np.float32(value))):
            value = 0.5 if real else 1
        yield field.name, value, real


@every_router
def test_numbers_of_every_type_are_the_same_option(router):
    for name, value, real in numbers_of(router):
        plain = replace(router, **{name: value})
        expected = answer(plain, LOGITS)
        others = [np.float64(value), np.float32(value)]
        if not real:
            others = [np.int64(value), np.int32(value), float(value), torch.tensor(value)]
        for other in others:
            given = replace(router, **{name: other})
            taken = answer(given, LOGITS)
            assert torch.equal(taken.x, expected.x), (name, type(other))
            assert torch.equal(taken.weights, expected.weights), (name, type(other))
            assert taken.weights.dtype == expected.weights.dtype
            assert given.causal == plain.causal


def test_a_truth_of_numpy_is_a_truth():
    assert torch.equal(
        Unified(1, serve_all=np.True_)(LOGITS).x, Unified(1, serve_all=True)(LOGITS).x
    )


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
