"""Routers side by side on one problem: certified gap, broken bounds, loads, overlap and time.

Each router chooses once and is judged, then is timed in turns with `torch.topk`.

A router's score function is part of its rule, so routers are called with logits, never with the
problem's scores: where no logits are given, they are derived from the scores.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from statistics import median
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lp_routing.display import data_frame
from lp_routing.errors import InputError
from lp_routing.evaluation.evaluate import EXACT, NOT_JUDGED, Evaluator, RouterResult, shape_of
from lp_routing.problem.assignment import Assignment
from lp_routing.problem.problem import RoutingProblem, check_problem
from lp_routing.router_outputs import NoRouterOutput, read_output
from lp_routing.routers.base import Rule, StatefulRouter
from lp_routing.routers.catalogue import Shape, check_name, router, router_names
from lp_routing.scores import check_logits
from lp_routing.solvers import Solver
from lp_routing.solvers.solve import Solution, exact_solver, solve
from lp_routing.validation import as_instance, as_int

LOGITS, LOG_OF_SCORES, SCORES = "logits", "log of scores", "scores as logits"

SUM_TOLERANCE = 1e-2
"""Scores that sum to 1 up to this over each token's experts are taken as a softmax.

A bfloat16 softmax over 256 experts sums to 1 within some 4e-3; a wider limit would accept other
scores.
"""

PROBED = 256
"""Tokens on which a router is tested for whether a constant added to logits changes its scores.

Score functions act token by token or on a sequence, so a few tokens show it; more only cost time.
"""


@dataclass(frozen=True, eq=False)
class RouterInput:
    """What routers are called with.

    Attributes:
        values: (T, E); None where no logits are known.
        words: where they come from: "logits", "log of scores" or "scores as logits"; "" where
            none are known.
    """

    values: Tensor | None
    words: str

    def refusal(self, router: Any) -> str:
        """Why a router cannot be judged with these, in words; "" where it can.

        Softmax scores give a token's logits only up to a constant, so a rule that depends on it (a
        sigmoid, a ReLU) is refused. For a plain function this is not known.
        """
        if self.values is None:
            return (
                "the scores are no softmax, so they do not tell the logits that routers go by; "
                "give logits=..., which are the scores where these are logits"
            )
        if self.words == LOG_OF_SCORES and isinstance(router, Rule):
            few = self.values[:PROBED].double()  # in which adding 1 rounds next to nothing
            if not torch.allclose(router.scores(few), router.scores(few + 1)):
                return (
                    "its scores change with a constant added to a token's logits, which softmax "
                    "scores do not tell; give logits=..."
                )
        return ""


def router_input(logits: Tensor | None, scores: Tensor) -> RouterInput:
    """The logits that the caller gave, checked, or those derived from the problem's scores (T, E).

    The log of softmax scores has these scores as its softmax. Scores of which some are negative are
    taken as logits, since no probability is negative. From others no logits can be derived.

    Raises:
        InputError: bad logits, or logits of another shape than the scores.
    """
    if logits is not None:
        values = check_logits(logits).detach().to(scores.device)
        if values.shape != scores.shape:
            raise InputError(
                f"compare: expected logits of the shape of the problem's scores, "
                f"{tuple(scores.shape)}, got {tuple(values.shape)}."
            )
        return RouterInput(values, LOGITS)
    forbidden = scores == float("-inf")
    worth = scores.masked_fill(forbidden, 0.0)
    if bool((worth < 0).any()):
        return RouterInput(scores, SCORES)
    off = (worth.sum(-1) - 1).abs().masked_fill(forbidden.all(-1), 0.0)
    if bool((off <= SUM_TOLERANCE).all()):
        least = torch.finfo(scores.dtype).tiny  # the log of an underflow must not forbid the pair
        return RouterInput(
            worth.clamp(min=least).log().masked_fill(forbidden, float("-inf")), LOG_OF_SCORES
        )
    return RouterInput(None, "")


PATIENCE_S = 0.25
"""Seconds of timed calls of one router, after which it is not called again; at least one call.

