"""S2MoE: how noise in scores moves the optimum, and which tokens change their experts (O11)."""

from typing import NamedTuple

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK, best_by_trial, by_layer, optimum, rounding, span
from lp_routing.claims.usmoe.rules import pooled_choice, row_choice, worth
from lp_routing.problem.bounds import at_most, exactly
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.problem.problem import RoutingProblem
from lp_routing.scores import softmax

PAPER = (
    "S2MoE, Do et al. 2025, arXiv 2503.23007: Gaussian noise on a token's state, both routed by "
    "the same router (read in a summary; paraphrased)"
)
NOISE = 0.1
"""Standard deviation of the noise: z (1 + n) + n', of logits since a trace has no states.

On the sample token choice changes the experts of 30 to 45 % of the noised tokens with it, and of
3 to 7 % with 0.01.
"""
FACTOR = 1.25
"""Capacity of the optimum over the mean load, the usual one of training runs."""


def largest_sum(noise: Tensor, count: int) -> float:
    """The sum of the `count` largest |D|: by so much the value of N = count pairs may move."""
    return float(noise.abs().flatten().topk(min(count, noise.numel())).values.sum())


def margins(scores: Tensor, prices: Tensor, k: int) -> Tensor:
    """By how much every score of a token may be off before it takes other experts at fixed prices.

    Half of the gap between the k-th and the next of s_ij - price_j: with |D_ij| below it for all j
    the k best stay the same. Equal to min_j |s_ij - price_j - alpha_i| for the token price alpha_i
    in the middle of that gap.

    Args:
        scores: (T, E).
        prices: (E,).
        k: experts per token, below E.

    Returns:
        (T,), >= 0.
    """
    ordered = (scores - prices).topk(k + 1).values
    return (ordered[:, k - 1] - ordered[:, k]) / 2


def noised(logits: Tensor, draw: torch.Generator) -> Tensor:
    """Every second token's logits (T, E), from the first on, times 1 + n, plus n'."""
    times, plus = (
        NOISE * torch.randn(logits.shape, generator=draw, dtype=torch.float64).to(logits.device)
        for _ in range(2)
    )
    every_second = (torch.arange(len(logits), device=logits.device) % 2 == 0)[:, None]
    return torch.where(every_second, logits * (1 + times) + plus, logits)


