"""VQMoE: the nearest code as token choice with a bias, and what a balanced codebook costs (O12)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices
from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK, by_layer, optimum, share_above, span
from lp_routing.claims.usmoe.rules import row_choice
from lp_routing.claims.usmoe.score import percent
from lp_routing.problem.named import balanced, token_choice

PAPER = "VQMoE, Do et al. 2024, arXiv 2411.19402"
CODE = "code: giangdip2410/VQMoE (a token's expert is its nearest code)"
TOKENS = 512
"""Tokens of each layer: the check takes 0.4 s, and 1.0 s with 1,024 on the sample."""
ROUNDS = 5
"""Rounds of assignment and means: time against how far they have converged.

On the sample the price of balance after means is 0.4 to 3.3 % with 5 and 0.9 to 4.0 % with 10.
"""
NOISE = 0.1
"""Standard deviation of the noise, in units of the states' own in each dimension (our choice)."""
Assign = Callable[[Tensor, Tensor], Tensor]
"""States (T, D) and codes (M, D) -> x boolean (T, M)."""
BEYOND_SQUARES = 1e100
"""Largest logit: distances are squared and added up."""


def code_scores(states: Tensor, codes: Tensor) -> Tensor:
    """2 <h_i, e_j> - |e_j|^2, which is |h_i|^2 minus the squared distance; (T, M).

    Args:
        states: (T, D).
        codes: (M, D).
    """
    return 2 * states @ codes.mT - codes.square().sum(-1)


def distortion(states: Tensor, codes: Tensor, x: Tensor) -> float:
    """The squared distances from the states (T, D) to their codes, x boolean (T, M), added up."""
    return float((states[:, None] - codes).square().sum(-1)[x].sum())


def means(states: Tensor, codes: Tensor, x: Tensor) -> Tensor:
    """Each code (M, D) moved to the mean of its states; one without states stays."""
    taken = x.to(states)
    load = taken.sum(0)[:, None]
    return torch.where(load > 0, taken.mT @ states / load.clamp(min=1), codes)


def nearest(states: Tensor, codes: Tensor) -> Tensor:
    """Each state's nearest code, boolean (T, M)."""
    return row_choice(code_scores(states, codes), 1)


def evenly(states: Tensor, codes: Tensor) -> Tensor:
    """The nearest codes with equal loads, up to one token: the balanced LP; boolean (T, M)."""
    return optimum(balanced(code_scores(states, codes), 1))[1]


def perplexity(x: Tensor) -> float:
    """exp of the entropy of the codes' shares of the tokens: how many codes are in use."""
    shares = x.double().mean(0)
    return float(torch.special.entr(shares).sum().exp())


