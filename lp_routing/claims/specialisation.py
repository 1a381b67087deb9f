"""Expert specialisation: overlap and information, and what balance costs of it (O16)."""

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import by_layer, optimum, share_below, span
from lp_routing.claims.usmoe.rules import pooled_choice, row_choice
from lp_routing.claims.vqmoe import fitted, nearest
from lp_routing.evaluation.specialisation import mutual_information, overlap
from lp_routing.problem.bounds import at_most, exactly
from lp_routing.problem.capacity_factor import CapacityFactor
from lp_routing.problem.named import balanced
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers.capacity import keep_by_score
from lp_routing.scores import softmax

KINDS = 8
"""Kinds of tokens, by the nearest of this many means of their logits: a trace has no labels."""
FACTOR = 1.25
"""Capacity over the mean load, the usual one of training runs."""
BEYOND_SQUARES = 1e100
"""Largest logit: distances are squared."""


def by_position(T: int, E: int, k: int) -> Tensor:
    """Hash routing: token i has the experts i, i + E / k, ..., whatever it is; boolean (T, E)."""
    steps = torch.arange(k) * max(E // k, 1)
    places = (torch.arange(T)[:, None] + steps) % E
    return torch.zeros(T, E, dtype=torch.bool).scatter(1, places, True)


def correlation(logits: Tensor) -> Tensor:
    """Of the experts' columns (T, E), over tokens; (E, E), 0 with a constant column."""
    centred = logits - logits.mean(0)
    centred = centred / centred.abs().amax().clamp(min=1e-300)
    length: Tensor = torch.linalg.vector_norm(centred, dim=0)
    size = length[:, None] * length
    return centred.mT @ centred / size.masked_fill(size == 0, 1.0)


def routings(logits: Tensor, k: int) -> dict[str, Tensor]:
    """The choices that are compared, boolean (T, E), by their names."""
    T, E = logits.shape
    scores, capacity = softmax(logits), CapacityFactor(FACTOR).of(T, E, k)
    problem = RoutingProblem(scores, tokens=exactly(k), experts=at_most(capacity))
    plain = row_choice(scores, k)
    return {
        "top-k": plain,
        "drop by score": keep_by_score(scores, plain, capacity),
        "unified": pooled_choice(scores, k),
        "optimum": optimum(problem)[1],
        "balanced optimum": optimum(balanced(scores, k))[1],
        "hash": by_position(T, E, k).to(logits.device),
    }


def examine_overlap(subject: ClaimInput) -> Evidence:
    """Overlap and information of token choice and of hash routing."""
    _, T, E = subject.shape
    k = min(subject.k, E)
    if not 2 <= k < E or T < 2 * KINDS or float(subject.logits.abs().max()) > BEYOND_SQUARES:
        return Evidence(None, "Does not apply here: overlap needs two experts a token of more.")
    alike: tuple[list[float], list[float]] = ([], [])
    tells: tuple[list[float], list[float]] = ([], [])
    for logits in subject.logits:
        kinds = _kinds(logits)
        chosen = (row_choice(logits, k), by_position(T, E, k).to(logits.device))
        for which, x in enumerate(chosen):
            alike[which].append(overlap(x, correlation(logits)))
            tells[which].append(mutual_information(x, kinds))
    lower = sum(hashed < plain for plain, hashed in zip(*alike, strict=True))
    sentence = (
        f"The logits of a token's {k} experts correlate by {span(alike[0])} under top-{k} and by "
        f"{span(alike[1])} under hashing, which overlaps less on {lower} of {len(alike[0])} "
        f"layers; of {KINDS} kinds of tokens their experts tell {span(tells[0])} and "
        f"{span(tells[1])} nats."
    )
    numbers: dict[str, Number] = {
        **by_layer("overlap, top-k", alike[0]),
        **by_layer("overlap, hash", alike[1]),
        **by_layer("nats, top-k", tells[0]),
        **by_layer("nats, hash", tells[1]),
    }
    return Evidence(all(min(each) >= -1e-9 for each in tells), sentence, numbers)


def _kinds(logits: Tensor) -> Tensor:
    """Each token's kind, (T,): the nearest of `KINDS` means."""
    states = logits - logits.mean(0)
    return nearest(states, fitted(states, KINDS)).double().argmax(1)


def examine_balance(subject: ClaimInput) -> Evidence:
    """Information of each routing about the kinds of tokens, and what balance costs of it."""
    _, T, E = subject.shape
    k = subject.k
    if k == E or T < 2 * KINDS or float(subject.logits.abs().max()) > BEYOND_SQUARES:
        return Evidence(None, "Does not apply here: it needs a choice, and tokens of each kind.")
    tells: dict[str, list[float]] = {}
    for logits in subject.logits:
        kinds = _kinds(logits)
        for name, x in routings(logits, k).items():
            tells.setdefault(name, []).append(mutual_information(x, kinds))
    means = {name: sum(each) / len(each) for name, each in tells.items()}
    cost = {
        name: share_below(means[name], means["top-k"]) for name in ("optimum", "balanced optimum")
    }
    said = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
    sentence = (
        f"Nats that an expert tells of {KINDS} kinds of tokens, mean of the layers: {said}. "
        f"Capacity factor {FACTOR:g} at the optimum costs {cost['optimum']:.3g} % of it, equal "
        f"loads {cost['balanced optimum']:.3g} %."
    )
    numbers: dict[str, Number] = {}
    for name, each in tells.items():
        numbers |= by_layer(f"nats, {name}", each)
    return Evidence(True, sentence, numbers)


def refutes_overlap(scores: Tensor) -> str | None:
    """k = 2, equal rows as one kind: hashing overlaps less than row top-2 and tells less."""
    T, E = scores.shape
    if E < 3:
        return None
    kinds = torch.unique(scores, dim=0, return_inverse=True)[1]
    plain, hashed = row_choice(scores, 2), by_position(T, E, 2)
    alike = [overlap(x, correlation(scores)) for x in (plain, hashed)]
    tells = [mutual_information(x, kinds) for x in (plain, hashed)]
    if alike[1] < alike[0] - 1e-9 and tells[1] < tells[0] - 1e-9:
        return (
            f"Hashing overlaps by {alike[1]:.3g} and tells {tells[1]:.3g} nats, row top-2 overlaps "
            f"by {alike[0]:.3g} and tells {tells[0]:.3g}."
        )
    return None


O16A = Claim(
    id="O16a",
    title="less overlap is more specialisation",
    statement="The less a token's experts overlap, the more specialised they are.",
    formula=(
        "overlap(x) = mean likeness of two experts of a token < overlap(x') implies "
        "I(expert; kind of token | x) >= I(expert; kind of token | x')"
    ),
    conditions="",
    source=(
        "Advancing Expert Specialization 2025 (orthogonality loss), D-MoE (correlation of "
        "experts), OMoE (cosines): read in summaries; paraphrased"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "Experts chosen for what a token is are liked for the same reasons, so they correlate; "
        "experts chosen by position share nothing and know nothing of the token. Overlap is "
        "quadratic in x and I is not linear either: a router can be judged by them, not be an LP "
        "that has them as its objective. In training less overlap may still help."
    ),
    examine=examine_overlap,
    counterexample=Counterexample(
        ((1, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1), (0, 0, 1, 1)),
        "k = 2 and two kinds of tokens. Row top-2 gives one kind experts 1 and 2, the other 3 and "
        "4: columns 1 and 2 are equal, overlap 1, and an expert tells the kind, log 2 = 0.69 nats. "
        "By position, tokens 1 and 3 have experts 1 and 3, tokens 2 and 4 have 2 and 4: columns 1 "
        "and 3 are opposite, overlap -1, and every expert has one token of each kind: 0 nats.",
    ),
    refutes_statement=refutes_overlap,
)

O16B = Claim(
    id="O16b",
    title="balance costs specialisation",
    statement="Equal loads make experts less specialised.",
    formula="I(expert; kind of token | balanced optimum) < I(expert; kind of token | row top-k)",
    conditions="",
    source="Advancing Expert Specialization 2025: balance against specialisation (paraphrased)",
    verdict=Verdict.EMPIRICAL,
    reason=(
        "Equal loads move tokens to other experts than they like best, which blurs what an expert "
        "tells; they also raise the entropy of the experts, which bounds it. Which of the two "
        "weighs more is a matter of the logits."
    ),
    examine=examine_balance,
)

CLAIMS: tuple[Claim, ...] = (O16A, O16B)