More gives steadier medians and a longer comparison: each router of the catalogue may take this
long, and one call in any case. Fast routers reach `repeats` calls before.
"""


@dataclass(eq=False)
class RouterRun:
    """One router: built, run once, judged, then timed; with its results so far.

    Attributes:
        row: its numbers.
        amounts: (T, E), what it took; None where it gave no answer.
    """

    row: RouterResult
    amounts: Tensor | None = None
    run: Callable[[Tensor], Any] | None = None
    first_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)

    def begin(
        self,
        make: Callable[[], Any],
        judge: Evaluator,
        given: RouterInput,
        warm_up: int,
        before: Sequence[Tensor] = (),
    ) -> None:
        """Build the router, warm it up, let it choose once, and judge what it chose."""
        try:
            router = make()
            seeks, causal = getattr(router, "seeks", ""), getattr(router, "causal", None)
            self.row = replace(
                self.row,
                seeks=seeks if isinstance(seeks, str) else "",  # a function may have any attribute
                causal=causal if isinstance(causal, bool) else None,
            )
            refusal = "" if seeks == EXACT else given.refusal(router)  # the optimum needs no logits
            if refusal:
                self.row = replace(self.row, status=f"{NOT_JUDGED}: {refusal}")
                return
            values = judge.problem.scores if given.values is None else given.values
            self.run, state = _runner(router, values, warm_up, before)
            self.row = replace(self.row, routed_on=given.words, state=state)
            self.first_s, result = _timed(self.run, values)
            read = read_output(result, values)
            self.row = replace(judge.judged(self.row, read.amounts), note=read.note)
            self.amounts = read.amounts
        except Exception as error:
            self._failed(error)

    def take_turn(self, given: Tensor, scores: Tensor, k: int) -> None:
        """Time one `topk` and one call, unless `PATIENCE_S` has been spent on such calls."""
        slow = self.first_s > PATIENCE_S
        if self.run is None or (self.seconds and (slow or sum(self.seconds) > PATIENCE_S)):
            return
        try:
            unit, _ = _timed(lambda values: torch.topk(values, k), scores)
            seconds = self.first_s if slow else _timed(self.run, given)[0]
        except Exception as error:
            self._failed(error)
        else:
            self.units.append(unit)
            self.seconds.append(seconds)

    def finish(self, unit: float) -> None:
        """Add the times to the row, in units of `unit` seconds."""
        if self.seconds:
            seconds, runs = median(self.seconds), len(self.seconds)
            self.row = replace(self.row, seconds=seconds, topk_units=seconds / unit, runs=runs)

    def _failed(self, error: Exception) -> None:
        self.run, self.amounts, self.seconds = None, None, []
        raised = "" if isinstance(error, NoRouterOutput) else "".join(format_exception(error))
        self.row = replace(self.row, status=f"{type(error).__name__}: {error}", traceback=raised)


def _runner(
    router: Any, given: Tensor, warm_up: int, before: Sequence[Tensor]
) -> tuple[Callable[[Tensor], Any], str]:
    """The router as a function of logits alone, and its state in words."""
    if not isinstance(router, StatefulRouter):
        return router, ""
    state = None
    for batch in [given] * warm_up + list(before):
        _, state = router(batch.clone(), state)
    age = f"after {warm_up} step(s)" if warm_up else "cold"
    if before:
        age = f"after {len(before)} other batch(es)"
    return (lambda values: router(values, state)), age


def _timed(work: Callable[[Tensor], Any], values: Tensor) -> tuple[float, Any]:
    """Seconds of one call on its own copy of the input, which it may overwrite, and its output."""
    copy = values.clone()
    _wait(copy)
    began = time.perf_counter()
    result = work(copy)
    _wait(copy)
    return time.perf_counter() - began, result


def _wait(values: Tensor) -> None:
    """Wait until the device has finished: the clock is the host's."""
    if values.device.type == "cuda":
        torch.cuda.synchronize(values.device)


if TYPE_CHECKING:
    import pandas

Routers = Mapping[str, Any] | Sequence[str]

OPTIMUM = "optimum"
"""Name of the exact solver among the routers: it shows what the optimum costs."""


