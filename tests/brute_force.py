"""The optimum by trying every whole-number assignment: no cleverness, an oracle for T <= 6."""

from itertools import product

import numpy as np


def best_value(problem):
    """The largest value of a feasible whole assignment, -inf where there is none."""
    scores = problem.scores.double().numpy()
    copies = problem.copies().numpy().astype(int)
    lower, upper = (bound.numpy() for bound in problem.token_bounds())
    rows = []
    for i in range(problem.T):
        amounts = [range(copies[i] + 1) if s > -np.inf else (0,) for s in scores[i]]
        fits = [x for x in product(*amounts) if lower[i] <= sum(x) <= upper[i]]
        rows.append(np.array(fits).reshape(-1, problem.E))
    # all that the other constraints see: loads, and what each token group takes
    state = {_empty(problem): 0.0}
    for i, choices in enumerate(rows):
        following = {}
        for (loads, groups), value in state.items():
            for x in choices:
                key = _after(problem, loads, groups, i, x)
                worth = value + float((x * np.where(x > 0, scores[i], 0)).sum())
                if worth > following.get(key, -np.inf):
                    following[key] = worth
        state = following
    return max((v for key, v in state.items() if _holds(problem, *key)), default=-np.inf)


def _empty(problem):
    groups = problem.family("token_group")
    return (0,) * problem.E, (0,) * (0 if groups is None else len(groups))


def _after(problem, loads, groups, i, x):
    family = problem.family("token_group")
    taken = int(x.sum())
    if family is not None:
        groups = tuple(g + taken * bool(family.members[row, i]) for row, g in enumerate(groups))
    return tuple(load + int(n) for load, n in zip(loads, x, strict=True)), groups


def _holds(problem, loads, groups):
    for family in problem.families:
        if family.kind == "token":
            continue
        if family.kind == "expert_group":
            counted = [sum(loads[j] for j in row.nonzero().flatten()) for row in family.members]
        else:
            counted = {"expert": loads, "total": [sum(loads)], "token_group": groups}[family.kind]
        for n, low, high in zip(counted, family.lower, family.upper, strict=True):
            if not low <= n <= high:
                return False
    return True
