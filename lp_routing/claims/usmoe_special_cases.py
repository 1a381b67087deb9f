"""USMoE: token choice and expert choice as cases of one linear program (B9)."""

from torch import Tensor

from lp_routing.certificate.certificate import Certificate, certify
from lp_routing.certificate.prices import Prices
from lp_routing.claims.by_trial import best_by_trial
from lp_routing.claims.claim import Claim, Counterexample, Evidence, Subject, Verdict
from lp_routing.claims.layers import by_layer, span
from lp_routing.claims.usmoe_rules import (
    PAPER,
    column_choice,
    cut_of,
    pooled_choice,
    row_choice,
    worth,
)
from lp_routing.problem.named import expert_choice, token_choice
from lp_routing.problem.named import unified as unified_problem
from lp_routing.routers.selection import largest
from lp_routing.scores import unified


def by_own_rows(scores: Tensor, k: int) -> Certificate:
    """Row top-k by the LP with rows = k; no price is needed, each token's own suffices."""
    return certify(token_choice(scores, k), row_choice(scores, k), Prices())


def by_own_columns(scores: Tensor, capacity: int) -> Certificate:
    """Column top-C by the LP with columns = C, at the price of each expert's C-th score."""
    price = scores.topk(capacity, dim=0).values[-1]
    chosen = column_choice(scores, capacity)
    return certify(expert_choice(scores, capacity), chosen, Prices(experts=price))


def by_budget(scores: Tensor, chosen: Tensor) -> Certificate:
    """A choice by the LP whose only bound is the number of pairs it takes."""
    N = int(chosen.sum())
    return certify(unified_problem(scores, N), chosen, Prices(total=cut_of(scores, N)))


def examine(subject: Subject) -> Evidence:
    """Both rules certified by their own rows or columns, then held against the budget alone."""
    L, T, E = subject.shape
    k, agrees = subject.k, True
    capacity = max(1, k * T // E)
    rows: list[float] = []
    columns: list[float] = []
    for logits in subject.logits:
        scores = unified(logits)
        own = (by_own_rows(scores, k), by_own_columns(scores, capacity))
        pool = by_budget(scores, pooled_choice(scores, k))
        agrees &= all(each.proves_optimal() for each in (*own, pool))
        for lost, chosen in (
            (rows, row_choice(scores, k)),
            (columns, column_choice(scores, capacity)),
        ):
            there = by_budget(scores, chosen)
            agrees &= there.keeps_bounds() and there.relative_gap >= -1e-9
            lost.append(round(100 * there.relative_gap, 9) + 0.0)  # no -0
    sentence = (
        f"By the unified score: with rows = {k}, columns = {capacity} and a budget the one LP is "
        f"solved, with proof, by row top-k, column top-C and top-N. With the budget alone token "
        f"choice is feasible {span(rows)} % below the optimum and expert choice "
        f"{span(columns)} %: breaks here on "
        f"{sum(max(pair) > 1e-7 for pair in zip(rows, columns, strict=True))} of {L} layers."
    )
    numbers = by_layer("% token choice is below the budget LP", rows) | by_layer(
        "% expert choice is below the budget LP", columns
    )
    return Evidence(bool(agrees), sentence, numbers)


def breaks(scores: Tensor) -> str | None:
    """Token choice or expert choice worth less than as many pairs of the pool."""
    T, E = scores.shape
    named = [(f"token choice, k={k}", row_choice(scores, k)) for k in range(1, E)]
    named += [(f"expert choice, C={C}", column_choice(scores, C)) for C in range(1, T)]
    for name, chosen in named:
        best = largest(scores.flatten(), int(chosen.sum())).view_as(scores)
        if worth(scores, chosen) < worth(scores, best):
            return (
                f"{name} is worth {worth(scores, chosen):g}, the {int(chosen.sum())} best pairs "
                f"{worth(scores, best):g}."
            )
    return None


def betrays(scores: Tensor) -> str | None:
    """Row top-k or column top-C that is not best for its own rows or columns."""
    T, E = scores.shape
    for k in range(1, E + 1):
        found = worth(scores, row_choice(scores, k))
        if found != best_by_trial(scores, range(k, k + 1), range(T + 1)):
            return f"rows = {k}: row top-k is worth {found:g}, which is not the optimum."
    for C in range(1, T + 1):
        found = worth(scores, column_choice(scores, C))
        if found != best_by_trial(scores.mT, range(C, C + 1), range(E + 1)):
            return f"columns = {C}: column top-C is worth {found:g}, which is not the optimum."
    return None


B9 = Claim(
    id="B9",
    title="one LP holds token and expert choice",
    statement="Token choice and expert choice are special cases of one linear program.",
    formula="row top-K and column top-C are optima of max <s, x>, 0 <= x <= 1, under bounds",
    conditions=(
        "The program has bounds on tokens and on experts; with the budget "
        "alone both are feasible, not optimal."
    ),
    source=f"{PAPER}, the linear program of a sparse mixture",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "With rows = K alone the tokens are K-row problems of their own, solved by row top-K; "
        "with columns = C alone the same holds of the experts, proved by each one's C-th score as "
        "its price. With sum x = N alone the optimum is top-N, and any N pairs are feasible: "
        "token choice and expert choice among them, optimal only where they happen to hold the N "
        "largest scores."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((3, 2), (1, 0)),
        "K = 1: token choice takes 3 and 1, 4 in all. With the budget N = 2 alone the two largest "
        "are 3 and 2, both of token 1: 5.",
    ),
    breaks=breaks,
    betrays=betrays,
    forbidden_too=True,
)
