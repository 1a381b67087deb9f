"""`MinCostFlow`: the exact optimum of every integral routing problem, for a few `topk`."""

import math
import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.certificate import certify
from lp_routing.certificate.prices import Prices, clipped, from_table
from lp_routing.errors import InputError, OptionError
from lp_routing.problem.problem import RoutingProblem
from lp_routing.process_group import ALONE, ProcessGroup
from lp_routing.solvers.base import Solver, SolverResult, SolverStatus, check_time_limit
from lp_routing.solvers.min_cost_flow.cpu import Rows
from lp_routing.solvers.min_cost_flow.device import DeviceRows
from lp_routing.solvers.min_cost_flow.search import largest_cut, search
from lp_routing.solvers.min_cost_flow.shared import SharedRows
from lp_routing.solvers.min_cost_flow.tree import Tree, node_prices, prices_of, tree_of
from lp_routing.validation import as_int, as_nonnegative

Array = np.ndarray[Any, np.dtype[Any]]

MOST_EXPERTS = 2**15 - 1
"""Leaves are numbered in 16 bits."""
FAINT = 1e-250
"""In score: if all are smaller, they are scaled by a power of two, lest sums, quotients and the
grid of `newton.GRID` (2**-50 of the largest score) fall among the subnormals, below 2**-1022."""
INFEASIBLE = "MinCostFlow: infeasible"
OUT_OF_TIME = "MinCostFlow: the time limit came first"


