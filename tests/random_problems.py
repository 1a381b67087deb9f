"""Random routing problems of every kind of bound, for solvers that must agree."""

import numpy as np
import torch

import lp_routing as lpr

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def random_scores(rng, T, E):
    """Normal, integer, 0/1, equal, heavy-tailed, rounded, negative, subnormal; some forbidden."""
    kinds = (
        lambda: rng.normal(size=(T, E)),
        lambda: rng.integers(0, 3, (T, E)).astype(float),
        lambda: rng.integers(0, 2, (T, E)).astype(float),
        lambda: np.ones((T, E)),
        lambda: np.clip(rng.standard_cauchy((T, E)), -1e4, 1e4),
        lambda: np.round(rng.normal(size=(T, E)), 1),
        lambda: -np.abs(rng.normal(size=(T, E))),
        lambda: rng.integers(0, 50, (T, E)) * 5e-324,
    )
    kind = int(rng.integers(len(kinds)))
    scores = kinds[kind]()
    if rng.random() < 0.3:
        scores[rng.random((T, E)) < 0.25] = -np.inf
    dtype = torch.float64 if kind == 7 else DTYPES[int(rng.integers(len(DTYPES)))]
    return torch.as_tensor(scores).to(dtype)


def random_bound(rng, most):
    """One of the four words, on numbers up to `most`."""
    a, b = (int(n) for n in rng.integers(0, int(most) + 1, 2))
    words = (
        lpr.at_most(b),
        lpr.at_least(min(a, most // 2)),
        lpr.between(min(a, b), max(a, b)),
        lpr.exactly(b),
    )
    return words[int(rng.integers(4))]


def nested_groups(rng, n):
    """Groups of 0..n-1 that are nested or disjoint, two levels deep."""
    groups = []

    def split(members, depth):
        if depth == 0 or len(members) < 2:
            return
        for part in np.array_split(rng.permutation(members), int(rng.integers(1, 4))):
            if len(part) and rng.random() < 0.7:
                groups.append(np.sort(part))
                split(part, depth - 1)

    split(np.arange(n), 2)
    return groups


def random_problem(seed, most_tokens=13, most_experts=6):
    """Scores and bounds of one problem; None where the bounds are refused at once."""
    rng = np.random.default_rng(seed)
    T, E = int(rng.integers(1, most_tokens + 1)), int(rng.integers(1, most_experts + 1))
    scores = random_scores(rng, T, E)
    bounds, copies = {}, np.ones(T, int)
    if rng.random() < 0.35:
        copies = rng.integers(1, 5, T)
        bounds["multiplicity"] = copies
    units = int(copies.sum())
    pairs = min(units * E, 2 * units)
    low, high = np.sort(rng.integers(0, E + 1, (2, T)), axis=0) * copies
    word = rng.random()
    if word < 0.3:
        bounds["tokens"] = lpr.exactly((int(rng.integers(0, E + 1)) * copies).tolist())
    elif word < 0.5:
        bounds["tokens"] = lpr.at_most((int(rng.integers(0, E + 1)) * copies).tolist())
    elif word < 0.6:
        bounds["tokens"] = lpr.at_least((int(rng.integers(0, 2)) * copies).tolist())
    elif word < 0.8:  # not whole multiples of the copies
        bounds["tokens"] = lpr.between(low.tolist(), (high + rng.integers(0, 2, T)).tolist())
    word, share = rng.random(), pairs // E
    if word < 0.4:
        bounds["experts"] = lpr.at_most(int(rng.integers(max(1, share // 2), 2 * share + 2)))
    elif word < 0.75:
        least = rng.integers(0, share + 1, E)
        bounds["experts"] = lpr.between(least.tolist(), (least + rng.integers(0, 4, E)).tolist())
    if rng.random() < 0.3:
        bounds["total"] = random_bound(rng, pairs)
    for name, n, weight in (("expert_groups", E, units), ("token_groups", T, min(E, 2))):
        groups = nested_groups(rng, n) if rng.random() < 0.3 else []
        if groups:
            sizes = [int(copies[g].sum()) if n == T and name[0] == "t" else len(g) for g in groups]
            bounds[name] = [
                lpr.Group(g.tolist(), random_bound(rng, min(pairs, weight * size)), str(at))
                for at, (g, size) in enumerate(zip(groups, sizes, strict=True))
            ]
    try:
        return lpr.RoutingProblem(scores, **bounds)
    except lpr.InputError:
        return None
