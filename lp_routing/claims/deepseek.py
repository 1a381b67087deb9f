"""DeepSeek-V2 and V3: whether group-limited top-k is the best choice under the group limit (O8)."""

from collections.abc import Iterator
from itertools import combinations
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lp_routing.claims.claim import Claim, ClaimInput, Counterexample, Evidence, Number, Verdict
from lp_routing.claims.helpers import SLACK
from lp_routing.extensions.group_limited import (
    best_in_groups,
    of_proxy,
    relaxed_in_groups,
    searched_in_groups,
)
from lp_routing.routers.token_choice import GroupLimited
from lp_routing.scores import ScoreFunction, sigmoid, softmax

Proxy = Literal["max", "top2"]
VERSIONS: tuple[tuple[str, Proxy, ScoreFunction], ...] = (
    ("V2", "max", softmax),
    ("V3", "top2", sigmoid),
)
MOST_GROUPS = 8
"""Most groups of experts: as many as in DeepSeek-V3."""
SEARCHED = 4
"""Tokens of the first layer that HiGHS solves, too, as an independent check.

The whole check takes 2.5 s on the sample with 4 or with 16: more tokens cost little.
"""
PROMISED = 128
"""Tokens of each layer on which the rule is checked where it should be exact.

More check more: with 1,024 the whole check takes 2.9 s on the sample in place of 2.5 s.
"""
OF_A_SEARCH = 1e-6
"""Relative gap within which HiGHS ends a search, by its own tolerances."""