def compare(
    problem: RoutingProblem,
    routers: Routers,
    *,
    logits: Tensor | None = None,
    solver: Solver | str | None = None,
    repeats: int = 5,
    warm_up: int = 0,
    warm_on: Sequence[Tensor] | None = None,
    seed: int = 0,
    shape: Shape | None = None,
    optimum: Solution | None = None,
) -> "pandas.DataFrame":
    """Judge routers by a problem: one row each, with the certified gap to its optimum.

    Args:
        problem: what is judged by: its scores say what a pair is worth, its bounds what may be
            taken. Rows may not stand for several tokens.
        routers: name -> router, or function from logits (T, E) to what
            `lp_routing.router_outputs.read_output` reads: an `Assignment`, a map, indices, combine
            weights, a dispatch tensor; or names of the catalogue, built for `shape`; "optimum" is
            the exact solver.
        logits: (T, E), what every router is called with; its own score function is applied to them,
            and its choice is judged by the problem's scores. Left out, they are the log of the
            problem's scores where these are a softmax, and the scores themselves where some are
            negative (column `routed_on`). Where neither holds, or a router's scores depend on a
            constant added to a token's logits, it is not judged: `status` says so.
        solver: finds the optimum; left out, `MinCostFlow`, or HiGHS where it is not integral.
        repeats: timed calls of each router, in turns with the others and with `torch.topk`;
            fewer of one that is slow (column `runs`).
        warm_up: how many steps on this same batch a router with a state has behind it.
        warm_on: logits (T', E) of other batches, earlier ones: a router with a state takes one
            step on each before it is judged. Fairer than `warm_up`, which uses the judged batch
            itself; only one of the two can be given. With batches of T tokens a `CapacityFactor`
            gives the same capacity.
        seed: of `MinCostFlow` and of the catalogue's routers that draw at random.
        shape: what the catalogue's routers are built for; read off the bounds where left out.
        optimum: of this very problem, where it is there already: nothing is solved, and `solver`
            takes no part.

    Returns:
        A row for each router, in their order, with the columns of `RouterResult`; `status` is "ok",
        INFEASIBLE where it breaks a bound (it then has no gap), or how the router failed, with its
        `traceback`: a failure loses no other row. Combine weights count as choices, and `note`
        says so; amounts that are fractions are asked for by `Assignment(amounts)`. Unknown numbers
        are NaN, unknown booleans and counts NA.

    Raises:
        InputError: not a problem, an unknown name, logits of another shape, both ways to warm up,
            an optimum of another problem, no pandas.

    The unit of cost is `torch.topk(scores, K)`: medians, side by side in this process.

    Example:
        >>> problem = lpr.problems.capacity([[3.0, 1.0], [2.0, -1.0]], k=1, capacity=1)
        >>> frame = lpr.compare(problem, {"mine": lpr.routers.TopK(k=1, capacity=1)}, repeats=1)
        >>> frame[["router", "value", "optimum", "dropped"]].values.tolist()
        [['mine', 2.0, 3.0, 1]]
    """
    frames = data_frame(
        "compare", "comparisons(), with the same arguments, gives the same rows without it."
    )
    rows = comparisons(
        problem,
        routers,
        logits=logits,
        solver=solver,
        repeats=repeats,
        warm_up=warm_up,
        warm_on=warm_on,
        seed=seed,
        shape=shape,
        optimum=optimum,
    )
    frame = frames([asdict(row) for row in rows], columns=[f.name for f in fields(RouterResult)])
    return frame.astype({"feasible": "boolean", "causal": "boolean", "dropped": "Int64"})


def comparisons(
    problem: RoutingProblem,
    routers: Routers,
    *,
    logits: Tensor | None = None,
    solver: Solver | str | None = None,
    repeats: int = 5,
    warm_up: int = 0,
    warm_on: Sequence[Tensor] | None = None,
    seed: int = 0,
    shape: Shape | None = None,
    optimum: Solution | None = None,
) -> list[RouterResult]:
    """The rows of `compare`, which needs pandas only to make a table of them.

    Example:
        >>> problem = lpr.problems.capacity([[3.0, 1.0], [2.0, -1.0]], k=1, capacity=1)
        >>> (row,) = lpr.evaluation.comparisons(problem, {"mine": lpr.routers.TopK(k=1)}, repeats=1)
        >>> row.status, row.value, row.optimum
        ('INFEASIBLE', 5.0, 3.0)
    """
    runs = router_runs(
        problem,
        routers,
        logits=logits,
        solver=solver,
        repeats=repeats,
        warm_up=warm_up,
        warm_on=warm_on,
        seed=seed,
        shape=shape,
        optimum=optimum,
    )
    return [run.row for run in runs]


