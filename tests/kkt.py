"""The four conditions of optimality, each as the largest amount by which it is broken."""

import torch

import lp_routing as lpr
from lp_routing.certificate.prices import clipped, pair_prices


def primal_feasibility(problem, x):
    """Bounds and 0 <= x <= m, checked from scratch, row by row."""
    x = x.double()
    worst = [0.0, float((-x).max()), float((x - problem.copies()[:, None]).max())]
    worst.append(float(x.masked_fill(problem.allowed, 0).abs().max()))
    for family in problem.families:
        counted = _counted(problem, family, x)
        worst += [float((counted - family.upper).max()), float((family.lower - counted).max())]
    return max(worst)


def dual_sign(problem, prices):
    """A price is positive only where there is an upper bound, negative only where a lower one."""
    worst = [0.0]
    for family, price in _priced(problem, prices):
        worst.append(float(price[~family.upper.isfinite()].clamp(min=0).sum()))
        absent = torch.isinf(family.lower) if family.kind == "row" else family.lower == 0
        worst.append(float((-price[absent]).clamp(min=0).sum()))
    return max(worst)


def complementarity(problem, x, prices):
    """A constraint with a price is met with equality: price * slack, the largest."""
    worst = [0.0]
    for family, price in _priced(problem, prices):
        counted = _counted(problem, family, x.double())
        above = torch.where(price > 0, price * (family.upper - counted).nan_to_num(), 0.0)
        below = torch.where(price < 0, -price * (counted - family.lower).nan_to_num(), 0.0)
        worst += [float(above.abs().max()), float(below.abs().max())]
    return max(worst)


def stationarity(problem, x, prices):
    """Pairs that earn more than nothing are full, pairs that earn less are empty."""
    paid = pair_prices(problem, clipped(problem, prices)).of(slice(0, problem.T))
    slot = lpr.token_prices(problem, prices)
    earned = problem.scores.double() - paid - slot[:, None]
    earned = earned.masked_fill(~problem.allowed, 0)
    room = problem.copies()[:, None] - x.double()
    lost = earned.clamp(min=0) * room + (-earned).clamp(min=0) * x.double()
    return float(lost.max())


def _priced(problem, prices):
    given = {
        "token": lpr.token_prices(problem, prices),
        "expert": prices.experts,
        "total": torch.tensor([prices.total], dtype=torch.float64),
        "token_group": prices.token_groups,
        "expert_group": prices.expert_groups,
        "row": prices.rows,
    }
    for family in problem.families:
        price = given[family.kind]
        assert price is not None, f"no prices for {family.kind}"
        yield family, price


def _counted(problem, family, x):
    if family.kind == "total":
        return x.sum().reshape(1)
    if family.kind == "row":
        dense = torch.from_numpy(family.weights.matrix().toarray())
        return dense @ x.reshape(-1)
    per = x.sum(1) if family.kind.startswith("token") else x.sum(0)
    if family.members is None:
        return per
    return torch.stack([per[row].sum() for row in family.members])