class MinCostFlow(Solver):
    """Exact for whole bounds and nested groups, from one token to millions, without an LP.

    Prices that nearly fit, found from samples and Newton steps on the dual; exchanges among the few
    rows that are nearly indifferent there; a check of the rest (see `search`). The answer is in
    whole amounts, with the prices that prove it. Memory beyond the scores: the assignment (one byte
    a pair), some 30 bytes a token, a sample and the open rows. Scores may be memory-mapped, in half
    precision. On scores that are whole multiples of 2**-50 of the largest, such as integers and
    bfloat16, nothing is rounded. Ties go to the lower expert where prices decide, and to the expert
    with most room where many tokens are indifferent.

    Args:
        start: prices to start from, such as those of the last batch of the same layer; they may be
            wrong.
        relative_gap: with more than 0, an assignment proved to be this close to the optimum will do
            when the alternative is another round of exchanges; it is then called FEASIBLE.
        time_limit_s: end the search after so many seconds with a feasible assignment, if one is
            found soon, and the best bound so far. A pass that has begun, and the certificate, come
            on top.
        seed: which tokens are sampled; the optimum does not depend on it, ties may.
        group: a `torch.distributed` process group whose ranks each hold some of the tokens. Bounds
            on experts and the total are those of all tokens together, the same on every rank.

    Raises:
        OptionError: options that make no sense.
        InputError: from `solve`: a problem without whole optima, or more than 32,767 experts.
        GroupError: from `solve`: another rank failed, or did not answer in time.

    Source: min-cost flow by successive shortest paths (Ahuja, Magnanti and Orlin, Network Flows,
    section 9.7) on the experts alone, after a dual phase by damped Newton steps.
    """

    own_scale = True
    tolerance = 1e-12  # relative; a million rows are summed to 4e-15 (`row_sums.BLOCK`)

    def __init__(
        self,
        *,
        start: Prices | None = None,
        relative_gap: float = 0.0,
        time_limit_s: float | None = None,
        seed: int = 0,
        group: Any = None,
    ) -> None:
        check_time_limit(self.name, time_limit_s)
        if start is not None and not isinstance(start, Prices):
            raise OptionError(
                f"{self.name}(start=...): expected Prices, such as solution.prices, got "
                f"{type(start).__name__}."
            )
        self.start = start
        self.relative_gap = as_nonnegative(relative_gap, f"{self.name}: relative_gap")
        self.time_limit_s = time_limit_s
        self.seed = as_int(seed, "seed", 0, 2**63 - 1, "2**63 - 1")
        self.processes = ProcessGroup(group)

    def answer(self, problem: RoutingProblem, *, integral: bool = False) -> SolverResult:  # noqa: ARG002
        """Search for the optimum; amounts are whole with or without `integral`."""
        with self.processes.together():
            self.processes.same(self.name, seed=self.seed, relative_gap=self.relative_gap)
            largest = max(self.processes.gathered(problem.score_scale))
            start = self._start(problem, largest)
            if not 0 < largest < FAINT:
                return self._searched(problem, start)
            power = -math.frexp(largest)[1]  # so that sums and quotients are no subnormals
            scores = torch.ldexp(problem.scores.double(), torch.tensor(power))
            half = power // 2  # a power of two itself may overflow
            start = start and start.times(2.0**half).times(2.0 ** (power - half))
            finest = math.ldexp(math.ulp(0.0), half) * 2.0 ** (power - half)
            found = self._searched(problem.with_scores(scores), start, finest)
            prices = None if found.prices is None else found.prices.times(2.0**-power)
            return replace(found, prices=prices)

    def _start(self, problem: RoutingProblem, largest: float) -> Prices | None:
        """The prices to start from; none that are larger than any that an optimum needs."""
        if self.start is None:
            return None
        table = clipped(problem, self.start)
        highest = max(
            (float(each.abs().max()) for each in table.values() if len(each)), default=0.0
        )
        return from_table(problem, table) if highest <= 2 * (problem.E + 1) * largest else None

    def _searched(
        self, problem: RoutingProblem, begin: Prices | None, finest: float = 0.0
    ) -> SolverResult:
        if not problem.is_integral:
            raise InputError(
                f"{self.name} finds optima in whole numbers, but {problem.why_not_integral}; use "
                f"HiGHS() for this problem."
            )
        if problem.E > MOST_EXPERTS:
            raise InputError(
                f"{self.name}: at most {MOST_EXPERTS} experts, got E={problem.E}; use HiGHS()."
            )
        deadline = time.perf_counter() + (self.time_limit_s or float("inf"))
        flow = flow_of(problem, self.processes)
        if flow is None:
            return SolverResult(SolverStatus.INFEASIBLE, None, None, said=INFEASIBLE)
        start = None if begin is None else node_prices(problem, flow.tree, begin)

        def enough(x: Tensor, price: Array) -> bool:
            near = prices_of(problem, flow.tree, price)
            gap = certify(problem, x, near, group=self.processes.group).relative_gap
            return gap <= self.relative_gap

        will_do = enough if self.relative_gap else None
        found = search(flow.rows, flow.tree, start, self.seed, deadline, will_do, finest=finest)
        prices = prices_of(problem, flow.tree, found.price)
        if found.cut is not None:
            return SolverResult(SolverStatus.INFEASIBLE, None, prices, said=INFEASIBLE)
        if found.x is None:
            x = feasible_assignment(problem, prices, self.processes)
            outcome = SolverStatus.INFEASIBLE if x is None else SolverStatus.TIME_LIMIT
            return SolverResult(outcome, x, prices, said=OUT_OF_TIME)
        return SolverResult(SolverStatus.FINISHED, amounts(problem, found.x), prices)


class Flow(NamedTuple):
    """A problem as the search takes it."""

    rows: Rows | DeviceRows | SharedRows
    tree: Tree