def router_runs(
    problem: RoutingProblem,
    routers: Routers,
    *,
    logits: Tensor | None,
    solver: Solver | str | None = None,
    repeats: int = 5,
    warm_up: int = 0,
    warm_on: Sequence[Tensor] | None = None,
    seed: int = 0,
    shape: Shape | None = None,
    optimum: Solution | None = None,
) -> list[RouterRun]:
    """The rows of `compare` with what each router took; arguments and errors as there."""
    _check(problem, optimum)
    repeats, warm_up = as_int(repeats, "repeats", 1), as_int(warm_up, "warm_up", 0)
    scores = check_logits(problem.scores, "scores")
    given = router_input(logits, scores)
    before = _batches(warm_on, warm_up, scores.shape[1])
    shape = shape_of(problem) if shape is None else as_instance(shape, Shape, "shape", "a Shape")
    makers = _makers(routers, problem, shape, seed)
    if optimum is None:
        optimum = solve(problem, exact_solver(problem, seed) if solver is None else solver)
    judge = Evaluator(problem, optimum)
    runs = [RouterRun(judge.nothing(name)) for name in makers]
    for run, make in zip(runs, makers.values(), strict=True):
        run.begin(make, judge, given, warm_up, before)
    called_with = scores if given.values is None else given.values
    for _ in range(repeats):
        for run in runs:
            run.take_turn(called_with, scores, shape.k)
    units = [unit for run in runs for unit in run.units]
    for run in runs:
        run.finish(median(units) if units else 0.0)
    return runs


@dataclass(frozen=True)
class Optimum:
    """The exact solver as a router: it shows what the optimum costs.

    A call solves the problem anew, whatever logits it is given; not causal.

    Attributes:
        problem: what is solved.
        solver: which solver; left out, as in `compare`.
    """

    source = "linear programming"
    seeks = EXACT
    cost = "an exact solve"
    causal = False

    problem: RoutingProblem
    solver: Solver | None = None

    def __call__(self, logits: Tensor) -> Assignment:  # noqa: ARG002
        """The best assignment.

        Raises:
            InputError: there is none.
        """
        check_problem(self.problem, "Optimum")
        solution = solve(self.problem, self.solver)
        if solution.assignment is None:
            raise InputError(f"no assignment: {solution.explanation}")
        return solution.assignment


def _makers(
    routers: Routers, problem: RoutingProblem, shape: Shape, seed: int
) -> dict[str, Callable[[], Any]]:
    """Name -> function that builds the router, so that a failure to build it fails one row only."""
    if isinstance(routers, str) or not isinstance(routers, Mapping | Sequence) or not routers:
        raise InputError(
            f"routers={routers!r}: expected name -> router, or a list of catalogue names."
        )
    if not isinstance(routers, Mapping):
        return {name: _by_name(name, problem, shape, seed) for name in routers}
    for name, given in routers.items():
        if not callable(given):
            raise InputError(
                f"routers[{name!r}]: expected a router or a function, got {type(given).__name__}."
            )
    return {str(name): partial(_itself, given) for name, given in routers.items()}


def _itself(given: Any) -> Any:
    return given


def _by_name(name: str, problem: RoutingProblem, shape: Shape, seed: int) -> Callable[[], Any]:
    """A function that builds a catalogue router, or the exact solver."""
    if name == OPTIMUM:
        return partial(Optimum, problem)
    check_name(name, router_names(), "router", "expected one of ")
    return partial(router, name, shape, seed=seed)


def _batches(warm_on: Sequence[Tensor] | None, warm_up: int, E: int) -> list[Tensor]:
    """The logits of other batches, checked."""
    if warm_on is None:
        return []
    if isinstance(warm_on, Tensor) or not isinstance(warm_on, Sequence):
        raise InputError(
            f"warm_on: expected a list of logits (T, E), one a batch, got {type(warm_on).__name__}."
        )
    if warm_on and warm_up:
        raise InputError(
            f"warm_on and warm_up={warm_up}: a router warms up on other batches or on the judged "
            f"one, not on both."
        )
    batches = [check_logits(batch, f"warm_on[{i}]") for i, batch in enumerate(warm_on)]
    for i, batch in enumerate(batches):
        if batch.ndim != 2 or batch.shape[1] != E:
            raise InputError(
                f"warm_on[{i}]: expected logits (T, {E}), as the problem has {E} experts, got "
                f"{tuple(batch.shape)}."
            )
    return batches


def _check(problem: RoutingProblem, optimum: Solution | None) -> None:
    if not isinstance(problem, RoutingProblem):
        raise InputError(
            f"compare expects a RoutingProblem first, got {type(problem).__name__}; write "
            f"capacity(scores, k, C), or RoutingProblem(scores, tokens=exactly(2), ...)."
        )
    if problem.multiplicity is not None:
        raise InputError(
            "compare: rows of this problem stand for several tokens each, but routers route "
            "single tokens; repeat the rows and leave multiplicity out."
        )
    if optimum is None:
        return
    if as_instance(optimum, Solution, "optimum", "a Solution").problem is not problem:
        raise InputError(
            "compare: optimum is the solution of another problem; give that of solve(problem)."
        )
