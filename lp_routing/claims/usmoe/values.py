"""USMoE: the value of the best pairs, by the budget LP and by other rules (B1, B2, B9).

What the best pairs of a pool are worth (B1, B2); token choice and expert choice as cases of one
linear program (B9).
"""

from fractions import Fraction

from torch import Tensor

from lp_routing.certificate.certificate import Certificate, certify
from lp_routing.certificate.prices import Prices
from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import SLACK, best_by_trial, by_layer, rounding, share_above, span
from lp_routing.claims.usmoe.rules import (
    CODE,
    PAPER,
    budget_optimum,
    column_choice,
    cut_of,
    pooled_choice,
    row_choice,
    worth,
)
from lp_routing.problem.bounds import at_most
from lp_routing.problem.named import expert_choice, token_choice
from lp_routing.problem.named import unified as unified_problem
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.selection import largest
from lp_routing.scores import softmax, unified

CERTAIN = 1e-9
"""Sums of a few softmax scores that differ by more than this differ beyond rounding."""


def top_of_pool(scores: Tensor, total: int) -> Tensor:
    """The `total` largest of all scores, boolean (T, E)."""
    return largest(scores.flatten(), total).view_as(scores)


def examine_budget(subject: ClaimInput) -> Evidence:
    """Top-N certified with the N-th score as price, for = N and for <= N, unified and raw."""
    L, T, _ = subject.shape
    N, agrees, gaps, lost, cuts = subject.k * T, True, [], [], []
    for logits in subject.logits:
        for scores in (unified(logits), logits):
            x, cut = pooled_choice(scores, subject.k), cut_of(scores, N)
            used_up = certify(unified_problem(scores, N), x, Prices(total=cut))
            agrees &= used_up.proves_optimal(CERTAIN)
            gaps.append(abs(used_up.relative_gap))
            budget = RoutingProblem(scores, total=at_most(N))
            gap = float(certify(budget, x, Prices(total=max(cut, 0.0))).gap)
            # with a cut below 0 the LP leaves out the negative scores, and gains exactly these
            negative = float(-scores[x].clamp(max=0).sum())
            agrees &= abs(gap - negative) <= rounding(float(scores[x].abs().sum()))
        lost.append(negative)
        cuts.append(cut)
    broken = sum(cut < 0 for cut in cuts)
    sentence = (
        f"With a budget of exactly {N} pairs top-N is proved optimal on all scores (largest "
        f"relative gap {max(gaps):.1g}). With at most {N} the unified score loses nothing; on raw "
        f"logits the N-th is {span(cuts)}, and top-N loses {span(lost)}: it breaks here on "
        f"{broken} of {L} layers."
    )
    numbers = by_layer("N-th raw logit", cuts) | by_layer("lost by top-N, raw, <= N", lost)
    return Evidence(bool(agrees), sentence, {"N": N} | numbers)


def refutes_statement_on_budget(scores: Tensor) -> str | None:
    """A budget whose LP is worth more than the floor(N) largest scores; exact on whole numbers."""
    for halves in range(2 * scores.numel() + 1):
        N = Fraction(halves, 2)
        top = Fraction(worth(scores, top_of_pool(scores, int(N))))
        best = budget_optimum(scores, N, used_up=False)
        if best > top:
            return f"At most N={N} pairs: top-N is worth {top}, the LP {best}."
    return None


def refutes_verdict_on_budget(scores: Tensor) -> str | None:
    """Top-N that misses the LP for = N, or for <= N though the N-th score is not negative."""
    for N in range(1, scores.numel() + 1):
        top = Fraction(worth(scores, top_of_pool(scores, N)))
        for used_up in (True, False):
            if not used_up and cut_of(scores, N) < 0:
                continue
            best = budget_optimum(scores, N, used_up=used_up)
            if best != top:
                return f"{'=' if used_up else '<='} {N}: top-N is worth {top}, the LP {best}."
    for k in range(1, scores.shape[1] + 1):
        ours = worth(scores, pooled_choice(scores, k))
        if budget_optimum(scores, k * scores.shape[0], used_up=True) != Fraction(ours):
            return f"k={k}: the router keeps {ours:g}, less or more than its LP."
    return None


