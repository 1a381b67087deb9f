"""What Dykstra's algorithm solves for capped expert choice (Zhou et al. 2022): claim O7."""

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Verdict
from lp_routing.claims.helpers import best_by_trial, by_layer, rounding, span
from lp_routing.problem.named import capped_expert_choice
from lp_routing.routers.expert_choice import CappedPlan, capped_plan
from lp_routing.routers.selection import largest
from lp_routing.scores import softmax
from lp_routing.solvers.solve import solve

TOKENS = 256
"""Tokens of each layer: the check takes 0.14 s, and 0.29 s with 1,024 on the sample."""
TEMPERATURE, TINY_TEMPERATURE = 0.05, 1.0
TOLERANCE, TINY_TOLERANCE = 1e-4, 1e-9
"""Temperature of the plan, in units of the scores, and the error of its sums at which it has
converged; the second of each is for small matrices.

A lower temperature brings the plan closer to the optimum and needs more iterations; a lower
tolerance makes its certificate tighter, likewise. At these the four layers of the sample converge.
"""
TURNS = 1000
"""Iterations after which a plan counts as not converged; 100 times as many on small matrices.

More wait longer for plans that do not converge. On 256 tokens of each layer of the sample all plans
converge within 300.
"""
CLEAR = 1e-3
"""Entries of a plan whose ratio is within this of 1 count as tied: a plan is no more precise."""

OF_A_PLAN = 1e-6
"""What numbers of a small plan may be off by: sums in tokens or experts, values in units of score.
With `TINY_TOLERANCE` those of 200 small matrices miss by at most 5e-9."""


def promised(
    scores: Tensor, found: CappedPlan, capacity: int, k: int, temperature: float
) -> tuple[float, float, float]:
    """Value of a plan, that plus temperature * entropy, and a bound without rounding errors.

    Any plan with log P = (s_ij - v_j - z_ij) / temperature - 1, z >= 0 bounds all that keep the
    bounds by temperature * sum P + capacity * sum_j v_j + sum_i (k u_i + sum_j (z_ij - u_i)) for
    u_i from 0 to the least z_ij (Lagrange: u is for the cap on tokens, z - u for entries up to 1).
    Where the plan converged the bound is the second number.
    """
    plan = found.plan
    value = float((scores * plan).sum())
    on_columns = -temperature * (found.potentials + 1)
    on_pairs = (scores - on_columns - temperature * (found.log_plan + 1)).clamp(min=0)
    on_rows = on_pairs.amin(1)
    paid = k * on_rows.sum() + (on_pairs - on_rows[:, None]).sum() + capacity * on_columns.sum()
    promise = value + temperature * float(torch.special.entr(plan).sum())
    return value, promise, temperature * float(plan.sum()) + float(paid)


def examine(subject: ClaimInput) -> Evidence:
    """The plan, its certificate and its rounding on softmax scores of some tokens."""
    k, E = subject.k, subject.shape[2]
    logits = subject.logits[:, :TOKENS]
    L, T, _ = logits.shape
    capacity = T * k // E
    if capacity == 0:
        return Evidence(None, f"{T} tokens of {k} experts each fill no place of {E} experts.")
    allowed, over, below, converged, agrees = [], [], [], 0, True
    for scores in softmax(logits):
        found = capped_plan(scores, capacity, k, TEMPERATURE, TOLERANCE, TURNS)
        problem = capped_expert_choice(scores, capacity, k)
        best, slack = float(solve(problem).value), rounding(float(scores.sum()))
        value, promise, bound = promised(scores, found, capacity, k, TEMPERATURE)
        chosen = largest(found.log_plan.mT, capacity).mT
        allowed.append(bound - value)
        below.append(best - value)
        over.append(int((chosen.sum(1) > k).sum()))
        agrees &= bound >= best - slack
        if bool(found.converged):
            converged += 1
            agrees &= promise >= best - abs(bound - promise) - slack
            agrees &= bool((found.plan.sum(1) <= k * (1 + 2 * TOLERANCE)).all())
    sentence = (
        f"On the first {T} tokens, {capacity} an expert and at most {k} experts a token, "
        f"{converged} of {L} plans converge at temperature {TEMPERATURE}. They are worth "
        f"{span(below)} less than the optimum (softmax mass), of the {span(allowed)} that their "
        f"certificates allow. Column top-{capacity} gives {span(over)} tokens a layer more "
        f"than {k} experts."
    )
    numbers = (
        by_layer("plan below the optimum", below)
        | by_layer("proved bound above the plan", allowed)
        | by_layer("tokens above the cap after rounding", over)
    )
    return Evidence(agrees, sentence, {"plans that converged": converged} | numbers)