def fitted(states: Tensor, count: int) -> Tensor:
    """`count` codes (M, D) by `ROUNDS` rounds of Lloyd's means, from evenly spaced states."""
    codes = states[:: len(states) // count][:count]
    for _ in range(ROUNDS):
        codes = means(states, codes, nearest(states, codes))
    return codes


def alternated(states: Tensor, codes: Tensor, assign: Assign) -> list[float]:
    """Distortions of an assignment on these codes, then after each of `ROUNDS` rounds of means."""
    found = []
    for _ in range(ROUNDS + 1):
        x = assign(states, codes)
        found.append(distortion(states, codes, x))
        codes = means(states, codes, x)
    return found


def rises(distortions: list[float], room: float) -> bool:
    """Whether any of these is above the one before it by more than `room`."""
    return any(after > before + room for before, after in pairwise(distortions))


def _states(subject: ClaimInput) -> list[Tensor] | None:
    """The first tokens' logits as states, mean 0, a layer each; None where there are too few."""
    _, T, E = subject.shape
    if T < 2 * E or E < 2 or float(subject.logits.abs().max()) > BEYOND_SQUARES:
        return None
    few = subject.logits[:, :TOKENS]
    return list(few - few.mean(1, keepdim=True))


TOO_FEW = Evidence(
    None, "Does not apply here: it needs two experts, twice as many tokens, and logits to square."
)


def examine_nearest(subject: ClaimInput) -> Evidence:
    """Logits as states, E codes: the row argmax against the distances, with its certificate."""
    layers = _states(subject)
    if layers is None:
        return TOO_FEW
    agrees, total = True, 0
    for states in layers:
        codes = fitted(states, states.shape[1])
        scores = code_scores(states, codes)
        x = nearest(states, codes)
        distance = (states[:, None] - codes).square().sum(-1)
        room = SLACK * (1 + states.square().sum(-1) + codes.square().sum(-1).max())
        agrees &= bool((distance[x] <= distance.amin(-1) + room).all())
        agrees &= certify(token_choice(scores, 1), x, Prices()).proves_optimal(SLACK)
        total += len(states)
    sentence = (
        f"With the logits of {total} tokens as states and {subject.shape[2]} codes a layer, the "
        f"nearest code is the optimum of token choice, proved at prices of zero."
    )
    return Evidence(bool(agrees), sentence, {"tokens": total})


def examine_balance(subject: ClaimInput) -> Evidence:
    """The codebook's loads and perplexity; distortion with equal loads, before and after means."""
    layers = _states(subject)
    if layers is None:
        return TOO_FEW
    fullest, used, before, after = [], [], [], []
    agrees = True
    for states in layers:
        codes = fitted(states, states.shape[1])
        x = nearest(states, codes)
        plain, even = (alternated(states, codes, assign) for assign in (nearest, evenly))
        room = SLACK * (1 + float(states.square().sum()))
        agrees &= not (rises(plain, room) or rises(even, room)) and plain[0] <= even[0] + room
        fullest.append(float(x.sum(0).max() * len(codes) / len(states)))
        used.append(perplexity(x))
        before.append(share_above(even[0], plain[0]))
        after.append(share_above(even[-1], plain[-1]))
    sentence = (
        f"Logits as states, {subject.shape[2]} codes: the fullest code has {span(fullest)} times "
        f"the mean load, perplexity {span(used)}. Equal loads cost {span(before)} % more "
        f"distortion on the same codes, {span(after)} % after {ROUNDS} more rounds of means."
    )
    numbers: dict[str, Number] = {
        **by_layer("fullest code over the mean load", fullest),
        **by_layer("perplexity", used),
        **by_layer("% distortion of balance", before),
        **by_layer("% distortion of balance after means", after),
    }
    return Evidence(agrees, sentence, numbers)


def examine_consistency(subject: ClaimInput) -> Evidence:
    """Noise on the states: how many tokens change their code, and their best logit."""
    layers = _states(subject)
    if layers is None:
        return TOO_FEW
    draw = torch.Generator().manual_seed(subject.seed)
    code_flips, router_flips = [], []
    for states in layers:
        noise = torch.randn(states.shape, generator=draw, dtype=torch.float64).to(states)
        noisy = states + NOISE * states.std(correction=0) * noise
        codes = fitted(states, states.shape[1])
        code_flips.append(percent(nearest(states, codes) != nearest(noisy, codes)))
        router_flips.append(percent(row_choice(states, 1) != row_choice(noisy, 1)))
    fewer = sum(a < b for a, b in zip(code_flips, router_flips, strict=True))
    sentence = (
        f"Noise of {NOISE:g} standard deviations changes the code of {span(code_flips)} % of the "
        f"tokens and the best logit of {span(router_flips)} %: codes are the more consistent on "
        f"{fewer} of {len(layers)} layers."
    )
    numbers: dict[str, Number] = {
        **by_layer("% of codes that change", code_flips),
        **by_layer("% of best logits that change", router_flips),
    }
    return Evidence(True, sentence, numbers)


def refutes_nearest(scores: Tensor) -> str | None:
    """Rows as states, the first ones also as codes: the argmax is not the nearest."""
    for count in range(1, len(scores) + 1):
        codes = scores[:count]
        least = (scores[:, None] - codes).square().sum(-1).amin(-1).sum()
        best = code_scores(scores, codes).amax(-1).sum()
        if float(least) != float(scores.square().sum() - best):
            return f"{count} codes: the nearest are {float(least):g} away, not the argmax."
        x = nearest(scores, codes)
        if not certify(token_choice(code_scores(scores, codes), 1), x, Prices()).gap <= 0:
            return f"{count} codes: the certificate has a gap."
    return None


def refutes_equal_use(scores: Tensor) -> str | None:
    """Scores 2 <h, e> - |e|^2 of as many tokens as codes by which two tokens share a code."""
    T, E = scores.shape
    if T % E or T < E or E < 2:
        return None
    if any(sorted(row)[-1] == sorted(row)[-2] for row in scores.tolist()):
        return None  # a token with two nearest codes says nothing
    load = int(row_choice(scores, 1).sum(0).max())
    return None if load == T // E else f"A code has {load} tokens where its share is {T // E}."


def refutes_balance_verdict(scores: Tensor) -> str | None:
    """Rows as states: balanced distortion below the nearest codes', or one that rises."""
    T = len(scores)
    for count in range(1, T + 1):
        codes = scores[:count]
        plain, even = (alternated(scores, codes, assign) for assign in (nearest, evenly))
        if even[0] < plain[0] - SLACK:
            return f"{count} codes: equal loads are {even[0]:g} away, the nearest {plain[0]:g}."
        if rises(plain, SLACK) or rises(even, SLACK):
            return f"{count} codes: the distortion rises: {plain}, {even}."
    return None


O12A = Claim(
    id="O12a",
    title="the nearest code is token choice",
    statement="Giving each token the expert of its nearest code is routing without a router.",
    formula=(
        "argmin_j |h_i - e_j|^2 = argmax_j s_ij with s_ij = 2 <h_i, e_j> - |e_j|^2: token choice, "
        "K = 1, a linear router with weights 2 e_j and biases -|e_j|^2"
    ),
    conditions="",
    source=f"{PAPER}, discrete representations in place of a router (paraphrased); {CODE}",
    verdict=Verdict.HOLDS,
    reason=(
        "|h|^2 is the same for all codes of a token, so the least distance is the largest s_ij. "
        "That is a router with a bias whose weights and biases come from one codebook; row argmax "
        "is its exact optimum, and prices of zero prove it."
    ),
    examine=examine_nearest,
    refutes_verdict=refutes_nearest,
)

O12B = Claim(
    id="O12b",
    title="a codebook uses its experts equally",
    statement="Nearest codes use all experts about equally, so that none is left out.",
    formula="x_i = argmin_j |h_i - e_j|^2: sum_i x_ij = T / E",
    conditions="",
    source=f"{PAPER}, discrete representations (paraphrased); {CODE}, balance_vq.py",
    verdict=Verdict.FAILS,
    reason=(
        "A mean sits where tokens are, not where an equal share of them is. Equal loads are the "
        "balanced LP with s_ij = 2 <h_i, e_j> - |e_j|^2. It costs distortion on given codes; "
        "taking means of the balanced loads and solving again never raises the distortion, since "
        "each step minimises the same sum, and wins most of it back; both end at local optima."
    ),
    examine=examine_balance,
    counterexample=Counterexample(
        ((1, 0), (1, 0)),
        "Two codes on a line, at 1 and at 2, and two tokens at 1: 2 h e - e^2 is 2 - 1 = 1 and "
        "4 - 4 = 0 for both, so both take code 1, at distance 0. Equal loads send one of them to "
        "code 2, 1 away; its mean then moves to 1, too, and the distortion is 0 again.",
    ),
    refutes_statement=refutes_equal_use,
    refutes_verdict=refutes_balance_verdict,
)

O12C = Claim(
    id="O12c",
    title="codes are steadier than a router",
    statement="Small changes of a token change its code less often than its router's choice.",
    formula="share of i with j(h_i + n) != j(h_i): less for the nearest code than for the argmax",
    conditions="",
    source=f"{PAPER}, consistency of discrete routing (paraphrased)",
    verdict=Verdict.EMPIRICAL,
    reason=(
        "Neither follows from the other: both are linear maps followed by an argmax, and flips go "
        "with margins. Codes that are means of clusters have wide margins where clusters are wide "
        "apart; learned router weights need not."
    ),
    examine=examine_consistency,
)

CLAIMS: tuple[Claim, ...] = (O12A, O12B, O12C)
