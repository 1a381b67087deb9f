"""One router's assignment judged by a problem and its optimum: a row of numbers.

The load metrics say how evenly experts are loaded. All measure a load (..., E), tokens per expert,
and give one float64 number for each of its leading dimensions. A load of zero everywhere counts as
even.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lp_routing.certificate.certificate import TOLERANCE, Certificate, certify
from lp_routing.certificate.ties import ties
from lp_routing.certificate.violations import assignment_amounts
from lp_routing.errors import InputError
from lp_routing.problem import named
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.constraints import families_in_words
from lp_routing.problem.problem import RoutingProblem
from lp_routing.routers import CapacityFactor
from lp_routing.routers.catalogue import Shape
from lp_routing.solvers.solve import Solution, Status
from lp_routing.validation import as_int, as_tensor


def max_over_mean(load: Tensor) -> Tensor:
    """Largest load over mean load, (...); 1 where even, E where one expert has it all.

    Where a step waits for its slowest expert it takes this many times as long as an even one.

    Raises:
        InputError: not numbers (..., E) with E >= 1, negative, NaN or infinite.
    """
    load = _checked(load)
    mean = load.mean(-1)
    return (load.amax(-1) / mean).where(mean > 0, 1.0)


def max_violation(load: Tensor) -> Tensor:
    """MaxVio, (max - mean) / mean, (...); 0 where even (Wang et al. 2024, arXiv 2408.15664).

    Raises:
        InputError: as `max_over_mean`.
    """
    return max_over_mean(load) - 1.0


def variation(load: Tensor) -> Tensor:
    """Coefficient of variation, standard deviation over mean, (...); 0 where even.

    The E experts are all there are, so the deviation divides by E (Shazeer et al. 2017, eq. 7, has
    the square of this number).

    Raises:
        InputError: as `max_over_mean`.
    """
    load = _checked(load)
    mean = load.mean(-1)
    return (load.std(-1, correction=0) / mean).where(mean > 0, 0.0)


def normalised_entropy(load: Tensor) -> Tensor:
    """Entropy of load / sum over log E, (...); 1 where even, 0 where one expert has it all.

    A single expert is even.

    Raises:
        InputError: as `max_over_mean`.
    """
    load = _checked(load)
    total = load.sum(-1, keepdim=True)
    if load.shape[-1] == 1:
        return torch.ones_like(total).squeeze(-1)
    entropy: Tensor = torch.special.entr(load / total).sum(-1) / math.log(load.shape[-1])
    return entropy.where(total.squeeze(-1) > 0, 1.0)


def dropped_fraction(assignment: Assignment) -> Tensor:
    """Real tokens that reach no expert, as a share of the real tokens, (...); 0 without any."""
    dropped = assignment.dropped
    if assignment.mask is None:
        return dropped.double().mean(-1)
    real = assignment.mask.expand_as(dropped).sum(-1)
    return dropped.sum(-1) / real.double().clamp(min=1)


def real_load(assignment: Assignment) -> Tensor:
    """Tokens per expert, float64 (..., E), without what padding takes where a router lets it."""
    if assignment.mask is None:
        return assignment.load
    return Assignment(assignment.x.masked_fill(~assignment.mask[..., None], 0)).load


def _checked(load: Tensor) -> Tensor:
    values = as_tensor(load, "load", "tokens per expert (..., E)")
    if values.ndim == 0 or values.shape[-1] == 0 or values.is_complex():
        raise InputError(
            f"load: expected tokens per expert (..., E) with at least one expert, got "
            f"{values.dtype} of shape {tuple(values.shape)}."
        )
    values = values.double()
    bad = ~((values >= 0) & values.isfinite())
    if bool(bad.any()):
        raise InputError(
            f"load: a count of tokens cannot be {float(values[bad][0])}; give numbers >= 0."
        )
    return values


NAN = float("nan")
EXACT = "the problem itself"
"""The `seeks` of the exact solver among the routers."""

OK, INFEASIBLE = "ok", "INFEASIBLE"
NOT_JUDGED, NOT_TRIED = "not judged", "not tried"

NO_LOAD = 1e-6
"""Tokens: a load this close to 0 counts as 0, as interior-point solvers leave amounts below 0.

It is the tolerance of `CVXPY`; more could hide a load of fractions.
"""

TIED = 1e-12
"""Relative to a usual score: a pair this close to its price counts as tied.

Prices at a vertex are sums of a few scores; a larger tolerance would tie pairs that differ.
"""

FEW = 0.01
"""Largest share of tied tokens at which a router is compared with the optimum pair by pair.

