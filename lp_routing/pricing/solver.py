"""`Pricing`: the exact optimum from E prices, by ever smaller boxes around them.

The dual of a routing problem has one unknown for each expert (and total, and group), however many
tokens there are. Prices that are right give the assignment away, but for ties. So:

1. **Sample.** Clear the markets (`clearing`) of some hundred tokens, then of four times as many,
   and so on (`narrowing`). Each sample leaves a box of prices, some standard errors wide.
2. **Screen.** One pass over all tokens closes every pair that is the same at all prices of the box
   (`screen`). Some per cent of the tokens stay contested; the rest only adds to the load.
3. **Settle.** Clear the markets of the contested rows, draw a smaller box and screen them again,
   until an LP over what is left is small. HiGHS finds the best prices in the box, and whole amounts
   to go with them (`box_lp`, `search`).
4. **Done or wider.** If the LP misses no bound, its prices are optimal for the whole problem,
   because the dual is convex. Otherwise the box widens where bounds are missed, and it is 2 again.

A box that was missed only grows, and so does the LP that is allowed: in the worst case HiGHS solves
the full LP, and where that is small, at once, from the best prices so far. Tokens may be sharded
over processes: loads and samples are exchanged, and contested rows, which rank 0 settles.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lp_routing.certificate.certificate import certify, dual_bound
from lp_routing.certificate.exact_arithmetic import grid_of, round_to_grid
from lp_routing.certificate.prices import Prices
from lp_routing.errors import InputError, OptionError
from lp_routing.feasible import feasible_assignment
from lp_routing.pricing.batch import Batch, batch_of, contested
from lp_routing.pricing.narrowing import Drawn, around, sampled, tick, unlimited
from lp_routing.pricing.priced import to_prices, to_vector
from lp_routing.pricing.search import ALL, OUT_OF_TIME, Settled, Terms, settle
from lp_routing.problem.problem import RoutingProblem
from lp_routing.process_group import ProcessGroup
from lp_routing.solvers.base import Solver, SolverResult, SolverStatus, check_time_limit
from lp_routing.solvers.highs import HiGHS
from lp_routing.solvers.infeasibility import explain
from lp_routing.validation import as_int, as_nonnegative

MOST_PASSES = 40
DOUBTS = 1
"""After this pass that missed bounds it is asked whether any assignment keeps them."""
INFEASIBLE = "Pricing: infeasible"


class Pricing(Solver):
    """Exact for whole bounds and nested groups, from six tokens to millions.

    Memory beyond the scores: the assignment (one byte a pair), a sample and the contested rows. The
    scores are read in chunks, so that they may be memory-mapped. Ties are broken by a fixed rule
    (`lp_routing.pricing.rows.hashed`), and only where they are so many that an LP could not.

    Args:
        device: where passes over the scores run; where the scores are, if left out.
        dtype: precision of these passes. float32 is as exact: pairs that it leaves in
            doubt are looked at in float64.
        start: prices to start from, such as those of the last batch of the same layer; they may be
            wrong.
        relative_gap: with more than 0, an assignment proved to be this close to the optimum will do
            when the alternative is another pass; it is then called FEASIBLE, not OPTIMAL.
        time_limit_s: end the search after so many seconds with the best bound so far, and on one
            process with a feasible assignment. A step that has begun, such as an LP, and the
            assignment and its certificate come on top: some seconds at a million tokens.
        seed: which tokens are sampled first; the optimum does not depend on it, ties may.
        group: a `torch.distributed` process group whose ranks each hold some of the tokens. Bounds
            on experts and the total are those of all tokens together, and the same on every rank.
            Each rank gets the amounts of its own tokens; value, bound and prices are those of all,
            and so is the explanation of an infeasible batch, which numbers the tokens in the order
            of ranks. The group's time-out must be longer than rank 0 may search, or the others end
            with a GroupError.

    Raises:
        OptionError: options that make no sense.
        InputError: from `solve`: a problem without whole optima; groups of tokens over several
            ranks, or ranks that disagree about the bounds or the options.
        GroupError: from `solve`: another rank failed, or did not answer in time.
    """

    own_scale = True

    def __init__(
        self,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
        start: Prices | None = None,
        relative_gap: float = 0.0,
        time_limit_s: float | None = None,
        seed: int = 0,
        group: Any = None,
    ) -> None:
        check_time_limit("Pricing", time_limit_s)
        if start is not None and not isinstance(start, Prices):
            raise OptionError(
                f"Pricing(start=...): expected Prices, such as solution.prices, got "
                f"{type(start).__name__}."
            )
        if dtype not in (torch.float32, torch.float64):
            raise OptionError(f"Pricing(dtype={dtype}): expected torch.float64 or torch.float32.")
        try:
            self.device = None if device is None else torch.device(device)
            torch.zeros(1, device=self.device).item()  # not there, or without values ("meta")
        except (RuntimeError, TypeError, AssertionError) as error:
            raise OptionError(f"Pricing(device={device!r}): {error}") from error
        self.dtype, self.start = dtype, start
        self.relative_gap = as_nonnegative(relative_gap, "Pricing: relative_gap")
        self.time_limit_s, self.seed = time_limit_s, as_int(seed, "seed", 0, 2**63 - 1, "2**63 - 1")
        self.shards = ProcessGroup(group)

    def answer(self, problem: RoutingProblem, *, integral: bool = False) -> SolverResult:  # noqa: ARG002
        """Search for the prices; amounts are whole with or without `integral`."""
        with self.shards.together():
            self.shards.same(
                "Pricing",
                seed=self.seed,
                relative_gap=self.relative_gap,
                time_limit_s=self.time_limit_s,
                dtype=self.dtype,
                start="none" if self.start is None else "given",
            )
            if not problem.is_integral:
                raise InputError(
                    f"Pricing finds optima in whole numbers, but {problem.why_not_integral}; use "
                    f"HiGHS() for this problem."
                )
            return self._search(problem)

    def _search(self, problem: RoutingProblem) -> SolverResult:
        deadline = time.perf_counter() + (self.time_limit_s or float("inf"))
        batch = batch_of(problem, self.shards, self.seed)
        if batch.short and self._impossible(problem):
            return SolverResult(SolverStatus.INFEASIBLE, None, None, said=INFEASIBLE)
        dither = tick(batch.sample)
        terms = Terms(batch.priced, batch.typical, batch.pairs <= ALL, deadline)
        drawn = self.shards.agreed(lambda: self._first_box(problem, batch, dither))
        if terms.few and problem.multiplicity is not None:  # few rows may hold most of the units
            drawn = Drawn(drawn.course, *unlimited(batch.priced))
        kind = torch.bool if problem.multiplicity is None else torch.int64
        x = torch.zeros(problem.scores.shape, dtype=kind, device=problem.scores.device)
        said = f"Pricing: bounds are still missed after {MOST_PASSES} passes over all tokens"
        for effort in range(MOST_PASSES):
            if self.shards.agreed(lambda: time.perf_counter() > deadline):
                prices = to_prices(problem, batch.priced, torch.as_tensor(drawn.course.prices))
                return SolverResult(SolverStatus.TIME_LIMIT, None, prices, said=OUT_OF_TIME)
            settled = self._pass(problem, batch, terms, drawn, dither, x, effort)
            drawn = settled.drawn
            prices = to_prices(problem, batch.priced, torch.as_tensor(drawn.course.prices))
            if settled.pairs is not None:
                settled.pairs.write(x, batch.first)
                if dither:
                    prices = self._on_grid(problem, batch, prices)
                return self._finished(problem, terms, x, prices)
            if settled.outcome is not SolverStatus.FINISHED:
                if settled.outcome is SolverStatus.FAILED and self._impossible(problem):
                    return SolverResult(SolverStatus.INFEASIBLE, None, prices, said=settled.said)
                return SolverResult(settled.outcome, None, prices, said=settled.said)
            if effort == 0 and self.start is not None:  # the start was of no use
                drawn = self.shards.agreed(
                    lambda: sampled(batch, np.zeros(len(batch.priced)), dither)
                )
            elif terms.few and dither and self.shards.alone:  # what is best for HiGHS among ties
                return self._whole_lp(problem, deadline)
            elif terms.few:  # the whole LP
                drawn = Drawn(drawn.course, *unlimited(batch.priced))
            in_doubt = effort == (0 if terms.few else DOUBTS)
            close = None
            if self.shards.alone and (in_doubt or self.relative_gap):
                close = feasible_assignment(problem, prices)
            if close is not None and self._will_do(problem, close, prices):
                said = f"Pricing: stopped within the relative gap {self.relative_gap:g}"
                return SolverResult(SolverStatus.FINISHED, close, prices, said=said)
            if in_doubt and close is None and self._impossible(problem):
                return SolverResult(SolverStatus.INFEASIBLE, None, prices, said=INFEASIBLE)
        return SolverResult(SolverStatus.FAILED, None, prices, said=said)

    def _finished(
        self, problem: RoutingProblem, terms: Terms, x: Tensor, prices: Prices
    ) -> SolverResult:
        """The answer; where scores hardly differ, that of the whole LP, if it is small."""
        found = SolverResult(SolverStatus.FINISHED, x, prices)
        if not terms.few or not self.shards.alone or _proved(problem, x, prices):
            return found
        again = self._whole_lp(problem, terms.deadline)
        return again if again.outcome is SolverStatus.FINISHED else found

    def _first_box(self, problem: RoutingProblem, batch: Batch, dither: float) -> Drawn:
        """From samples; or around the prices to start from."""
        if self.start is None:
            return sampled(batch, np.zeros(len(batch.priced)), dither)
        start = to_vector(problem, batch.priced, self.start).cpu().numpy()
        return around(batch, start, dither)

    def _pass(
        self,
        problem: RoutingProblem,
        batch: Batch,
        terms: Terms,
        drawn: Drawn,
        dither: float,
        x: Tensor,
        effort: int,
    ) -> Settled:
        """Screen all rows, on every rank its own; settle what is contested, on rank 0."""
        x.zero_()
        device = self.device or problem.scores.device
        contest, load = contested(
            batch, self.shards, drawn.low, drawn.high, x, device=device, dtype=self.dtype
        )
        return self.shards.agreed(lambda: settle(terms, contest, load, drawn, dither, effort))

    def _impossible(self, problem: RoutingProblem) -> bool:
        """Whether it can be proved that no assignment exists."""
        return explain(problem, self.shards) is not None

    def _whole_lp(self, problem: RoutingProblem, deadline: float) -> SolverResult:
        """The whole LP for HiGHS as it stands, presolve and all: among ties, boxes stall it."""
        left = deadline - time.perf_counter()
        if left <= 0:
            return SolverResult(SolverStatus.TIME_LIMIT, None, None, said=OUT_OF_TIME)
        highs = HiGHS(time_limit_s=None if left == float("inf") else left)
        answer = highs.answer_near_one(problem)
        return replace(answer, said=answer.said.replace("HiGHS", self.name))

    def _on_grid(self, problem: RoutingProblem, batch: Batch, prices: Prices) -> Prices:
        """Prices among tied scores, without the noise that broke the ties if that is better."""
        power = grid_of(batch.sample.scores)
        vector = round_to_grid(to_vector(problem, batch.priced, prices), power)
        if not bool(vector.isfinite().all()):  # the grid is too fine for prices of this size
            return prices
        rounded = to_prices(problem, batch.priced, vector)
        group = self.shards.group
        return min((rounded, prices), key=lambda each: dual_bound(problem, each, group=group))

    def _will_do(self, problem: RoutingProblem, x: Tensor, prices: Prices) -> bool:
        return self.relative_gap > 0 and _proved(problem, x, prices, self.relative_gap)


def _proved(problem: RoutingProblem, x: Tensor, prices: Prices, gap: float = 1e-9) -> bool:
    return certify(problem, x, prices).proves_optimal(gap)
