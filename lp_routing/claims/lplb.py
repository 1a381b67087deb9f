"""LPLB: whether levelling loads edge by edge solves the min-max load LP over replicas (O9)."""

from itertools import combinations

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK
from lp_routing.extensions.replicas import edge_wise, spread
from lp_routing.routers.selection import largest

MOST_DEVICES = 8
"""Most devices in the ring; the largest divisor of E up to here is taken.

It sets the case, not the cost: the check takes 0.2 s on the sample with 4, 8 and 16.
"""
SETTLED = 1e-6
"""Relative to the LP's value: the edge-wise rule counts as converged within this.

It is far above the rounding of float64 loads and far below the differences that the claim is about.
"""


def examine(subject: ClaimInput) -> Evidence:
    """Loads of row top-k on a ring of devices; each also holds its neighbour's busiest expert."""
    L, T, E = subject.shape
    if E == 1:
        return Evidence(None, "One expert has nowhere to go but one device.")
    D = max(d for d in range(1, min(MOST_DEVICES, E) + 1) if E % d == 0)
    D = E if D == 1 else D
    names = ("at home", "LP", "whole tokens", "one sweep", "edge-wise", "edge-wise, whole tokens")
    worst = dict.fromkeys(names, 0.0)
    agrees = True
    for layer in range(L):
        load = largest(subject.logits[layer], subject.k).sum(0)
        places, home = _ring(load, D)
        lp, whole = spread(load, places), spread(load, places, integral=True)
        rules = {
            "at home": edge_wise(load, places, home, sweeps=0),
            "one sweep": edge_wise(load, places, home, sweeps=1),
            "edge-wise": edge_wise(load, places, home),
            "edge-wise, whole tokens": edge_wise(load, places, home, integral=True),
        }
        agrees &= abs(lp.gap) <= SLACK * lp.bound and whole.gap == 0
        agrees &= all(found.value >= lp.bound * (1 - SLACK) for found in rules.values())
        agrees &= rules["edge-wise"].value <= lp.value * (1 + SETTLED)
        found = {name: rule.value for name, rule in rules.items()}
        for name, value in (found | {"LP": lp.value, "whole tokens": whole.value}).items():
            worst[name] += value / L
    mean = T * subject.k / D
    sentence = (
        f"{D} devices in a ring, {E // D} experts and one copy each, mean load {mean:.0f}: the "
        f"largest load, as a mean over layers, is {worst['at home']:.1f} without copies, "
        f"{worst['LP']:.1f} at best ({worst['whole tokens']:.1f} in whole tokens); edge-wise "
        f"{worst['one sweep']:.1f} after one sweep, {worst['edge-wise']:.1f} in the limit, "
        f"{worst['edge-wise, whole tokens']:.1f} with whole tokens."
    )
    numbers: dict[str, Number] = {"devices": D, "mean load": mean, **worst}
    return Evidence(bool(agrees), sentence, numbers)


def _ring(load: Tensor, D: int) -> tuple[Tensor, Tensor]:
    """E/D experts on each device; the busiest of them has a replica on the next device."""
    E = len(load)
    home = torch.arange(E) // (E // D)
    places = home[:, None] == torch.arange(D)
    busiest = load.reshape(D, -1).argmax(-1) + torch.arange(D) * (E // D)
    places[busiest, (torch.arange(D) + 1) % D] = True
    return places, home


def _ring_of_scores(scores: Tensor) -> tuple[list[int], Tensor]:
    """One expert a device, with a replica on the next; loads of the row maximum."""
    E = scores.shape[1]
    load = largest(scores, 1).sum(0)
    places = torch.eye(E, dtype=torch.bool)
    return load.tolist(), places | places.roll(1, 1)


def refutes_statement(scores: Tensor) -> str | None:
    """Whole tokens on a ring, by row maximum: the edge-wise rule stops above the optimum."""
    load, places = _ring_of_scores(scores)
    if sum(map(bool, load)) < 2:  # with a single edge the rule cannot stop early
        return None
    stuck = edge_wise(load, places, list(range(len(load))), integral=True).value
    tokens, devices = _hall(load, places)
    least = -(-tokens // devices)
    if stuck <= least:
        return None
    return f"Loads {load}: edge-wise ends with {stuck:g} tokens on a device, {least} is possible."


def refutes_verdict(scores: Tensor) -> str | None:
    """The bound missed by the LP, by whole tokens, or by the edge-wise rule with fractions."""
    load, places = _ring_of_scores(scores)
    tokens, devices = _hall(load, places)
    at = tokens / devices
    close = SLACK * sum(load)
    if abs(spread(load, places).value - at) > close:
        return f"Loads {load}: the LP is not worth {tokens}/{devices}."
    if spread(load, places, integral=True).value != -(-tokens // devices):
        return f"Loads {load}: whole tokens do not reach {tokens}/{devices} rounded up."
    limit = edge_wise(load, places, list(range(len(load)))).value
    if abs(limit - at) > close:
        return f"Loads {load}: edge-wise with fractions ends at {limit:g}, not {tokens}/{devices}."
    return None


def _hall(load: list[int], places: Tensor) -> tuple[int, int]:
    """The set of devices with the largest bound: tokens that are confined to it, and its size."""
    held = [{d for d, there in enumerate(row) if there} for row in places.tolist()]
    D = places.shape[1]
    sets = [set(some) for n in range(1, D + 1) for some in combinations(range(D), n)]
    bounds = [(sum(w for w, h in zip(load, held, strict=True) if h <= s), len(s)) for s in sets]
    return max(bounds, key=lambda bound: bound[0] / bound[1])


O9 = Claim(
    id="O9",
    title="edge-wise balancing is optimal",
    statement=(
        "Where two devices hold the same expert, its tokens move between them until they are "
        "level; edge after edge this reaches the least largest load of a device."
    ),
    formula=(
        "the limit of: move min(half the difference, what is there) along each edge = min { max_d "
        "sum_j f_jd : sum_d f_jd = w_j, f >= 0, f_jd = 0 without a replica }"
    ),
    conditions=(
        "tokens may be split into fractions, sweeps go on until nothing moves, and there is an "
        "edge between every two replicas of an expert (with one replica each: between it and its "
        "original)"
    ),
    source=(
        "the LP: LPLB, repository deepseek-ai/LPLB, README (tokens redistributed along edges "
        "between originals and replicas; paraphrased). LPLB itself solves it with an "
        "interior-point method; the edge-wise rule is the local one that this view suggests"
    ),
    verdict=Verdict.CONDITIONAL,
    reason=(
        "Levelling an edge minimises the sum of squared loads along it. That sum is smooth and "
        "convex, so where no edge can lower it, the gradient conditions of its minimum hold; and "
        "the minimum has the least largest load as well: the devices at the top hold only experts "
        "without a replica below, which is Hall's bound. Whole tokens get stuck, since a "
        "difference of one along each edge may add up along a chain; one sweep is not a limit. "
        "The least load in whole tokens is the LP's rounded up (a flow). Whether it is near the "
        "mean depends on the replicas, not on the rule."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((1, 0, 0), (1, 0, 0), (0, 1, 0)),
        "Two tokens want expert 1 and one wants expert 2. Experts 1 and 2 are at home on devices 1 "
        "and 2, with replicas on 2 and 3. Loads are (2, 1, 0): along each edge the difference is "
        "one, half a token, so no token moves and the largest load stays 2. Moving one token along "
        "both edges gives (1, 1, 1). With fractions the rule gets there.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
    forbidden_too=True,
)

CLAIMS: tuple[Claim, ...] = (O9,)