With more ties other optima take other pairs, and the overlap with this one says little.
"""


@dataclass(frozen=True)
class RouterResult:
    """One router on one problem; NaN or None where there is no number.

    Attributes:
        router: its name.
        seeks: the named problem whose optimum it seeks; "" where it seeks none.
        causal: whether no token looks at a later one; None where the router does not say.
        problem: the bounds in words; the gap is to the optimum of this problem.
        routed_on: what the router was called with: "logits", or "log of scores" or "scores as
            logits" where no logits were given; its value is by the problem's scores in any case.
        state: "cold" or "after 3 step(s)" for a router with a state; "" for others.
        value: sum of the problem's scores over the pairs it took.
        optimum: value of the best assignment found.
        bound: certified: no feasible assignment is worth more.
        gap: bound - value; NaN where a bound is broken: an assignment that breaks bounds can be
            worth more than the optimum, which says nothing of its quality.
        relative_gap: the gap relative to the bound.
        feasible: whether every bound holds; None where the router gave no answer.
        violation: the largest amount by which a bound is broken, in pairs.
        breaks: which bound that is, and how many others are broken; "" where none.
        dropped: tokens with an allowed expert that reach none.
        dropped_fraction: the same as a share of the tokens with an allowed expert.
        pairs: how many pairs were taken.
        max_over_mean, max_vio, load_cv, load_entropy: of the load; see the functions above.
        overlap: share of the optimum's pairs that the router takes too; NaN where it breaks bounds,
            or where ties make the optimum ambiguous.
        seconds: median time of a call.
        topk_units: `seconds` in medians of `torch.topk(scores, K)`, timed in turns.
        runs: calls that the median is of.
        optimum_status: how the solver ended, with its explanation.
        status: "ok"; "INFEASIBLE", where a bound is broken; "not judged: ...", for want of logits;
            "not tried: ..."; or the error that stopped the router.
        note: how its answer was read, where it is ambiguous; "" elsewhere.
        traceback: of an exception that the router raised; "" elsewhere.
    """

    router: str
    problem: str
    seeks: str = ""
    causal: bool | None = None
    routed_on: str = ""
    state: str = ""
    value: float = NAN
    optimum: float = NAN
    bound: float = NAN
    gap: float = NAN
    relative_gap: float = NAN
    feasible: bool | None = None
    violation: float = NAN
    breaks: str = ""
    dropped: int | None = None
    dropped_fraction: float = NAN
    pairs: float = NAN
    max_over_mean: float = NAN
    max_vio: float = NAN
    load_cv: float = NAN
    load_entropy: float = NAN
    overlap: float = NAN
    seconds: float = NAN
    topk_units: float = NAN
    runs: int = 0
    optimum_status: str = ""
    status: str = OK
    note: str = ""
    traceback: str = ""

    @property
    def label(self) -> str:
        """The router's name, and what it knows of earlier batches: "loss-free, cold"."""
        return f"{self.router}, {self.state}" if self.state else self.router

    @property
    def judged(self) -> bool:
        """Whether the router gave an answer that was judged."""
        return self.status in (OK, INFEASIBLE)

    @property
    def is_optimal(self) -> bool:
        """Whether all bounds hold and the gap is 0 up to rounding."""
        return bool(self.feasible) and abs(self.relative_gap) <= TOLERANCE

    def as_record(self) -> dict[str, Any]:
        """Column -> value, with None in place of NaN and infinity, for JSON and CSV.

        Without the traceback, which names paths on this machine.
        """
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
            if name != "traceback"
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "RouterResult":
        """The row of a record, whose other keys are passed over: null numbers are NaN again."""
        given = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        unknown = {
            f.name: NAN
            for f in fields(cls)
            if isinstance(f.default, float) and given.get(f.name) is None
        }
        return cls(**{**given, **unknown})


class Evaluator:
    """A problem and its optimum, by which routers are judged.

    Args:
        problem: whose scores and bounds judge.
        truth: its solution, by whatever solver; without prices the bound is the solver's own.
    """

    def __init__(self, problem: RoutingProblem, truth: Solution) -> None:
        self.problem, self.truth = problem, truth
        self.words = bounds_in_words(problem)
        self.settled = _settled(problem, truth)
        self.mask = problem.allowed_per_token > 0

    def nothing(self, name: str) -> RouterResult:
        """The row of a router that has not been run."""
        says = self.truth.explanation
        return RouterResult(
            router=name,
            problem=self.words,
            optimum=float(self.truth.value) if math.isfinite(self.truth.value) else NAN,
            bound=float(self.truth.bound) if math.isfinite(self.truth.bound) else NAN,
            optimum_status=self.truth.status.name + (f": {says}" if says else ""),
        )

    def judged(self, row: RouterResult, amounts: Tensor) -> RouterResult:
        """The row with all numbers of amounts (T, E), which may be fractional.

        Raises:
            InputError: amounts of another shape, NaN, infinite.
        """
        x, _ = assignment_amounts(self.problem, Assignment(amounts))
        x = x.to(self.problem.scores.device)
        certificate = self._certificate(x)
        feasible = certificate.keeps_bounds(TOLERANCE)
        known = self.truth.status is not Status.INFEASIBLE and math.isfinite(certificate.bound)
        taken = Assignment(x, mask=self.mask)
        load = real_load(taken)
        load = load.masked_fill(load.abs() < NO_LOAD, 0.0)
        return replace(
            row,
            value=float(certificate.value),
            bound=float(certificate.bound) if known else NAN,
            gap=float(certificate.gap) if known and feasible else NAN,
            relative_gap=certificate.relative_gap if known and feasible else NAN,
            feasible=feasible,
            status=OK if feasible else INFEASIBLE,
            violation=certificate.violation,
            breaks=_broken(certificate),
            dropped=int(taken.dropped.sum()),
            dropped_fraction=float(dropped_fraction(taken)),
            pairs=float(taken.load.sum()),
            max_over_mean=float(max_over_mean(load)),
            max_vio=float(max_violation(load)),
            load_cv=float(variation(load)),
            load_entropy=float(normalised_entropy(load)),
            overlap=self._overlap(x) if feasible else NAN,
        )

    def _certificate(self, x: Tensor) -> Certificate:
        """By the optimum's prices, exact where the gap is near 0; else by the solver's bound."""
        prices = self.truth.prices
        certificate = certify(self.problem, Assignment(x), prices)
        if not prices.given:
            return replace(certificate, bound=min(certificate.bound, self.truth.bound))
        if abs(certificate.relative_gap) <= TOLERANCE:
            certificate = certify(self.problem, Assignment(x), prices, exact=True)
        return certificate

    def _overlap(self, x: Tensor) -> float:
        if self.settled is None:
            return NAN
        return float((self.settled & (x > 0)).sum() / self.settled.sum())