B1 = Claim(
    id="B1",
    rows_alone=True,
    title="top-N solves the budget LP",
    statement="The N largest of all T E scores solve the linear program with a budget of N pairs.",
    formula="top-N of s = argmax { <s, x> : sum_ij x_ij <= N (or = N), 0 <= x <= 1 }, any s and N",
    conditions="N is a whole number, and the budget is = N or the N-th largest score is >= 0.",
    source=f"{PAPER}, the unified mechanism and its proof of optimality; {CODE}",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "With the N-th score p as the price of a pair, the bound p N + sum (s - p)+ is the sum of "
        "the N largest: weak duality proves them optimal. For <= N a price must not be negative. "
        "If p < 0 the bound at price 0 is the sum of the positive scores, so the LP stops early "
        "and top-N pays for the negative ones it adds. A fraction of N buys that fraction of the "
        "next pair, which no whole choice can."
    ),
    examine=examine_budget,
    counterexample=Counterexample(
        ((2, -1),),
        "Raw logits of one token. N = 2 with <=: top-2 keeps 2 - 1 = 1, the LP takes the first "
        "pair alone, 2. And N = 1/2: the LP takes half of the first pair, 1; top-0 takes nothing.",
    ),
    refutes_statement=refutes_statement_on_budget,
    refutes_verdict=refutes_verdict_on_budget,
)


def examine_order(subject: ClaimInput) -> Evidence:
    """Unified, token and expert choice by the same score, and across scores."""
    L, T, E = subject.shape
    k, capacity = subject.k, subject.k * T // E
    agrees, more, across, columns = True, [], [], []
    for logits in subject.logits:
        mass, both = softmax(logits), unified(logits)
        for scores in (mass, both):
            pooled, row = (worth(scores, rule(scores, k)) for rule in (pooled_choice, row_choice))
            column = worth(scores, column_choice(scores, capacity))
            same = worth(scores, top_of_pool(scores, capacity * E))
            slack = rounding(pooled)
            agrees &= pooled >= row - slack and same >= column - slack
            if scores is mass:
                more.append(share_above(pooled, row))
                columns.append(share_above(same, column) if column else 0.0)
        held = worth(mass, pooled_choice(both, k))
        across.append(share_above(held, worth(mass, row_choice(mass, k))))
    broken = sum(share < 0 for share in across)
    sentence = (
        f"By the softmax score unified holds {span(more)} % more than token choice with k={k} and "
        f"{span(columns)} % more than expert choice with C={capacity}, at their own budgets. "
        f"Chosen by the unified score it holds {span(across)} % more softmax mass than token "
        f"choice: breaks here on {broken} of {L} layers."
    )
    numbers = (
        by_layer("% above token choice, same score", more)
        | by_layer("% above expert choice, same score", columns)
        | by_layer("% above token choice in softmax, chosen by unified score", across)
    )
    return Evidence(bool(agrees), sentence, numbers)


def refutes_statement_on_order(logits: Tensor) -> str | None:
    """Logits on which the unified score's choice holds less softmax mass than token choice."""
    mass, both = softmax(logits), unified(logits)
    for k in range(1, logits.shape[1]):
        held, row = worth(mass, pooled_choice(both, k)), worth(mass, row_choice(mass, k))
        if held < row - CERTAIN:
            return f"k={k}: unified's choice holds softmax mass {held:.3f}, token choice {row:.3f}."
    return None


