"""What a balanced assignment must keep, and whether there is one: for routers that seek it."""

import math

import torch

import lp_routing as lpr
from tests.brute_force import best_value

NEVER = float("-inf")


def tied(*shape, seed=0, dtype=torch.float32, forbidden=0.0):
    """Whole numbers from 0 to 3, many of them equal, some forbidden."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, shape, generator=draw).to(dtype)
    return values.masked_fill(torch.rand(shape, generator=draw) < forbidden, NEVER)


def distinct(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stated(scores, k, capacity=None):
    """The problem of k experts a token and equal loads, or at most `capacity` tokens an expert."""
    if capacity is None:
        return lpr.problems.balanced(scores, k)
    return lpr.RoutingProblem(scores, tokens=lpr.exactly(k), experts=lpr.at_most(capacity))


def optimum(scores, k, capacity=None):
    """The best value by trying everything; -inf where there is no assignment."""
    try:
        return best_value(stated(scores, k, capacity))
    except lpr.InputError:  # a token with nowhere to go
        return NEVER


def broken(x, scores, k, capacity=None):
    """What an assignment of scores (T, E) breaks; tokens forbidden throughout are padding."""
    real = (scores > NEVER).any(-1)
    share = int(real.sum()) * k / scores.shape[-1]
    low, high = (math.floor(share), math.ceil(share)) if capacity is None else (0, capacity)
    load = x.sum(-2)
    checks = {
        "forbidden": not (x & (scores == NEVER)).any(),
        "experts per token": bool((x.sum(-1) == k * real).all()),
        "too full": bool((load <= high).all()),
        "too empty": bool((load >= low).all()),
    }
    return [name for name, holds in checks.items() if not holds]
