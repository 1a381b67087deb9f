"""infinity-MoE: sampled experts of a continuum against generated ones, with a bound (O15)."""

import math
from itertools import combinations

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK
from lp_routing.extensions.expert_pruning import best_kept, kept_value, prices_of_kept

TOKENS = 256
"""Tokens of each layer: the check takes 1.6 s on the sample."""
LOADED = 4
"""Experts loaded for a batch, of a continuum of them."""
POOL = 24
"""Experts sampled, or sampled and generated, from which the loaded ones are taken."""
ROUNDS, NEW = 5, 4
"""Rounds of column generation, and columns added in each: with `LOADED` at first `POOL`."""
GRID = 2048
"""Directions at which a round looks for the best expert. Between two of them a score differs by at
most |h| pi / GRID, which the bound adds: 0.6 % of the sum of |h| here, 5 % with 256."""
STEPS = 60
"""Subgradient steps for the prices of a pool."""
TIME_LIMIT_S = 2.0
"""Seconds for a search (HiGHS); a stopped one gives greedy's choice. On the sample none is."""
HUGE = 1e100
"""Largest logit: states are squared."""


def scores_of(states: Tensor, angles: Tensor) -> Tensor:
    """(<h_i, z>)+ for the expert z at each angle, a continuum on the circle; (T, P).

    Args:
        states: (T, 2).
        angles: (P,), radians.
    """
    return (states @ torch.stack([angles.cos(), angles.sin()])).clamp(min=0)


def bound_beyond(prices: Tensor, profits: Tensor, loaded: int, slack: float) -> float:
    """No experts of the continuum, `loaded` of them, are worth more: Lagrange at prices (T,) >= 0.

    Args:
        prices: u, of tokens.
        profits: sum_i (s_i - u_i)+ of experts (P,), of which one is within `slack` of the largest.
        loaded: M.
        slack: what the largest profit may lie above these.
    """
    return float(prices.sum()) + loaded * (float(profits.max()) + slack)


def generated(states: Tensor, angles: Tensor, loaded: int) -> tuple[float, float]:
    """Value of the best loaded experts found by column generation, and a bound on all others'.

    Each round adds the directions of largest profit at the pool's prices that no neighbour on the
    grid exceeds.

    Args:
        states: (T, 2).
        angles: (loaded,), the pool to begin with.
        loaded: M.
    """
    grid = torch.arange(GRID, dtype=torch.float64) * (2 * math.pi / GRID)
    on_grid = scores_of(states, grid)
    slack = float(torch.linalg.vector_norm(states, dim=1).sum()) * math.pi / GRID
    bound = math.inf
    for _ in range(ROUNDS):
        pool = scores_of(states, angles)
        _, prices = prices_of_kept(pool, loaded, 1, steps=STEPS)
        profits = (on_grid - prices[:, None]).clamp(min=0).sum(0)
        bound = min(bound, bound_beyond(prices, profits, loaded, slack))
        peaks = (profits >= profits.roll(1)) & (profits >= profits.roll(-1))
        order = profits.masked_fill(~peaks, -1.0).sort(descending=True, stable=True).indices
        angles = torch.cat([angles, grid[order[:NEW]]])
    return best_of(scores_of(states, angles), loaded), bound


def best_of(pool: Tensor, loaded: int) -> float:
    """The value of the best loaded experts of a pool, scores (T, P)."""
    return best_kept(pool, loaded, 1, time_limit_s=TIME_LIMIT_S).value


def _plane(logits: Tensor) -> Tensor:
    """The logits (T, E) in the plane of their two largest principal directions, (T, 2)."""
    centred = logits - logits.mean(0)
    directions: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    return centred @ directions