def caps(T: int, E: int) -> list[tuple[int, int]]:
    """Capacities C and caps k below E that can be met: E C <= T k."""
    return [(C, k) for k in range(1, E) for C in range(1, T + 1) if T * k >= E * C]


def refutes_statement(scores: Tensor) -> str | None:
    """Column top-C of a plan above the cap, though no column ties at its cut."""
    for capacity, k in caps(*scores.shape):
        if capacity == len(scores):
            continue
        found = capped_plan(scores, capacity, k, TINY_TEMPERATURE, TINY_TOLERANCE, TURNS)
        order = found.plan.sort(dim=0, descending=True).values
        clear = bool((order[capacity - 1] > order[capacity] * (1 + CLEAR)).all())
        taken = largest(found.log_plan.mT, capacity).sum(0)
        if bool(found.converged) and clear and bool((taken > k).any()):
            return f"C={capacity}, at most {k}: tokens end with {taken.tolist()} experts."
    return None


def refutes_verdict(scores: Tensor) -> str | None:
    """A plan that breaks its bounds, or a value and promise that are not around the optimum."""
    T, E = scores.shape
    for capacity, k in caps(T, E):
        found = capped_plan(scores, capacity, k, TINY_TEMPERATURE, TINY_TOLERANCE, 100 * TURNS)
        if not bool(found.converged):
            return f"C={capacity}, at most {k}: no plan within {100 * TURNS} iterations."
        plan = found.plan
        if bool((plan.sum(1) > k + OF_A_PLAN).any()) or bool((plan > 1 + OF_A_PLAN).any()):
            return f"C={capacity}, at most {k}: the plan {plan.tolist()} breaks its bounds."
        if bool(((plan.sum(0) - capacity).abs() > OF_A_PLAN).any()):
            return f"C={capacity}: the plan's column sums are {plan.sum(0).tolist()}."
        value, promise, bound = promised(scores, found, capacity, k, TINY_TEMPERATURE)
        best = best_by_trial(scores, range(k + 1), range(capacity, capacity + 1))
        if (
            best is None
            or not value - OF_A_PLAN <= best <= bound + rounding(best)
            or bound > promise + OF_A_PLAN
        ):
            return (
                f"C={capacity}, at most {k}: the plan is worth {value:g}, promises {promise:g} and "
                f"proves {bound:g}; the optimum is {best}."
            )
    return None


O7 = Claim(
    id="O7",
    title="Dykstra solves capped expert choice",
    statement=(
        "Expert choice with at most k experts per token is solved by Dykstra's algorithm: every "
        "expert then takes its C best tokens of the plan."
    ),
    formula=(
        "P = argmax <s, P> + epsilon H(P) subject to sum_i P_ij = C, sum_j P_ij <= k, "
        "0 <= P <= 1; x_j = top-C of P_j maximises <s, x> subject to the same"
    ),
    conditions="",
    source=(
        "Zhou et al. 2022, arXiv 2202.09368, expert choice with a cap per token; Benamou et al. "
        "2015, section 3 (paraphrased)"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "Dykstra's projections converge to the optimum of the entropic version, a plan in "
        "fractions that keeps both bounds. Column top-C of it keeps the experts' bound only: the "
        "largest entries of many columns can lie in one row. What the plan gives is a certificate: "
        "every whole assignment within the bounds has entropy 0, so none is worth more than "
        "<s, P> + epsilon H(P); and as the LP has a whole optimum and P is feasible in it, the "
        "plan is worth at most that. The gap is at most epsilon H(P) at the end; where the "
        "iteration stops before, Lagrange multipliers read off the plan prove what it allows."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((0, 0, 0), (1, 1, 1)),
        "C = 1, at most 2 experts a token, epsilon = 1. The columns are equal, so are those of the "
        "plan, (1 - b, b). Without the cap b = e / (1 + e) = 0.73, and token 2 would have 2.19 "
        "experts: the cap binds, b = 2/3. Every expert's largest entry is still that of token 2, "
        "which ends with 3 experts. The best is 2, with one expert at token 1; the plan is worth 3 "
        "* 2/3 = 2 as well, of at most 2 + 3 * 0.637 promised.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O7,)