def flow_of(
    problem: RoutingProblem, processes: ProcessGroup = ALONE, *, tight: bool = True
) -> Flow | None:
    """The rows and the tree of an integral problem; None where bounds contradict each other.

    Not `tight`, bounds are taken as they stand, unless a token must take more than it may.
    """
    if not processes.alone and problem.family("token_group") is not None:
        raise InputError(
            "MinCostFlow(group=...): token groups may reach over several ranks, which is not "
            "supported; leave token_groups out, or solve on one process."
        )
    terms = terms_of(problem)
    each = problem.T if len(terms) == 1 else 1
    mine = int(terms[:, 1].sum()) * each, int((terms[:, 1] - terms[:, 0]).sum()) * each
    stuck = bool((terms[:, 0] > terms[:, 1]).any())
    stated = processes.gathered(bounds_of(problem))
    for rank, bounds in enumerate(stated):
        if bounds != stated[0]:
            raise InputError(
                f"MinCostFlow(group=...): ranks 0 and {rank} state different bounds: {stated[0]} "
                f"and {bounds}. Bounds on experts and the total are those of all ranks together."
            )
    if any(processes.gathered(stuck)):
        return None
    units, idle = (sum(part) for part in zip(*processes.gathered(mine), strict=True))
    built = tree_of(problem, terms, units, idle, tight=tight)
    if built is None:
        return None
    tree, null = built
    kind = Rows if problem.scores.device.type == "cpu" else DeviceRows
    rows = kind(problem.scores, terms, null, tree.leaves)
    return Flow(rows if processes.alone else SharedRows(rows, processes), tree)


def bounds_of(problem: RoutingProblem) -> tuple[Any, ...]:
    """E and the bounds that all ranks must state alike."""
    families = [family for family in problem.families if not family.kind.startswith("token")]
    return problem.E, *((f.kind, f.lower.tolist(), f.upper.tolist()) for f in families)


def amounts(problem: RoutingProblem, x: Tensor) -> Tensor:
    """Boolean (T, E) where every row is one token, else int64."""
    if problem.multiplicity is not None:
        return x.long()
    return x.view(torch.bool) if x.dtype == torch.uint8 else x.bool()


def feasible_assignment(
    problem: RoutingProblem, prices: Prices, processes: ProcessGroup = ALONE
) -> Tensor | None:
    """Whole amounts (T, E) near some prices that satisfy every bound; None where there are none.

    Tokens choose at the prices; then units move along cheapest paths until all bounds hold. The
    problem must be integral.
    """
    flow = flow_of(problem, processes)
    if flow is None:
        return None
    start = node_prices(problem, flow.tree, prices)
    found = search(flow.rows, flow.tree, start, enough=lambda *_: True, steps=0)
    return None if found.x is None else amounts(problem, found.x)


def cut_prices(problem: RoutingProblem) -> Prices | None:
    """Prices of -1, 0 and 1 under which scores of zero have a negative bound (Farkas' lemma).

    Args:
        problem: integral, all scores 0 or -inf; small, as every pair is looked at.

    Returns:
        The largest cut: the bounds on its nodes let out less than what tokens must put there, by as
        much as bounds must be broken. No prices where a token alone must take more than it may;
        None where an assignment exists.
    """
    flow = flow_of(problem, tight=False)
    if flow is None:
        return Prices()
    cut = largest_cut(flow.rows, flow.tree)
    return None if cut is None else prices_of(problem, flow.tree, flow.tree.own(cut.astype(float)))


def terms_of(problem: RoutingProblem) -> Array:
    """What each row must and may take, and its copies: int64 (T, 3), or (1, 3) where all agree."""
    family = problem.family("token")
    every = bool((problem.allowed_per_token == problem.E).all())
    if problem.multiplicity is None and every and problem.T:  # without a copy of each row's bounds
        if family is None:
            return np.array([[0, problem.E, 1]])
        must, may = family.lower, family.upper.clamp(max=problem.E)
        if bool((must == must[0]).all()) and bool((may == may[0]).all()):
            return np.array([[int(must[0]), int(may[0]), 1]])
    lower, upper = problem.token_bounds()
    may = torch.minimum(upper, problem.copies() * problem.allowed_per_token)
    terms = torch.stack([lower, may, problem.copies()], 1).long().cpu().numpy()
    alike = len(terms) > 0 and bool((terms == terms[:1]).all())
    return np.ascontiguousarray(terms[:1] if alike else terms)