def examine(subject: ClaimInput) -> Evidence:
    """Experts on a circle: the best of a sampled pool, of a generated one, and a bound on all."""
    _, T, E = subject.shape
    if E < 2 or T < LOADED or float(subject.logits.abs().max()) > HUGE:
        return Evidence(None, f"Does not apply here: it needs {LOADED} tokens, two logits each.")
    draw = torch.Generator().manual_seed(subject.seed)
    drawn, sampled, made, bounds, agrees = 0.0, 0.0, 0.0, 0.0, True
    for logits in subject.logits[:, :TOKENS].cpu():
        states = _plane(logits)
        at = torch.randint(len(states), (POOL,), generator=draw)  # z near what tokens ask for
        angles = torch.atan2(states[at, 1], states[at, 0])
        pool = scores_of(states, angles)
        first = torch.arange(POOL) < LOADED
        of_sample = best_of(pool, LOADED)
        value, bound = generated(states, angles[:LOADED], LOADED)
        room = SLACK * (1 + abs(bound))
        agrees &= max(of_sample, value) <= bound + room
        drawn += kept_value(pool, first, 1)
        sampled, made, bounds = sampled + of_sample, made + value, bounds + bound
    if bounds == 0:
        return Evidence(None, "Does not apply here: all tokens are alike.")
    sentence = (
        f"Experts on a circle in the plane of the logits' two main directions, {LOADED} loaded: "
        f"{LOADED} sampled ones are worth {100 * drawn / bounds:.3g} % of the bound, the best "
        f"{LOADED} of {POOL} sampled {100 * sampled / bounds:.3g} %, of {POOL} generated by "
        f"{ROUNDS} rounds of pricing {100 * made / bounds:.3g} %."
    )
    numbers: dict[str, Number] = {
        "sampled experts": drawn,
        "best of a sampled pool": sampled,
        "best of a generated pool": made,
        "bound": bounds,
    }
    return Evidence(agrees, sentence, numbers)


def refutes_statement(scores: Tensor) -> str | None:
    """Columns as candidate experts, one loaded: the best is worth more than one drawn."""
    sums = scores.sum(0)
    mean, best = float(sums.mean()), float(sums.max())
    return f"One drawn is worth {mean:g} on average, the best {best:g}." if mean < best else None


def refutes_verdict(scores: Tensor) -> str | None:
    """All columns but the last as the pool: a bound at its prices below some experts' value."""
    scores = scores.clamp(min=0)
    E = scores.shape[1]
    for pool in range(1, E):
        for loaded in range(1, pool + 1):
            _, prices = prices_of_kept(scores[:, :pool], loaded, 1, steps=10)
            profits = (scores - prices[:, None]).clamp(min=0).sum(0)
            bound = bound_beyond(prices, profits, loaded, 0.0)
            best = max(
                float(scores[:, list(some)].amax(1).sum())
                for some in combinations(range(E), loaded)
            )
            if bound < best - SLACK:
                return f"{loaded} of {E}, pool of {pool}: bound {bound:g}, best {best:g}."
    return None


O15 = Claim(
    id="O15",
    title="sampled experts are the best to load",
    statement=(
        "Experts drawn where the tokens' distributions put them are as good as the best that could "
        "be loaded for the batch."
    ),
    formula=(
        "z ~ N(mu(x), Sigma(x)): sum_i max_{j <= M} s(x_i, z_j) = its maximum over z_1, ..., z_M"
    ),
    conditions="",
    source="infinity-MoE 2026, arXiv 2601.17680 (read in a summary; paraphrased)",
    verdict=Verdict.FAILS,
    reason=(
        "Without a shared constraint each token's draws are its own, and there is nothing to "
        "choose. With M experts for the batch it is facility location over a continuum, an LP with "
        "a column for each z. Column generation solves it on a pool and adds the z of largest "
        "profit sum_i (s(x_i, z) - u_i)+ at the pool's prices; sum_i u_i + M times that profit "
        "bounds the value of all experts there are. Sampling knows neither prices nor a bound."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((1, 0),),
        "One token and two candidates worth 1 and 0, one of them loaded: a draw is worth 1/2 on "
        "average, the best 1. At the price u = 1 both have profit 0: no expert is worth more.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O15,)