def refutes_verdict_on_order(scores: Tensor) -> str | None:
    """One score, by which row top-K or column top-C is worth more than the same number of pairs."""
    T, E = scores.shape
    for k in range(1, E + 1):
        pooled, row = (worth(scores, rule(scores, k)) for rule in (pooled_choice, row_choice))
        if pooled < row:
            return f"k={k}: unified keeps {pooled:g}, token choice {row:g}."
    for C in range(1, T + 1):
        pooled = worth(scores, top_of_pool(scores, C * E))
        column = worth(scores, column_choice(scores, C))
        by_router = worth(scores, pooled_choice(scores, C * E // T)) if C * E % T == 0 else pooled
        if min(pooled, by_router) < column:
            return f"C={C}: unified keeps {min(pooled, by_router):g}, expert choice {column:g}."
    return None


B2 = Claim(
    id="B2",
    title="unified beats token and expert choice",
    statement=(
        "At the same number of pairs the unified choice holds at least as much score as token "
        "choice and as expert choice."
    ),
    formula="N = T K = E C: <s, top-N(u)> >= <s, row top-K(s)> and >= <s, column top-C(s)>",
    conditions="The choice and the comparison use the same score, u = s.",
    source=f"{PAPER}, the unified mechanism against token choice and expert choice",
    verdict=Verdict.CONDITIONAL,
    reason=(
        "Token choice and expert choice take N pairs each, so both are feasible in the LP whose "
        "only bound is the budget, and top-N is its optimum (B1). That is an order of values, by "
        "the score that is maximised. Chosen by u = (softmax + 2 sigmoid / E) / 2 and measured by "
        "the softmax nothing of the kind follows: a token whose logits are all large takes places "
        "from one whose softmax is sharp but whose logits are small."
    ),
    examine=examine_order,
    counterexample=Counterexample(
        ((2, 2), (-2, -4)),
        "Logits, K = 1, N = 2. Softmax rows are (.5, .5) and (.881, .119), sigmoids (.881, .881) "
        "and (.119, .018); with E = 2 the unified score is their mean, (.690, .690) and (.500, "
        ".069). Both places go to token 1: softmax mass 1. Token choice holds .5 + .881 = 1.381.",
    ),
    refutes_statement=refutes_statement_on_order,
    refutes_verdict=refutes_verdict_on_order,
    forbidden_too=True,
)


def by_own_rows(scores: Tensor, k: int) -> Certificate:
    """Row top-k by the LP with rows = k; the price of each token's row suffices."""
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


def examine_special_cases(subject: ClaimInput) -> Evidence:
    """Both rules certified by their own rows or columns, then compared under the budget alone."""
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
            agrees &= there.keeps_bounds() and there.relative_gap >= -SLACK
            lost.append(round(100 * there.relative_gap, 9) + 0.0)  # no -0
    sentence = (
        f"By the unified score: with rows = {k}, columns = {capacity} and a budget the one LP is "
        f"solved, with proof, by row top-k, column top-C and top-N. With the budget alone token "
        f"choice is feasible {span(rows)} % below the optimum and expert choice "
        f"{span(columns)} %: breaks here on "
        f"{sum(max(pair) > 100 * SLACK for pair in zip(rows, columns, strict=True))} of {L} layers."
    )
    numbers = by_layer("% token choice is below the budget LP", rows) | by_layer(
        "% expert choice is below the budget LP", columns
    )
    return Evidence(bool(agrees), sentence, numbers)


def refutes_statement_on_special_cases(scores: Tensor) -> str | None:
    """Token choice or expert choice worth less than as many pairs of the pool."""
    T, E = scores.shape
    named = [(f"token choice, k={k}", row_choice(scores, k)) for k in range(1, E)]
    named += [(f"expert choice, C={C}", column_choice(scores, C)) for C in range(1, T)]
    for name, chosen in named:
        best = top_of_pool(scores, int(chosen.sum()))
        if worth(scores, chosen) < worth(scores, best):
            return (
                f"{name} is worth {worth(scores, chosen):g}, the {int(chosen.sum())} best pairs "
                f"{worth(scores, best):g}."
            )
    return None


def refutes_verdict_on_special_cases(scores: Tensor) -> str | None:
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
    examine=examine_special_cases,
    counterexample=Counterexample(
        ((3, 2), (1, 0)),
        "K = 1: token choice takes 3 and 1, 4 in all. With the budget N = 2 alone the two largest "
        "are 3 and 2, both of token 1: 5.",
    ),
    refutes_statement=refutes_statement_on_special_cases,
    refutes_verdict=refutes_verdict_on_special_cases,
    forbidden_too=True,
)