def examine(subject: ClaimInput) -> Evidence:
    """The rules of V2 and V3 against the best choice, at DeepSeek-V3's proportions."""
    L, T, E = subject.shape
    groups = _groups(E)
    if groups is None:
        return Evidence(None, f"{E} experts make no groups of equal size with two or more each.")
    top_groups = max(1, groups // 2)
    k = min(2 * top_groups, top_groups * E // groups)
    numbers: dict[str, Number] = {"k": k, "G": groups, "M": top_groups}
    words, agrees = [], True
    for name, proxy, score in VERSIONS:
        layers = [
            _against_best(score(logits, None), k, groups, top_groups, proxy)
            for logits in subject.logits
        ]
        few = score(subject.logits[0, :SEARCHED], None)
        agrees &= all(layer.agrees for layer in layers) and _as_searched(few, k, groups, top_groups)
        rule, best, lp = (sum(getattr(x, part) for x in layers) for part in ("rule", "best", "lp"))
        missed = sum(layer.missed for layer in layers)
        numbers |= {f"{name} rule": rule, f"{name} best": best, f"{name} LP": lp}
        numbers[f"{name} tokens missed"] = missed
        words.append(
            f"{name}'s rule keeps {rule:.1f} where the best choice keeps {best:.1f} "
            f"({100 * (rule / best - 1):+.2f} %; LP {lp:.1f}) and misses it on {missed} of "
            f"{L * T} tokens"
        )
    settings = f"With k={k}, G={groups}, M={top_groups} (DeepSeek-V3's proportions, not --k)"
    return Evidence(agrees, f"{settings}: {'; '.join(words)}.", numbers)


class Layer(NamedTuple):
    """The rule, the best choice and the LP on one layer; tokens missed; whether all checks hold."""

    rule: float
    best: float
    lp: float
    missed: int
    agrees: bool


def _against_best(scores: Tensor, k: int, groups: int, top_groups: int, proxy: Proxy) -> Layer:
    x = _chosen(scores, k, groups, top_groups, proxy)
    best = best_in_groups(scores, k, groups, top_groups)
    lp = relaxed_in_groups(scores, k, groups, top_groups)
    rule = float(scores[x].sum())
    lost = ((best.x.double() - x.double()) * scores).sum(-1)
    in_order = bool((lost >= -SLACK).all()) and best.value <= lp * (1 + SLACK)
    agrees = in_order and _exact_where_promised(scores[:PROMISED], groups, proxy)
    return Layer(rule, best.value, lp, int((lost > SLACK).sum()), agrees)


def _groups(E: int) -> int | None:
    """The most groups, up to eight, with four experts or more each; else with two or three."""
    fitting = [g for g in range(2, E // 2 + 1) if E % g == 0]
    return max(
        (g for g in fitting if g <= min(MOST_GROUPS, E // 4)), default=min(fitting, default=None)
    )


def _as_searched(scores: Tensor, k: int, groups: int, top_groups: int) -> bool:
    """Whether HiGHS finds the same value, on a few tokens."""
    found = searched_in_groups(scores, k, groups, top_groups)
    known = best_in_groups(scores, k, groups, top_groups)
    return abs(found.value - known.value) <= OF_A_SEARCH * abs(known.value)


def _exact_where_promised(scores: Tensor, groups: int, proxy: Proxy) -> bool:
    """Whether it is exact where `reason` says so: max for k <= M, top2 for k = 2, M = 1."""
    k, top_groups = (min(2, groups), min(2, groups)) if proxy == "max" else (2, 1)
    rule = of_proxy(scores, k, groups, top_groups, proxy)
    return abs(rule.gap) <= SLACK * abs(rule.bound)


def refutes_statement(scores: Tensor) -> str | None:
    """Two groups, M = 1: a token for which a proxy selects the worse group."""
    E = scores.shape[1]
    if E % 2:
        return None
    rows = scores.tolist()
    for k in range(2, E // 2 + 1):
        best = [_by_brute_force(row, k, 2, 1) for row in rows]
        for _, proxy, _ in VERSIONS:
            worth = _worth_of_rule(scores, k, 2, 1, proxy)
            for i, (got, most) in enumerate(zip(worth, best, strict=True)):
                if got < most:
                    return f"k={k}, token {i}: {proxy!r} keeps {got:g}, the best choice {most:g}."
    return None


def refutes_verdict(scores: Tensor) -> str | None:
    """A rule that beats the best choice, or misses it where it should not; a wrong best or LP."""
    rows = scores.tolist()
    for groups, top_groups, k in _settings(scores.shape[1]):
        best = [_by_brute_force(row, k, groups, top_groups) for row in rows]
        where = f"k={k}, G={groups}, M={top_groups}"
        if best_in_groups(scores, k, groups, top_groups).value != sum(best):
            return f"{where}: dynamic programming differs from brute force, {sum(best):g}."
        limited = top_groups < groups  # where not, both are row top-k
        if limited and relaxed_in_groups(scores, k, groups, top_groups) < sum(best) - SLACK:
            return f"{where}: the LP is worth less than the best choice, {sum(best):g}."
        for _, proxy, _ in VERSIONS:
            worth = _worth_of_rule(scores, k, groups, top_groups, proxy)
            promised = k <= top_groups if proxy == "max" else (k, top_groups) == (2, 1)
            if any(got > most for got, most in zip(worth, best, strict=True)):
                return f"{where}: {proxy!r} keeps more than the best choice."
            if promised and worth != best:
                return f"{where}: {proxy!r} keeps {worth} and the best choice {best}."
    return None


def _settings(E: int) -> Iterator[tuple[int, int, int]]:
    for groups in (g for g in range(1, E // 2 + 1) if E % g == 0):
        for top_groups in range(1, groups + 1):
            for k in range(1, min(3, top_groups * E // groups) + 1):
                yield groups, top_groups, k


def _worth_of_rule(
    scores: Tensor, k: int, groups: int, top_groups: int, proxy: Proxy
) -> list[float]:
    x = _chosen(scores, k, groups, top_groups, proxy)
    worth: list[float] = torch.where(x, scores, 0.0).sum(-1).tolist()
    return worth


def _chosen(scores: Tensor, k: int, groups: int, top_groups: int, proxy: Proxy) -> Tensor:
    """The rule's choice, boolean (T, E)."""
    return GroupLimited(k, groups, top_groups, proxy, score="logits").select(scores)


def _by_brute_force(row: list[float], k: int, groups: int, top_groups: int) -> float:
    """The k best of the best M groups, by trying all choices of groups."""
    size = len(row) // groups
    opened = combinations(range(groups), top_groups)
    pools = ([row[e] for g in some for e in range(g * size, (g + 1) * size)] for some in opened)
    return max(sum(sorted(pool)[-k:]) for pool in pools)


O8 = Claim(
    id="O8",
    title="group-limited top-k is best",
    statement=(
        "Ranking groups by their best score (V2) or by their two best (V3), and taking the k best "
        "experts of the M first groups, gives each token the best k experts of at most M groups."
    ),
    formula=(
        "M groups of largest max_j s_ij, or of largest sum of their two largest s_ij; then top-k "
        "inside = argmax { sum_j s_ij x_ij : sum_j x_ij = k, experts of at most M groups }"
    ),
    conditions="",
    source=(
        "DeepSeek-V2, arXiv 2405.04434, device-limited routing; V3, arXiv 2412.19437, node-limited "
        "(paraphrased: they limit the groups and do not call the result optimal)"
    ),
    verdict=Verdict.FAILS,
    reason=(
        "A group is ranked by one or two scores and used for up to k. It is right where those are "
        "all that can be used: the maximum for k <= M, since the k best experts then lie in the k "
        "groups of largest maximum; the two best for k = 2, M = 1. DeepSeek's own k (6 or 8) is "
        "larger than M (3 or 4). Dynamic programming over groups gives the best choice token by "
        "token; its LP relaxation may be worth more still."
    ),
    examine=examine,
    counterexample=Counterexample(
        ((10, 9, 0, 8, 8, 8),),
        "k = 3 of one group. Group A = (10, 9, 0) has the largest score, 10 against 8, and the "
        "larger two, 19 against 16, so both proxies open it and keep 10 + 9 + 0 = 19. Group B = "
        "(8, 8, 8) is worth 24.",
    ),
    refutes_statement=refutes_statement,
    refutes_verdict=refutes_verdict,
)

CLAIMS: tuple[Claim, ...] = (O8,)