def bounds_in_words(problem: RoutingProblem) -> str:
    """The bounds of a problem, such as "tokens at_most(2), experts at_most(160)"."""
    return families_in_words(problem.families)


def stated_problem(
    scores: Tensor, name: str, k: int, capacity_factor: float
) -> tuple[RoutingProblem, Shape]:
    """The problem of the given name on scores (T, E), and what its routers are built for.

    Raises:
        InputError: scores, k or a capacity factor of which the problem cannot be stated.
    """
    T, E = scores.shape
    k = as_int(k, "k", 1, E, "E, the number of experts")
    shape = Shape(k=k, capacity=CapacityFactor(capacity_factor).of(T, E, k), T=T, E=E)
    bounds = {
        "capacity": (k, shape.capacity),
        "balanced": (k,),
        "unified": (T * k,),
        "token_choice": (k,),
        "expert_choice": (shape.share,),
        "served_unified": (T * k,),
        "capped_expert_choice": (shape.share, shape.cap),
    }
    problem: RoutingProblem = getattr(named, name)(scores, *bounds[name])
    experts = problem.family("expert")
    room = shape.capacity if experts is None else int(experts.upper.max())  # routers drop beyond
    return problem, shape._replace(capacity=room)


def shape_of(problem: RoutingProblem) -> Shape:
    """The shape that routers for a problem are built for, read off its bounds.

    k is the number of pairs that the bounds demand, else allow, divided by T, rounded up; the
    capacity is the largest upper bound of an expert, T where there is none.
    """
    T, E = problem.T, problem.E
    k = math.ceil(_pairs(problem) / T)
    experts = problem.family("expert")
    capacity = T if experts is None else int(min(float(experts.upper.max()), T))
    return Shape(k=min(max(k, 1), E), capacity=capacity, T=T, E=E)


def _pairs(problem: RoutingProblem) -> float:
    """Pairs in all: demanded by tokens, total or experts, else the most that one of them allows."""
    stated = [problem.family(kind) for kind in ("token", "total", "expert")]
    families = [family for family in stated if family is not None]
    for family in families:
        if torch.equal(family.lower, family.upper):
            return float(family.upper.sum())
    allowed = (float(family.upper.sum()) for family in families)
    return next((pairs for pairs in allowed if math.isfinite(pairs)), problem.T * problem.E)


def _settled(problem: RoutingProblem, truth: Solution) -> Tensor | None:
    """The optimum's pairs, boolean (T, E); None where fractional, or where ties make it ambiguous.

    At optimal prices some tokens are always tied, about one for each price. More tied tokens than
    prices, and than a hundredth of all tokens, means that other optima may take other pairs.
    """
    x = None if truth.assignment is None else truth.assignment.x
    if x is None or not truth.prices.given or truth.status is not Status.OPTIMAL:
        return None
    tolerance = TIED * (problem.typical_score or 1.0)
    tied = ties(problem, truth.prices, tolerance)[:, 0]
    tied_tokens = int(torch.zeros_like(problem.copies()).index_fill_(0, tied, 1.0).sum())
    prices = sum(len(family) for family in problem.families if family.kind != "token")
    whole = bool((x == x.round()).all()) if x.is_floating_point() else True
    few = tied_tokens <= max(prices, FEW * problem.T)
    return x > 0 if whole and few and bool((x > 0).any()) else None


def _broken(certificate: Certificate) -> str:
    """The worst broken bound in words."""
    if not certificate.violations:
        return ""
    more = certificate.violation_count - 1
    return certificate.violations[0].says + (f" (and {more} more)" if more else "")