def moved(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Flips and spill, in per cent: noised tokens, and clean ones, with other experts."""
    other = (before != after).any(-1).double()
    return 100 * float(other[::2].mean()), 100 * float(other[1::2].mean())


class Layer(NamedTuple):
    """One layer: flips and spill of four rules, and what the optimum's value and choice lose."""

    rules: dict[str, tuple[float, float]]
    shift: float
    shift_allowed: float
    lost: float
    lost_allowed: float
    agrees: bool


def examined(logits: Tensor, k: int, draw: torch.Generator) -> Layer:
    """Every second token noised; the optimum has exactly k a token, capacity 1.25 T k / E."""
    T, E = logits.shape
    scores, noisy = softmax(logits), softmax(noised(logits, draw))
    noise, N = noisy - scores, T * k
    cap = at_most(CapacityFactor(FACTOR).of(T, E, k))
    value, best, beta = optimum(RoutingProblem(scores, tokens=exactly(k), experts=cap))
    noisy_value, noisy_best, _ = optimum(RoutingProblem(noisy, tokens=exactly(k), experts=cap))
    chosen = {
        "top-k": (row_choice(scores, k), row_choice(noisy, k)),
        "unified": (pooled_choice(scores, k), pooled_choice(noisy, k)),
        "optimum": (best, noisy_best),
        "fixed prices": (row_choice(scores - beta, k), row_choice(noisy - beta, k)),
    }
    rules = {name: moved(*pair) for name, pair in chosen.items()}
    shift, lost = abs(noisy_value - value), value - worth(scores, noisy_best)
    allowed, twice = largest_sum(noise, N), largest_sum(noise, 2 * N)
    safe = noise.abs().amax(-1) < margins(scores, beta, k) - SLACK
    before, after = chosen["fixed prices"]
    agrees = (
        shift <= allowed + rounding(value)
        and lost <= twice + rounding(value)
        and bool((before == after)[safe].all())
        and rules["top-k"][1] == rules["fixed prices"][1] == 0
    )
    return Layer(rules, shift, allowed, lost, twice, agrees)


def _layers(subject: ClaimInput) -> list[Layer] | None:
    """All layers; None without a choice, or with one token."""
    _, T, E = subject.shape
    if subject.k == E or T < 2:
        return None
    draw = torch.Generator().manual_seed(subject.seed)
    return [examined(logits, subject.k, draw) for logits in subject.logits]


NO_CHOICE = Evidence(None, "One token, or every token takes every expert: nothing can move.")


def examine_value(subject: ClaimInput) -> Evidence:
    """The optimum with capacity on clean and on noisy scores."""
    layers = _layers(subject)
    if layers is None:
        return NO_CHOICE
    percent = [100 * layer.lost / (layer.lost_allowed or 1) for layer in layers]
    sentence = (
        f"Every second token noised by {NOISE:g}: the optimum at capacity factor {FACTOR:g} moves "
        f"by {span([layer.shift for layer in layers])} where at most "
        f"{span([layer.shift_allowed for layer in layers])} is allowed; routing by the noisy "
        f"scores loses {span([layer.lost for layer in layers])} on the clean ones, "
        f"{span(percent)} % of what is allowed."
    )
    numbers: dict[str, Number] = {}
    for name in ("shift", "shift_allowed", "lost", "lost_allowed"):
        numbers |= by_layer(name.replace("_", ", "), [getattr(layer, name) for layer in layers])
    return Evidence(all(layer.agrees for layer in layers), sentence, numbers)


def examine_spill(subject: ClaimInput) -> Evidence:
    """Flips and spill of token choice, unified, the optimum, and the optimum's prices, fixed."""
    layers = _layers(subject)
    if layers is None:
        return NO_CHOICE
    numbers: dict[str, Number] = {}
    said = []
    for rule in layers[0].rules:
        flips, spills = zip(*(layer.rules[rule] for layer in layers), strict=True)
        numbers |= by_layer(f"% flips, {rule}", flips) | by_layer(f"% spill, {rule}", spills)
        said.append(f"{rule} {span(flips)} and {span(spills)}")
    sentence = (
        f"Every second token noised by {NOISE:g}: of the noised tokens, and of the clean ones, "
        f"these per cents change experts: {'; '.join(said)}."
    )
    return Evidence(all(layer.agrees for layer in layers), sentence, numbers)


def refutes_value(scores: Tensor) -> str | None:
    """With running sums of a row as its noisy scores: a value or a loss beyond its bound."""
    T, E = scores.shape
    noisy = scores.cumsum(1) - 1
    for k in range(1, E + 1):
        N, noise = T * k, noisy - scores
        rows, loads = range(k, k + 1), range(-(-N // E) + 1)
        for rule, best in (("top-k", row_choice), ("unified", pooled_choice)):
            optimum, other = worth(scores, best(scores, k)), worth(noisy, best(noisy, k))
            if abs(optimum - other) > largest_sum(noise, N):
                return f"k={k}, {rule}: the value moves from {optimum:g} to {other:g}."
            if optimum - worth(scores, best(noisy, k)) > largest_sum(noise, 2 * N):
                return f"k={k}, {rule}: the noisy choice loses more than allowed."
        full, other_full = (best_by_trial(s, rows, loads) or 0.0 for s in (scores, noisy))
        if abs(full - other_full) > largest_sum(noise, N):
            return f"k={k}, capacity: the value moves from {full:g} to {other_full:g}."
    return None


def refutes_spill_statement(scores: Tensor) -> str | None:
    """K = 1 and 2 added to all scores of the last token: another token's experts change."""
    T, E = scores.shape
    if T < 2 or E < 2:
        return None
    noisy = scores.clone()
    noisy[-1] += 2
    before, after = pooled_choice(scores, 1), pooled_choice(noisy, 1)
    for each in (scores, noisy):
        last, following = each.flatten().topk(T + 1).values[-2:]
        if last == following:
            return None  # tied: which of them is taken says nothing
    lost = (before & ~after)[:-1].nonzero().tolist()
    return None if not lost else f"Token {lost[0][0]} loses expert {lost[0][1]} to the last token."


def refutes_spill_verdict(scores: Tensor) -> str | None:
    """Fixed prices: a clean token that moves, or a noised one that moves within its margin."""
    E = scores.shape[1]
    prices = torch.arange(E).to(scores) / 2
    for k in range(1, E):
        before, room = row_choice(scores - prices, k), margins(scores, prices, k)
        for size in (0.25, 0.5, 1.0):
            noise = size * (1 - 2 * before.double())  # against every choice of every token
            after = row_choice(scores + noise - prices, k)
            if bool((before != after)[room > size].any()):
                return f"k={k}: noise of {size:g} moves a token whose margin is larger."
            noise[:-1] = 0
            if bool((before != row_choice(scores + noise - prices, k))[:-1].any()):
                return f"k={k}: a clean token moves."
    return None


O11A = Claim(
    id="O11a",
    title="noise moves the optimum by at most N eps",
    statement=(
        "Where every score is off by at most eps, the optimal value of N pairs moves by at most "
        "N eps, and routing by the noisy scores loses at most 2 N eps."
    ),
    formula=(
        "|V(S + D) - V(S)| <= sum of the N largest |D_ij| <= N eps; "
        "<S, x(S + D)> >= V(S) - sum of the 2 N largest |D_ij|"
    ),
    conditions="",
    source=f"{PAPER}; the bounds are ours, for every problem whose assignments have N pairs",
    verdict=Verdict.HOLDS,
    reason=(
        "The feasible assignments are the same for S and S + D, and on each of them the two values "
        "differ by <D, x>, a sum of N entries of D; so do the two maxima. The choice x' made on "
        "S + D is worth there at least as much as the best x of S, so on S it lies below by "
        "<D, x' - x> at most, which has 2 N entries."
    ),
    examine=examine_value,
    refutes_verdict=refutes_value,
    forbidden_too=True,
)

O11B = Claim(
    id="O11b",
    title="noise stays with its tokens",
    statement="Noise on some tokens leaves the experts of all other tokens as they are.",
    formula="D_i = 0 implies x_i(S + D) = x_i(S)",
    conditions=(
        "tokens choose one by one: by their own scores, or at prices, biases or a threshold fixed "
        "in advance"
    ),
    source=PAPER,
    verdict=Verdict.CONDITIONAL,
    reason=(
        "A rule that compares tokens (a pool, expert choice, capacity, an optimum with shared "
        "bounds) gives a noised token a place that a clean one loses: noise spills over. At fixed "
        "prices x_i depends on row i alone, so nothing spills, and a noised token keeps its "
        "experts while its noise is below half the gap between its k-th and next reduced score. "
        "So a pool adds spill to the flips that noise makes under every rule."
    ),
    examine=examine_spill,
    counterexample=Counterexample(
        ((1, 0), (1, 0)),
        "K = 1, a pool of N = 2 pairs: it holds both ones, and each token has expert 1. Noise adds "
        "2 to the scores of token 2, which become (3, 2): the pool holds these two, and token 1, "
        "whose scores are as before, has lost its expert.",
    ),
    refutes_statement=refutes_spill_statement,
    refutes_verdict=refutes_spill_verdict,
    forbidden_too=True,
)

CLAIMS: tuple[Claim, ...] = (O11A, O11B)
